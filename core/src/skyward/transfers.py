"""``pool.upload`` and ``pool.download``: files and folders to nodes and back.

The files are read and written in threads of their own, which speak with a program on the node; the loop only
carries bytes between them. When the connection is cut, the same is begun again: what is whole on the other
side by its digest is skipped, and a part goes on where it ends. Imported by ``skyward.pool`` with the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skyward.engine.task import Batch
from skyward.errors import ConfigError, ConnectError, NodeError, SkywardError, UsageError, unexpected
from skyward.link.doors import COURIER, open_program
from skyward.link.filereceive import receive
from skyward.link.filesend import send
from skyward.link.filetalk import CHUNK, FileTrouble, Talk
from skyward.link.forwarding import carry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from skyward.engine.loop import LoopThread
    from skyward.engine.pool import PoolEngine
    from skyward.link.doors import Place, Program

    type Kind = Literal["upload", "download"]

AT_ONCE = 8
"""Nodes that are served at a time: each takes a thread, and more of them share the same line."""
MEGABYTE = 1_000_000

RANK_FIELD = "{rank}"
"""What stands for a node's rank in the path that a download is written to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What was brought to or from one node. ``bytes`` are those of all files, ``sent`` those that had to
    travel: the others were there.
    """

    node: int
    files: int
    bytes: int
    sent: int
    seconds: float


def start(
    engine: PoolEngine, loop: LoopThread, kind: Kind, local: object, remote: object, rank: int | None
) -> Future[list[Transfer]]:
    """Begin to move files to or from a node, or all that are ready. Cancelling the future stops it.

    Raises UsageError, ConfigError, NodeError for a node that is not ready, and PoolStateError.
    """
    places = engine.places(rank)
    mover = Mover(kind, *_checked(kind, local, remote, len(places)), lambda place: place in engine.places())
    engine.batches[id(mover.batch)] = mover.batch
    future: Future[list[Transfer]] = loop.start(engine.hold(lambda: mover.run(places)))
    future.add_done_callback(lambda _: engine.batches.pop(id(mover.batch), None))
    return future


def _checked(kind: Kind, local: object, remote: object, ranks: int) -> tuple[str, str]:
    """Return both paths as text. Raises UsageError or ConfigError for what can't be meant."""
    paths: list[str] = []
    for which, path in (("local", local), ("remote", remote)):
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"{which} is a path, not {path!r}")
        text: object = os.fspath(path)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if not isinstance(text, str) or not text or "\0" in text:
            raise ConfigError(f"{which} is no path: {text!r}")
        paths.append(text)
    if kind == "upload" and not os.path.exists(os.path.expanduser(paths[0])):
        raise ConfigError(f"there is no {Path(paths[0]).absolute()} on this computer to upload")
    if kind == "download" and ranks > 1 and RANK_FIELD not in paths[0]:
        raise ConfigError(
            f"{ranks} nodes can't be downloaded to one {paths[0]}: choose one by node=..., "
            f"or put {RANK_FIELD} into the local path"
        )
    return paths[0], paths[1]


class Mover:
    """One upload or download, to or from some nodes. ``run`` is for the loop; ``batch`` shows how it goes."""

    def __init__(self, kind: Kind, local: str, remote: str, is_ready: Callable[[Place], bool]) -> None:
        source = local if kind == "upload" else remote
        self.batch = Batch(f"{kind} {os.path.basename(source.rstrip('/'))} (MB)", 0)
        self._kind: Kind = kind
        self._local = local
        self._remote = remote
        self._is_ready = is_ready
        self._errands: list[_Errand] = []

    async def run(self, places: Sequence[Place]) -> list[Transfer]:
        """Serve the nodes. Raises what failed; an ExceptionGroup if that are several."""
        turns = asyncio.Semaphore(AT_ONCE)
        with ThreadPoolExecutor(min(AT_ONCE, len(places)), "skyward-transfer") as threads:

            async def serve(place: Place) -> Transfer:
                async with turns:
                    errand = _Errand(self._kind, self._local, self._remote, place, self._count)
                    self._errands.append(errand)
                    return await errand.run(threads, self._is_ready)

            tasks = [asyncio.ensure_future(serve(place)) for place in places]
            try:
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                for errand in self._errands:
                    errand.stop()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if len(failures) > 1:
            raise ExceptionGroup(f"the {self._kind} failed on {len(failures)} nodes", failures)
        if failures:
            raise failures[0]
        return [outcome for outcome in outcomes if isinstance(outcome, Transfer)]

    def _count(self) -> None:
        """From any of the threads: a torn sum shows a moment's difference."""
        self.batch.total = -(-sum(errand.total for errand in self._errands) // MEGABYTE)
        self.batch.done = sum(errand.done for errand in self._errands) // MEGABYTE


class _Errand:
    """What is done for one node."""

    def __init__(
        self, kind: Kind, local: str, remote: str, place: Place, on_count: Callable[[], None]
    ) -> None:
        self._kind: Kind = kind
        self._local = local.replace(RANK_FIELD, str(place.rank)) if kind == "download" else local
        self._remote = remote
        self._place = place
        self._on_count = on_count
        self._stopped = threading.Event()
        self.files = 0
        self.total = 0
        self.done = 0
        self.sent = 0

    def stop(self) -> None:
        """Have the thread end soon, wherever it is."""
        self._stopped.set()

    async def run(self, threads: ThreadPoolExecutor, is_ready: Callable[[Place], bool]) -> Transfer:
        """Begin again after each cut, as long as something moved since the last or there is patience."""
        begun = time.monotonic()
        place = self._place
        tries = 0
        while True:
            before, self.done = self.sent, 0
            try:
                await self._try(threads)
                break
            except (OSError, ConnectError) as error:
                tries = 0 if self.sent > before else tries
                if tries == len(place.delays) or not is_ready(place):
                    lost = "is lost" if not is_ready(place) else f"can't be reached any more ({error})"
                    raise ConnectError(
                        f"{self._what()}: the node {lost} after {self.done / MEGABYTE:.0f} of "
                        f"{self.total / MEGABYTE:.0f} MB; the same call goes on from there",
                        rank=place.rank,
                        machine=place.machine,
                    ) from error
                await asyncio.sleep(place.delays[tries])
                tries += 1
        seconds = time.monotonic() - begun
        return Transfer(node=place.rank, files=self.files, bytes=self.total, sent=self.sent, seconds=seconds)

    async def _try(self, threads: ThreadPoolExecutor) -> None:
        """Raises OSError when the connection is cut, else a SkywardError."""
        loop = asyncio.get_running_loop()
        async with open_program(self._place, COURIER) as program:
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_unix_connection(sock=theirs, limit=CHUNK)
            job = loop.run_in_executor(threads, self._in_thread, ours)
            try:
                await _joined(program, reader, writer)
            except OSError:
                pass  # the thread has noticed, and knows what it means
            finally:
                writer.transport.abort()
                await asyncio.wait([job])
            try:
                job.result()
            except ConnectionError:
                await self._explain(program)
                raise
            except FileTrouble as trouble:
                raise self._error(trouble) from trouble

    async def _explain(self, program: Program) -> None:
        """Raise NodeError if it was not the connection that broke, but the program."""
        status, words = await program.end()
        if status:
            last = words.splitlines()[-1] if words else f"status {status}"
            raise NodeError(
                f"{self._what()}: the program that moves files ended there: {last}",
                rank=self._place.rank,
                machine=self._place.machine,
            )

    def _what(self) -> str:
        if self._kind == "upload":
            return f"upload of {self._local} to node {self._place.rank}"
        return f"download of {self._remote} from node {self._place.rank}"

    def _error(self, trouble: FileTrouble) -> SkywardError:
        path = trouble.path if trouble.path.isprintable() else ascii(trouble.path)
        if trouble.is_there:
            text = f"{self._what()}: {path} there: {trouble.reason}"
            return NodeError(text, rank=self._place.rank, machine=self._place.machine)
        return ConfigError(f"{self._what()}: {path} on this computer: {trouble.reason}")

    # in the thread

    def _in_thread(self, sock: socket.socket) -> None:
        with sock, open(sock.fileno(), "rb", CHUNK, closefd=False) as reader:
            writer = open(sock.fileno(), "wb", CHUNK, closefd=False)  # noqa: SIM115  closing it may fail
            try:
                self._speak(Talk(reader, writer))
            except (LookupError, TypeError, ValueError) as error:
                raise unexpected(error) from error
            finally:
                with contextlib.suppress(OSError):  # who is gone does not get the rest
                    writer.close()

    def _speak(self, talk: Talk) -> None:
        if self._kind == "upload":
            talk.say(do={"what": "receive", "path": self._remote})
            send(talk, self._local, self._progress, self._expect)
        else:
            talk.say(do={"what": "send", "path": self._remote})
            talk.flush()
            receive(talk, self._local, self._progress, self._expect)

    def _expect(self, files: int, size: int) -> None:
        self.files, self.total = files, size
        self._on_count()

    def _progress(self, done: int, moved: int) -> None:
        if self._stopped.is_set():
            raise ConnectionAbortedError("the transfer was cancelled")
        self.done += done
        self.sent += moved
        if done:
            self._on_count()


async def _joined(program: Program, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes between a program and a thread's socket until the program is through."""
    inwards = asyncio.ensure_future(_feed(reader, program, writer))
    try:
        await carry(program.reader, writer)
        await inwards
    finally:
        inwards.cancel()
        await asyncio.gather(inwards, return_exceptions=True)


async def _feed(reader: asyncio.StreamReader, program: Program, writer: asyncio.StreamWriter) -> None:
    """Carry to the program what the thread says. One that is gone may have said why, which is heard yet."""
    try:
        await carry(reader, program.writer)
    except OSError:
        writer.get_extra_info("socket").shutdown(socket.SHUT_RD)
