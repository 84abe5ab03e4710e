"""loky's reusable executor."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

from systems.executors import ExecutorAdapter


class Adapter(ExecutorAdapter):
    package: ClassVar[str] = "loky"
    entrance: ClassVar[str] = "get_reusable_executor"

    def __init__(self) -> None:
        self._loky: Any = importlib.import_module("loky")

    def start(self, workers: int) -> None:
        self._workers = workers
        self._executor = self._loky.get_reusable_executor(max_workers=workers, timeout=600)
