"""What ProcessPoolExecutor and loky have in common: everything but how they are opened."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

from systems.protocol import Task


class ExecutorAdapter:
    """A `concurrent.futures.Executor`. Each sets ``_executor`` in its ``start``."""

    _executor: Executor
    _workers: int

    def stop(self) -> None:
        self._executor.shutdown()

    def call(self, task: Task, /, *arguments: Any) -> Any:
        return self._executor.submit(task, *arguments).result()

    def burst(self, task: Task, n: int, /) -> Sequence[Any]:
        futures = [self._executor.submit(task) for _ in range(n)]
        return [future.result() for future in futures]

    def broadcast(self, task: Task, value: Any, /) -> Sequence[Any]:
        # It has no notion of a worker: as many tasks as workers is what a user can do.
        futures = [self._executor.submit(task, value) for _ in range(self._workers)]
        return [future.result() for future in futures]
