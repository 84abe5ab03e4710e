"""An ordered, two-way stream of frames: what the engine sees of any transport.

``LocalWire`` is a unix socket driven by the event loop, which can pass file descriptors: on one machine a
blob is memory that both sides map, and no byte of it is copied through the socket. A wire over SSH has the
same shape without descriptors. Used by ``skyward.engine`` only.
"""

from __future__ import annotations

import array
import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from skyward.link.frames import FrameError
from skyward.link.receiver import READ_BYTES, Receiver


class Wire(Protocol):
    """One connection. All methods belong to the loop's thread, but for what ``any_thread`` says."""

    any_thread: bool
    """Whether ``send`` may be called from any thread."""

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Queue bytes, and descriptors that arrive with them and stay the caller's. Never blocks; dropped
        once closed.
        """
        ...

    @property
    def unsent(self) -> int:
        """Bytes queued here that the transport has not taken yet."""
        ...

    async def drained(self) -> None:
        """Wait until little is unsent, or the wire is closed."""
        ...

    def take_fd(self) -> int:
        """Return the next descriptor that arrived; the caller owns it."""
        ...

    def close(self) -> None: ...


class LocalWire:
    """A non-blocking unix socket on the running loop."""

    any_thread = True

    def __init__(
        self,
        sock: socket.socket,
        on_frame: Callable[[int, memoryview], None],
        on_closed: Callable[[], None],
        on_received: Callable[[int, bool], None] = lambda size, fds: None,
    ) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._on_received = on_received
        self._receiver = Receiver()
        self.take_fd = self._receiver.take_fd
        self._unsent: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._unsent_bytes = 0
        self._closed = False
        self._broken = False
        self._lock = threading.Lock()
        self._low = asyncio.Event()
        self._low.set()
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def unsent(self) -> int:
        return self._unsent_bytes

    async def drained(self) -> None:
        await self._low.wait()

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """As ``Wire.send``, and from any thread; whoever sends from several keeps the order itself."""
        with self._lock:
            if self._closed:
                return
            view = memoryview(data)
            if not self._unsent:
                sent = self._write(view, fds)
                if sent == len(view) or self._closed:
                    return
                view, fds = view[sent:], () if sent else fds
                self._loop.call_soon_threadsafe(self._watch_writable)
            self._unsent.append((view, fds))
            self._unsent_bytes += len(view)
            if self._unsent_bytes > READ_BYTES:
                self._low.clear()

    def _watch_writable(self) -> None:
        if not self._closed:
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _write(self, view: memoryview, fds: tuple[int, ...]) -> int:
        """Write what fits; descriptors go with the first byte."""
        try:
            if not fds:
                return self._sock.send(view)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            return self._sock.sendmsg([view], rights)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # the reading side sees the end as well, once it has read what came before
            self._unsent.clear()
            self._broken = True
            return len(view)

    def _writable(self) -> None:
        with self._lock:
            while self._unsent:
                view, fds = self._unsent[0]
                sent = self._write(view, fds)
                if self._broken:
                    break
                self._unsent_bytes -= sent
                if sent < len(view):
                    self._unsent[0] = (view[sent:], () if sent else fds)
                    break
                self._unsent.popleft()
            if not self._unsent:
                self._loop.remove_writer(self._sock.fileno())
            if self._unsent_bytes <= READ_BYTES or self._broken:
                self._low.set()

    def _readable(self) -> None:
        try:
            data, fds = self._receiver.read(self._sock)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = memoryview(b""), False
        try:
            for kind, body in self._receiver.frames(data):
                self._on_frame(kind, body)
                if self._closed:
                    return
        except FrameError:
            data = memoryview(b"")
        if not data:
            self.close()
            self._on_closed()
        else:
            self._on_received(len(data), fds)

    def close(self) -> None:
        if self._closed:
            return
        with self._lock:
            self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._low.set()
        self._receiver.close()
        self._unsent.clear()
