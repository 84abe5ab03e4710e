"""Byte streams to a machine whose node is ready: to a program of ours, to one of its ports, to a shell.

Each is a context that yields streams as asyncio has them, whichever kind of machine it is; what goes wrong
with a connection is an OSError, or a NodeError or ConfigError of ``skyward.link.connection``. Leaving the
context ends what runs there. All on the loop. Used for transfers, forwarded ports and shells.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from skyward.hooks.values import LocalEndpoint
from skyward.link.agentconfig import MACHINE_MARK
from skyward.link.connection import SSHConnection, as_os_error, said

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection

    from skyward.hooks.values import Endpoint, SSHEndpoint

CHUNK = 1 << 18
"""Bytes kept for a reader that is slower than the connection."""
COURIER = "skyward.node.courier"
LAST_SECONDS = 2.0
"""What a program may take to end after the last word to it, before it is killed."""
SAID_BYTES = 4096
"""Of what a program of ours says on its standard error."""

_FORBIDDEN = (1, 3)  # SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, SSH_OPEN_UNKNOWN_CHANNEL_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a ready node is. ``cwd``: the folder that tasks run in; ``root``: the machine's own."""

    rank: int
    machine: str
    endpoint: Endpoint
    root: str
    cwd: str
    python: str
    delays: tuple[float, ...]
    """Seconds before each try to reach it again after a cut."""


class Reader(Protocol):
    """What asyncio's and asyncssh's readers have in common."""

    async def read(self, n: int = -1, /) -> bytes:
        """Return some bytes, at most ``n``; b"" at the end."""
        ...


class Writer(Protocol):
    """What asyncio's and asyncssh's writers have in common."""

    def write(self, data: bytes, /) -> None:
        """Queue bytes."""
        ...

    async def drain(self) -> None:
        """Wait until few are queued."""
        ...

    def write_eof(self) -> None:
        """Say that no more come."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """A program on a machine. ``end`` waits for it; its status (None: unknown) and what it said."""

    reader: Reader
    writer: Writer
    end: Callable[[], Awaitable[tuple[int | None, str]]]


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell in a terminal of the machine. ``resize`` takes columns and lines."""

    reader: Reader
    writer: Writer
    resize: Callable[[int, int], None]
    end: Callable[[], Awaitable[int | None]]


@contextlib.asynccontextmanager
async def connected(endpoint: SSHEndpoint) -> AsyncGenerator[SSHClientConnection]:
    """Hold the connection that is shared for this endpoint."""
    connection = SSHConnection.to(endpoint)
    try:
        conn = await connection.get()
        with as_os_error():
            yield conn
    finally:
        connection.release()


@contextlib.asynccontextmanager
async def open_program(place: Place, module: str) -> AsyncGenerator[Program]:
    """Run a module of ours on the machine, in the folder that tasks run in."""
    argv = (place.python, "-P", "-m", module)
    if isinstance(place.endpoint, LocalEndpoint):
        async with _local_program(place, argv) as program:
            yield program
        return
    mark = f"{MACHINE_MARK}={place.root}"
    line = f"cd {shlex.quote(place.cwd)} && exec {shlex.join(('env', mark, *argv))}"
    async with connected(place.endpoint) as conn:
        # Whatever the login shell is, the line is for a POSIX one.
        async with conn.create_process(shlex.join(("sh", "-c", line)), encoding=None) as process:

            async def end() -> tuple[int | None, str]:
                words = await process.stderr.read()
                await process.wait_closed()
                return process.returncode, words[-SAID_BYTES:].decode(errors="replace").strip()

            try:
                yield Program(process.stdout, process.stdin, end)
            finally:
                process.close()


@contextlib.asynccontextmanager
async def _local_program(place: Place, argv: tuple[str, ...]) -> AsyncGenerator[Program]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=place.cwd,
        env={**os.environ, MACHINE_MARK: place.root},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        limit=CHUNK,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    words = process.stderr

    async def end() -> tuple[int | None, str]:
        text = (await words.read())[-SAID_BYTES:].decode(errors="replace").strip()
        return await process.wait(), text

    try:
        yield Program(process.stdout, process.stdin, end)
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await process.communicate()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()


@contextlib.asynccontextmanager
async def open_port(place: Place, port: int) -> AsyncGenerator[tuple[Reader, Writer]]:
    """Connect to a port of the machine's own 127.0.0.1. Raises ConnectionRefusedError if nobody listens."""
    if isinstance(place.endpoint, LocalEndpoint):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK)
        try:
            yield reader, writer
        finally:
            writer.close()
        return
    async with connected(place.endpoint) as conn:
        channel = await _channel_to(conn, port)
        if channel is not None:
            try:
                yield channel
            finally:
                channel[1].close()
            return
    async with open_program(place, COURIER) as program:
        program.writer.write(message({"do": {"what": "connect", "port": port}}))
        if await program.reader.read(1) != b"+":
            raise ConnectionRefusedError((await program.end())[1])
        yield program.reader, program.writer


def message(content: dict[str, Any]) -> bytes:
    """Return a message as ``skyward.link.filetalk`` has them."""
    text = json.dumps(content).encode()
    return struct.pack("<BI", 0, len(text)) + text


async def _channel_to(conn: SSHClientConnection, port: int) -> tuple[Any, Any] | None:
    """Open a channel to a port; None where the server forwards none."""
    import asyncssh

    untyped: Any = conn  # asyncssh's streams have type parameters that can't be written down
    try:
        return cast("tuple[Any, Any]", await untyped.open_connection("127.0.0.1", port, encoding=None))
    except asyncssh.ChannelOpenError as error:
        if error.code in _FORBIDDEN:
            return None
        raise ConnectionRefusedError(said(error)) from None


@contextlib.asynccontextmanager
async def open_shell(endpoint: SSHEndpoint, terminal: str, size: tuple[int, int]) -> AsyncGenerator[Shell]:
    """Start the user's login shell in a terminal of this kind and size (columns, lines)."""
    async with connected(endpoint) as conn:
        async with conn.create_process(term_type=terminal, term_size=size, encoding=None) as process:

            async def end() -> int | None:
                await process.wait_closed()
                return process.returncode

            try:
                yield Shell(process.stdout, process.stdin, process.change_terminal_size, end)
            finally:
                process.close()
