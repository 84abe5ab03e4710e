"""Tasks that another client had submitted, which is gone: taken on as their workers name them.

Only the lane has them: what they were called with is with the client that is gone. So they are never sent
elsewhere, and end with their process. On the loop.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from skyward.engine.outcomes import settle
from skyward.engine.packing import Code
from skyward.engine.stopping import stop
from skyward.engine.task import Task
from skyward.errors import TaskLostError
from skyward.link.modules import take_definitions

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.lane import Lane
    from skyward.engine.task import TaskFuture


def inherit(
    dispatcher: Dispatcher,
    lane: Lane,
    message: dict[str, Any],
    make_future: Callable[[int, str, int], TaskFuture],
) -> None:
    """Take on what a worker names: see ``skyward.node.heritage``."""
    take_definitions(message.get("classes", ()))
    for number, name, state in message.get("tasks", ()):
        if number in lane.unanswered:
            continue
        future = make_future(number, name, lane.node.rank)
        task = Task(number, Code(0, name, b"", (), False), future, 0.0)
        task.inherited = True
        task.lane = lane
        lane.unanswered[number] = task
        if state == "streaming":
            _give_up(lane, task)
            continue
        future.when_cancelled(partial(dispatcher.cancel, task))
        if state == "waiting":
            lane.waiting.append(task)
        elif state == "running":
            lane.running += 1
            dispatcher.on_started(task, dispatcher.now())
    if message.get("last") and lane.when_told is not None:
        lane.when_told()


def _give_up(lane: Lane, task: Task) -> None:
    """End a task whose items went to the client that is gone."""
    task.done = True
    why = f"{task.name}() was streaming to the client that is gone: nobody can take that over"
    settle(task.future, error=TaskLostError(why, task=task.name, rank=lane.node.rank))
    stop(lane, task, "it streamed to a client that is gone")
