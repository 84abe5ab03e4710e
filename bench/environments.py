"""An environment for each system, made by uv in ``bench/.envs``, all with the Python that runs the driver.

They are kept: a peer's is made anew only when what it asks for changes, or when its folder is deleted, which
is how to get newer versions. Skyward's gets this checkout's distributions each time, built and installed as a
user would get them: what is edited during a run is not measured. What can't be installed is an
``Unavailable`` with uv's last line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
FOLDER = BENCH / ".envs"

PEERS: dict[str, tuple[str, ...]] = {
    "process_pool": ("numpy",),
    "loky": ("loky", "numpy"),
    "dask": ("distributed", "numpy"),
    "ray": ("ray", "numpy"),
    "parsl": ("parsl", "numpy"),
}
"""What each needs. The folder is ``bench/systems``'s, the first name the package whose version is told."""

BY_REQUEST = frozenset({"parsl"})
"""Measured only when named: it takes as long as all others together."""

MEMBERS = ("core", "providers/*", "plugins/*", "consoles/*", "topologies/*", "collections/*")


class Unavailable(Exception):
    """The environment can't be made here."""


def prepare(system: str) -> Path:
    """Return the Python of a system's environment, after making it. Raises Unavailable."""
    if system == "skyward":
        return _ours()
    wanted = PEERS[system]
    python, stamp = _python(system), FOLDER / system / "installed.txt"
    made = "\n".join((sys.version, *wanted))
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == made):
        _create(system)
        _uv("pip", "install", "--compile-bytecode", "--python", str(python), *wanted)
        stamp.write_text(made, encoding="utf-8")
    return python


def versions(system: str, python: Path) -> dict[str, str]:
    """The versions of what is measured there."""
    names = ["skyward-core", "numpy"] if system == "skyward" else PEERS[system]
    program = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    run = subprocess.run([python, "-I", "-c", program, *names], capture_output=True, text=True, check=True)
    return dict(zip(names, run.stdout.split(), strict=True))


def _ours() -> Path:
    python = _python("skyward")
    if not python.exists():
        _create("skyward")
    distributions = _default_set()
    again = [f"--reinstall-package={name}" for name in distributions]
    folders = [str(folder) for folder in distributions.values()]
    # --no-sources: as members of a workspace they would be installed editable, and change during the run.
    install = ["pip", "install", "--no-sources", "--compile-bytecode", "--python", str(python)]
    _uv(*install, *again, *folders, "numpy")
    return python


def _default_set() -> dict[str, Path]:
    """The distributions that ``pip install skyward`` brings, by name, each with its folder."""
    depends = " ".join(_project(ROOT)["dependencies"])
    folders = sorted(path.parent for member in MEMBERS for path in ROOT.glob(f"{member}/pyproject.toml"))
    named = {str(_project(folder)["name"]): folder for folder in folders}
    return {name: folder for name, folder in named.items() if f"{name}>" in depends}


def _project(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def _python(system: str) -> Path:
    return FOLDER / system / "bin" / "python"


def _create(system: str) -> None:
    shutil.rmtree(FOLDER / system, ignore_errors=True)
    _uv("venv", "--python", sys.executable, str(FOLDER / system))


def _uv(*arguments: str) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")  # `uv run` says where it lies
    if uv is None:
        raise Unavailable("uv was not found: start this with `uv run bench/run.py`")
    run = subprocess.run([uv, *arguments], capture_output=True, text=True)
    if run.returncode:
        raise Unavailable((run.stderr.strip() or "uv failed").splitlines()[-1])
