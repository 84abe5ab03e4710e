"""Parsl's HighThroughputExecutor on this machine, as it is by default."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

from systems.protocol import Task


class Adapter:
    package: ClassVar[str] = "parsl"
    entrance: ClassVar[str] = "python_app"

    def __init__(self) -> None:
        self._parsl: Any = importlib.import_module("parsl")
        self._apps: dict[Task, Any] = {}

    def start(self, workers: int) -> None:
        self._workers = workers
        self._folder = tempfile.mkdtemp(prefix="parsl")
        executors: Any = importlib.import_module("parsl.executors")
        providers: Any = importlib.import_module("parsl.providers")
        executor = executors.HighThroughputExecutor(
            label="bench",
            address="127.0.0.1",
            max_workers_per_node=workers,
            provider=providers.LocalProvider(init_blocks=1, max_blocks=1),
        )
        config: Any = importlib.import_module("parsl.config").Config(
            executors=[executor], run_dir=self._folder, usage_tracking=0, strategy="none"
        )
        self._parsl.load(config)

    def stop(self) -> None:
        self._parsl.dfk().cleanup()
        self._parsl.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, task: Task, /, *arguments: Any) -> Any:
        return self._app(task)(*arguments).result()

    def burst(self, task: Task, n: int, /) -> Sequence[Any]:
        app = self._app(task)
        futures = [app() for _ in range(n)]
        return [future.result() for future in futures]

    def broadcast(self, task: Task, value: Any, /) -> Sequence[Any]:
        app = self._app(task)
        futures = [app(value) for _ in range(self._workers)]
        return [future.result() for future in futures]

    def _app(self, task: Task) -> Any:
        if task not in self._apps:
            self._apps[task] = self._parsl.python_app(task)
        return self._apps[task]
