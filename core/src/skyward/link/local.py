"""Reaching a machine that is a folder of this computer: the same three things that SSH will do elsewhere.

A link runs commands on its machine, starts the agent there, and opens wires to the sockets in the machine's
folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from skyward.errors import ConnectError
from skyward.hooks.values import LocalEndpoint
from skyward.link import frames
from skyward.link.agentconfig import MACHINE_MARK, READY_LINE, AgentConfig, agent_argv
from skyward.link.frames import FrameError
from skyward.link.wire import LocalWire

if TYPE_CHECKING:
    from skyward.link.links import Remote

LAST_SECONDS = 5.0
"""The longest that a process may take to end which was told to."""


class LocalLink:
    """See the module. One per machine; everything is on the loop."""

    reconnect_delays: ClassVar[tuple[float, ...]] = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0, 2.0)
    patience: ClassVar[float] = 60.0

    def __init__(self, endpoint: LocalEndpoint) -> None:
        self.root = endpoint.root
        self.files: Remote | None = None
        self.remarks: list[str] = []
        self.python = ""
        self._end: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def reach(self, timeout: float, interval: float) -> None:
        """Nothing: it is here."""

    async def run(self, command: str | tuple[str, ...], env: Mapping[str, str]) -> tuple[int, str]:
        """Run a shell line, or an argv, in the machine's folder; return its status and output, both streams
        in one.
        """
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.root,
            env={**os.environ, **env, MACHINE_MARK: self.root},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            await _kill(process)
            raise
        return process.returncode or 0, output.decode(errors="replace")

    async def start_agent(self, python: str, config: AgentConfig) -> None:
        """Start the agent and wait until its socket is there. Raises ConnectError with what it printed.

        Cancelled, it leaves no process: workers end with their agent.
        """
        self.python = python
        process = await asyncio.create_subprocess_exec(
            *agent_argv(python, self.root),
            cwd=self.root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(config.to_json())
            await process.stdin.drain()
            process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            line = await process.stdout.readline()
        except asyncio.CancelledError:
            await _kill(process)
            raise
        if line != READY_LINE:
            said = (await process.stderr.read()).decode(errors="replace").strip()
            status = await process.wait()
            raise ConnectError(
                f"the node's agent ended with status {status} at its start: {said or 'no output'}"
            )
        self._end = asyncio.get_running_loop().create_task(_reap(process))

    async def ended(self) -> None:
        """Return when the agent's process is gone; of one that another process started, its socket tells."""
        if self._end is not None:
            await asyncio.shield(self._end)
        else:
            await self._closed.wait()

    def close(self) -> None:
        """Let go: a link holds nothing open."""
        self._closed.set()

    async def open(
        self,
        name: str,
        greeting: dict[str, Any] | None,
        on_frame: Callable[[int, memoryview], None],
        on_closed: Callable[[], None],
        on_received: Callable[[int, bool], None] = lambda size, fds: None,
    ) -> tuple[LocalWire, dict[str, Any]]:
        """Connect to a socket of the machine; exchange greetings first where ``greeting`` is given.

        Raises OSError when nobody listens there, FrameError when who does is not ours.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        answer: dict[str, Any] = {}
        try:
            await loop.sock_connect(sock, os.path.join(self.root, name))
            if greeting is not None:
                hello = {"protocol": frames.PROTOCOL, "fds": True, **greeting}
                await loop.sock_sendall(sock, frames.json_frame(frames.HELLO, hello))
                answer = await _read_greeting(loop, sock)
        except BaseException:
            sock.close()
            raise
        return LocalWire(sock, on_frame, on_closed, on_received), answer


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await _leave(process)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process and its output; cancelled with the loop, only a moment longer."""
    try:
        await process.communicate()
    except asyncio.CancelledError:
        await _leave(process)


async def _leave(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that is about to end, so that asyncio lets go of it before the loop is closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            await process.communicate()


async def _read_greeting(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> dict[str, Any]:
    async def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await loop.sock_recv(sock, size - len(data))
            if not more:
                raise ConnectionResetError("closed in the greeting")
            data += more
        return data

    length, kind = frames.HEADER.unpack(await exactly(frames.HEADER.size))
    if kind != frames.READY or length > frames.CHUNK:
        raise FrameError("not a worker of ours")
    return frames.read_json(memoryview(await exactly(length)))
