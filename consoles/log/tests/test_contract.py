"""The log console keeps the contract that every console keeps."""

from __future__ import annotations

from skyward_log import LogConsole
from skyward_testing.consoles import ConsoleContract


class TestLogConsole(ConsoleContract):
    def console(self) -> LogConsole:
        return LogConsole()
