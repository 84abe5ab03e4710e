"""The live provider: machines are folders, and ending one ends the processes that run in it.

Making and listing folders takes well under a millisecond and is done at once, so that a cancelled launch
either happened or did not; removing one may take long and is done in a thread. The file system's errors
become ``ProviderError`` here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from skyward.errors import ProviderError
from skyward.hooks.values import LocalEndpoint, Machine

from skyward_local import folders, hardware, processes

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from skyward.hooks.values import Claim, Offer, PoolRef, Wanted

    from skyward_local.folders import Record
    from skyward_local.processes import Process

GRACE_SECONDS = 2.0
"""How long an agent may take to end its workers before it is killed."""

DEATH_SECONDS = 5.0
"""How long a killed process may take to vanish; longer is a process stuck in the kernel."""

POLL_SECONDS = 0.01


class LocalProvider:
    """Keeps machines as folders below one base; holds nothing open itself."""

    def __init__(self, root: str | None = None) -> None:
        self._base = folders.default_base() if root is None else folders.full_path(root)

    async def offers(self, wanted: Wanted) -> Sequence[Offer]:
        with _as_provider_error(f"could not look at {self._base}"):
            found = await hardware.offer(wanted, self._base)
        return [] if found is None else [found]

    async def prepare(self, pool: PoolRef) -> None:
        """Check the base, and sweep what clients that were killed left in it."""
        with _as_provider_error(f"could not prepare {self._base}"):
            folders.secure(self._base)
            garbage = [
                found.id for found in folders.records(self._base) if folders.is_garbage(self._base, found)
            ]
            litter = folders.litter(self._base)
        # What can't be swept is not this pool's trouble: owned() goes on listing it.
        with suppress(ProviderError):
            await self.terminate(garbage)
        for path in litter:
            with suppress(OSError):
                await asyncio.to_thread(folders.remove, path)

    async def launch(self, pool: PoolRef, offer: Offer, claim: Claim) -> Machine:
        if offer.id != hardware.OFFER_ID:
            raise ProviderError(f"the offer {offer.id!r} is not one of this computer's", provider="local")
        with _as_provider_error(f"could not make a machine in {self._base}"):
            folders.secure(self._base)
            return self._machine(folders.create(self._base, pool, claim))

    async def machines(self, pool: PoolRef) -> Sequence[Machine]:
        return [
            self._machine(found)
            for found in self._records()
            if found.pool == pool.id and folders.is_alive(self._folder(found.id))
        ]

    async def terminate(self, ids: Sequence[str]) -> None:
        known = dict.fromkeys(name for name in ids if folders.is_id(name))
        if not known:
            return
        with _as_provider_error(f"could not look at {self._base}"):
            try:
                folders.check(self._base)
            except FileNotFoundError:
                return
        outcomes = await asyncio.gather(*map(self._end, known), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def release(self, pool: PoolRef) -> None:
        await self.terminate([found.id for found in self._records() if found.pool == pool.id])

    async def owned(self) -> Sequence[Machine]:
        """Every folder, also of a machine that died: what is listed here is what there is to clean."""
        return [self._machine(found) for found in self._records()]

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _end(self, name: str) -> None:
        folder = self._folder(name)
        with _as_provider_error(f"could not end {folder}"):
            await _stop(folder)
            trash = folders.discard(self._base, name)
            if trash is None:
                return
            # An agent that was starting meanwhile has written its pid into the folder we now hold.
            await _stop(trash)
            await asyncio.to_thread(folders.remove, trash)

    def _records(self) -> list[Record]:
        with _as_provider_error(f"could not list {self._base}"):
            return folders.records(self._base)

    def _folder(self, name: str) -> str:
        return os.path.join(self._base, name)

    def _machine(self, record: Record) -> Machine:
        return Machine(
            id=record.id,
            claim=record.claim,
            pool=record.pool,
            endpoint=LocalEndpoint(root=self._folder(record.id)),
            private_ip="127.0.0.1",
        )


async def _stop(folder: str) -> None:
    """End what runs in ``folder``: the agent gets time to end its workers; then everything is killed."""
    agent = folders.agent(folder)
    if agent is not None and processes.send(agent, signal.SIGTERM):
        await _vanished([agent], GRACE_SECONDS)
    # Read only now: a worker started in the last moment is written down too.
    doomed = folders.listed(folder) if agent is None else [agent, *folders.listed(folder)]
    killed = [process for process in doomed if processes.kill(process)]
    stuck = await _vanished(killed, DEATH_SECONDS)
    if stuck:
        raise ProviderError(
            f"process {stuck[0].pid} of {folder} does not end although it was killed; end it and try again",
            provider="local",
            retryable=True,
        )


async def _vanished(waited_for: Iterable[Process], seconds: float) -> list[Process]:
    """Wait until these processes are gone; return those that are not after ``seconds``."""
    deadline = time.monotonic() + seconds
    left = [process for process in waited_for if process.lives]
    while left and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        left = [process for process in left if process.lives]
    return left


@contextmanager
def _as_provider_error(what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ProviderError(f"{what}: {reason}", provider="local", retryable=True) from error
