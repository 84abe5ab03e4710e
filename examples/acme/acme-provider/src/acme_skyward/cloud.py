"""The live provider: what Skyward asks of a cloud, in terms of what Acme can do.

A machine is a folder in the account's home. Its name is made from the claim, so a launch whose answer was
lost finds the machine it made. Creating and listing are quick and done at once; ending waits, so it yields.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skyward.errors import CapacityError, ProviderError
from skyward.hooks import LocalEndpoint, Machine, Offer

from acme_skyward import folders

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from skyward.hooks import Claim, PoolRef, Wanted

PRICES = {"acme.small": (2, 4, 0.02), "acme.large": (8, 32, 0.08)}
"""The price list: instance type -> vCPUs, GB of memory, USD per hour."""

REGION = "basement-1"
POLL_SECONDS = 0.02
STOP_POLLS = 100
"""How often to look whether an agent has ended what it started, before it is killed."""

ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}


class AcmeCloud:
    """One account. Holds nothing open, so any number of these may look at the same account."""

    def __init__(self, home: str | None, capacity: int) -> None:
        self._home = folders.default_home() if home is None else os.path.abspath(os.path.expanduser(home))
        self._capacity = capacity

    async def offers(self, wanted: Wanted) -> Sequence[Offer]:
        machine = platform.machine().lower()
        every = [
            Offer(
                id=name,
                provider="acme",
                instance_type=name,
                region=REGION,
                usd_per_hour=price,
                vcpus=vcpus,
                memory_gb=memory,
                disk_gb=20,
                architecture=ARCHITECTURES.get(machine, machine),
            )
            for name, (vcpus, memory, price) in PRICES.items()
        ]
        return [offer for offer in every if satisfies(offer, wanted)]

    async def prepare(self, pool: PoolRef) -> None:
        with told_as_ours():
            folders.open_home(self._home)

    async def launch(self, pool: PoolRef, offer: Offer, claim: Claim) -> Machine:
        if offer.id not in PRICES:
            raise ProviderError(f"Acme has no {offer.id!r}", provider="acme")
        with told_as_ours():
            folders.open_home(self._home)
            name = folders.machine_name(claim.id)
            there = folders.read(self._home, name)
            if there is None:
                if len(folders.list_machines(self._home)) >= self._capacity:
                    raise CapacityError(f"this account has its {self._capacity} machines", provider="acme")
                there = {"claim": claim.id, "pool": pool.id, "type": offer.id, "made": time.time()}
                folders.create(self._home, name, there)
        return self._machine(name, there)

    async def machines(self, pool: PoolRef) -> Sequence[Machine]:
        return [machine for machine in self._all() if machine.pool == pool.id and self._is_alive(machine)]

    async def terminate(self, ids: Sequence[str]) -> None:
        with told_as_ours():
            for name in ids:
                if folders.read(self._home, name) is not None:
                    await self._end(name)

    async def release(self, pool: PoolRef) -> None:
        # Of the folders of machines that died, too; `machines` does not list those.
        await self.terminate([machine.id for machine in self._all() if machine.pool == pool.id])

    async def owned(self) -> Sequence[Machine]:
        return self._all()

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _end(self, name: str) -> None:
        folder = os.path.join(self._home, name)
        if folders.ask_to_stop(folder):
            for _ in range(STOP_POLLS):
                if not folders.agent_runs(folder):
                    break
                await asyncio.sleep(POLL_SECONDS)
        folders.kill(folder)
        await asyncio.to_thread(folders.remove, folder)

    def _is_alive(self, machine: Machine) -> bool:
        folder = os.path.join(self._home, machine.id)
        return not folders.agent_has_run(folder) or folders.agent_runs(folder)

    def _all(self) -> list[Machine]:
        with told_as_ours():
            return [self._machine(name, record) for name, record in folders.list_machines(self._home).items()]

    def _machine(self, name: str, record: folders.Record) -> Machine:
        return Machine(
            id=name,
            claim=str(record["claim"]),
            pool=str(record["pool"]),
            endpoint=LocalEndpoint(root=os.path.join(self._home, name)),
            private_ip="127.0.0.1",
            region=REGION,
            usd_per_hour=PRICES[str(record["type"])][2],
        )


def satisfies(offer: Offer, wanted: Wanted) -> bool:
    """Whether ``offer`` has all that ``wanted`` asks for. Acme has no accelerators and no spot market."""
    return (
        wanted.accelerator is None
        and wanted.allocation != "spot"
        and wanted.region in (None, offer.region)
        and wanted.architecture in (None, offer.architecture)
        and (wanted.vcpus or 0) <= offer.vcpus
        and (wanted.memory_gb or 0) <= offer.memory_gb
        and (wanted.disk_gb or 0) <= offer.disk_gb
        and (wanted.max_hourly_cost is None or offer.usd_per_hour <= wanted.max_hourly_cost)
    )


@contextmanager
def told_as_ours() -> Generator[None]:
    """Turn the vendor's errors, here the file system's, into Skyward's. The one place that does."""
    try:
        yield
    except OSError as error:
        raise ProviderError(f"acme: {error}", provider="acme", retryable=True) from error
