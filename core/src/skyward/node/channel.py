"""A worker's end of the stream to the client: frames in on one thread at a time, frames out from any.

The channel outlives connections (``skyward.link.session``): while the client is away, what is sent is kept.
Another client, which comes after one that is gone for good, starts a new session: what was on its way to the
old one is dropped but for what tasks printed, and ``on_heir`` says what the new one has to know.

Frames are read by a thread of the channel's own, or by the thread that runs the tasks while that has none: a
short task then costs no change of threads. The channel's thread notices when a task takes longer and reads
itself, so that a cancel is heard.
"""

from __future__ import annotations

import array
import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from skyward.link import frames
from skyward.link.frames import FrameError
from skyward.link.receiver import READ_BYTES, Receiver
from skyward.link.session import Inbox, Outbox

WATCH_EVERY = 0.002
"""Seconds between two looks at whether the thread that runs tasks still comes back to read."""
QUIET_LOOKS = 50
"""After so many looks in which it only waited for frames, it has to call when some come."""


class Channel:
    """Serves one client at a time on a listening socket. ``on_frame`` runs on the thread that calls ``serve``
    or ``lead``.
    """

    def __init__(
        self,
        listener: socket.socket,
        on_frame: Callable[[int, memoryview], None],
        on_heir: Callable[[Callable[[bytes, tuple[int, ...]], int]], None],
    ) -> None:
        self._listener = listener
        self._on_frame = on_frame
        self._on_heir = on_heir
        self._session = os.urandom(8).hex()
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._receiver = Receiver()
        self.take_fd = self._receiver.take_fd
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()
        self._acknowledged = threading.Condition(self._lock)
        self._reading = threading.Lock()
        self._source: socket.socket | None = None  # what the holder of that lock reads
        self._wanted = False  # the thread of the tasks would have led
        self._is_led = False
        self._turns = 0
        self._called = threading.Event()
        self.passes_fds = True

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> int:
        """Send frames; descriptors are closed once the client has them. Blocks while the client reads
        slowly. Returns where in the stream they end.
        """
        with self._lock:
            end = self._outbox.push(data, fds)
            if self._sock is not None:
                self._transmit(self._sock, data, fds)
        return end

    @property
    def arrived(self) -> int:
        """Up to where in the stream the client has it."""
        return self._outbox.acknowledged

    def _transmit(self, sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> None:
        try:
            if fds:
                sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
                data = data[sent:]
            sock.sendall(data)
        except OSError:  # the reading thread sees it too and goes back to accepting
            self._sock = None

    def wait_until_received(self, seconds: float) -> bool:
        """Wait until the client has said that it has all that was sent; return whether it did."""
        with self._acknowledged:
            return self._acknowledged.wait_for(lambda: not self._outbox.waits, seconds)

    def serve(self) -> None:
        """Serve the client, again and again, until the listener is closed."""
        accepted: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        threading.Thread(target=self._accept, args=(accepted,), name="skyward-door", daemon=True).start()
        while (sock := accepted.get()) is not None:
            with sock:
                try:
                    self._greet(sock)
                    self._source = sock
                    self._follow()
                except (OSError, FrameError, ValueError):
                    pass
                finally:
                    with self._lock:
                        self._sock = None

    def _accept(self, accepted: queue.SimpleQueue[socket.socket | None]) -> None:
        """Take whoever comes. A client that comes again has left, even if nobody told us."""
        left: socket.socket | None = None
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                accepted.put(None)
                return
            if left is not None:  # also one that has not been served yet
                with contextlib.suppress(OSError):
                    left.shutdown(socket.SHUT_RDWR)
            accepted.put(sock)
            left = sock

    def lead(self, is_idle: Callable[[], bool]) -> bool:
        """Wait for something to read, and read it. For the one thread that runs tasks, while it has none.

        Returns False when there is something to do, or the channel's own thread is about to read.
        """
        if not self._reading.acquire(blocking=False):
            self._wanted = True
            return False
        self._is_led = True
        self._turns += 1
        try:
            return is_idle() and self._read_once()
        finally:
            self._is_led = False
            self._reading.release()
            if not self._called.is_set():
                self._called.set()

    def _follow(self) -> None:
        """Read until the connection ends, while no other thread does."""
        while self._source is not None:
            with self._reading:
                self._read_once()
            if self._wanted:
                self._wanted = False
                self._watch()

    def _watch(self) -> None:
        """Leave reading to the thread that runs the tasks, until one keeps it or the connection ends."""
        kept = quiet = 0
        while self._source is not None and kept < 2:
            turns = self._turns
            time.sleep(WATCH_EVERY)
            moved = self._turns != turns
            kept = 0 if moved or self._is_led else kept + 1
            quiet = quiet + 1 if self._is_led and not moved else 0
            if quiet == QUIET_LOOKS:
                quiet = 0
                self._called.clear()
                if self._is_led:
                    self._called.wait()

    def _greet(self, sock: socket.socket) -> None:
        """Agree with the client on where the stream stands."""
        kind, hello = _read_greeting(sock)
        if kind != frames.HELLO:
            raise FrameError("expected a greeting")
        resumed = hello.get("session") == self._session
        with self._lock:
            self.passes_fds = bool(hello.get("fds"))
            if hello.get("inherit"):
                self._start_anew()
            ready = {
                "protocol": frames.PROTOCOL,
                "session": self._session,
                "resumed": resumed,
                "received": self._inbox.received,
                "pid": os.getpid(),
            }
            sock.sendall(frames.json_frame(frames.READY, ready))
            for data, fds in self._outbox.since(int(hello["received"]) if resumed else 0):
                self._transmit(sock, data, fds)
            self._sock = sock

    def _start_anew(self) -> None:
        """Begin the stream again, for another client. Nobody reads meanwhile."""
        unheard = b"".join(data for data, _ in self._outbox.since(self._outbox.acknowledged))
        self._outbox.close()
        self._receiver.close()
        self._session = os.urandom(8).hex()
        self._outbox, self._inbox, self._receiver = Outbox(), Inbox(), Receiver()
        self.take_fd = self._receiver.take_fd
        for kind, body in frames.Splitter().feed(unheard):
            if kind == frames.OUTPUT:
                self._outbox.push(frames.frame(kind, bytes(body)))
        self._on_heir(self._outbox.push)

    def _read_once(self) -> bool:
        """Read what there is, waiting if there is nothing. Returns False when there is no connection."""
        if self._source is None:
            return False
        try:
            data, fds = self._receiver.read(self._source)
            for kind, body in self._receiver.frames(data):
                if kind == frames.ACK:
                    with self._lock:
                        self._outbox.acknowledge(frames.U64.unpack(body)[0])
                        self._acknowledged.notify_all()
                else:
                    self._on_frame(kind, body)
        except (OSError, FrameError, ValueError):
            data, fds = memoryview(b""), False
        if not data:
            self._source = None
            return False
        acknowledgement = self._inbox.count(len(data), now=fds)
        if acknowledgement:
            self.send(acknowledgement)
        return True


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
