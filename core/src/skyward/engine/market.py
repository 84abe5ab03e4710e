"""What could be rented for a pool, best first, and renting it.

Offers of all specs are compared (``selection="cheapest"``), or taken spec by spec (``"first"``). A launch
goes down the list while providers answer that they have no capacity.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skyward.errors import CapacityError, NoOffersError, ProvisioningError, QuotaError
from skyward.hooks.values import Claim, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward.hooks.ports import Provider, ProviderConfig
    from skyward.hooks.values import Machine, Offer, PoolRef
    from skyward.spec import PoolSpec, Spec


@dataclass(frozen=True, slots=True)
class Candidate:
    """One offer that would do, for one of the pool's specs."""

    spec: Spec
    resolved: PoolSpec
    provider: Provider
    provider_name: str
    offer: Offer


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

    async def survey(self) -> None:
        """Ask every provider. Raises NoOffersError when nothing fits, naming what was asked of whom."""
        asked: list[str] = []
        problems: list[Exception] = []
        for spec, resolved, config in self._specs:
            provider = config.connect()
            self.connected.append(provider)
            asked.append(f"{config.provider_name}: {describe(resolved)}")
            try:
                offers = await provider.offers(wanted(resolved))
            except Exception as error:  # another spec may still do
                if len(self._specs) == 1:
                    raise
                problems.append(error)
                continue
            self.candidates += [
                Candidate(spec, resolved, provider, config.provider_name, offer)
                for offer in ranked(offers, resolved)
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

    async def launch(self, pool: PoolRef, rank: int, owner: str) -> tuple[Candidate, Machine]:
        """Rent one machine for ``rank`` from the best candidate that has capacity."""
        attempts: list[CapacityError | QuotaError] = []
        for candidate in self.candidates:
            claim = Claim(
                id=uuid.uuid4().hex[:16],
                pool=pool.id,
                rank=rank,
                provider=candidate.provider_name,
                owner=owner,
                deadline=time.time() + pool.ttl,
            )
            try:
                return candidate, await candidate.provider.launch(pool, candidate.offer, claim)
            except (CapacityError, QuotaError) as error:
                attempts.append(error)
        if not any(error.retryable for error in attempts):
            raise NoOffersError(f"no capacity for node {rank}: {attempts[-1]}", attempts)
        raise ProvisioningError(f"no capacity for node {rank}: {attempts[-1]}", attempts)


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
