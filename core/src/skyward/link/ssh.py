"""Reaching a machine by SSH: one connection, and through it commands, files, and wires to unix sockets.

Wires end with their connection; whoever holds one opens it again. Errors are those of
``skyward.link.connection``. All on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from skyward.errors import ConnectError
from skyward.link.agentconfig import AGENT_SOCKET, MACHINE_MARK, READY_LINE, AgentConfig, agent_argv
from skyward.link.connection import SSHConnection, as_os_error, said
from skyward.link.sshwire import SSHWire

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection, SSHClientProcess

    from skyward.hooks.values import SSHEndpoint
    from skyward.link.links import Remote

LONGEST_SOCKET = 100
"""Bytes that a unix socket's path may have, here and there; Linux takes 107, macOS 103."""
READ_BYTES = 1 << 22
"""asyncssh opens its whole window again with every partial read: less than the window would fill memory."""
GREETING_SECONDS = 10.0
"""A worker answers at once, whatever its task does."""

# Sets the environment and runs a command that both come as the first line of the standard input, so that no
# other user of the machine can read them in a list of processes. `read` takes no byte beyond the line.
_RUN = 'sh -c \'N=$(printf "\\nx"); N=${N%x}; IFS= read -r L; eval "$L"\''


def _line(command: str, env: Mapping[str, str], folder: str) -> bytes:
    """Return one line for ``_RUN``."""
    exports = "".join(f"export {name}={_quoted(value)}; " for name, value in env.items())
    where = f"cd {_quoted(folder)} && " if folder else ""
    # A shell of its own has the machine's mark in its environment from the start: it can be found by that.
    return f"{exports}{where}exec sh -c {_quoted(command)}\n".encode()


def _text(printed: bytes) -> str:
    return printed.decode(errors="replace").strip()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''").replace("\n", "'\"$N\"'") + "'"


class SSHShell:
    """Commands and files on a machine. ``reach`` comes first, ``close`` last."""

    def __init__(self, endpoint: SSHEndpoint) -> None:
        self.root = ""
        """The folder that commands run in and paths are relative to; empty: the user's home."""
        self._endpoint = endpoint
        self._connection = SSHConnection.to(endpoint)
        self._is_closed = asyncio.Event()

    async def reach(self, timeout: float, interval: float) -> None:
        """Connect; try again every ``interval`` seconds, up to ``timeout``, what may go away by itself.

        Raises ConnectError, HostKeyError or ConfigError.
        """
        await self._connection.reach(timeout, interval)

    async def _connected(self) -> SSHClientConnection:
        """Return the live connection. What keeps it from being made again may pass: ConnectionResetError."""
        try:
            return await self._connection.get()
        except OSError as error:  # a refusal would be taken for the agent's, a timeout for a caller's own
            raise ConnectionResetError(said(error)) from error

    @property
    def _mark(self) -> dict[str, str]:
        """What all that runs on a machine has in its environment."""
        return {MACHINE_MARK: self.root} if self.root else {}

    async def run(
        self,
        command: str | tuple[str, ...],
        env: Mapping[str, str],
        *,
        stdin: bytes = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> tuple[int, str]:
        """Run a shell line, or an argv, in the machine's folder; return its status and output, both streams
        in one.

        ``on_line`` gets each line as it comes. Neither command nor ``env`` shows in a list of processes.
        Raises OSError when the connection is cut.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        lines: list[str] = []
        async with self._process(text, env) as process:
            with contextlib.suppress(BrokenPipeError):  # it ended without reading all
                process.stdin.write(stdin)
                process.stdin.write_eof()
            while line := await process.stdout.readline():
                lines.append(line.decode(errors="replace"))
                if on_line is not None:
                    on_line(lines[-1].rstrip("\r\n"))
            await process.wait_closed()
            status = process.returncode
        return -1 if status is None else status, "".join(lines)

    @contextlib.asynccontextmanager
    async def _process(
        self, command: str, env: Mapping[str, str], *, apart: bool = False
    ) -> AsyncGenerator[SSHClientProcess[bytes]]:
        """Start a shell line; kill it if the block does not end well: a server lets it run on by itself.

        ``apart``: its standard error does not go where its output goes.
        """
        conn = await self._connected()
        import asyncssh  # loaded by now

        with as_os_error():
            process = await conn.create_process(
                _RUN, encoding=None, stderr=asyncssh.PIPE if apart else asyncssh.STDOUT
            )
            try:
                process.stdin.write(_line(command, {**self._mark, **env}, self.root))
                yield process
            except BaseException:
                with contextlib.suppress(OSError):
                    process.kill()
                raise
            finally:
                process.close()

    async def put(self, path: str, data: Iterable[bytes], mode: int = 0o600) -> None:
        """Write a file: whole, or not at all. Raises OSError with what the machine said."""
        draft = shlex.quote(path + "~")
        command = f"umask 077; cat > {draft} && chmod {mode:o} {draft} && mv {draft} {shlex.quote(path)}"
        async with self._process(command, {}, apart=True) as process:
            with contextlib.suppress(BrokenPipeError):
                for chunk in data:
                    process.stdin.write(chunk)
                    await process.stdin.drain()
                process.stdin.write_eof()
            printed = await process.stderr.read()
            await process.wait_closed()
            if process.returncode:
                raise OSError(f"{self._endpoint.address}: can't write {path}: {_text(printed)}")

    async def get(self, path: str, start: int = 0) -> AsyncIterator[bytes]:
        """Read a file from its byte ``start`` on. Raises OSError with what the machine said."""
        command = f"tail -c +{start + 1} {shlex.quote(path)}"
        async with self._process(command, {}, apart=True) as process:
            process.stdin.write_eof()
            while data := await process.stdout.read(READ_BYTES):
                yield data
            printed = await process.stderr.read()
            await process.wait_closed()
            if process.returncode:
                raise OSError(f"{self._endpoint.address}: can't read {path}: {_text(printed)}")

    def close(self) -> None:
        """Let go of the connection. Ends nothing on the machine. Idempotent."""
        if not self._is_closed.is_set():
            self._is_closed.set()
            self._connection.release()


class SSHLink(SSHShell):
    """A link to a machine of ours: as ``skyward.link.links.Link``."""

    reconnect_delays: ClassVar[tuple[float, ...]] = (0.0, 0.1, 0.3, 1.0, 2.0, *(4.0,) * 20)
    patience: ClassVar[float] = 45.0

    def __init__(self, endpoint: SSHEndpoint) -> None:
        super().__init__(endpoint)
        self.files: Remote | None = self
        self.remarks: list[str] = []
        self.python = ""
        self._starter: SSHClientProcess[bytes] | None = None

    async def reach(self, timeout: float, interval: float) -> None:
        """Connect, and make the machine's folder. Raises ConnectError, HostKeyError or ConfigError."""
        await super().reach(timeout, interval)
        if self._connection.pinned:
            self.remarks.append(f"nobody knew its host key: {self._connection.pinned} is trusted from now on")
        folder = self._endpoint.folder
        status, output = await self.run(
            f"umask 077; cd && mkdir -p {shlex.quote(folder)} && cd {shlex.quote(folder)} && pwd -P", {}
        )
        self.root = output.strip().rpartition("\n")[2]
        if status or not self.root.startswith("/"):
            raise ConnectError(f"{self._endpoint.address}: can't make {folder}: {output.strip() or status}")
        if len(self.root) > LONGEST_SOCKET - 12:
            raise ConnectError(f"{self._endpoint.address}: the folder {self.root} is too long for sockets")

    async def start_agent(self, python: str, config: AgentConfig) -> None:
        """Start the agent and wait until its socket is there. Raises ConnectError with what it printed.

        It lives in a session of its own and outlives the connection. Until the client has connected to its
        socket, this channel tells it whether there still is one.
        """
        self.python = python
        conn = await self._connected()
        command = "exec " + shlex.join(("setsid", *agent_argv(python, self.root)))
        with as_os_error():
            process = await conn.create_process(_RUN, encoding=None)
            self._starter = process
            process.stdin.write(_line(command, self._mark, self.root) + config.to_json())
            process.stdin.write_eof()
            line = await process.stdout.readline()
            if line == READY_LINE:
                return
            printed = _text(await process.stderr.read())
            await process.wait_closed()
        raise ConnectError(
            f"{self._endpoint.address}: the node's agent ended with status {process.returncode} at its "
            f"start: {printed or 'no output'}"
        )

    async def open(
        self,
        name: str,
        greeting: dict[str, Any] | None,
        on_frame: Callable[[int, memoryview], None],
        on_closed: Callable[[], None],
        on_received: Callable[[int, bool], None] = lambda size, fds: None,
    ) -> tuple[SSHWire, dict[str, Any]]:
        """Connect to a socket of the machine; exchange greetings first where ``greeting`` is given.

        Raises ConnectionRefusedError when nobody listens there, another OSError when the connection is cut,
        FrameError when who listens is not ours.
        """
        wire = SSHWire(on_frame, on_closed, on_received)
        await self._open_channel(f"{self.root}/{name}", wire)
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                answer = await wire.greet(greeting) if greeting is not None else {}
        except BaseException:
            wire.close()
            raise
        # After the caller's next step: he is about to tell the receiver which wire it is.
        asyncio.get_running_loop().call_soon(wire.begin)
        if name == AGENT_SOCKET and self._starter is not None:
            self._starter.close()
            self._starter = None
        return wire, answer

    async def _open_channel(self, path: str, wire: SSHWire) -> None:
        conn = await self._connected()
        with as_os_error():
            import asyncssh

            if self._connection.forwards_sockets is not False:
                try:
                    await cast("Any", conn).create_unix_connection(lambda: wire, path)
                except asyncssh.ChannelOpenError as error:
                    await asyncio.sleep(0)  # a connection that is just being cut says so in the next turn
                    if conn.is_closed():
                        raise
                    # OpenSSH says the same where it forwards nothing and where nobody listens.
                    if self._connection.forwards_sockets:
                        raise ConnectionRefusedError(said(error)) from None
                else:
                    self._connection.forwards_sockets = True
                    return
            command = shlex.join((self.python, "-I", "-m", "skyward.node.bridge", path))
            untyped = cast("Any", conn)  # asyncssh's sessions have type parameters that can't be written down
            await untyped.create_session(lambda: wire, command, encoding=None)
        if not await wire.bridged():
            if conn.is_closed():
                raise ConnectionResetError("the connection was cut")
            raise ConnectionRefusedError(f"nobody listens at {path}")
        self._connection.forwards_sockets = False

    def close(self) -> None:
        """Let go of the connection, and of the channel that the agent was started by."""
        if self._starter is not None:
            self._starter.close()
            self._starter = None
        super().close()

    async def ended(self) -> None:
        """Return when the link is closed. Whether the agent is gone, its socket tells."""
        await self._is_closed.wait()
