"""The nodes' way to package registries: an HTTP proxy with a socket inside the lab and its feet outside.

A socket belongs to the network namespace of the thread that made it. This thread starts before the process
enters the lab, so what it opens goes out as the host does, through the host's own proxy if it has one; the
listening socket is made inside and handed over. The relay knows no registry: it goes where it is asked to go.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

CHUNK_BYTES = 65536


def variables(address: str, direct: str) -> dict[str, str]:
    """What leads programs to a relay that is at ``address``, but for the hosts in ``direct``."""
    found = {"HTTP_PROXY": f"http://{address}", "HTTPS_PROXY": f"http://{address}", "NO_PROXY": direct}
    return found | {name.lower(): value for name, value in found.items()}


class Relay:
    """``requests`` and ``bytes`` (both ways) count since the lab was entered: compare before and after."""

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0
        self._is_down = False
        self._rate: float | None = None
        self._failures: list[int] = []
        self._proxies = getproxies_environment()
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="testbed-relay", daemon=True)
        self._thread.start()

    def down(self) -> None:
        """From now on every connection is reset, those that exist at once."""
        self._is_down = True
        self._loop.call_soon_threadsafe(self._abort)

    def up(self) -> None:
        """End every fault."""
        self._is_down = False
        self._rate = None
        self._failures = []

    def slow(self, bytes_per_s: float | None) -> None:
        """Let each connection carry so much and no more; None: as much as it can."""
        self._rate = bytes_per_s

    def fail(self, status: int, times: int) -> None:
        """Answer the next ``times`` requests with this HTTP status."""
        self._failures += [status] * times

    def serve(self, listener: socket.socket) -> None:
        """Take connections from a socket that was made inside the lab, or inside a node."""
        server = asyncio.start_server(self._client, sock=listener)
        self._servers.append(asyncio.run_coroutine_threadsafe(server, self._loop).result())

    def forget(self, addresses: Iterable[str]) -> None:
        """Drop the connections of nodes that are gone, which may not have said so."""
        self._loop.call_soon_threadsafe(self._abort, frozenset(addresses))

    def stop(self) -> None:
        """End the thread."""
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)
        self._loop.call_soon_threadsafe(self._abort)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def _abort(self, addresses: frozenset[str] | None = None) -> None:
        for writer, address in list(self._open.items()):
            if addresses is None or address in addresses:
                writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = writer.get_extra_info("peername")[0]
        try:
            await self._request(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            writer.transport.abort()
        finally:
            writer.close()
            del self._open[writer]

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            return writer.transport.abort()
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        if self._failures:
            writer.write(f"HTTP/1.1 {self._failures.pop(0)} Testbed\r\nContent-Length: 0\r\n\r\n".encode())
            return await writer.drain()
        method, target, version = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        tunnel = method == "CONNECT"
        url = urlsplit(f"//{target}" if tunnel else target)
        host, port = url.hostname or "", url.port or 80
        proxy = self._proxy("https" if tunnel else "http", host)
        if proxy:
            up_reader, up_writer = await asyncio.open_connection(*proxy[0])
        else:
            up_reader, up_writer = await asyncio.open_connection(host, port)
        self._open[up_writer] = self._open[writer]
        try:
            if tunnel and not proxy:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = target if proxy else (url.path or "/") + (f"?{url.query}" if url.query else "")
                up_writer.write(_head(head, f"{method} {path} {version}", proxy[1] if proxy else "", tunnel))
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        finally:
            up_writer.close()
            del self._open[up_writer]

    def _proxy(self, scheme: str, host: str) -> tuple[tuple[str, int], str] | None:
        """The host's own proxy for this, and the line that makes us known to it."""
        address = self._proxies.get(scheme) or self._proxies.get("all")
        if not address or proxy_bypass(host, self._proxies):
            return None
        url = urlsplit(address if "//" in address else f"//{address}")
        known = f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()
        line = f"Proxy-Authorization: Basic {base64.b64encode(known).decode()}\r\n" if url.username else ""
        return (url.hostname or "", url.port or 80), line

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES if self._rate is None else max(1, int(self._rate / 20))):
            self.bytes += len(data)
            writer.write(data)
            await writer.drain()
            if self._rate is not None:
                await asyncio.sleep(len(data) / self._rate)
        if writer.can_write_eof():
            writer.write_eof()


def _head(head: bytes, first: str, credentials: str, tunnel: bool) -> bytes:
    """The request as it goes on. One request a connection: what follows may be for another host."""
    lines = head.split(b"\r\n")[1:-2]
    if not tunnel:
        dropped = (b"connection:", b"proxy-connection:", b"keep-alive:")
        lines = [line for line in lines if not line.lower().startswith(dropped)] + [b"Connection: close"]
    return b"\r\n".join([first.encode(), *lines, credentials.encode() + b"\r\n"])
