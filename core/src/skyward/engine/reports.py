"""What subscribers hear about a task. Called only when somebody listens: a task may be shorter than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyward.events import TaskCompleted, TaskStarted
from skyward.link import frames
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from skyward.engine.lane import Lane
    from skyward.engine.task import Task


def report_started(pool: str, task: Task) -> None:
    """A slot took the task."""
    publish(
        TaskStarted(pool=pool, task_id=task.id, instance=task.lane.node.instance, function_name=task.name)
    )


def report_completed(pool: str, lane: Lane, task: Task, status: int, micros: int) -> None:
    """The task ended, with a value or an exception of its own."""
    publish(
        TaskCompleted(
            pool=pool,
            task_id=task.id,
            instance=lane.node.instance,
            function_name=task.name,
            duration=micros / 1e6,
            success=status != frames.RAISED,
            error="raised" if status == frames.RAISED else "",
        )
    )
