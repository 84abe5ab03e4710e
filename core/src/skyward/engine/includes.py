"""The files and folders that an image brings along: which they are, and one stream that carries them.

Excludes are patterns as in a ``.gitignore`` that lies in the folder which the paths are relative to. What is
of no use on a node (``DEFAULT_EXCLUDES``) stays here unless a pattern with ``!`` takes it back in. Links are
followed. Everything reads files: call it from a thread. Imported by ``skyward.engine.bringup``.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skyward.errors import ConfigError

DEFAULT_EXCLUDES = (".git/", "__pycache__/", "*.pyc", ".venv/", ".DS_Store")
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file: its path on the node, below the folder that tasks start in, and here."""

    name: str
    place: str
    size: int
    executable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Included files. ``digest``: of names and contents; ``paths``: what to import from, '' is the root."""

    digest: str
    items: tuple[Item, ...]
    paths: tuple[str, ...] = ("",)

    @property
    def size(self) -> int:
        """How many bytes the files hold."""
        return sum(item.size for item in self.items)

    def tar(self) -> Iterator[bytes]:
        """Give the files as a tar, read as it is sent. Raises ConfigError for one that changes meanwhile."""
        for item in self.items:
            info = tarfile.TarInfo(item.name)
            info.size, info.mode, info.mtime = item.size, 0o755 if item.executable else 0o644, _MTIME
            yield info.tobuf(tarfile.GNU_FORMAT)
            left = item.size
            with open(item.place, "rb") as file:
                while left and (chunk := file.read(min(CHUNK_BYTES, left))):
                    left -= len(chunk)
                    yield chunk
                if left or file.read(1):
                    raise ConfigError(f"includes: {item.place} changed while it was sent: start again")
            yield bytes(-item.size % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)


_MTIME = 946684800  # one for all, like the digest; tar warns of a time before it


def bundle_of(includes: Iterable[str], excludes: Iterable[str] = ()) -> Bundle | None:
    """Return the files that ``includes`` name, without those that ``excludes`` match; None for none.

    Paths are relative to the folder that the process is in; what is not there is looked for beside the
    script. A path from outside of both keeps its last part only. Raises ConfigError for a path that does not
    exist and for two files that would be one on the node.
    """
    patterns = Patterns((*DEFAULT_EXCLUDES, *excludes))
    found: dict[str, str] = {}
    for include in includes:
        base, place = _resolve(include)
        name = os.path.relpath(place, base)
        if name.startswith(".."):
            name = os.path.basename(place)
        for item, path in _walk(place, "" if name == "." else name, patterns, ()):
            if found.setdefault(item, path) != path:
                raise ConfigError(f"includes: {found[item]} and {path} would both be {item} on the node")
    if not found:
        return None
    items = tuple(_item(name, place) for name, place in sorted(found.items()))
    digest = hashlib.sha256()
    for packed in items:
        content = _content_digest(packed.place)
        line = f"{packed.name}\0{packed.executable:d}\0{content}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return Bundle(digest=digest.hexdigest()[:16], items=items, paths=_import_paths(items))


def _content_digest(place: str) -> str:
    with open(place, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _resolve(include: str) -> tuple[str, str]:
    path = os.path.expanduser(include)
    bases = [os.getcwd()]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script:
        bases.append(os.path.dirname(os.path.abspath(script)))
    for base in bases:
        place = os.path.normpath(os.path.join(base, path))
        if os.path.exists(place):
            return base, place
    looked = " and ".join(dict.fromkeys(bases))
    raise ConfigError(f"includes: there is no {include!r} in {looked}")


def _walk(place: str, name: str, patterns: Patterns, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Give each file's name on the node and its place here, with ``above`` the folders it was reached by."""
    if not os.path.exists(place):
        raise ConfigError(f"includes: {place} is a link to nothing: put it into excludes")
    is_folder = os.path.isdir(place)
    if name and patterns.match(name, is_folder):
        return
    if is_folder:
        real = os.path.realpath(place)
        if real in above:  # a link back up: its files are there already
            return
        for entry in sorted(os.listdir(place)):
            inner = f"{name}/{entry}" if name else entry
            yield from _walk(os.path.join(place, entry), inner, patterns, (*above, real))
    elif os.path.isfile(place):
        yield name, place


def _item(name: str, place: str) -> Item:
    found = os.stat(place)
    return Item(name=name, place=place, size=found.st_size, executable=bool(found.st_mode & stat.S_IXUSR))


def _import_paths(items: Iterable[Item]) -> tuple[str, ...]:
    """Return the root, and those folders among the files that this process imports from, in its order."""
    folders: dict[str, str] = {}
    for item in items:
        name, place = os.path.dirname(item.name), os.path.dirname(item.place)
        while name:
            folders.setdefault(os.path.realpath(place), name)
            name, place = os.path.dirname(name), os.path.dirname(place)
    known = (folders.get(os.path.realpath(entry)) for entry in sys.path if entry)
    return tuple(dict.fromkeys(["", *(name for name in known if name)]))


class Patterns:
    """A list of patterns as git reads them: the last that matches decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for line in lines:
            text = re.sub(r"(?<!\\)\s+$", "", line)
            if not text or text.startswith("#"):
                continue
            keeps = text.startswith("!")
            text = text.removeprefix("!").removeprefix("\\")
            folders_only = text.endswith("/")
            try:
                self._rules.append((re.compile(_expression(text.rstrip("/"))), folders_only, keeps))
            except re.error:
                raise ConfigError(f"excludes: {line!r} is no pattern as git knows them") from None

    def match(self, name: str, is_folder: bool) -> bool:
        """Say whether ``name`` is left out. What lies in a folder that is left out is never asked for."""
        for rule, folders_only, keeps in reversed(self._rules):
            if (is_folder or not folders_only) and rule.fullmatch(name):
                return not keeps
        return False


def _expression(pattern: str) -> str:
    # A slash at the start or in the middle ties a pattern to the root; without one it matches at any depth.
    pattern = pattern.removeprefix("/") if "/" in pattern else f"**/{pattern}"
    parts: list[str] = []
    for piece in re.findall(r"^\*\*/|/\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?[^]]*\]|\\.|.", pattern):
        if piece == "**/":
            parts.append("(?:.*/)?")
        elif piece == "/**/":
            parts.append("/(?:.*/)?")
        elif piece == "/**":
            parts.append("/.+")
        elif piece.startswith("*"):
            parts.append("[^/]*")
        elif piece == "?":
            parts.append("[^/]")
        elif len(piece) > 1 and piece.startswith("["):
            parts.append("(?!/)[" + re.sub(r"^[!^]", "^", piece[1:-1]).replace("[", "\\[") + "]")
        else:
            parts.append(re.escape(piece[-1]))
    return "".join(parts)
