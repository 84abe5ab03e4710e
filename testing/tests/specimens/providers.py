"""A provider that keeps its machines in memory, sound or with one defect, each under the provider suite."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import pytest
from skyward.errors import ProviderError
from skyward.hooks.values import LocalEndpoint, Machine, Offer
from skyward_testing.bench import shortcomings
from skyward_testing.provider import ProviderContract

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward.hooks.values import Claim, PoolRef, Wanted

OFFERS = (
    Offer(id="small", provider="shelf", instance_type="s", vcpus=2, memory_gb=4, architecture="x86_64"),
    Offer(
        id="spot", provider="shelf", instance_type="s", vcpus=2, memory_gb=4, architecture="arm64", spot=True,
        usd_per_hour=0.1,
    ),
)  # fmt: skip

LOOPS: list[asyncio.AbstractEventLoop] = []
"""Those that "keeps the first loop" has met."""

ACCOUNTS: dict[str, dict[str, Machine]] = defaultdict(dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    provider_name: ClassVar[str] = "shelf"
    cluster: ClassVar[bool] = False
    here: ClassVar[bool] = True

    account: str
    defect: str = ""

    def connect(self) -> Live:
        return Live(self)


@dataclass(eq=False)
class Live:
    config: Shelf
    closed: bool = False
    prepared: set[str] = field(default_factory=set[str])
    released: set[str] = field(default_factory=set[str])
    mine: set[str] = field(default_factory=set[str])
    open: socket.socket | None = None

    def __post_init__(self) -> None:
        if self.has("connecting opens a socket"):
            self.open = socket.socket()

    def has(self, defect: str) -> bool:
        return self.config.defect == defect

    @property
    def machines_by_id(self) -> dict[str, Machine]:
        return ACCOUNTS[self.config.account]

    async def offers(self, wanted: Wanted) -> Sequence[Offer]:
        if self.has("offers whatever it has"):
            return OFFERS
        if self.has("offers one thing twice"):
            return [offer for offer in OFFERS * 2 if not shortcomings(offer, wanted)]
        return [offer for offer in OFFERS if not shortcomings(offer, wanted)]

    async def prepare(self, pool: PoolRef) -> None:
        if self.has("prepares only once") and pool.id in self.prepared:
            raise ProviderError("exists already")
        if self.has("burns released pools") and pool.id in self.released:
            raise ProviderError("that name is taken for 30 days")
        self.prepared.add(pool.id)

    async def launch(self, pool: PoolRef, offer: Offer, claim: Claim) -> Machine:
        if offer.id not in {known.id for known in OFFERS} and not self.has("launches anything"):
            if self.has("raises errors of its own"):
                raise KeyError(offer.id)
            raise ProviderError(f"no offer {offer.id}", provider="shelf")
        for known in self.machines_by_id.values():
            if known.claim == claim.id and not self.has("launches a claim again"):
                return known
            if known.pool == pool.id and self.has("launches one machine a pool"):
                return known
        if self.has("looks before it launches"):
            await asyncio.sleep(0)
        machine = Machine(
            id=f"m-{uuid.uuid4().hex}",
            claim="" if self.has("loses the claim") else claim.id,
            pool=pool.id,
            endpoint=None if self.has("has no address") else LocalEndpoint(root="/"),
        )
        if self.has("writes the claim down too late"):
            self.machines_by_id[machine.id] = replace(machine, claim="")
            await asyncio.sleep(0)
        self.machines_by_id[machine.id] = machine
        self.mine.add(machine.id)
        await asyncio.sleep(0)
        return machine

    async def machines(self, pool: PoolRef) -> Sequence[Machine]:
        if self.has("keeps the first loop"):
            LOOPS.append(asyncio.get_running_loop())
            if LOOPS[0] is not LOOPS[-1]:
                raise RuntimeError("attached to a different loop")
        everything = self.has("lists all pools")
        return [found for found in self.machines_by_id.values() if everything or found.pool == pool.id]

    async def terminate(self, ids: Sequence[str]) -> None:
        for machine in ids:
            if machine in self.machines_by_id:
                if not self.has("ends nothing"):
                    del self.machines_by_id[machine]
            elif self.has("minds unknown ids"):
                raise ProviderError(f"no machine {machine}")
            elif self.has("stops at an unknown id"):
                return

    async def release(self, pool: PoolRef) -> None:
        left = [found.id for found in self.machines_by_id.values() if found.pool == pool.id]
        if self.has("releases only once") and not left and pool.id not in self.prepared:
            raise ProviderError("no such pool")
        self.prepared.discard(pool.id)
        self.released.add(pool.id)
        if self.has("releases everything"):
            self.machines_by_id.clear()
        elif not self.has("leaves machines of a released pool"):
            await self.terminate(left)

    async def owned(self) -> Sequence[Machine]:
        return [
            found
            for found in self.machines_by_id.values()
            if not self.has("owns what it launched itself") or found.id in self.mine
        ]

    async def aclose(self) -> None:
        if self.closed and self.has("closes only once"):
            raise RuntimeError("closed already")
        if self.has("ends machines when closed"):
            await self.terminate(sorted(self.mine))
        self.closed = True
        if self.open is not None:
            self.open.close()


DEFECTS = {
    "connecting opens a socket": "test_connecting_opens_nothing",
    "offers whatever it has": "test_offers_satisfy_all_that_is_wanted",
    "offers one thing twice": "test_offers_are_complete_and_told_apart_by_their_ids",
    "prepares only once": "test_preparing_again_is_harmless",
    "launches anything": "test_an_offer_of_somebody_else_is_refused_in_our_terms",
    "raises errors of its own": "test_an_offer_of_somebody_else_is_refused_in_our_terms",
    "launches a claim again": "test_one_claim_launches_one_machine",
    "looks before it launches": "test_one_claim_launched_at_the_same_time_is_one_machine",
    "launches one machine a pool": "test_every_claim_gets_a_machine_of_its_own",
    "burns released pools": "test_a_released_pool_can_be_prepared_again",
    "keeps the first loop": "test_a_config_connects_again_on_another_loop",
    "loses the claim": "test_a_machine_carries_its_claim",
    "has no address": "test_a_machine_comes_to_have_an_endpoint",
    "writes the claim down too late": "test_a_cancelled_launch_leaves_nothing_that_cannot_be_found",
    "lists all pools": "test_machines_lists_this_pool_only",
    "ends nothing": "test_a_terminated_machine_is_absent",
    "minds unknown ids": "test_terminating_twice_or_what_never_was_is_success",
    "stops at an unknown id": "test_terminating_twice_or_what_never_was_is_success",
    "releases only once": "test_releasing_twice_or_an_unknown_pool_is_success",
    "releases everything": "test_release_ends_what_is_left_of_the_pool_and_no_other",
    "leaves machines of a released pool": "test_release_ends_what_is_left_of_the_pool_and_no_other",
    "owns what it launched itself": "test_owned_lists_every_pool_from_any_connection",
    "closes only once": "test_closing_twice_is_harmless_and_ends_no_machine",
    "ends machines when closed": "test_closing_twice_is_harmless_and_ends_no_machine",
}


def suite(defect: str) -> type[ProviderContract]:
    class Specimen(ProviderContract):
        patience: ClassVar[float] = 0.0

        @pytest.fixture
        def config(self) -> Shelf:
            return Shelf(account=uuid.uuid4().hex, defect=defect)

    return Specimen


globals().update({f"Test {defect}": suite(defect) for defect in ("", *DEFECTS)})
