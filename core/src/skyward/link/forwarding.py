"""Carrying bytes between two streams, and a port of this computer that leads to one of a node.

A forwarded port stays open while connections to the node come and go: each client is led to where the node of
that rank is then. What was under way when a connection was cut is cut too, as TCP knows no other way. Bytes
wait where they come from when nobody takes them. All on the loop. Used by ``skyward.forwards`` and transfers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import TYPE_CHECKING, Any

from skyward.errors import ConnectError, NodeError
from skyward.link.doors import CHUNK, open_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward.link.doors import Place, Reader, Writer

PAUSE_SECONDS = 0.2
"""Between two clients that can't be taken, who wait in a queue of the system meanwhile."""

GULP = 1 << 22
"""Bytes read at a time: more than asyncssh's window (2 MiB). It opens that again, whole, with each read that
makes room, so that smaller ones let more in than they take out, without bound (asyncssh 2.24, 2026-11-20).
"""

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


async def carry(reader: Reader, writer: Writer) -> None:
    """Carry bytes one way, up to the end, and say that it is reached. Raises OSError."""
    while data := await reader.read(GULP):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):  # who is gone needs no word of the end
        writer.write_eof()


async def relay(left: tuple[Reader, Writer], right: tuple[Reader, Writer]) -> None:
    """Carry bytes both ways until both ends are reached; one may be long before the other. Raises OSError."""
    ways = [
        asyncio.ensure_future(carry(left[0], right[1])),
        asyncio.ensure_future(carry(right[0], left[1])),
    ]
    try:
        await asyncio.gather(*ways)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


class Forwarding:
    """A listener on 127.0.0.1. ``listen`` comes first; ``serve`` goes on until it is cancelled."""

    def __init__(self, port: int, find: Callable[[], Place]) -> None:
        self._remote_port = port
        self._find = find
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._clients: set[asyncio.Task[None]] = set()
        self._unled: set[socket.socket] = set()

    def listen(self, local_port: int) -> int:
        """Take a port of this computer, 0 for any that is free; return it. Raises OSError."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind(("127.0.0.1", local_port))
            self._sock.listen(128)
        except OSError:
            self._sock.close()
            raise
        self._sock.setblocking(False)
        return int(self._sock.getsockname()[1])

    def close(self) -> None:
        """Give the port back. Idempotent; ``serve`` does it too."""
        self._sock.close()

    async def serve(self, on_begin: Callable[[], None], on_end: Callable[[], None]) -> None:
        """Lead whoever connects to the node. ``on_begin`` is called first, ``on_end`` last."""
        loop = asyncio.get_running_loop()
        self._look()
        on_begin()
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._sock)
            self._sock.close()
            clients = list(self._clients)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            for sock in self._unled:
                sock.close()
            on_end()

    def _look(self) -> None:
        """Begin to take clients, unless it is over."""
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        """Take a client. Not asyncio's server: one that is closed loses clients which it has just taken."""
        loop = asyncio.get_running_loop()
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError | ConnectionAbortedError):  # too many open files, mostly
                logging.getLogger("skyward").warning("a forwarded port can't take a client: %s", error)
                loop.remove_reader(self._sock)
                loop.call_later(PAUSE_SECONDS, self._look)
            return
        self._unled.add(sock)
        task = loop.create_task(self._lead(sock))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _lead(self, sock: socket.socket) -> None:
        """Serve one client. Whatever goes wrong resets its connection, and is logged."""
        self._unled.discard(sock)
        reader, writer = await asyncio.open_connection(sock=sock, limit=CHUNK)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await relay((reader, writer), await self._open(stack))
        except (OSError, NodeError) as error:
            logging.getLogger("skyward").info("port %d of a node: %s", self._remote_port, error)
            self._reset(writer)
        except asyncio.CancelledError:
            self._reset(writer)
            raise
        finally:
            writer.close()

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        sock: Any = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        writer.transport.abort()

    async def _open(self, stack: contextlib.AsyncExitStack) -> tuple[Reader, Writer]:
        """Connect to the node's port, with patience if the connection to the node was just cut."""
        problem: Exception = ConnectionResetError("the node can't be reached")
        for delay in self._find().delays:
            await asyncio.sleep(delay)
            try:
                return await stack.enter_async_context(open_port(self._find(), self._remote_port))
            except ConnectionRefusedError:
                raise
            except (OSError, ConnectError) as error:
                problem = error
        raise problem
