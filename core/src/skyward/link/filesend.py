"""The sending end of a file transfer: lists what is there, hears what the other end has, sends the rest.

Files are listed some hundred at a time, one list ahead of the files, so that a slow connection is kept busy.
What the other end has of a file is believed only if its digest is that of the same bytes here. Regular files,
folders and symbolic links (as links) are sent; sockets, pipes and devices are not. A file that vanishes while
its folder is sent is left out; one that grows is sent as long as it was.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from skyward.link.filetalk import CHUNK, FileTrouble, Talk, at_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from skyward.link.filetalk import Progress

    type Entry = list[Any]
    """Path below the root ('' for the root itself), kind, mode, mtime in ns, size or target of a link."""

LISTED = 256
"""Entries in a list. What is answered to it, 85 bytes each, must fit into the pipes: nobody reads it while
the files of the list before are sent."""
LISTED_BYTES = 1 << 28
"""Bytes of files in a list: the other end may have to read as many before it answers."""


def send(talk: Talk, path: str, progress: Progress, on_total: Callable[[int, int], None]) -> None:
    """Send a file, or a folder with all below it. ``on_total`` is told how many files and bytes that are.

    Raises FileTrouble or ConnectionError.
    """
    root = at_home(path)
    try:
        there = os.stat(root)  # the path itself may be a link to what is meant
        is_folder = stat.S_ISDIR(there.st_mode)
        if not is_folder and not stat.S_ISREG(there.st_mode):
            raise FileTrouble(path, "this is neither a file nor a folder")
        files, size = measure(root) if is_folder else (1, there.st_size)
        on_total(files, size)
        me = _entry("", there)
        talk.say(root={"me": me, "name": os.path.basename(root), "files": files, "bytes": size})
        entries = _walk(root) if is_folder else iter([me])
        _Sending(talk, root, progress).run(entries)
    except FileTrouble:
        raise
    except ConnectionError as error:
        if error.errno:  # it could not be sent; else there is nobody to hear, or no wish to
            talk.hear_why()
        raise
    except OSError as error:
        raise FileTrouble.of(error, str(error.filename or path)) from error


def measure(folder: str) -> tuple[int, int]:
    """Return how many files are below a folder, and how many bytes they hold."""
    files = size = 0
    for entry in _walk(folder):
        if entry[1] == "file":
            files, size = files + 1, size + entry[4]
    return files, size


def _fail(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # it vanished meanwhile
        raise error


def _walk(root: str) -> Iterator[Entry]:
    """Yield what is below a folder, each folder before what it holds."""
    for place, folders, files in os.walk(root, onerror=_fail):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(place, name)
            try:
                found = os.lstat(path)
                target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
            except FileNotFoundError:
                continue
            if stat.S_IFMT(found.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                yield _entry(os.path.relpath(path, root), found, target)


def _entry(path: str, found: os.stat_result, target: str = "") -> Entry:
    if stat.S_ISLNK(found.st_mode):
        return [path, "link", 0, found.st_mtime_ns, target]
    kind = "folder" if stat.S_ISDIR(found.st_mode) else "file"
    return [path, kind, found.st_mode & 0o777, found.st_mtime_ns, found.st_size]


def _lists(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry[4] if entry[1] == "file" else 0
        if len(batch) == LISTED or size > LISTED_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Sending:
    def __init__(self, talk: Talk, root: str, progress: Progress) -> None:
        self._talk = talk
        self._root = root
        self._progress = progress
        self._buffer = memoryview(bytearray(CHUNK))

    def run(self, entries: Iterator[Entry]) -> None:
        lists = _lists(entries)
        current = next(lists, None)
        if current is not None:
            self._talk.say(entries=current)
        while current is not None:
            following = next(lists, None)
            if following is not None:
                self._talk.say(entries=following)
            self._talk.flush()
            had = self._talk.expect("have")
            for entry, have in zip([e for e in current if e[1] == "file"], had, strict=True):
                self._file(entry, have)
            current = following
        self._talk.say(done=True)
        self._talk.flush()
        self._talk.expect("done")

    def _file(self, entry: Entry, have: tuple[int, str] | None) -> None:
        """Send what the other end lacks of a file. ``have``: how many bytes it has, and their digest."""
        path, size = entry[0], entry[4]
        try:
            file = open(os.path.join(self._root, path) if path else self._root, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            self._talk.say(gone=True)
            return
        with file:
            digest = hashlib.sha256()
            start = 0
            if have is not None:
                for piece in self._pieces(file, have[0]):
                    digest.update(piece)
                    self._progress(0, 0)
                if digest.hexdigest() == have[1]:
                    start = have[0]
                    self._progress(start, 0)
                else:
                    digest = hashlib.sha256()
                    file.seek(0)
            self._talk.say(start=start)
            for piece in self._pieces(file, size - start):
                digest.update(piece)
                self._talk.give(piece)
                self._progress(len(piece), len(piece))
            self._talk.say(sha256=digest.hexdigest())

    def _pieces(self, file: Any, size: int) -> Iterator[memoryview]:
        """Read so many bytes, or what there is."""
        while size and (count := file.readinto(self._buffer[: min(size, CHUNK)])):
            size -= count
            yield self._buffer[:count]
