"""Reads frames and descriptors off a unix socket: for the engine's wires and the worker's channel."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Iterator

from skyward.link.frames import FrameError, Splitter

READ_BYTES = 1 << 18
"""Bytes per receive: the most a unix socket holds by default."""

_MAX_FDS = 64
_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * 4)


class Receiver:
    """Reads frames and descriptors off a unix socket. One buffer serves all reads: a fresh one for each costs
    more than the read.
    """

    __slots__ = ("_buffer", "_fds", "_splitter", "_view")

    def __init__(self) -> None:
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._splitter = Splitter()
        self._fds: deque[int] = deque()

    def read(self, sock: socket.socket) -> tuple[memoryview, bool]:
        """Return what one receive gives, valid until the next, and whether descriptors came with it."""
        size, ancillary, _, _ = sock.recvmsg_into([self._buffer], _ANCILLARY)
        if ancillary:
            self._fds.extend(received_fds(ancillary))
        return self._view[:size], bool(ancillary)

    def frames(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Cut what was read into frames; see ``Splitter.feed``."""
        return self._splitter.feed(data)

    def take_fd(self) -> int:
        """Return the next descriptor that came along; the caller owns it."""
        if not self._fds:
            raise FrameError("a descriptor was announced but did not come")
        return self._fds.popleft()

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popleft())


def received_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in a message's ancillary data."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)
