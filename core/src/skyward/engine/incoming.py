"""A worker's large values on their way to the client, and the answers that wait for them.

A value comes as a descriptor, or as a file of the machine's, which is downloaded while other answers go on.
Frames of one task keep their order. On the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

from skyward.link import frames
from skyward.link.agentconfig import result_file
from skyward.link.memory import map_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skyward.engine.depot import Depot


class Incoming:
    """One lane's. ``on_frame`` gets a frame that had to wait."""

    def __init__(
        self, index: int, generation: int, depot: Depot | None, on_frame: Callable[[int, memoryview], None]
    ) -> None:
        self._index = index
        self._generation = generation
        self._depot = depot
        self._on_frame = on_frame
        self._views: dict[int, memoryview] = {}
        self._fetching: dict[int, asyncio.Task[None]] = {}
        self._parked: dict[int, deque[tuple[int, bytes]]] = {}
        self._wanted: list[tuple[Sequence[int], Callable[[list[memoryview]], None], Callable[[], None]]] = []

    def on_blob(self, body: memoryview, take_fd: Callable[[], int]) -> None:
        number, size, how = frames.BLOB_HEAD.unpack(body)
        if how == frames.BY_FD:
            fd = take_fd()
            try:
                self._views[number] = map_file(fd, size)
            finally:
                os.close(fd)
        else:
            self._fetching[number] = asyncio.create_task(self._fetch(number, size))
            self._fetching[number].add_done_callback(_noticed)

    async def _fetch(self, number: int, size: int) -> None:
        assert self._depot is not None
        try:
            self._views[number] = await self._depot.fetch(
                result_file(self._index, self._generation, number), size
            )
        finally:
            del self._fetching[number]
            if number not in self._views:  # the machine is gone, or as good as gone
                self._give_up(number)
            for wanted in list(self._wanted):
                if all(blob in self._views for blob in wanted[0]):
                    self._wanted.remove(wanted)
                    wanted[1](self.take(wanted[0]))
            for task in list(self._parked):
                self._hand_over(task)

    def _give_up(self, number: int) -> None:
        for wanted in list(self._wanted):
            if number in wanted[0]:
                self._wanted.remove(wanted)
                wanted[2]()

    def when_here(
        self, blobs: Sequence[int], then: Callable[[list[memoryview]], None], lost: Callable[[], None]
    ) -> None:
        """Call ``then`` with the values, now or when they have arrived; ``lost`` when they never will."""
        missing = [blob for blob in blobs if blob not in self._views]
        if not missing:
            then(self.take(blobs))
        elif all(blob in self._fetching for blob in missing):
            self._wanted.append((blobs, then, lost))
        else:
            lost()

    def parks(self, task: int, blobs: Sequence[int], kind: int, body: memoryview) -> bool:
        """Keep a frame that needs what has not arrived, or follows one that does; return whether it was."""
        if task not in self._parked and not any(blob in self._fetching for blob in blobs):
            return False
        self._parked.setdefault(task, deque()).append((kind, bytes(body)))
        return True

    def _hand_over(self, task: int) -> None:
        waiting = self._parked.pop(task)
        while waiting:
            kind, body = waiting.popleft()
            self._on_frame(kind, memoryview(body))
            if task in self._parked:  # it waits for another value: what came after it, too
                self._parked[task].extend(waiting)
                return

    def lacks(self, blobs: Sequence[int]) -> bool:
        """Whether one of them never arrived."""
        return any(blob not in self._views for blob in blobs)

    def take(self, blobs: Sequence[int]) -> list[memoryview]:
        """Return values that have arrived; they are the caller's."""
        return [self._views.pop(blob) for blob in blobs]

    def close(self) -> None:
        """Nothing more comes from the process. What it left in files is fetched all the same."""
        self._parked.clear()


def _noticed(fetch: asyncio.Task[None]) -> None:
    """Who waited for it has been told; asyncio need not say it again."""
    if not fetch.cancelled():
        fetch.exception()
