"""Waiting for many tasks at once: until all are done, or one has failed and the others are not worth it.

For threads. Coroutines wait by the same ``Watch`` in ``skyward.awaiting``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Reversible, Sequence
from concurrent.futures import Future, as_completed
from typing import Any

from skyward.futures import CallFuture

FAILURE_GRACE = 0.5
"""Seconds that the other nodes of a broadcast get to fail too, once one has: one error then tells of all."""
MAP_WINDOW = 1024
"""Items of a streamed map that are under way at once."""
MAP_BYTES = 64 << 20
"""The same in bytes of arguments and results; two tasks a slot are always allowed."""


class Watch:
    """Calls ``wake`` when the first of some futures has failed, and when all are done; on any thread."""

    def __init__(self, futures: Sequence[CallFuture], wake: Callable[[], object]) -> None:
        self.left = len(futures)
        self.failed = False
        self._wake = wake
        self._lock = threading.Lock()
        for future in futures:
            future.on_done(self._note)
        if not futures:
            wake()

    def _note(self, future: Future[Any]) -> None:
        failed = isinstance(future, CallFuture) and future.failed
        with self._lock:
            self.left -= 1
            news = not self.left or (failed and not self.failed)
            self.failed |= failed
        if news:
            self._wake()


def cancel(futures: Reversible[CallFuture]) -> None:
    """Cancel what is not done; the last first, or those that wait would begin as those that run end."""
    for future in reversed(futures):
        future.cancel()


def values(futures: Sequence[CallFuture]) -> list[Any]:
    """Wait for all and return their values. The first failure is raised at once and cancels the rest."""
    news = threading.Event()
    try:
        Watch(futures, news.set)
        news.wait()
        return settled(futures)
    finally:
        cancel(futures)


def settled(futures: Sequence[CallFuture]) -> list[Any]:
    """Return the values, or raise the first failure, of futures that are done unless one has failed."""
    for future in futures:
        if future.failed:
            future.result()
    return [future.result() for future in futures]


def values_of_nodes(futures: Sequence[CallFuture], name: str) -> list[Any]:
    """Wait for a broadcast and return its values; once one failed, the others get a moment to fail too."""
    news = threading.Event()
    try:
        watch = Watch(futures, news.set)
        news.wait()
        if watch.failed and watch.left:
            news.clear()
            if watch.left:
                news.wait(FAILURE_GRACE)
        return settled_nodes(futures, name)
    finally:
        cancel(futures)


def settled_nodes(futures: Sequence[CallFuture], name: str) -> list[Any]:
    """Return the values, or raise what failed: one exception as it is, several as a group."""
    failures = [future for future in futures if future.failed and not future.cancelled()]
    errors = [error for future in failures if (error := future.exception()) is not None]
    if len(errors) > 1:
        raise BaseExceptionGroup(f"{name}() failed on {len(errors)} of {len(futures)} nodes", errors)
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def as_they_come(futures: Sequence[CallFuture], ordered: bool) -> Iterator[Any]:
    """Yield values in order, or as tasks end. A failure is raised and ends it; the rest is cancelled then."""
    try:
        for future in futures if ordered else as_completed(futures):
            yield future.result()
    finally:
        cancel(futures)


class MapWindow:
    """The tasks of a streamed map that are under way, oldest first. Not for several threads at once."""

    def __init__(
        self, submit: Callable[[Any], CallFuture], items: Iterator[Any], slots: Callable[[], int]
    ) -> None:
        self._submit = submit
        self._items = items
        self._slots = slots
        self._futures: deque[CallFuture] = deque()
        self._weight = 0.0
        self._is_over = False

    @property
    def is_low(self) -> bool:
        """Whether to ``fill``, for a caller to whom that is not worth it for every item."""
        return not self._is_over and (not self._futures or not self._is_full(2))

    def _is_full(self, part: int = 1) -> bool:
        under_way = len(self._futures)
        if under_way >= MAP_WINDOW // part:
            return True
        return under_way * self._weight >= MAP_BYTES / part and under_way >= 2 * self._slots()

    def fill(self, seconds: float = 0.0) -> None:
        """Submit items until there are enough, or the oldest is done; then go on for so many seconds."""
        until = time.perf_counter() + seconds
        while not self._is_over and not self._is_full():
            try:
                item = next(self._items)
            except StopIteration:
                self._is_over = True
                return
            future = self._submit(item)
            self._weigh(future.sent_bytes)
            self._futures.append(future)
            if self._futures[0].done() and time.perf_counter() >= until:
                return

    def pop(self) -> CallFuture | None:
        """Take the oldest out, done or not; None when there is none left."""
        return self._futures.popleft() if self._futures else None

    def weigh(self, future: CallFuture) -> None:
        """Note the size of a result that was not unpickled yet."""
        self._weigh(future.sent_bytes + future.received_bytes)

    def _weigh(self, size: int) -> None:
        self._weight = max(float(size), 0.99 * self._weight)  # the heaviest of late

    def close(self) -> None:
        """Cancel what is under way."""
        cancel(self._futures)


def mapped(window: MapWindow) -> Iterator[Any]:
    """Yield the values of a streamed map, and take items as that goes on."""
    try:
        window.fill()
        while (future := window.pop()) is not None:
            try:
                future.wait()
                window.weigh(future)
                yield future.result()
            finally:
                future.cancel()
            window.fill()
    finally:
        window.close()
