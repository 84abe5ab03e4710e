"""The lanes that could begin a task at once. Whoever takes one, on whatever thread, has it to himself.

The loop offers lanes and hands tasks to them. A caller's thread may take one too and send its task itself:
that saves a change of threads, which is a good part of a short task's latency.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyward.engine.lane import Lane
    from skyward.engine.task import Task


class FreeLanes:
    """Round-robin. A deque's operations are atomic; what needs more than one is the loop's alone."""

    def __init__(self) -> None:
        self._lanes: deque[Lane] = deque()
        self._returned: deque[Lane] = deque()

    def offer(self, lane: Lane) -> None:
        """Add a lane, if it has room and is not among them. On the loop."""
        if lane.has_room and not lane.offered:
            lane.offered = True
            self._lanes.append(lane)

    def take(self) -> Lane | None:
        """Take the one that waited longest; it may have lost its room meanwhile. From any thread."""
        try:
            lane = self._lanes.popleft()
        except IndexError:
            return None
        lane.offered = False
        return lane

    def express(self, task: Task, now: float) -> bool:
        """Send a plain task from the caller's thread, if a lane is free; return whether that was done."""
        lane = self.take()
        if lane is None:
            return False
        if lane.has_room and lane.express(task, now):
            return True
        self._returned.append(lane)
        return False

    def reclaim(self) -> None:
        """Offer again what callers could not use. On the loop, which they wake for the task."""
        while self._returned:
            self.offer(self._returned.popleft())
