"""Catching the items of a stream as they are yielded: what a generator does to them later stays with it.

Items travel in batches, which are pickled a moment later, on another thread. A value that can't change waits
as it is; any other is pickled at once, and a large one is a batch of its own. Used by both sides.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from skyward.link.pickling import BLOB_MIN, Bulk, Pickled, loads

_SIMPLE = frozenset({int, float, bool, type(None)})
_SIMPLE_BYTES = 8

_COUNTED_MAX = 1 << 30
"""No batch counts for more than this in the window: credit is written in 32 bits."""


class Frozen:
    """An item as it was when it was yielded. In a batch it unpickles to the item."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.data,)


def caught(item: object, dump: Callable[[Any], Pickled]) -> tuple[Any, int]:
    """Return what to put into a batch for ``item``, and about how many bytes that is.

    It is a ``Pickled`` when the item is large: a batch of this item alone, to be sent before its owner goes
    on.
    """
    if type(item) in _SIMPLE:
        return item, _SIMPLE_BYTES
    if (type(item) is str or type(item) is bytes) and len(item) < BLOB_MIN:
        return item, len(item)
    if (type(item) is bytes or type(item) is bytearray) and len(item) >= BLOB_MIN:
        return dump([Bulk(item)]), len(item)
    pickled = dump(item)
    size = counted(pickled.data, pickled.buffers)
    if pickled.buffers or size >= BLOB_MIN:
        return dump([item]), size
    return Frozen(pickled.data), size


def packed(batch: list[Any]) -> Pickled:
    """Pickle a batch of what ``caught`` returned."""
    return Pickled(pickle.dumps(batch, protocol=5))


def unpacked(data: bytes, views: Sequence[Any]) -> list[Any]:
    """Return the items of a batch as it arrived; ``data`` is empty when it came as the first of the views."""
    items: list[Any] = loads(data, views) if data else loads(views[0], views[1:])
    return items


def counted(data: bytes, views: Sequence[Any]) -> int:
    """Return what a batch counts for in the window: the same on both sides."""
    return capped(len(data) + sum(map(len, views)))


def capped(size: int) -> int:
    """Return what a batch of so many bytes counts for."""
    return min(_COUNTED_MAX, size)
