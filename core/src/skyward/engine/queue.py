"""Tasks that wait for a slot, oldest first; those that may go to one node only wait for that. On the loop."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skyward.engine.task import Task


class TaskQueue:
    """``open``: those that may go anywhere; to look at, not to change. False when nothing waits."""

    def __init__(self) -> None:
        self.open: deque[Task] = deque()
        self._pinned: dict[int, deque[Task]] = {}

    def __len__(self) -> int:
        return len(self.open) + sum(map(len, self._pinned.values()))

    def __bool__(self) -> bool:
        return bool(self.open or self._pinned)

    def _of(self, task: Task) -> deque[Task]:
        return self.open if task.rank is None else self._pinned.setdefault(task.rank, deque())

    def put(self, task: Task) -> None:
        self._of(task).append(task)

    def put_first(self, task: Task) -> None:
        """Put a task back that was taken, or handed back."""
        self._of(task).appendleft(task)

    def next_for(self, rank: int) -> Task | None:
        """Take the oldest task that may go to a node: one that is pinned to it first."""
        pinned = self._pinned.get(rank)
        task = _taken(pinned) if pinned is not None else None
        if not pinned:
            self._pinned.pop(rank, None)
        return task or _taken(self.open)

    def abandoned(self, rank: int) -> Iterable[Task]:
        """Take all that are pinned to a node."""
        return self._pinned.pop(rank, ())

    def clear(self) -> list[Task]:
        """Take everything."""
        tasks = [*self.open, *(task for pinned in self._pinned.values() for task in pinned)]
        self.open.clear()
        self._pinned.clear()
        return tasks


def _taken(queue: deque[Task]) -> Task | None:
    while queue:
        task = queue.popleft()
        if not task.done:
            return task
    return None
