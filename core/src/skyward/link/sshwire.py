"""A wire through an SSH channel: to a unix socket of the machine, or to the bridge where that is forbidden.

What is sent in one turn of the loop leaves in one write. Sending never blocks; ``drained`` is how whoever
has much to send waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from skyward.link import frames
from skyward.link.agentconfig import BRIDGED
from skyward.link.frames import FrameError, Splitter


class _Channel(Protocol):
    """What asyncssh calls a channel; its own class has type parameters that can't be written down."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def set_write_buffer_limits(self, high: int) -> None: ...
    def get_write_buffer_size(self) -> int: ...


HIGH_WATER = 1 << 20
"""Bytes of one channel that may wait here before ``drained`` does."""


class SSHWire:
    """As ``skyward.link.wire.Wire``; also what asyncssh calls a session. All on the loop."""

    any_thread = False

    def __init__(
        self,
        on_frame: Callable[[int, memoryview], None],
        on_closed: Callable[[], None],
        on_received: Callable[[int, bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._on_received = on_received
        self._splitter = Splitter()
        self._channel: _Channel | None = None
        self._batch: list[bytes] = []
        self._low = asyncio.Event()
        self._low.set()
        self._closed = False
        self._begun = False
        self._early: list[bytes] = []
        self._bridged: asyncio.Future[bool] = self._loop.create_future()
        self._greeting: asyncio.Future[dict[str, Any]] = self._loop.create_future()

    # what asyncssh calls

    def connection_made(self, chan: _Channel) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(HIGH_WATER)

    def session_started(self) -> None:
        pass

    def data_received(self, data: bytes, datatype: Any) -> None:
        if datatype is not None:  # what the bridge says on its standard error
            if not self._bridged.done():
                self._bridged.set_result(data == BRIDGED)
            return
        if not self._begun:
            self._early.append(data)
            self._look_for_greeting()
            return
        self._take(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._greeting.done():
            self._greeting.set_exception(ConnectionResetError("closed in the greeting"))
            self._greeting.exception()  # nobody may be waiting for it
        if not self._bridged.done():
            self._bridged.set_result(False)
        self._low.set()
        if not self._closed:
            self._closed = True
            if self._begun:
                self._on_closed()

    def pause_writing(self) -> None:
        self._low.clear()

    def resume_writing(self) -> None:
        self._low.set()

    # before the first frame

    async def bridged(self) -> bool:
        """Wait for the bridge's word on whether somebody listens."""
        return await self._bridged

    async def greet(self, greeting: dict[str, Any]) -> dict[str, Any]:
        """Say hello, and return what the other side answers. Raises OSError or FrameError."""
        self.send(frames.json_frame(frames.HELLO, {"protocol": frames.PROTOCOL, "fds": False, **greeting}))
        return await self._greeting

    def _look_for_greeting(self) -> None:
        data = b"".join(self._early)
        if self._greeting.done() or len(data) < frames.HEADER.size:
            return
        length, kind = frames.HEADER.unpack_from(data)
        end = frames.HEADER.size + length
        if kind != frames.READY or length > frames.CHUNK:
            self._greeting.set_exception(FrameError("not a worker of ours"))
        elif len(data) >= end:
            self._early = [data[end:]]
            self._greeting.set_result(frames.read_json(memoryview(data)[frames.HEADER.size : end]))

    def begin(self) -> None:
        """Hand over what came meanwhile, and from now on what comes."""
        self._begun = True
        data = b"".join(self._early)
        self._early.clear()
        if data:
            self._take(data)
        if self._closed:
            self._on_closed()

    def _take(self, data: bytes) -> None:
        try:
            for kind, body in self._splitter.feed(data):
                self._on_frame(kind, body)
                if self._closed:
                    return
        except FrameError:
            self.close()
            self._on_closed()
            return
        self._on_received(len(data), False)

    # the wire

    @property
    def unsent(self) -> int:
        """Bytes that wait here or in the channel."""
        waiting = self._channel.get_write_buffer_size() if self._channel is not None else 0
        return waiting + sum(map(len, self._batch))

    async def drained(self) -> None:
        """Wait until little is unsent, or the wire is closed."""
        await self._low.wait()

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Queue bytes; they leave at the end of this turn of the loop. Dropped once closed."""
        if self._closed:
            return
        if not self._batch:
            self._loop.call_soon(self._flush)
        self._batch.append(data)

    def _flush(self) -> None:
        data = b"".join(self._batch) if len(self._batch) > 1 else self._batch[0] if self._batch else b""
        self._batch.clear()
        if data and not self._closed and self._channel is not None:
            try:
                self._channel.write(data)
            except OSError:  # closed by the other side; connection_lost is about to come
                pass

    def take_fd(self) -> int:
        """Raises FrameError: no descriptor comes through SSH."""
        raise FrameError("no descriptor comes through SSH")

    def close(self) -> None:
        """Close it; nothing more is heard from it."""
        if not self._closed:
            self._flush()
            self._closed = True
            self._low.set()
            if self._channel is None:
                return
            if self._channel.get_write_buffer_size():  # whoever is to read that does not, and may never
                self._channel.abort()
            else:
                self._channel.close()
