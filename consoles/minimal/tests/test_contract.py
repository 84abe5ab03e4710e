"""The minimal console keeps the contract that every console keeps."""

from __future__ import annotations

from skyward_minimal import MinimalConsole
from skyward_testing.consoles import ConsoleContract


class TestMinimalConsole(ConsoleContract):
    def console(self) -> MinimalConsole:
        return MinimalConsole()
