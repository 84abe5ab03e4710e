"""What the workers run. A module of its own, so that every system can import it, or ship it, as it does users' code.

Only the standard library at the top: importing it must cost a worker nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any


def noop(_: object = None) -> None:
    """Do nothing: what is left is the system's own cost. The argument is for systems that only map over values."""


def nap(_: object = None) -> None:
    """Occupy a slot for 10 ms without using a core."""
    time.sleep(0.01)


def echo(array: Any) -> Any:
    """Return the argument."""
    return array


def ends(array: Any) -> tuple[float, float]:
    """Return the first and the last element: proof that the array came."""
    return float(array[0]), float(array[-1])


def count(n: int) -> Iterator[int]:
    """Yield n numbers."""
    yield from range(n)


def chatter(lines: int) -> None:
    """Print lines of 60 characters."""
    for number in range(lines):
        print(f"line {number:>8} {'.' * 46}")
