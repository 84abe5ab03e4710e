"""A worker's end of the stream to the client: frames in on one thread, frames out from any.

The channel outlives connections (``skyward.link.session``): while the client is away, what is sent is kept.
"""

from __future__ import annotations

import array
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from skyward.link import frames
from skyward.link.frames import FrameError, Splitter
from skyward.link.session import Inbox, Outbox
from skyward.link.wire import READ_BYTES, received_fds

_ANCILLARY = socket.CMSG_SPACE(64 * 4)


class Channel:
    """Serves one client at a time on a listening socket. ``on_frame`` runs on the thread that calls
    ``serve``.
    """

    def __init__(self, listener: socket.socket, on_frame: Callable[[int, memoryview], None]) -> None:
        self._listener = listener
        self._on_frame = on_frame
        self._session = secrets.token_hex(8)
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._splitter = Splitter()
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()
        self._acknowledged = threading.Condition(self._lock)
        self._fds: deque[int] = deque()
        self.passes_fds = True

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send frames; descriptors are closed once the client has them. Blocks while the client reads
        slowly.
        """
        with self._lock:
            self._outbox.push(data, fds)
            if self._sock is not None:
                self._transmit(self._sock, data, fds)

    def _transmit(self, sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> None:
        try:
            if fds:
                sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
                data = data[sent:]
            sock.sendall(data)
        except OSError:  # the reading thread sees it too and goes back to accepting
            self._sock = None

    def wait_until_received(self, seconds: float) -> None:
        """Wait until the client has said that it has all that was sent."""
        with self._acknowledged:
            self._acknowledged.wait_for(lambda: not self._outbox.waits, seconds)

    def take_fd(self) -> int:
        """Return the next descriptor that came along; the caller owns it. Only from within ``on_frame``."""
        if not self._fds:
            raise FrameError("a descriptor was announced but did not come")
        return self._fds.popleft()

    def serve(self) -> None:
        """Accept the client, again and again, and hand its frames over. Returns when the listener is
        closed.
        """
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                try:
                    self._greet(sock)
                    self._read(sock)
                except (OSError, FrameError, ValueError):
                    pass
                finally:
                    with self._lock:
                        self._sock = None

    def _greet(self, sock: socket.socket) -> None:
        """Agree with the client on where the stream stands. A client of another session starts a new one."""
        kind, hello = _read_greeting(sock)
        if kind != frames.HELLO:
            raise FrameError("expected a greeting")
        resumed = hello.get("session") == self._session
        self.passes_fds = bool(hello.get("fds"))
        ready = {
            "protocol": frames.PROTOCOL,
            "session": self._session,
            "resumed": resumed,
            "received": self._inbox.received,
            "pid": os.getpid(),
        }
        with self._lock:
            sock.sendall(frames.json_frame(frames.READY, ready))
            for data, fds in self._outbox.since(int(hello["received"]) if resumed else 0):
                self._transmit(sock, data, fds)
            self._sock = sock

    def _read(self, sock: socket.socket) -> None:
        while True:
            data, ancillary, _, _ = sock.recvmsg(READ_BYTES, _ANCILLARY)
            if ancillary:
                self._fds.extend(received_fds(ancillary))
            if not data:
                return
            for kind, body in self._splitter.feed(data):
                if kind == frames.ACK:
                    with self._lock:
                        self._outbox.acknowledge(frames.U64.unpack(body)[0])
                        self._acknowledged.notify_all()
                else:
                    self._on_frame(kind, body)
            acknowledgement = self._inbox.count(len(data), now=bool(ancillary))
            if acknowledgement:
                self.send(acknowledgement)


def _read_greeting(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    head = _read_exactly(sock, frames.HEADER.size)
    length, kind = frames.HEADER.unpack(head)
    if length > READ_BYTES:
        raise FrameError("no greeting")
    return kind, frames.read_json(memoryview(_read_exactly(sock, length)))


def _read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise FrameError("the connection ended in the greeting")
        data += more
    return data
