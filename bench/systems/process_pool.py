"""The standard library's ProcessPoolExecutor, with the start method that this Python chooses by itself."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import ClassVar

from systems.executors import ExecutorAdapter


class Adapter(ExecutorAdapter):
    package: ClassVar[str] = "concurrent.futures"
    entrance: ClassVar[str] = "ProcessPoolExecutor"

    def start(self, workers: int) -> None:
        self._workers = workers
        self._executor = ProcessPoolExecutor(workers)
