"""Skyward: a node for each worker, on the provider ``local``, silent and without a log file."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import skyward as sky

from systems.protocol import Task

PATIENCE = 60.0
"""Seconds after which a line that has not come is lost."""


@functools.cache
def _decorated(task: Task) -> Any:
    """As a user does it: once, where the function is written."""
    return sky.function(task)


class Adapter:
    package: ClassVar[str] = "skyward"
    entrance: ClassVar[str] = "Compute"

    def __init__(self) -> None:
        self._open = sky.Compute  # loaded here: what that costs has a line of its own

    def start(self, workers: int) -> None:
        self._workers = workers
        self._compute = self._open(nodes=workers, console=False, logging=False)
        self._pool = self._compute.__enter__()

    def stop(self) -> None:
        self._compute.__exit__(None, None, None)

    def call(self, task: Task, /, *arguments: Any) -> Any:
        return _decorated(task)(*arguments) >> self._pool

    def burst(self, task: Task, n: int, /) -> Sequence[Any]:
        decorated = _decorated(task)
        futures = [decorated() > self._pool for _ in range(n)]
        return [future.result() for future in futures]

    def broadcast(self, task: Task, value: Any, /) -> Sequence[Any]:
        return _decorated(task)(value) @ self._pool

    def stream(self, task: Task, n: int, /) -> Iterable[Any]:
        items: Iterable[Any] = _decorated(task)(n) >> self._pool
        return items

    def lines(self, task: Task, each: int, /) -> float:
        expected = each * self._workers
        seen = 0
        all_came = threading.Event()

        def hear(event: sky.Event) -> None:
            nonlocal seen
            seen += 1
            if seen == expected:
                all_came.set()

        with sky.subscribe(hear, sky.Log):
            begin = time.perf_counter()
            _ = _decorated(task)(each) @ self._pool
            if not all_came.wait(PATIENCE):
                raise RuntimeError(f"{seen} of {expected} lines came")
            return time.perf_counter() - begin
