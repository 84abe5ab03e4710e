"""A real terminal for tests: a tmux server of our own, driven by keys and read as text.

tmux interprets every escape sequence as a terminal does, so what ``screen()`` returns is what a person
would see. The server has a private socket and ends with the ``with`` block.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import pytest


def require_tmux() -> None:
    """Skip the test where tmux is missing; in CI, where it must not be, fail."""
    if shutil.which("tmux") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tmux is not installed, and CI=true: install it, these tests must run there")
        pytest.skip("tmux is not installed")


class Terminal:
    """One terminal with a shell in it. ``env`` is added to the shell's environment."""

    def __init__(self, columns: int = 100, lines: int = 30, env: Mapping[str, str] | None = None) -> None:
        self._columns, self._lines, self._env = columns, lines, dict(env or {})
        self._folder = tempfile.TemporaryDirectory(prefix="skyward-tmux-")

    def __enter__(self) -> Terminal:
        shell = ["env", *(f"{key}={value}" for key, value in self._env.items()), "PS1=$ ", "sh", "-i"]
        size = ["-x", str(self._columns), "-y", str(self._lines)]
        self._tmux("new-session", "-d", *size, shlex.join(shell))
        self.wait_for(lambda rows: any(row.startswith("$") for row in rows))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._tmux("kill-server")
        finally:
            self._folder.cleanup()

    def type(self, text: str) -> None:
        """Type a line and press Enter."""
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def key(self, name: str) -> None:
        """Press one key as tmux names it, such as ``C-c``."""
        self._tmux("send-keys", name)

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def screen(self, *, history: bool = False, colours: bool = False) -> list[str]:
        """Return the rows that are visible, without empty ones at the end; ``history``: also those above."""
        options = (["-S", "-"] if history else []) + (["-e"] if colours else [])
        return self._tmux("capture-pane", "-p", *options).rstrip("\n").split("\n")

    def wait_for(
        self, seen: Callable[[list[str]], bool], timeout: float = 20.0, *, history: bool = False
    ) -> list[str]:
        """Return the screen once ``seen`` says so; fail with the screen as it is when it never does."""
        deadline = time.monotonic() + timeout
        while True:
            rows = self.screen(history=history)
            if seen(rows):
                return rows
            if time.monotonic() > deadline:
                pytest.fail("the terminal never showed it; the last screen was:\n" + "\n".join(rows))
            time.sleep(0.05)

    def _tmux(self, *arguments: str) -> str:
        # -u: UTF-8 whatever the locale; -f: nobody's configuration.
        command = [
            "tmux",
            "-u",
            "-S",
            os.path.join(self._folder.name, "socket"),
            "-f",
            "/dev/null",
            *arguments,
        ]
        env = {
            key: value
            for key, value in os.environ.items()
            if key not in ("TMUX", "NO_COLOR", "COLUMNS", "LINES")
        }
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=env, check=False)
        if done.returncode:
            raise RuntimeError(f"tmux {arguments[0]}: {done.stderr.strip()}")
        return done.stdout
