"""The distributions of this repository, read off its folders, and the names that must follow from them.

A distribution is a folder with a pyproject.toml: ``core``, ``testing``, ``cli``, or ``<kind>/<name>``. The
folder's name decides every other name, so nothing here is a list that could drift. The architecture tests and
noxfile.py import it (which is why it needs the standard library only).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("providers", "plugins", "consoles", "topologies", "collections")
SINGLE = ("core", "cli", "testing")
# Made by tools, in .gitignore, or (uv.lock) made on each machine anew: not ours to judge.
LEFTOVERS = frozenset({"__pycache__", "build", "dist", "uv.lock", "node_modules"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One distribution. ``kind`` is the folder above it, or its own name for ``core`` and its like."""

    folder: Path
    kind: str

    @property
    def name(self) -> str:
        """The one string that everything else follows from."""
        return self.folder.name

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return f"skyward-{self.name}"

    @property
    def package(self) -> str:
        """What Python imports."""
        return "skyward" if self.name == "core" else f"skyward_{self.name.replace('-', '_')}"

    @property
    def sources(self) -> Path:
        """The folder that holds the package."""
        return self.folder / "src"

    @property
    def config(self) -> dict[str, Any]:
        """Its pyproject.toml."""
        return toml(self.folder / "pyproject.toml")

    @property
    def entry_points(self) -> dict[str, dict[str, str]]:
        """The entry points that its place in the tree demands: group -> name -> module."""
        if self.kind in KINDS:
            return {f"skyward.{self.kind}": {self.name: self.package}}
        if self.name == "testing":
            return {"pytest11": {self.package: f"{self.package}.pytest_plugin"}}
        return {}


@cache
def toml(path: Path) -> dict[str, Any]:
    """A TOML file, read once."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def members(root: Path = ROOT) -> tuple[Member, ...]:
    """Every distribution but the root's own, core first, then by kind and name."""
    found = [Member(folder=root / name, kind=name) for name in SINGLE]
    found += [Member(folder=path, kind=kind) for kind in KINDS for path in sorted((root / kind).glob("*"))]
    return tuple(member for member in found if (member.folder / "pyproject.toml").is_file())


def files(*suffixes: str, below: Path = ROOT) -> Iterator[Path]:
    """The repository's own files with one of these suffixes (all, if none is given), in a stable order.

    Hidden folders are tools' (environments, caches, git), but for ``.ci``, which is ours.
    """
    for path in sorted(below.iterdir()):
        if path.name in LEFTOVERS or path.is_symlink():
            continue
        if path.is_dir():
            if not path.name.startswith(".") or path.name == ".ci":
                yield from files(*suffixes, below=path)
        elif not suffixes or path.suffix in suffixes:
            yield path
