"""What a worker keeps of what the client sent: blobs and functions, under the client's numbers.

``Shelf`` is filled by the reading thread and read by the threads that run tasks; a single dict operation is
atomic, and the client never names what it has not sent before on the same stream.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from skyward.link import frames
from skyward.link.agentconfig import blob_file
from skyward.link.memory import map_file, memory_file
from skyward.link.pickling import loads


class Shelf:
    """Blobs by number. A blob is a private mapping: a task may write to it, and nobody else sees that.

    ``root``: the machine's folder, where some of them are files.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._files: dict[int, tuple[int, int]] = {}
        self._filling: dict[int, tuple[int, int]] = {}

    def on_blob(self, body: memoryview, take_fd: Callable[[], int]) -> None:
        blob, size, how = frames.BLOB_HEAD.unpack(body)
        if how == frames.BY_FD:
            self._files[blob] = (take_fd(), size)
        elif how == frames.BY_FILE:
            path = os.path.join(self._root, blob_file(blob))
            self._files[blob] = (os.open(path, os.O_RDONLY | os.O_CLOEXEC), size)
        else:
            self._filling[blob] = (memory_file(), size)

    def on_chunk(self, body: memoryview) -> None:
        blob = frames.U64.unpack_from(body)[0]
        fd, size = self._filling[blob]
        done = os.lseek(fd, 0, os.SEEK_CUR) + os.write(fd, body[frames.U64.size :])
        if done >= size:
            self._files[blob] = self._filling.pop(blob)

    def views(self, blobs: Sequence[int]) -> list[memoryview]:
        """Return fresh views; each task gets its own, so that writing to one doesn't show in another."""
        return [map_file(*self._files[blob]) for blob in blobs]

    def below(self, number: int) -> list[int]:
        """Return which of them have a lower number."""
        return [blob for blob in list(self._files) if blob < number]

    def drop(self, blobs: Sequence[int]) -> None:
        for blob in blobs:
            entry = self._files.pop(blob, None)
            if entry is not None:
                os.close(entry[0])


class Functions:
    """The functions that the client sent. Unpickled at the first call, on the thread that runs it."""

    def __init__(self, shelf: Shelf, prepare: Callable[[Any], Any]) -> None:
        self._shelf = shelf
        self._prepare = prepare
        self._pickles: dict[int, tuple[bytes, tuple[int, ...], str, bool]] = {}
        self._loaded: dict[int, Any] = {}
        self._lock = threading.Lock()

    def on_code(self, body: memoryview) -> None:
        """Take a frame ``<u32 header length><JSON header><pickle>``."""
        length = int.from_bytes(body[:4], "little")
        header = frames.read_json(body[4 : 4 + length])
        data = bytes(body[4 + length :])
        entry = (data, tuple(header["blobs"]), header["name"], header["data_is_blob"])
        self._pickles[header["code"]] = entry

    def name(self, code: int) -> str:
        return self._pickles[code][2]

    def get(self, code: int) -> Any:
        """Return the function. Raises whatever importing its modules raises; the next call tries again."""
        function = self._loaded.get(code)
        if function is None:
            with self._lock:
                function = self._loaded.get(code)
                if function is None:
                    function = self._loaded[code] = self._load(code)
        return function

    def _load(self, code: int) -> Any:
        data, blobs, _, data_is_blob = self._pickles[code]
        views: list[memoryview] = self._shelf.views(blobs)
        function = loads(views[0], views[1:]) if data_is_blob else loads(data, views)
        return self._prepare(function._skyward_body)

    def below(self, number: int) -> list[int]:
        """Return which of them have a lower number."""
        return [code for code in list(self._pickles) if code < number]

    def drop(self, codes: Sequence[int]) -> None:
        for code in codes:
            self._pickles.pop(code, None)
            self._loaded.pop(code, None)
