"""A worker's process, as far as printing goes: its two streams, and a context a task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest
import skyward.runtime as runtime
from skyward.output import TaskStream


@pytest.fixture(autouse=True)
def _off_node() -> Iterator[None]:
    runtime.set_facts(None)
    yield
    runtime.set_facts(None)


class Node:
    """What the worker installs, with the lines that would leave for the client."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.out: list[tuple[str, bool]] = []
        self.err: list[tuple[str, bool]] = []
        self.tasks: list[str | None] = []

    def install(self) -> None:
        """Called by the test itself: between a fixture and its test, pytest puts streams of its own back."""
        self.monkeypatch.setattr(sys, "stdout", TaskStream("stdout", self.emit_out, 1))
        self.monkeypatch.setattr(sys, "stderr", TaskStream("stderr", self.emit_err, 2))
        runtime.set_facts({"node": 1, "total_nodes": 2})

    def emit_out(self, line: str, overwrite: bool) -> None:
        self.out.append((line, overwrite))
        self.tasks.append(runtime.current_task.get())

    def emit_err(self, line: str, overwrite: bool) -> None:
        self.err.append((line, overwrite))

    def lines(self) -> list[str]:
        return [line for line, overwrite in self.out if not overwrite]

    def finish(self, *, everything: bool = False) -> None:
        stream: Any = sys.stdout
        stream.finish(everything=everything)

    def run[T](self, name: str, body: Callable[[], T]) -> T:
        """Run like the worker does: in a context of its own that names the task."""

        def run() -> T:
            runtime.current_task.set(name)
            return body()

        return copy_context().run(run)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)
