"""A lane's books: which of the tasks that were sent has begun."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from skyward.engine.lane import Lane, LaneHandler
from skyward.engine.packing import Code
from skyward.engine.task import Outcome, Task, TaskFuture
from skyward.link import frames
from skyward.link.frames import ResultFrame


class Books(LaneHandler):
    """What the lane says."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.back: list[int] = []
        self.answered: list[int] = []

    def now(self) -> float:
        return 1.0

    def on_started(self, task: Task, now: float) -> None:
        task.started = now
        self.begun.append(task.id)

    def on_answered(self, lane: Lane, task: Task, micros: int) -> None:
        self.answered.append(task.id)

    def on_outcome(self, lane: Lane, task: Task, status: int, micros: int, outcome: Outcome) -> None:
        pass

    def on_recalled(self, lane: Lane, tasks: list[Task]) -> None:
        self.back += [task.id for task in tasks]


def task(number: int) -> Task:
    return Task(number, Code(1, "f", b"", (), False), TaskFuture(), 0.0)


def frame(lane: Lane, kind: int, body: bytes) -> None:
    lane.on_frame(kind, memoryview(body)[frames.HEADER.size :])


def test_a_task_that_comes_back_after_the_one_before_it_ended_has_not_begun() -> None:
    """The worker gave it back before it had sent the result by which we take it for begun."""
    books, node = Books(), SimpleNamespace(depot=None, rank=0)
    any_node: Any = node
    lane = Lane(any_node, 0, 1, 1, books)
    lane.usable = True
    first, second, third = task(1), task(2), task(3)
    lane.assign(first, 1.0)
    lane.assign(second, 1.0)
    assert books.begun == [1]
    lane.recall()
    frame(lane, frames.RESULT, ResultFrame(1, frames.OK, 5, b"").pack())
    assert books.begun == [1, 2]
    frame(lane, frames.RECALLED, frames.ids_frame(frames.RECALLED, [2]))
    assert (books.back, lane.running, lane.load, lane.has_room) == ([2], 0, 0, True)
    lane.assign(third, 1.0)
    assert books.begun == [1, 2, 3]
    assert not lane.waiting
