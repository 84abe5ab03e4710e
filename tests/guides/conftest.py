"""Runs what newcomers read as they would run it: as a script, from an empty folder, in a new process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

type RunScript = Callable[[Path], str]

LIMIT_SECONDS = 20.0


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Run a script with this Python; return its standard output.

    The folder it starts in and its home are empty: it finds nobody's configuration and leaves no log behind.
    Fails if the script fails, takes longer than 20 s, or lets a traceback through to standard error.
    """
    folder, home = tmp_path / "empty", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    # What would tell Python to find more than what is installed, or to behave otherwise than at a user's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(script: Path) -> str:
        done = subprocess.run(
            [sys.executable, str(script)],
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
