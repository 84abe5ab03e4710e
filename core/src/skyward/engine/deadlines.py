"""When tasks have run for too long. One timer for all of them, set to the earliest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from skyward.engine.task import Task


class Deadlines:
    """Watches the running tasks, of which there are never more than slots. Runs on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, running: set[Task], on_timeout: Callable[[Task], None]
    ) -> None:
        self._loop = loop
        self._running = running
        self._on_timeout = on_timeout
        self._next = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, task: Task, now: float) -> None:
        """A task began that has a timeout."""
        task.deadline = now + task.timeout
        if task.deadline < self._next:
            self._set(task.deadline)

    def covers(self, deadline: float) -> bool:
        """Whether the timer goes off in time for ``deadline`` as it is set."""
        return deadline >= self._next

    def extend(self, task: Task) -> None:
        """A stream moved: its time counts from there."""
        if task.timeout:
            task.deadline = self._loop.time() + task.timeout

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, deadline: float) -> None:
        self.close()
        self._next = deadline
        self._timer = self._loop.call_at(deadline, self._look)

    def _look(self) -> None:
        self._timer = None
        self._next = float("inf")
        now = self._loop.time()
        for task in list(self._running):
            if not task.timeout:
                continue
            if task.output is not None and not task.output.is_waiting:
                task.deadline = now + task.timeout  # its consumer is the slow one
            if task.deadline <= now:
                self._on_timeout(task)
        deadlines = [task.deadline for task in self._running if task.timeout]
        if deadlines:
            self._set(min(deadlines))
