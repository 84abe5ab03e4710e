"""The words in which two ends of a file transfer speak: messages in JSON, and pieces of files, over two byte
streams.

One end runs on the client, in a thread; the other on the node, as ``skyward.node.courier``. Either may send
or receive, so both use the same code, which blocks. A connection that ends is a ConnectionError; what the
file system refuses is a FileTrouble, on whichever side it happened. Used by ``filesend`` and
``filereceive``.
"""

from __future__ import annotations

import errno
import json
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    type Progress = Callable[[int, int], None]
    """Told of bytes that are done, and how many of those had to travel. May raise, to stop a transfer."""

CHUNK = 1 << 18
"""Bytes of a file read, sent and written at a time."""
LONGEST = 1 << 24
"""Bytes that a message may have."""

_HEADER = struct.Struct("<BI")
_MESSAGE, _PIECE = 0, 1

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or choose a folder on another disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose a folder on another disk",
    errno.EACCES: "permission denied: choose a path that this user may use",
    errno.EPERM: "not permitted: choose a path that this user may use",
    errno.EROFS: "the file system is read-only: choose a folder on another",
    errno.ENOENT: "there is no such file or folder",
    errno.EISDIR: "there is a folder of that name: choose another",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "this is a file, where a folder is needed",
    errno.ENAMETOOLONG: "the name is too long for its file system",
}


class FileTrouble(Exception):
    """A file could not be read or written. ``is_there``: at the other end."""

    def __init__(self, path: str, reason: str, *, is_there: bool = False) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.is_there = is_there

    @classmethod
    def of(cls, error: OSError, path: str) -> FileTrouble:
        """Put an error of the file system into words that say what to do."""
        return cls(path, _ADVICE.get(error.errno or 0) or (error.strerror or str(error)).lower())


class Talk:
    """One end of the conversation."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self._reader = reader
        self._writer = writer

    def say(self, **message: Any) -> None:
        """Send a message; it may wait for ``flush``."""
        text = json.dumps(message).encode()
        self._writer.write(_HEADER.pack(_MESSAGE, len(text)) + text)

    def give(self, piece: memoryview) -> None:
        """Send a piece of a file."""
        self._writer.write(_HEADER.pack(_PIECE, len(piece)))
        self._writer.write(piece)

    def flush(self) -> None:
        """Send what waits."""
        self._writer.flush()

    def hear(self) -> dict[str, Any] | bytes:
        """Return the next message, or piece of a file.

        Raises FileTrouble if it is that, and ConnectionResetError if the other end is gone.
        """
        kind, size = _HEADER.unpack(self._exactly(_HEADER.size))
        if size > LONGEST or kind not in (_MESSAGE, _PIECE):
            raise ConnectionResetError("the other end sends something else than files")
        body = self._exactly(size)
        if kind == _PIECE:
            return body
        message: dict[str, Any] = json.loads(body)
        if "trouble" in message:
            raise FileTrouble(*message["trouble"], is_there=True)
        return message

    def expect(self, word: str) -> Any:
        """Return what the next message says under ``word``. Raises as ``hear``."""
        message = self.hear()
        if isinstance(message, bytes) or word not in message:
            raise ConnectionResetError(f"the other end does not say {word!r}")
        return message[word]

    def hear_why(self) -> None:
        """After a failure to send: raise FileTrouble if the other end has said why it is gone."""
        try:
            while True:
                self.hear()
        except OSError:
            pass

    def tell(self, trouble: FileTrouble) -> None:
        """Say what went wrong at this end, if anybody hears it."""
        try:
            self.say(trouble=[trouble.path, trouble.reason])
            self.flush()
        except OSError:
            pass

    def _exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise ConnectionResetError("the other end is gone")
        return data


def at_home(path: str) -> str:
    """Return a path as its user means it: ``~`` is the home folder of whoever runs this."""
    return os.path.expanduser(path)
