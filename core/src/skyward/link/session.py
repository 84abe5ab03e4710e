"""A byte stream that outlives its connections.

Each side numbers the bytes it sends and keeps them until the other says how many it has. When a connection is
cut and the same two processes meet again, each sends on from where the other stopped: nothing is lost,
nothing comes twice, and nobody above notices. A process that died starts a new session; that is what a caller
must handle.

A reader that starts anew with each connection must count whole frames only, and is sent the rest again.
The greeting (``HELLO``, ``READY``) is not part of the stream. No I/O here; used by the engine and the worker.
"""

from __future__ import annotations

import os
from collections import deque

from skyward.link.frames import ACK, U64, frame

ACK_EVERY = 1 << 16
"""Bytes received between two acknowledgements: what a peer retains for us when all is well."""


class Outbox:
    """What was sent and not yet acknowledged. Owns the descriptors that were sent along, and closes them."""

    __slots__ = ("_acked", "_kept", "_sent")

    def __init__(self) -> None:
        self._kept: deque[tuple[int, bytes, tuple[int, ...]]] = deque()
        self._sent = 0
        self._acked = 0

    def push(self, data: bytes, fds: tuple[int, ...] = ()) -> int:
        """Keep what is being sent; return where it ends."""
        self._kept.append((self._sent, data, fds))
        self._sent += len(data)
        return self._sent

    def acknowledge(self, received: int) -> None:
        """Forget what the other side has."""
        self._acked = max(self._acked, received)
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= received:
            _, _, fds = self._kept.popleft()
            for fd in fds:
                os.close(fd)

    def forget_beyond(self, size: int) -> None:
        """Drop the oldest, acknowledged or not, until no more than ``size`` bytes are kept."""
        while self._sent - self._acked > size and len(self._kept) > 1:
            self.acknowledge(self._kept[1][0])

    @property
    def acknowledged(self) -> int:
        """Up to where the other side has it."""
        return self._acked

    @property
    def waits(self) -> bool:
        """Whether anything is not acknowledged."""
        return bool(self._kept)

    def since(self, received: int) -> list[tuple[bytes, tuple[int, ...]]]:
        """Return what the other side lacks, in order. A descriptor goes again unless its first byte had
        arrived.
        """
        self.acknowledge(received)
        rest: list[tuple[bytes, tuple[int, ...]]] = []
        for start, data, fds in self._kept:
            done = max(0, received - start)
            rest.append((data[done:], () if done else fds))
        return rest

    def close(self) -> None:
        for _, _, fds in self._kept:
            for fd in fds:
                os.close(fd)
        self._kept.clear()


class Inbox:
    """How many bytes have come, and when to say so."""

    __slots__ = ("_said", "received")

    def __init__(self) -> None:
        self.received = 0
        self._said = 0

    def count(self, n: int, *, now: bool = False) -> bytes | None:
        """Count ``n`` more bytes; return the acknowledgement to send, if one is due. ``now``: it is
        (descriptors came).
        """
        self.received += n
        if not now and self.received - self._said < ACK_EVERY:
            return None
        self._said = self.received
        return frame(ACK, U64.pack(self.received))
