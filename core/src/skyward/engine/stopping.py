"""Ending a task on its node: asked first, with its process after a while. On the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyward.engine.lane import Lane
    from skyward.engine.task import Task

KILL_AFTER = 3.0
"""Seconds a cancelled task has to end before its process is ended."""


def stop(lane: Lane, task: Task, why: str) -> None:
    """Cancel a task where it runs; ``why`` is what its process is ended for, should it not obey."""
    lane.cancel(task)
    delay = KILL_AFTER if lane.slots == 1 else 5 * KILL_AFTER
    asyncio.get_running_loop().call_later(delay, _end_process, lane, task, why)


def _end_process(lane: Lane, task: Task, why: str) -> None:
    if task.id in lane.unanswered and task.lane is lane:
        lane.node.end_worker(lane, why)
