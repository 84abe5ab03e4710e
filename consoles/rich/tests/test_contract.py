"""The rich console keeps the contract that every console keeps."""

from __future__ import annotations

from skyward_rich import RichConsole
from skyward_testing.consoles import ConsoleContract


class TestRichConsole(ConsoleContract):
    def console(self) -> RichConsole:
        return RichConsole()
