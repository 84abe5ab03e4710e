"""What stands before a node that has no network card of ours: a relay for its connections, in this process.

Clients connect to a loopback address that is the node's own; each connection is carried on to its sshd. What
can be wrong with a network is done here, to streams and not to packets: silence (nothing is carried, no end
is told, and the kernel leaves new connections unanswered, because the queue they wait in is kept full),
delay, rate, resets, refusals. One thread with an event loop serves all nodes of a testbed; methods are for
other threads.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from skyward_testing.testbed.errors import BedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CHUNK_BYTES = 1 << 18
SLICES_PER_S = 100
"""A link with a rate is given so many pieces a second, so that a slow one does not stutter."""
WAITING_PIECES = 32
"""What is under way on a link; then the sender has to wait, as for a router's queue."""
BACKLOG = 256
ANSWER_SECONDS = 0.02
"""A connection to loopback that takes longer will not be made: the queue is full."""
CALL_SECONDS = 10.0
AT_ONCE_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, and what was not sent is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where clients knock: how to make its listening socket, and one that connects to it without waiting."""

    listen: Callable[[], socket.socket]
    knock: Callable[[], socket.socket]


class Fronts:
    """The thread of all fronts."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="testbed-fronts", daemon=True)
        self._thread.start()

    def do[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there and wait for its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    def stop(self) -> None:
        """End the thread. Every front must have been removed."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


class Front:
    """Stands for the cable of a node (``wires.Wire``) that has none. ``dial`` connects to its sshd."""

    def __init__(self, fronts: Fronts, dial: Callable[[], socket.socket]) -> None:
        self._fronts = fronts
        self._dial = dial
        self._doors: list[_Entrance] = []
        self._passages: set[_Passage] = set()
        self.is_cut = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self._rate: float | None = None
        self._delay = 0.0
        self._free = {True: 0.0, False: 0.0}
        self._one_in = 0
        self._arrivals = count(1)

    def plug(self, pid: int) -> None:
        """Nothing to do: the node has no network card of ours."""

    def is_plugged(self) -> bool:
        """Whether it listens anywhere."""
        return any(entrance.is_open for entrance in self._doors)

    def open(self, door: Door) -> None:
        """Take connections there too."""
        self._fronts.do(self._open(door))

    def answers(self, listening: bool) -> None:
        """Listen, or listen nowhere: then the kernel refuses new connections. Those that exist go on."""
        self._fronts.do(self._accept() if listening else self._refuse())

    def reset(self) -> None:
        """Reset every connection, on both sides."""
        self._fronts.do(self._end_passages(reset=True))

    def hang_up(self) -> None:
        """Close every connection, as is seen of a machine whose processes die; unless it is cut off."""
        if not self.is_cut:
            self._fronts.do(self._end_passages(reset=False))

    def drop(self, one_in: int) -> None:
        """Reset every ``one_in``-th new connection; 0: none."""
        self._one_in, self._arrivals = one_in, count(1)

    def cut(self) -> None:
        """Carry nothing more, without a word to anybody."""
        self._fronts.do(self._cut())

    def mend(self) -> None:
        """End ``cut``; what waited arrives."""
        self._fronts.do(self._mend())

    def part(self, other: object) -> None:
        """Nodes reach each other by nothing that could be parted."""
        raise BedError("a front is between a node and everybody else")

    def shape(self, *, rate_mbit: float | None, delay_ms: float | None, loss: float | None) -> None:
        """Make it slow or late, each way. Streams lose nothing: ``loss`` is no business of a front's."""
        if loss:
            raise BedError("a front can't lose packets")
        self._rate = rate_mbit * 1e6 / 8 if rate_mbit else None
        self._delay = (delay_ms or 0.0) / 1000

    def remove(self) -> None:
        """Close everything."""
        self._fronts.do(self._remove())

    async def connect(self, client: socket.socket) -> None:
        """Carry a new connection until it ends. Called by the doors."""
        if self._one_in and next(self._arrivals) % self._one_in == 0:
            return _close(client, reset=True)
        try:
            server = self._dial()
        except OSError:
            return _close(client, reset=True)
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await _connected(server)
        except asyncio.CancelledError:
            for each in (client, server):
                _close(each, reset=True)
            raise
        passage = _Passage(self, client, server)
        self._passages.add(passage)
        try:
            await passage.run()
        finally:
            self._passages.discard(passage)

    def due(self, *, inward: bool, size: int) -> float:
        """When a piece that is sent now arrives."""
        now = asyncio.get_running_loop().time()
        if self._rate:
            now = self._free[inward] = max(now, self._free[inward]) + size / self._rate
        return now + self._delay

    @property
    def piece(self) -> int:
        """How much is carried at a time."""
        return max(1024, min(CHUNK_BYTES, int(self._rate / SLICES_PER_S))) if self._rate else CHUNK_BYTES

    async def _open(self, door: Door) -> None:
        entrance = _Entrance(self, door)
        entrance.open()
        self._doors.append(entrance)

    async def _refuse(self) -> None:
        for entrance in self._doors:
            entrance.close()

    async def _accept(self) -> None:
        for entrance in self._doors:
            entrance.open()

    async def _end_passages(self, *, reset: bool) -> None:
        await asyncio.gather(*(passage.end(reset=reset) for passage in list(self._passages)))

    async def _cut(self) -> None:
        self.is_cut = True
        self.goes_on.clear()
        for entrance in self._doors:
            await entrance.block()

    async def _mend(self) -> None:
        self.is_cut = False
        self.goes_on.set()
        for entrance in self._doors:
            entrance.unblock()

    async def _remove(self) -> None:
        await self._refuse()
        await self._end_passages(reset=True)


class _Entrance:
    """A door in use. Belongs to the loop's thread."""

    def __init__(self, front: Front, door: Door) -> None:
        self._front = front
        self._door = door
        self._listener: socket.socket | None = None
        self._is_taking = False
        self._guests: set[asyncio.Task[None]] = set()
        self._fillers: dict[object, socket.socket] = {}

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    def open(self) -> None:
        """Listen and take connections."""
        if self._listener is None:
            self._listener = self._door.listen()
            self._listener.setblocking(False)
            self.unblock()

    def close(self) -> None:
        """Stop listening."""
        self._stop_taking()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        for filler in self._fillers.values():
            filler.close()
        self._fillers.clear()

    async def block(self) -> None:
        """Keep the queue full, so that the kernel loses who knocks instead of answering."""
        self._stop_taking()
        if self._listener is None:
            return
        self._listener.listen(0)
        while len(self._fillers) < BACKLOG:
            filler = self._door.knock()
            try:
                await asyncio.wait_for(_connected(filler), ANSWER_SECONDS)
                self._fillers[filler.getsockname()] = filler
            except (TimeoutError, OSError):
                filler.close()
                return

    def unblock(self) -> None:
        """Take connections again."""
        if self._listener is not None and not self._is_taking:
            self._is_taking = True
            self._listener.listen(BACKLOG)
            asyncio.get_running_loop().add_reader(self._listener, self._take, self._listener)

    def _take(self, listener: socket.socket) -> None:
        try:
            client, address = listener.accept()
        except OSError:
            return  # who knocked has gone
        if filler := self._fillers.pop(address, None):
            filler.close()
            client.close()
            return
        guest = asyncio.create_task(self._front.connect(client))
        self._guests.add(guest)
        guest.add_done_callback(self._guests.discard)

    def _stop_taking(self) -> None:
        if self._listener is not None and self._is_taking:
            asyncio.get_running_loop().remove_reader(self._listener)
        self._is_taking = False


class _Passage:
    """One connection: from the client, on to the server."""

    def __init__(self, front: Front, client: socket.socket, server: socket.socket) -> None:
        self._front = front
        self._sockets = (client, server)
        self._reset = False
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Carry both ways until both are over, one fails, or ``end``."""
        client, server = self._sockets
        for source, sink, inward in ((client, server, True), (server, client, False)):
            under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_PIECES)
            self._tasks.append(asyncio.create_task(self._take(source, under_way, inward=inward)))
            self._tasks.append(asyncio.create_task(self._give(sink, under_way)))
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in self._tasks:
                task.cancel()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._reset = self._reset or any(isinstance(end, OSError) for end in ends)
        finally:
            for each in self._sockets:
                _close(each, reset=self._reset)
            self._ended.set()

    async def end(self, *, reset: bool) -> None:
        """Close both sides now, whatever is under way."""
        self._reset = reset
        for task in self._tasks:
            task.cancel()
        await self._ended.wait()

    async def _take(
        self, source: socket.socket, under_way: asyncio.Queue[tuple[float, bytes]], *, inward: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(source, self._front.piece)
            except OSError:
                await self._front.goes_on.wait()  # nobody is told before
                raise
            await under_way.put((self._front.due(inward=inward, size=len(data)), data))
            if not data:
                return

    async def _give(self, sink: socket.socket, under_way: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await under_way.get()
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            if self._front.is_cut:
                await self._front.goes_on.wait()
            if not data:
                return sink.shutdown(socket.SHUT_WR)
            await loop.sock_sendall(sink, data)


async def _connected(knocking: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(knocking, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(knocking)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _close(closing: socket.socket, *, reset: bool) -> None:
    if reset:
        closing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE_RESET)
    closing.close()
