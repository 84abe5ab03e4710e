"""The receiving end of a file transfer: says what it has, writes the rest, and shows a file only when whole.

- A file grows under a hidden name beside its own (``.<digest>.skyward-part``) that stands for one version of
  it, and takes its own name once its digest was checked. A part worth it stays when the connection is cut:
  the next try, or the next call, goes on with it.
- The other end is not trusted: nothing is written outside the target. Names are checked, each folder must be
  a real one that this transfer has named before, and links are made when everything else is done.
- Modes and times are kept; those of folders that were there already are left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections import deque

from skyward.link.filetalk import CHUNK, FileTrouble, Talk, at_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from skyward.link.filesend import Entry
    from skyward.link.filetalk import Progress

WORTH_KEEPING = 1 << 20
"""Bytes from which on a part of a file is kept for another try."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Had:
    """What there is of a file: a part of it, or something of its size and name."""

    def __init__(self, path: str, size: int, *, is_part: bool) -> None:
        self.path = path
        self.size = size
        self.is_part = is_part
        self.digest = hashlib.sha256()


def receive(talk: Talk, path: str, progress: Progress, on_total: Callable[[int, int], None]) -> None:
    """Receive what the other end sends, as ``path``; a file goes into it if it is a folder or ends in "/".

    ``on_total`` is told how many files and bytes are to come. Raises FileTrouble or ConnectionError.
    """
    try:
        root = talk.expect("root")
        on_total(root["files"], root["bytes"])
        _Receiving(talk, at_home(path), root, progress).run()
    except (FileTrouble, ConnectionError):
        raise
    except OSError as error:
        raise FileTrouble.of(error, str(error.filename or path)) from error


def _checked(path: str) -> str:
    """Refuse names that lead out of a folder."""
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise FileTrouble(repr(path), "this is no path below a folder: what sends it is not to be trusted")
    return path


class _Receiving:
    def __init__(self, talk: Talk, path: str, root: dict[str, Any], progress: Progress) -> None:
        self._talk = talk
        self._progress = progress
        self._folders = {""}
        self._made: list[Entry] = []
        self._links: list[Entry] = []
        self._files: deque[tuple[Entry, Had | None]] = deque()
        self._buffer = memoryview(bytearray(CHUNK))
        self._is_folder = root["me"][1] == "folder"
        if not self._is_folder and (path.endswith("/") or os.path.isdir(path)):
            path = os.path.join(path, _checked(root["name"]))
        self._root = path.rstrip("/") or "/"
        os.makedirs(os.path.dirname(self._root) or ".", exist_ok=True)
        if self._is_folder and not os.path.isdir(self._root):
            self._folder(root["me"])

    def run(self) -> None:
        while True:
            message = self._talk.hear()
            if isinstance(message, bytes):
                raise ConnectionResetError("a piece of no file")
            if "entries" in message:
                self._list(message["entries"])
            elif "start" in message:
                self._file(*self._files.popleft(), message["start"])
            elif "gone" in message:
                self._files.popleft()
            else:
                self._finish()
                self._talk.say(done=True)
                self._talk.flush()
                return

    # what is to come

    def _list(self, entries: list[Entry]) -> None:
        """Make the folders; say what there is of the files."""
        have: list[tuple[int, str] | None] = []
        for entry in entries:
            path, kind = entry[:2]
            if path or self._is_folder:
                parent = os.path.dirname(_checked(path))
                if parent not in self._folders:
                    raise FileTrouble(path, "its folder was not sent: what sends it is not to be trusted")
            if kind == "folder":
                self._folder(entry)
            elif kind == "link":
                self._links.append(entry)
            else:
                had = self._had(entry)
                self._files.append((entry, had))
                have.append((had.size, had.digest.hexdigest()) if had is not None else None)
        self._talk.say(have=have)
        self._talk.flush()

    def _place(self, path: str) -> str:
        return os.path.join(self._root, path) if path else self._root

    def _folder(self, entry: Entry) -> None:
        path = self._place(entry[0])
        try:
            os.mkdir(path)
            os.chmod(path, entry[2] | 0o700)
            self._made.append(entry)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise FileTrouble(path, "a folder comes here, but there is a file or a link") from None
        self._folders.add(entry[0])

    def _part(self, entry: Entry) -> str:
        path = self._place(entry[0])
        version = hashlib.sha256(f"{path}\0{entry[3]}\0{entry[4]}".encode(errors="surrogateescape"))
        return os.path.join(os.path.dirname(path), f".{version.hexdigest()[:16]}.skyward-part")

    def _had(self, entry: Entry) -> Had | None:
        size = entry[4]
        part, path = self._part(entry), self._place(entry[0])
        if 0 < _size(part) <= size:
            had = Had(part, _size(part), is_part=True)
        elif 0 < _size(path) == size:
            had = Had(path, size, is_part=False)
        else:
            return None
        try:
            self._read(had)
        except OSError:  # it can't be read, but may be replaced
            return None
        return had

    def _read(self, had: Had) -> None:
        left = had.size
        with open(os.open(had.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
            while left and (count := file.readinto(self._buffer[: min(left, CHUNK)])):
                had.digest.update(self._buffer[:count])
                self._progress(0, 0)
                left -= count

    # what comes

    def _file(self, entry: Entry, had: Had | None, start: int) -> None:
        """Write a file from its byte ``start`` on, which is where what there was of it ends, or 0."""
        if start and (had is None or start != had.size):
            raise ConnectionResetError("the other end continues what is not there")
        if start:
            self._progress(start, 0)
        path = self._place(entry[0])
        if had is not None and start and not had.is_part:
            self._expect_digest(path, had.digest)
            _dress(path, entry)
            return
        part = self._part(entry)
        try:
            with open(os.open(part, _NEW | (0 if start else os.O_TRUNC), 0o600), "wb", buffering=0) as file:
                file.seek(start)
                digest = had.digest if had is not None and start else hashlib.sha256()
                self._write(file, entry[4] - start, digest, path)
                _dress(file.fileno(), entry)
                _show(file.fileno(), part, path)
        except BaseException as error:
            is_cut = not isinstance(error, (OSError, FileTrouble)) or isinstance(error, ConnectionError)
            if not is_cut or _size(part) < WORTH_KEEPING:
                with contextlib.suppress(OSError):
                    os.unlink(part)
            if isinstance(error, OSError) and not is_cut:
                raise FileTrouble.of(error, path) from error
            raise

    def _write(self, file: Any, room: int, digest: Any, path: str) -> None:
        while isinstance(piece := self._talk.hear(), bytes):
            room -= len(piece)
            if room < 0:
                raise FileTrouble(path, "more comes than was said: what sends it is not to be trusted")
            digest.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[file.write(rest) :]
            self._progress(len(piece), len(piece))
        if piece.get("sha256") != digest.hexdigest():
            raise FileTrouble(path, "it arrived damaged (its SHA-256 is another): try again")

    def _expect_digest(self, path: str, digest: Any) -> None:
        if self._talk.expect("sha256") != digest.hexdigest():
            raise FileTrouble(path, "it changed while it was compared: try again")

    # the end

    def _finish(self) -> None:
        """Make the links, then set what writing into folders has changed."""
        for entry in self._links:
            path, target = self._place(entry[0]), entry[4]
            if not (os.path.islink(path) and os.readlink(path) == target):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                os.symlink(target, path)
            with contextlib.suppress(NotImplementedError):
                os.utime(path, ns=(entry[3], entry[3]), follow_symlinks=False)
        for entry in reversed(self._made):
            _dress(self._place(entry[0]), entry)


def _size(path: str) -> int:
    """Return the size of a regular file; -1 if it is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _dress(file: int | str, entry: Entry) -> None:
    os.chmod(file, entry[2] & 0o777)  # never setuid: the owner is another one here
    os.utime(file, ns=(entry[3], entry[3]))


def _show(file: int, part: str, path: str) -> None:
    """Give a whole file its name. One that another try has just given it is the same, and fine."""
    try:
        os.replace(part, path)
    except FileNotFoundError:
        if not os.path.samestat(os.fstat(file), os.lstat(path)):
            raise
