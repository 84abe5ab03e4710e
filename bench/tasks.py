"""What the workers run. A module of its own, so that every system can import it, or ship it, as users' code.

Only the standard library at the top: importing it must cost a worker nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

PAGE_ELEMENTS = 4096 // 8
"""Numbers of 8 bytes on a page of memory."""


def noop(_: object = None) -> None:
    """Do nothing: what is left is the system's own cost. The argument is for those that map over values."""


def nap(_: object = None) -> None:
    """Occupy a slot for 10 ms without using a core."""
    time.sleep(0.01)


def echo(array: Any) -> Any:
    """Return the argument."""
    return array


def negated(array: Any) -> Any:
    """Return another array, made here."""
    return -array


def touch(array: Any) -> int:
    """Read an element of every page, and return their sum.

    What is mapped lazily has not arrived before that; what was copied is read again for little.
    """
    return int(array[::PAGE_ELEMENTS].sum())


def count(n: int) -> Iterator[int]:
    """Yield n numbers. No `yield from`: Ray sends into the generator, and a range takes nothing."""
    for number in range(n):  # noqa: UP028
        yield number


def chatter(lines: int) -> None:
    """Print lines of 60 characters."""
    for number in range(lines):
        print(f"line {number:>8} {'.' * 46}")
