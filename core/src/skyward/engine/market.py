"""What could be rented for a pool, best first; renting it, and giving it back.

Offers of all specs are compared (``selection="cheapest"``), or taken spec by spec (``"first"``). A launch
goes down the list while providers answer that they have no capacity. What is rented is in the ledger before
it is asked for.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skyward.engine import ledger
from skyward.errors import CapacityError, NoOffersError, ProvisioningError, QuotaError
from skyward.hooks.values import Claim, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward.engine.ledger import Ledger
    from skyward.hooks.ports import Provider, ProviderConfig
    from skyward.hooks.values import Machine, Offer, PoolRef
    from skyward.spec import PoolSpec, Spec


@dataclass(frozen=True, slots=True)
class Candidate:
    """One offer that would do, for one of the pool's specs."""

    spec: Spec
    resolved: PoolSpec
    provider: Provider
    config: ProviderConfig
    offer: Offer

    @property
    def provider_name(self) -> str:
        return self.config.provider_name


def wanted(spec: PoolSpec) -> Wanted:
    return Wanted(
        accelerator=spec.accelerator,
        vcpus=spec.vcpus,
        memory_gb=spec.memory_gb,
        disk_gb=spec.disk_gb,
        architecture=spec.architecture,
        region=spec.region or None,
        allocation=spec.allocation,
        max_hourly_cost=spec.max_hourly_cost,
    )


def ranked(offers: Sequence[Offer], spec: PoolSpec) -> list[Offer]:
    """Order offers by the spec's allocation: which markets it takes, and which it tries first."""
    match spec.allocation:
        case "spot":
            kept = [offer for offer in offers if offer.spot]
        case "on-demand":
            kept = [offer for offer in offers if not offer.spot]
        case _:
            kept = list(offers)
    if spec.max_hourly_cost is not None:
        kept = [offer for offer in kept if offer.usd_per_hour <= spec.max_hourly_cost]
    spot_first = spec.allocation == "spot-if-available"
    return sorted(kept, key=lambda offer: (spot_first and not offer.spot, offer.usd_per_hour, offer.id))


class Market:
    """The candidates of one pool. ``connected`` lists every provider that was asked, to be closed by the
    owner.
    """

    def __init__(self, specs: Sequence[tuple[Spec, PoolSpec, ProviderConfig]], selection: str) -> None:
        self._specs = specs
        self._selection = selection
        self.connected: list[Provider] = []
        self.candidates: list[Candidate] = []
        self.ledger: Ledger | None = None
        """Where what is rented is written down."""
        self._of_machines: dict[str, Provider] = {}

    @property
    def provider_name(self) -> str:
        """Whose machines are asked for first."""
        return self.candidates[0].provider_name if self.candidates else self._specs[0][2].provider_name

    @property
    def named(self) -> list[tuple[Provider, str]]:
        """The connected providers and their names."""
        return [
            (p, config.provider_name) for p, (_, _, config) in zip(self.connected, self._specs, strict=True)
        ]

    def connect(self) -> None:
        """Connect every provider, once."""
        if not self.connected:
            self.connected += [config.connect() for _, _, config in self._specs]

    async def survey(self) -> None:
        """Ask every provider. Raises NoOffersError when nothing fits, naming what was asked of whom."""
        asked: list[str] = []
        problems: list[Exception] = []
        self.connect()
        self.candidates.clear()
        for (spec, resolved, config), provider in zip(self._specs, self.connected, strict=True):
            asked.append(f"{config.provider_name}: {describe(resolved)}")
            try:
                offers = await provider.offers(wanted(resolved))
            except Exception as error:  # another spec may still do
                if len(self._specs) == 1:
                    raise
                problems.append(error)
                continue
            self.candidates += [
                Candidate(spec, resolved, provider, config, offer) for offer in ranked(offers, resolved)
            ]
        if not self.candidates:
            raise NoOffersError(
                "no offer fits (" + "; ".join(asked) + "); ask for less, or give another spec", problems
            )
        if self._selection == "cheapest":
            self.candidates.sort(key=lambda candidate: candidate.offer.usd_per_hour)

    async def release(self, pool: PoolRef, seconds: float) -> list[BaseException]:
        """Give everything back and close the providers; return what went wrong. ``seconds``: a step."""
        problems: list[BaseException] = []
        for provider in self.connected:
            for step in (provider.release(pool), provider.aclose()):
                try:
                    async with asyncio.timeout(seconds):
                        await step
                except Exception as error:
                    problems.append(error)
        return problems

    async def launch(self, pool: PoolRef, rank: int) -> tuple[Candidate, Machine]:
        """Rent one machine for ``rank`` from the best candidate that has capacity."""
        attempts: list[CapacityError | QuotaError] = []
        for candidate in self.candidates:
            claim = Claim(
                id=uuid.uuid4().hex[:16],
                pool=pool.id,
                rank=rank,
                provider=candidate.provider_name,
                owner=ledger.owner(),
                deadline=time.time() + pool.ttl,
            )
            await self._note_claim(claim, candidate)
            try:
                machine = await candidate.provider.launch(pool, candidate.offer, claim)
                self.note(candidate.provider, machine)
                return candidate, machine
            except (CapacityError, QuotaError) as error:
                attempts.append(error)
        if not any(error.retryable for error in attempts):
            raise NoOffersError(f"no capacity for node {rank}: {attempts[-1]}", attempts)
        raise ProvisioningError(f"no capacity for node {rank}: {attempts[-1]}", attempts)

    async def _note_claim(self, claim: Claim, candidate: Candidate) -> None:
        if self.ledger is None:
            return
        self.ledger.claim(claim)
        if not candidate.config.here:  # a machine of somebody else's is about to cost money
            await asyncio.to_thread(self.ledger.sync)

    def note(self, provider: Provider, machine: Machine) -> None:
        """Note that a machine is there, and where."""
        self._of_machines[machine.id] = provider
        if self.ledger is not None:
            self.ledger.machine(machine)

    def note_python(self, machine: Machine, python: str) -> None:
        """Note which interpreter a machine's agent is about to run in."""
        if self.ledger is not None:
            self.ledger.python(machine.id, python)

    async def end(self, machine: str) -> None:
        """End a machine."""
        provider = self._of_machines.pop(machine, None)
        if provider is None:
            return
        try:
            await provider.terminate([machine])
        except BaseException:
            self._of_machines.setdefault(machine, provider)
            raise
        if self.ledger is not None:
            self.ledger.ended(machine)

    async def sweep(self) -> None:
        """End what is left of pools without a client, whose machines should have ended themselves."""
        over = await asyncio.to_thread(ledger.expired)
        for (_, _, config), provider in zip(self._specs, self.connected, strict=True):
            ours = {estate.pool.id: estate for estate in over if config.provider_name in estate.providers}
            if not ours:
                continue
            found = [machine for machine in await provider.owned() if machine.pool in ours]
            await provider.terminate([machine.id for machine in found])
            ended = {machine.id for machine in found}
            await asyncio.to_thread(
                ledger.forget,
                [
                    estate
                    for estate in ours.values()
                    if config.here or estate.is_old or ended.issuperset(estate.machines)
                ],
            )


def describe(spec: PoolSpec) -> str:
    """Say in words what hardware a spec asks for."""
    parts = [
        f"{spec.accelerator_count:g}x {spec.accelerator_name}" if spec.accelerator else "any CPU machine"
    ]
    parts += [f"{spec.vcpus:g} vCPUs"] if spec.vcpus else []
    parts += [f"{spec.memory_gb:g} GB memory"] if spec.memory_gb else []
    parts += [f"in {spec.region}"] if spec.region else []
    parts += [f"up to {spec.max_hourly_cost:g} USD/h"] if spec.max_hourly_cost is not None else []
    return ", ".join(parts)
