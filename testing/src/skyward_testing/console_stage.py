"""A console's play in a real terminal, stopped half way so that a test can look at the screen.

Sits on ``console_play`` (the play) and ``tmux`` (the terminal).
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from skyward_testing.tmux import Terminal, require_tmux

LAST_LINE = "user: after the pool"


class Stage:
    """One run of the play in ``terminal``."""

    def __init__(self, terminal: Terminal, wait: Path) -> None:
        self.terminal = terminal
        self._wait = wait

    def half_way(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Return the screen in the middle of the play, where it stands still, once ``seen`` says so."""
        reached = self._wait.with_name(self._wait.name + ".reached")
        deadline = time.monotonic() + 30
        while not reached.exists():
            if time.monotonic() > deadline:
                pytest.fail("the play never got half way:\n" + "\n".join(self.terminal.screen(history=True)))
            time.sleep(0.05)
        return self.terminal.wait_for(seen)

    def end(self, last: str = LAST_LINE) -> list[str]:
        """Let the play go on; return all rows, scrolled away ones too, once the shell is back."""
        self._wait.touch()
        return self.back(last)

    def back(self, last: str) -> list[str]:
        """Return all rows once ``last`` was printed and the shell's prompt is back."""
        return self.terminal.wait_for(
            lambda rows: any(last in row for row in rows) and rows[-1].startswith("$"), history=True
        )


@contextmanager
def stage(
    console: str,
    folder: Path,
    *arguments: str,
    columns: int = 100,
    lines: int = 40,
    env: Mapping[str, str] | None = None,
    redirect: str = "",
) -> Generator[Stage]:
    """Start the play with ``console`` (``package:Class``) in a terminal of this size; skip without tmux.

    ``redirect`` is the shell's, such as ``> file``.
    """
    require_tmux()
    # What this process can import, the play can: also where a package is on the path but not installed.
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "PYTHONDONTWRITEBYTECODE": "1"}
    with Terminal(columns, lines, {**path, **(env or {})}) as terminal:
        wait = folder / "go-on"
        play = [sys.executable, "-m", "skyward_testing.console_play", console, "--seconds", "2"]
        terminal.type("clear; " + shlex.join([*play, "--wait", str(wait), *arguments]) + " " + redirect)
        yield Stage(terminal, wait)
