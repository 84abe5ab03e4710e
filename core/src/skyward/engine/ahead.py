"""How many tasks are sent to a lane before it has a slot for them, and getting them back from one that is
stuck.

A function's tasks are known to be short once some have ended. Runs on the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Iterator

    from skyward.engine.lane import Lane
    from skyward.engine.task import Task

AHEAD_MICROS = 3000
"""Work sent ahead of a slot, when tasks are known to be shorter: hides the round trip, delays nobody
noticeably.
"""
AHEAD_MAX = 256
ONE_AHEAD_MICROS = 50_000
"""Up to this long, a task is worth one more sent ahead: a slot that waits for it is idle for part of
the time.
"""
STALL_SECONDS = 0.02
"""Without an answer for this long, a lane's waiting tasks are recalled if somebody else is idle."""


class Ahead:
    """See the module. ``buffer``: tasks sent ahead in any case."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lanes: list[Lane], buffer: int) -> None:
        self._loop = loop
        self._lanes = lanes
        self._buffer = buffer
        self._timer: asyncio.TimerHandle | None = None

    def rooms(self, queue: deque[Task]) -> Iterator[tuple[Lane, int]]:
        """Yield lanes that may get tasks ahead, and how many, such that none gets more than its share of
        the queue.
        """
        ema = queue[0].code.ema_micros
        ahead = self._buffer
        if ema is not None:
            ahead += max(int(ema < ONE_AHEAD_MICROS), min(AHEAD_MAX, int(AHEAD_MICROS / max(ema, 1.0))))
        if not ahead:
            return
        share = len(queue) // max(1, len(self._lanes)) + 1
        for lane in self._lanes:
            room = min(lane.slots + ahead - lane.load, share)
            if room > 0 and lane.usable and not lane.single_use and queue:
                yield lane, room
        if self._timer is None:
            self._timer = self._loop.call_later(STALL_SECONDS, self._look)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """While tasks wait on lanes: recall those of a lane that is stuck, when another has a free slot."""
        self._timer = None
        full = [lane for lane in self._lanes if lane.load > lane.slots]
        if not full:
            return
        if any(lane.usable and lane.load < lane.slots for lane in self._lanes):
            now = self._loop.time()
            for lane in full:
                if now - lane.last_answer > STALL_SECONDS:
                    lane.recall()
        self._timer = self._loop.call_later(STALL_SECONDS, self._look)
