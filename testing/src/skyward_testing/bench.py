"""What the provider suite works with: one pool of one test, and the check that an offer fits a wish.

What must appear or vanish is waited for, because clouds list late. Used by ``ProviderContract``, and by
authors who write further tests of their provider.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from skyward.hooks import registry
from skyward.hooks.values import Claim, Machine, Offer, PoolRef, Wanted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from skyward.hooks.ports import Provider, ProviderConfig

POLL_SECONDS = 0.05


@dataclass(slots=True)
class Bench:
    """One pool of one test, with connections that are closed and a pool that is released at its end."""

    config: ProviderConfig
    wanted: Wanted
    patience: float
    provider: Provider
    pool: PoolRef
    others: list[PoolRef] = field(default_factory=list[PoolRef])

    def claim(self, rank: int = 0, pool: PoolRef | None = None) -> Claim:
        return Claim(
            id=uuid.uuid4().hex,
            pool=(pool or self.pool).id,
            rank=rank,
            provider=self.config.provider_name,
            owner="conformance",
            deadline=time.time() + 600,
        )

    def other_pool(self) -> PoolRef:
        pool = new_pool()
        self.others.append(pool)
        return pool

    async def offer(self) -> Offer:
        offers = await self.provider.offers(self.wanted)
        assert offers, f"nothing is offered for {self.wanted}: override the fixture `wanted`"
        return offers[0]

    async def launch(self, claim: Claim | None = None, pool: PoolRef | None = None) -> Machine:
        pool = pool or self.pool
        return await self.provider.launch(pool, await self.offer(), claim or self.claim(pool=pool))

    async def ids(self, pool: PoolRef | None = None) -> set[str]:
        return {machine.id for machine in await self.provider.machines(pool or self.pool)}

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait until ``holds``; fail the test, saying ``what`` did not happen, after ``patience`` seconds."""
        deadline = time.monotonic() + self.patience
        while not await holds():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} within {self.patience} s")
            await asyncio.sleep(POLL_SECONDS)

    async def until_listed(self, ids: set[str], pool: PoolRef | None = None) -> None:
        async def holds() -> bool:
            return await self.ids(pool) == ids

        await self.until(holds, f"machines() did not come to list exactly {sorted(ids)}")

    async def close(self) -> None:
        """Release the pools over a new connection, whatever became of this one."""
        async with self.fresh() as provider:
            for pool in (self.pool, *self.others):
                await provider.release(pool)
        await self.provider.aclose()

    @asynccontextmanager
    async def fresh(self) -> AsyncGenerator[Provider]:
        """Another connection, as another process would have it."""
        provider = self.config.connect()
        try:
            yield provider
        finally:
            await provider.aclose()


def new_pool() -> PoolRef:
    """Return a pool that no provider has heard of."""
    name = uuid.uuid4().hex
    return PoolRef(id=name, name=f"conformance-{name[:6]}", ttl=600)


def shortcomings(offer: Offer, wanted: Wanted) -> list[str]:
    """In what ``offer`` does not satisfy ``wanted``, in words; empty when it satisfies all of it."""
    found: list[str] = []

    def check(holds: bool, what: str) -> None:
        if not holds:
            found.append(what)

    check(offer.vcpus >= (wanted.vcpus or 0), f"{offer.vcpus} vcpus, wanted {wanted.vcpus}")
    check(offer.memory_gb >= (wanted.memory_gb or 0), f"{offer.memory_gb} GB, wanted {wanted.memory_gb}")
    # 0 means that the disk is made to measure at launch.
    check(not offer.disk_gb or offer.disk_gb >= (wanted.disk_gb or 0), f"{offer.disk_gb} GB of disk")
    check(wanted.architecture in (None, offer.architecture), f"architecture {offer.architecture!r}")
    check(wanted.region in (None, offer.region), f"region {offer.region!r}, wanted {wanted.region!r}")
    check(wanted.allocation != "spot" or offer.spot, "on demand, wanted spot")
    check(wanted.allocation != "on-demand" or not offer.spot, "spot, wanted on demand")
    limit = wanted.max_hourly_cost
    check(limit is None or offer.usd_per_hour <= limit, f"{offer.usd_per_hour} USD an hour, at most {limit}")
    if wanted.accelerator is not None:
        enough = offer.accelerator_count >= wanted.accelerator.count
        check(enough, f"{offer.accelerator_count} accelerators, wanted {wanted.accelerator.count}")
        same = registry.fold(wanted.accelerator.name) in registry.fold(offer.accelerator)
        check(same, f"accelerator {offer.accelerator!r}, wanted {wanted.accelerator.name!r}")
    return found
