"""What the client numbers: tasks, functions, blobs, streams. A node never sees one number twice.

A client that comes after another one on the same nodes counts on from where that one can't have been. Safe
from any thread.
"""

from __future__ import annotations

import itertools

EPOCH = 1 << 40
"""Numbers that one client has to itself."""

_epoch = 0
_counter = itertools.count(1)


def take() -> int:
    """Return a number that is new."""
    return next(_counter)


def epoch() -> int:
    """Return which client we are, on the nodes that we have."""
    return _epoch


def first() -> int:
    """Return the number below which all are those of earlier clients."""
    return _epoch * EPOCH


def follow(epoch: int) -> None:
    """Count on after a client of that epoch."""
    global _epoch, _counter
    if epoch >= _epoch:
        _epoch = epoch + 1
        _counter = itertools.count(first())
