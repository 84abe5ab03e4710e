"""Ray: a cluster of one node with as many CPUs as workers, without a dashboard."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from systems.protocol import Task

STORE_BYTES = 4 * 1024**3
"""Of shared memory: more than any workload holds at a time, so that nothing goes to disk."""


class Adapter:
    package: ClassVar[str] = "ray"
    entrance: ClassVar[str] = "remote"

    def __init__(self) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._remotes: dict[Task, Any] = {}

    def start(self, workers: int) -> None:
        self._workers = workers
        self._folder = tempfile.mkdtemp(prefix="ray")
        self._ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=STORE_BYTES,
            _temp_dir=self._folder,
        )

    def stop(self) -> None:
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, task: Task, /, *arguments: Any) -> Any:
        return self._ray.get(self._remote(task).remote(*arguments))

    def burst(self, task: Task, n: int, /) -> Sequence[Any]:
        remote = self._remote(task)
        values: Sequence[Any] = self._ray.get([remote.remote() for _ in range(n)])
        return values

    def broadcast(self, task: Task, value: Any, /) -> Sequence[Any]:
        remote, stored = self._remote(task), self._ray.put(value)
        values: Sequence[Any] = self._ray.get([remote.remote(stored) for _ in range(self._workers)])
        return values

    def stream(self, task: Task, n: int, /) -> Iterable[Any]:
        for reference in self._remote(task).remote(n):
            yield self._ray.get(reference)

    def _remote(self, task: Task) -> Any:
        if task not in self._remotes:
            self._remotes[task] = self._ray.remote(task)
        return self._remotes[task]
