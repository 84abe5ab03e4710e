"""Ports of nodes on this computer: many clients, half-closed ones, refused ones, and what outlives a cut."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import socketserver
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import skyward as sky
from skyward_testing.testbed import Testbed

REMOTE_ECHO = """
from socketserver import StreamRequestHandler, ThreadingTCPServer

class Echo(StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())

ThreadingTCPServer(("127.0.0.1", 7777), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def one(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, console=False, logging=False) as opened:
        yield opened


class _Echo(socketserver.BaseRequestHandler):
    """Sends what it got, once the client has said that this is all."""

    def handle(self) -> None:
        data = bytearray()
        while piece := self.request.recv(1 << 16):
            data += piece
        self.request.sendall(bytes(data))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Serve on this computer, which is also where the nodes are."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    address: Any = server.server_address
    try:
        yield address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def echo() -> Iterator[int]:
    with serving(_Server(("127.0.0.1", 0), _Echo)) as port:
        yield port


def echoed(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        sender.join()
        return got


def assert_reset(port: int) -> None:
    with pytest.raises(ConnectionResetError):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.recv(1)


def test_a_page_of_a_node(one: sky.Pool) -> None:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Page)) as port:
        with one.forward(port) as web:
            assert web.url == f"http://127.0.0.1:{web.port}"
            with urllib.request.urlopen(web.url, timeout=10) as answer:
                assert answer.read() == b"a page"
            assert re.search(rf"127.0.0.1:{web.port} to port {port} of node 0: open", repr(web))


def test_many_clients_that_half_close(one: sky.Pool, echo: int) -> None:
    """The server answers only once it has seen the end of what the client sends."""
    with one.forward(echo) as forward, ThreadPoolExecutor(20) as threads:
        datas = [os.urandom(size) for size in (0, 1, 10, 1000, 100_000) * 8]
        assert list(threads.map(lambda data: echoed(forward.port, data), datas)) == datas


def test_much_goes_through(one: sky.Pool, echo: int) -> None:
    data = os.urandom(1 << 20) * 30
    with one.forward(echo) as forward:
        assert hashlib.sha256(echoed(forward.port, data)).digest() == hashlib.sha256(data).digest()


class _Flood(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.request.sendall(b"x" * (1 << 16))


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="there is no /proc to look at")
def test_who_reads_slowly_fills_no_memory(one: sky.Pool) -> None:
    with serving(_Server(("127.0.0.1", 0), _Flood)) as port, one.forward(port) as forward:
        with socket.create_connection(("127.0.0.1", forward.port), timeout=30) as sock:
            before = resident()
            until = time.monotonic() + 3
            while time.monotonic() < until:
                sock.recv(1 << 18)
                time.sleep(0.002)
            assert resident() - before < 60_000_000


def test_where_nobody_listens_the_client_is_reset(one: sky.Pool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        with one.forward(silent.getsockname()[1]) as forward:
            assert_reset(forward.port)


def test_a_port_that_is_asked_for(one: sky.Pool, echo: int) -> None:
    with one.forward(echo) as forward:
        taken = forward.port
        with pytest.raises(sky.ConfigError, match=f"local_port={taken} can't be taken"):
            one.forward(echo, local_port=taken)
    with one.forward(echo, local_port=taken) as again:
        assert again.port == taken
        assert echoed(taken, b"x") == b"x"


def test_close_ends_what_is_under_way(one: sky.Pool, echo: int) -> None:
    forward = one.forward(echo)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=10) as sock:
        sock.sendall(b"something")
        forward.close()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", forward.port))
    forward.close()


@pytest.mark.usefixtures("no_leftovers")
def test_it_ends_with_the_pool(echo: int) -> None:
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        forward = pool.forward(echo)
        assert echoed(forward.port, b"x") == b"x"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", forward.port))
    assert "closed" in repr(forward)
    forward.close()


def test_it_survives_a_cut_connection(one: sky.Pool, echo: int, machines: str) -> None:
    if machines != "ssh":
        pytest.skip("nothing can be cut between two processes of this computer")
    engine: Any = one._engine
    with one.forward(echo) as forward:
        for number in range(5):
            assert echoed(forward.port, b"%d" % number) == b"%d" % number
            (link,) = (node._link for node in engine.ready_nodes)
            engine._loop.call_soon_threadsafe(link._connection._conn.abort)


def test_mistakes_are_told(one: sky.Pool) -> None:
    with pytest.raises(sky.ConfigError, match="ports are 1 to 65535"):
        one.forward(70_000)
    with pytest.raises(sky.UsageError, match="port is a number, not '80'"):
        one.forward("80")  # type: ignore[arg-type]
    with pytest.raises(sky.ConfigError, match="nodes are 0 to 0"):
        one.forward(80, node=3)
    with pytest.raises(sky.UsageError, match="one node"):
        one.forward(80, node=None)  # type: ignore[arg-type]


def test_coroutines_forward_too(echo: int) -> None:
    async def main() -> None:
        async with sky.aio.Compute(nodes=1, console=False, logging=False) as pool:
            async with pool.forward(echo) as forward:
                assert await asyncio.to_thread(echoed, forward.port, b"x") == b"x"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", forward.port))

    asyncio.run(main())


@pytest.mark.local_only("the host is named")
def test_a_server_that_forwards_nothing(
    testbed: Testbed, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a program of ours is the connection."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    node = testbed.node(forwarding=False)
    node.write("/tmp/serve.py", REMOTE_ECHO)
    node.exec("setsid python3 /tmp/serve.py > /dev/null 2>&1 < /dev/null &")
    host = sky.ssh.Host(node.url, key=node.key, host_key=node.host_key)
    with sky.Compute(provider=sky.SSH([host], config=False), console=False, logging=False) as pool:
        with pool.forward(7777) as forward, ThreadPoolExecutor(5) as threads:
            until = time.monotonic() + 10
            while node.exec("grep -c :1E61 /proc/net/tcp", check=False).strip() == "0":  # 7777
                assert time.monotonic() < until
            datas = [os.urandom(100_000) for _ in range(5)]
            assert list(threads.map(lambda data: echoed(forward.port, data), datas)) == datas
        with pool.forward(7778) as nobody:
            assert_reset(nobody.port)
