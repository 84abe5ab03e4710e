"""What a caller is told when a task has no value of its own, and how that gets into its future."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from skyward.errors import NodeError, NodeLostError, TaskLostError, TaskTimeoutError

if TYPE_CHECKING:
    from skyward.engine.task import Outcome, Task, TaskFuture

LOCK_RETRY = 0.05
"""Seconds between tries to get at a future whose lock is taken."""


def settle(future: TaskFuture, outcome: Outcome | None = None, *, error: BaseException | None = None) -> None:
    """Give a future its outcome, unless its holder has cancelled it. On the loop, which must not wait for it:
    a thread that Ctrl-C has interrupted in the wrong moment keeps the future's lock.
    """
    if not future.settle(outcome, error):
        asyncio.get_running_loop().call_later(LOCK_RETRY, partial(settle, future, outcome, error=error))


def timed_out(task: Task, rank: int) -> TaskTimeoutError:
    return TaskTimeoutError(
        f"{task.name}() on node {rank} ran longer than {task.timeout:g} s; give it more with "
        ".with_timeout(seconds) or Options(default_compute_timeout=...)",
        task=task.name,
        rank=rank,
    )


def interrupted(task: Task, rank: int, cause: str) -> NodeLostError:
    """Describe a task that was lost with its process and may not be run again."""
    tries = (
        f"{task.attempts} times, more than retry_on_interruption allows"
        if task.can_retry
        else "and only the client that is gone could have had it run again"
        if task.inherited
        else "while streaming"
    )
    return NodeLostError(
        f"{task.name}() was lost {tries}; last on node {rank}: its process {cause}", rank=rank
    )


def not_brought(task: Task, rank: int, cause: OSError) -> NodeError:
    """Describe a task whose values could not be written to its node."""
    return NodeError(f"{task.name}() can't run on node {rank}: {cause}", rank=rank)


def crashed(task: Task, rank: int, cause: str, running: int) -> TaskLostError:
    """Describe a task whose process died by its own doing. ``running``: how many tasks that process ran."""
    also = (
        f" ({running} tasks ran in that process: Worker(executor='process') keeps them apart)"
        if running > 1
        else ""
    )
    return TaskLostError(
        f"{task.name}() on node {rank} did not end: its worker process {cause}{also}",
        task=task.name,
        rank=rank,
    )
