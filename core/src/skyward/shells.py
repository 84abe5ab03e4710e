"""``pool.shell``: the terminal of this program as a terminal of a node. Imported with the first.

The thread that calls moves keys and characters between the terminal and a socket; the loop carries them on,
and goes on with everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
import socket
import subprocess
from concurrent.futures import Future
from typing import TYPE_CHECKING

from skyward.errors import ConnectError, UsageError
from skyward.hooks.values import LocalEndpoint
from skyward.link.agentconfig import MACHINE_MARK
from skyward.link.doors import CHUNK, open_shell
from skyward.link.forwarding import relay
from skyward.terminal import lent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from skyward.engine.loop import LoopThread
    from skyward.engine.pool import PoolEngine
    from skyward.link.doors import Place

    type Resize = Callable[[int, int], None]

IN, OUT = 0, 1
LOOK_SECONDS = 0.2
"""How often the terminal's size is looked at: the signal that tells of a change reaches the main thread only,
and belongs to the user's program.
"""


def run(engine: PoolEngine, loop: LoopThread, rank: int) -> int:
    """Run a shell on a node until it ends; return its status, negative for a signal.

    Raises UsageError without a terminal, NodeError for a node that is not ready, ConnectError when it is cut.
    """
    if not (os.isatty(IN) and os.isatty(OUT)):
        raise UsageError(
            "shell() needs a terminal as standard input and output: run the script in one, or use ssh "
            "(docs/machines.md says how)"
        )
    place = engine.places(rank)[0]
    with lent():
        if isinstance(place.endpoint, LocalEndpoint):
            return _here(place)
        return _Remote(engine, loop, place).run()


def _here(place: Place) -> int:
    """Run a shell of this computer in the machine's folder; it has the terminal itself."""
    environment = {**os.environ, MACHINE_MARK: place.root}
    shell = os.environ.get("SHELL") or "/bin/sh"
    return subprocess.run([shell, "-i"], cwd=place.cwd, env=environment, check=False).returncode


class _Remote:
    def __init__(self, engine: PoolEngine, loop: LoopThread, place: Place) -> None:
        self._place = place
        self._loop = loop
        self._engine = engine
        self._size = _terminal_size()
        self._opened: Future[Resize] = Future()

    def run(self) -> int:
        ours, theirs = socket.socketpair()
        with ours:
            session = self._loop.start(self._engine.hold(lambda: self._session(theirs)))
            session.add_done_callback(self._never_opened)
            try:
                resize = self._opened.result()
                with _raw():
                    self._move(ours, resize)
                ours.shutdown(socket.SHUT_RDWR)
                status: int = session.result()
            except BaseException:
                session.cancel()
                raise
        return status

    def _never_opened(self, session: Future[int]) -> None:
        if not self._opened.done():
            error = None if session.cancelled() else session.exception()
            self._opened.set_exception(error or ConnectError("the pool was closed"))

    # on the loop

    async def _session(self, sock: socket.socket) -> int:
        place = self._place
        assert not isinstance(place.endpoint, LocalEndpoint)
        status: int | None = None
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=CHUNK)
        try:
            kind = os.environ.get("TERM") or "dumb"
            async with open_shell(place.endpoint, kind, self._size) as shell:
                loop = self._loop
                self._opened.set_result(functools.partial(loop.call, shell.resize))
                keys = asyncio.ensure_future(relay((reader, writer), (shell.reader, shell.writer)))
                try:
                    status = await shell.end()
                    await asyncio.wait([keys], timeout=1)
                finally:
                    keys.cancel()
                    await asyncio.gather(keys, return_exceptions=True)
        except OSError as error:
            raise self._cut(str(error)) from error
        finally:
            writer.close()
        if status is None:
            raise self._cut("it is gone")
        return status

    def _cut(self, why: str) -> ConnectError:
        place = self._place
        return ConnectError(
            f"node {place.rank}: the connection of the shell was cut ({why}); the pool reconnects by itself: "
            "call shell() again",
            rank=place.rank,
            machine=place.machine,
        )

    # on the caller's thread

    def _move(self, sock: socket.socket, resize: Resize) -> None:
        """Move bytes until the shell is over. What nobody takes yet waits, and no more is read then."""
        sock.setblocking(False)
        typed = b""
        while True:
            size = _terminal_size()
            if size != self._size:
                self._size = size
                resize(*size)
            there = sock.fileno()
            readable, _, _ = select.select(
                [there] if typed else [there, IN], [there] if typed else [], [], LOOK_SECONDS
            )
            if IN in readable:
                typed = os.read(IN, CHUNK)
                if not typed:  # the terminal is gone
                    return
            with contextlib.suppress(BlockingIOError):
                typed = typed[sock.send(typed) :] if typed else b""
            if there in readable:
                shown = sock.recv(CHUNK)
                if not shown:
                    return
                while shown:
                    shown = shown[os.write(OUT, shown) :]


def _terminal_size() -> tuple[int, int]:
    size = os.get_terminal_size(OUT)
    return size.columns or 80, size.lines or 24


@contextlib.contextmanager
def _raw() -> Generator[None]:
    """Have every key go through as it is, Ctrl-C too."""
    import termios
    import tty

    before = termios.tcgetattr(IN)
    tty.setraw(IN, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(IN, termios.TCSADRAIN, before)
