"""Runs what newcomers read as they would run it: as a script, from an empty folder, in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

type RunScript = Callable[..., str]

LIMIT_SECONDS = 60.0  # a node may have to download its packages
STRANGERS = ("PYTHON", "XDG_", "SSH_")
"""What would have Python find more than what is installed, or a script find somebody's state and keys."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home folder of scripts: empty, unless a test puts something there."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run_script(tmp_path: Path, home: Path) -> RunScript:
    """Run a script, with arguments, with this Python; return its standard output.

    The folder it starts in and its home are empty: it finds nobody's configuration and leaves no log behind.
    Fails if the script fails, takes longer than a minute, or lets a traceback through to standard error.
    """
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(STRANGERS)}

    def run(script: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env={**environment, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return run
