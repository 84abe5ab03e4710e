"""Tasks of many kinds, drawn from a seed, each of which knows its right outcome and notes where it runs.

``FUNCTIONS`` is the text of a module, since nodes lack this distribution: run it, and give ``Chore.submit``
what it defined. The first thing that a task does on a node is to write its number and its process into a file
there; so a run counts that was broken off, too.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import skyward as sky

type Kind = Literal["nap", "mirror", "wrong", "count", "total", "hog"]

WEIGHTS: dict[Kind, int] = {"nap": 65, "mirror": 12, "wrong": 8, "count": 8, "total": 7}
"""How often each kind is drawn; what is not here is asked for."""

FUNCTIONS = """
import os, socket, time
from collections.abc import Iterator
import skyward as sky

def note(path: str, number: int) -> None:
    try:
        fd = os.open(os.path.expanduser(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{number} {os.getpid()}\\n".encode())
        os.close(fd)
    except OSError:  # the disk is full
        pass

@sky.function
def nap(path: str, number: int, seconds: float) -> int:
    note(path, number)
    if seconds:
        time.sleep(seconds)
    return number

@sky.function
def mirror(path: str, number: int, data: bytes) -> bytes:
    note(path, number)
    return data[::-1]

@sky.function
def wrong(path: str, number: int) -> None:
    note(path, number)
    raise LookupError(number)

@sky.function
def count(path: str, number: int, items: int) -> Iterator[int]:
    note(path, number)
    for item in range(items):
        time.sleep(0.002)
        yield number + item

@sky.function
def total(path: str, number: int, items: Iterator[int]) -> int:
    note(path, number)
    return sum(items)

@sky.function
def hog(path: str, number: int, megabytes: int) -> int:
    note(path, number)
    return len(bytearray(megabytes << 20))

@sky.function
def hostname() -> str:
    return socket.gethostname()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """One task. ``size``: seconds of a nap, bytes of a mirror, megabytes of a hog, items of a stream."""

    number: int
    kind: Kind
    size: float

    @property
    def streams(self) -> bool:
        """Whether items go in or out: then it can't be run again for the caller."""
        return self.kind in ("count", "total")

    @property
    def _data(self) -> bytes:
        return Random(self.number).randbytes(int(self.size))

    def submit(self, functions: Any, pool: sky.Pool, path: str) -> Future[Any]:
        """Begin it; ``path`` is the file on the node that it notes itself in."""
        function = getattr(functions, self.kind)
        match self.kind:
            case "nap":
                pending = function(path, self.number, self.size)
            case "hog":
                pending = function(path, self.number, int(self.size))
            case "mirror":
                pending = function(path, self.number, self._data)
            case "wrong":
                pending = function(path, self.number)
            case "total":
                pending = function(path, self.number, iter(range(int(self.size))))
            case "count":
                return _collected(function(path, self.number, int(self.size)) >> pool)
        future: Future[Any] = pending > pool
        return future

    def is_right(self, outcome: object) -> bool:
        """Whether this, a value or what was raised, is what a task that nothing befalls ends with."""
        match self.kind:
            case "nap":
                return outcome == self.number
            case "mirror":
                return outcome == self._data[::-1]
            case "count":
                return outcome == [self.number + item for item in range(int(self.size))]
            case "total":
                return outcome == sum(range(int(self.size)))
            case "wrong":
                return isinstance(outcome, LookupError) and outcome.args == (self.number,)
            case "hog":
                return False


def draw_chores(random: Random, count: int) -> list[Chore]:
    """Draw some, numbered from 0 on: no-ops, naps, values of 300 kB to 3 MB both ways, streams, errors."""
    kinds: list[Kind] = [*WEIGHTS]
    chores: list[Chore] = []
    for number in range(count):
        kind = random.choices(kinds, [*WEIGHTS.values()])[0]
        size: float = random.randint(1, 40)
        if kind == "nap":
            size = random.choice([0.0, random.uniform(0.005, 0.15)])
        elif kind == "mirror":
            size = random.uniform(3e5, 3e6)
        chores.append(Chore(number=number, kind=kind, size=size))
    return chores


def _collected(items: Iterator[int]) -> Future[list[int]]:
    """Read a stream to its end, in a thread of its own."""
    future: Future[list[int]] = Future()

    def read() -> None:
        try:
            future.set_result(list(items))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=read, name="testbed-stream", daemon=True).start()
    return future
