"""The conformance suite of a provider: every sentence of the ``Provider`` port, tried on a real one.

    class TestMine(ProviderContract):
        @pytest.fixture
        def config(self) -> Mine:
            return Mine(region="moon-1")

The fixture gives a config that rents from wherever the author can afford it: a folder, a fake, an account.
Every test opens its own connections, works in pools of its own and releases them, so suites may run side by
side. Clouds list late, so what must appear or vanish is waited for up to ``patience`` seconds. Each test runs
one event loop to its end; no asyncio plugin is needed.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
import time
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from skyward.errors import MissingExtraError, ProviderError
from skyward.hooks import registry
from skyward.hooks.ports import Provider, ProviderConfig
from skyward.hooks.values import Machine, Wanted

from skyward_testing.bench import Bench, new_pool, shortcomings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


class ProviderContract:
    """Subclass it, override ``config``, and every test below runs against your provider."""

    patience: ClassVar[float] = 30.0
    """Seconds that a machine may take to appear in a listing or to vanish from it."""

    @pytest.fixture
    def config(self) -> ProviderConfig:
        pytest.fail("override the fixture `config`: return the provider's config value")

    @pytest.fixture
    def wanted(self) -> Wanted:
        """Something small that the provider can launch several of."""
        return Wanted()

    @pytest.fixture
    def wishes(self) -> Sequence[Wanted]:
        """Further requests whose offers must fit; add what your catalog makes interesting."""
        return (
            Wanted(vcpus=1),
            Wanted(memory_gb=0.5),
            Wanted(architecture="x86_64"),
            Wanted(architecture="arm64"),
            Wanted(allocation="spot"),
            Wanted(allocation="on-demand"),
            Wanted(allocation="cheapest"),
            Wanted(max_hourly_cost=0.5),
            Wanted(vcpus=1, memory_gb=0.5, allocation="on-demand", max_hourly_cost=1000.0),
        )

    @pytest.fixture
    def impossible(self) -> Sequence[Wanted]:
        """Requests that nothing in the world satisfies."""
        return (
            Wanted(vcpus=10_000_000),
            Wanted(memory_gb=10_000_000_000),
            Wanted(region="nowhere-0"),
            Wanted(max_hourly_cost=-1.0),
        )

    @pytest.fixture
    def drive(
        self, config: ProviderConfig, wanted: Wanted
    ) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
        """Run a scenario on a bench, then release its pools and close its connection."""

        async def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
            bench = Bench(config, wanted, self.patience, config.connect(), new_pool())
            try:
                await bench.provider.prepare(bench.pool)
                await scenario(bench)
            finally:
                await bench.close()

        return lambda scenario: asyncio.run(run(scenario))

    # The config

    def test_the_config_is_a_frozen_value_with_a_name(self, config: ProviderConfig) -> None:
        assert isinstance(config, ProviderConfig)
        assert config.provider_name == config.provider_name.lower() != ""
        assert isinstance(config.cluster, bool)
        assert is_dataclass(config)
        for setting in fields(config):
            with pytest.raises(FrozenInstanceError):
                setattr(config, setting.name, getattr(config, setting.name))
        assert copy.copy(config) == config
        assert hash(copy.copy(config)) == hash(config)
        assert pickle.loads(pickle.dumps(config)) == config

    def test_the_entry_point_gives_the_config_class(self, config: ProviderConfig) -> None:
        try:
            found = registry.find(registry.PROVIDERS, config.provider_name)
        except MissingExtraError:
            pytest.skip(
                f"no installed distribution offers {config.provider_name!r}: install yours to check it"
            )
        assert found is type(config)

    def test_connecting_opens_nothing(self, config: ProviderConfig) -> None:
        async def scenario() -> None:
            # The first connection pays for imports, which may open whatever they like.
            await config.connect().aclose()
            before = (threading.active_count(), _open_files())
            provider = config.connect()
            assert (threading.active_count(), _open_files()) == before
            assert isinstance(provider, Provider)
            await provider.aclose()

        asyncio.run(scenario())

    # offers

    def test_offers_satisfy_all_that_is_wanted(self, drive: Any, wishes: Sequence[Wanted]) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.offer()
            for wanted in (bench.wanted, *wishes):
                for offer in await bench.provider.offers(wanted):
                    assert not shortcomings(offer, wanted), f"{offer} was offered for {wanted}"

        drive(scenario)

    def test_offers_are_complete_and_told_apart_by_their_ids(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            offers = await bench.provider.offers(bench.wanted)
            assert len({offer.id for offer in offers}) == len(offers)
            for offer in offers:
                assert offer.provider == bench.config.provider_name
                assert offer.id
                assert offer.instance_type
                assert offer.usd_per_hour >= 0
                assert offer.vcpus > 0
                assert offer.memory_gb > 0

        drive(scenario)

    def test_an_impossible_wish_gets_no_offers(self, drive: Any, impossible: Sequence[Wanted]) -> None:
        async def scenario(bench: Bench) -> None:
            for wanted in impossible:
                assert list(await bench.provider.offers(wanted)) == []

        drive(scenario)

    # prepare and release

    def test_preparing_again_is_harmless(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            machine = await bench.launch()
            await bench.provider.prepare(bench.pool)
            async with bench.fresh() as provider:
                await provider.prepare(bench.pool)
            await bench.until_listed({machine.id})

        drive(scenario)

    def test_release_ends_what_is_left_of_the_pool_and_no_other(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            other = bench.other_pool()
            await bench.provider.prepare(other)
            await bench.launch()
            await bench.launch(bench.claim(rank=1))
            spared = await bench.launch(pool=other)
            await bench.provider.release(bench.pool)
            await bench.until_listed(set())
            await bench.until_listed({spared.id}, other)

        drive(scenario)

    def test_releasing_twice_or_an_unknown_pool_is_success(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.launch()
            await bench.provider.release(bench.pool)
            await bench.provider.release(bench.pool)
            await bench.provider.release(new_pool())

        drive(scenario)

    def test_a_released_pool_can_be_prepared_again(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.provider.release(bench.pool)
            await bench.provider.prepare(bench.pool)
            machine = await bench.launch()
            await bench.until_listed({machine.id})

        drive(scenario)

    # launch

    def test_a_machine_carries_its_claim(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            claim = bench.claim(rank=3)
            launched = await bench.launch(claim)
            await bench.until_listed({launched.id})
            async with bench.fresh() as provider:
                (found,) = await provider.machines(bench.pool)
            for machine in (launched, found):
                assert machine.id
                assert (machine.id, machine.claim, machine.pool) == (launched.id, claim.id, bench.pool.id)

        drive(scenario)

    def test_a_machine_comes_to_have_an_endpoint(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.launch()

            async def holds() -> bool:
                machines = await bench.provider.machines(bench.pool)
                return [machine.endpoint is not None for machine in machines] == [True]

            await bench.until(holds, "the machine got no endpoint")

        drive(scenario)

    def test_one_claim_launches_one_machine(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            claim = bench.claim()
            first = await bench.launch(claim)
            again = await bench.launch(claim)
            async with bench.fresh() as provider:
                elsewhere = await provider.launch(bench.pool, await bench.offer(), claim)
            assert (again.id, elsewhere.id) == (first.id, first.id)
            await bench.until_listed({first.id})

        drive(scenario)

    def test_one_claim_launched_at_the_same_time_is_one_machine(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            claim, offer = bench.claim(), await bench.offer()
            launches = [bench.provider.launch(bench.pool, offer, claim) for _ in range(5)]
            outcomes = await asyncio.gather(*launches, return_exceptions=True)
            launched = {outcome.id for outcome in outcomes if isinstance(outcome, Machine)}
            assert len(launched) == 1, f"one claim, launched five times at once, became {outcomes}"
            # A launch that lost the race may fail, if it says that it can be tried again.
            losers = [outcome for outcome in outcomes if not isinstance(outcome, Machine)]
            assert all(isinstance(loser, ProviderError) and loser.retryable for loser in losers), losers
            await bench.until_listed(launched)

        drive(scenario)

    def test_every_claim_gets_a_machine_of_its_own(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            machines = [await bench.launch(bench.claim(rank)) for rank in range(3)]
            ids = {machine.id for machine in machines}
            assert len(ids) == 3
            await bench.until_listed(ids)

        drive(scenario)

    def test_a_cancelled_launch_leaves_nothing_that_cannot_be_found(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            offer, started = await bench.offer(), time.monotonic()
            uncut = await bench.launch()
            duration = time.monotonic() - started
            # Early, turn by turn of the loop; then spread over the time that a launch takes.
            moments = [(turns, 0.0) for turns in range(4)] + [(1, duration * part / 4) for part in (1, 2, 3)]
            claims = [bench.claim(rank + 1) for rank in range(len(moments))]
            for claim, (turns, seconds) in zip(claims, moments, strict=True):
                launch = asyncio.ensure_future(bench.provider.launch(bench.pool, offer, claim))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if seconds:
                    await asyncio.wait([launch], timeout=seconds)
                launch.cancel()
                await asyncio.wait([launch])
            # Launching each claim again is how a lost reply is found: it must not make a second machine.
            machines = [uncut, *[await bench.launch(claim) for claim in claims]]
            await bench.until_listed({machine.id for machine in machines})
            async with bench.fresh() as provider:
                mine = [machine for machine in await provider.owned() if machine.pool == bench.pool.id]
            expected = [uncut.claim, *(claim.id for claim in claims)]
            assert sorted(machine.claim for machine in mine) == sorted(expected)

        drive(scenario)

    def test_an_offer_of_somebody_else_is_refused_in_our_terms(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            offer = replace(
                await bench.offer(), id="no-such-offer", instance_type="no-such-type", specific={}
            )
            with pytest.raises(ProviderError):
                await bench.provider.launch(bench.pool, offer, bench.claim())
            await bench.until_listed(set())

        drive(scenario)

    # machines, owned, terminate

    def test_machines_lists_this_pool_only(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            other = bench.other_pool()
            await bench.provider.prepare(other)
            mine, foreign = await bench.launch(), await bench.launch(pool=other)
            await bench.until_listed({mine.id})
            await bench.until_listed({foreign.id}, other)
            assert await bench.ids(new_pool()) == set()

        drive(scenario)

    def test_a_terminated_machine_is_absent(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            doomed, spared = await bench.launch(), await bench.launch(bench.claim(rank=1))
            await bench.provider.terminate([doomed.id])
            await bench.until_listed({spared.id})

            async def forgotten() -> bool:
                return doomed.id not in {machine.id for machine in await bench.provider.owned()}

            await bench.until(forgotten, "owned() did not forget a terminated machine")

        drive(scenario)

    def test_terminating_twice_or_what_never_was_is_success(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            machine = await bench.launch()
            gone = await bench.launch(bench.claim(rank=1))
            await bench.provider.terminate([gone.id])
            await bench.provider.terminate([gone.id, gone.id])
            await bench.provider.terminate([])
            # An id of the right form that nobody has, and one of no form at all.
            await bench.provider.terminate([_scrambled(machine.id), "../no such machine"])
            await bench.until_listed({machine.id})
            # What is unknown must not keep the known one alive.
            await bench.provider.terminate([gone.id, machine.id])
            await bench.until_listed(set())

        drive(scenario)

    def test_owned_lists_every_pool_from_any_connection(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            other = bench.other_pool()
            await bench.provider.prepare(other)
            launched = [await bench.launch(), await bench.launch(pool=other)]
            expected = {(machine.id, machine.claim, machine.pool) for machine in launched}
            async with bench.fresh() as provider:

                async def holds() -> bool:
                    found = {(machine.id, machine.claim, machine.pool) for machine in await provider.owned()}
                    return expected <= found

                await bench.until(holds, f"owned() did not come to list {expected}")

        drive(scenario)

    # aclose

    def test_closing_twice_is_harmless_and_ends_no_machine(self, drive: Any) -> None:
        async def scenario(bench: Bench) -> None:
            machine = await bench.launch()
            await bench.provider.aclose()
            await bench.provider.aclose()
            async with bench.fresh() as provider:
                assert machine.id in {found.id for found in await provider.machines(bench.pool)}

        drive(scenario)

    def test_a_config_connects_again_on_another_loop(self, config: ProviderConfig) -> None:
        """Sessions open and close; a module-level cache bound to a dead loop is the usual defect."""
        for _ in range(2):
            provider = config.connect()

            async def scenario(provider: Provider = provider) -> None:
                await provider.machines(new_pool())
                await provider.aclose()

            asyncio.run(scenario())


def _open_files() -> int:
    """How many file descriptors this process has open; a constant where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return len(os.listdir(folder))
    return 0


def _scrambled(machine: str) -> str:
    """An id of the same form that nobody has: letters and digits moved on, everything else kept."""

    def moved(character: str) -> str:
        if character.isascii() and character.islower():
            return chr((ord(character) - ord("a") + 13) % 26 + ord("a"))
        return chr((ord(character) - ord("0") + 5) % 10 + ord("0")) if character.isdigit() else character

    return "".join(moved(character) for character in machine)
