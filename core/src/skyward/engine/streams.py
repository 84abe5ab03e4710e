"""The client's end of a stream out of a task: an iterator over what a remote generator yields.

It keeps the window of ``skyward.link.windows``: what was not consumed is not sent, so memory stays flat on
both sides. The engine holds a ``RemoteIterator``, the caller ``Items``: when the caller lets go of that,
nobody wants the rest.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self, overload

from skyward.link.items import counted, unpacked
from skyward.link.windows import WINDOW_BYTES, WINDOW_ITEMS

CREDIT_EVERY = WINDOW_ITEMS // 4
QUICK_BYTES = 1 << 16
"""A batch up to this size is unpickled on an event loop; a larger one in a thread."""


type Batch = tuple[bytes, Sequence[Any], int, int]
"""The pickled items of one frame, its blobs, how many items, how many bytes."""


class Over(Exception):
    """No more items will come. Not StopIteration, which a coroutine can't raise."""


class RemoteIterator:
    """A remote generator as the engine sees it: what has come, and who waits for more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._batches: deque[Batch] = deque()
        self._changed = threading.Condition()
        self._wake: Callable[[], None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._has_batch = False
        self.touched = False
        """Whether any item has arrived: from then on, the task can't be run again for the caller."""
        self.give_credit: Callable[[int, int], None] = lambda items, size: None
        self.stop_remote: Callable[[], None] = lambda: None

    # the loop

    def add(self, data: bytes, views: Sequence[Any], count: int) -> None:
        """Take a batch that came."""
        size = counted(data, views)
        with self._changed:
            self.touched = True
            if not self._closed:
                self._batches.append((data, views, count, size))
                self._tell()

    def end(self, error: BaseException | None) -> None:
        """Take note that no more will come, and why."""
        with self._changed:
            if not self._ended:
                self._ended = True
                self._error = error
                self._tell()

    @property
    def is_waiting(self) -> bool:
        """Whether the consumer is through with all that came: time counts against the task then."""
        return not self._batches and not self._has_batch

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._wake is not None:
            wake, self._wake = self._wake, None
            wake()

    # the consumer

    @overload
    def take(self) -> Batch: ...
    @overload
    def take(self, wake: Callable[[], None]) -> Batch | None: ...
    def take(self, wake: Callable[[], None] | None = None) -> Batch | None:
        """Return the next batch: wait for it, or return None and call ``wake`` when it is worth another try.

        Raises what the generator raised, once, and Over at the end.
        """
        with self._changed:
            self._has_batch = False
            while not self._batches:
                if self._ended or self._closed:
                    error, self._error = self._error, None
                    if error is not None and not self._closed:
                        raise error
                    raise Over
                if wake is not None:
                    self._wake = wake
                    return None
                self._changed.wait()
            self._has_batch = True
            return self._batches.popleft()

    @property
    def has_more(self) -> bool:
        """Whether a batch is there to be taken."""
        return bool(self._batches)

    def close(self) -> None:
        """Want no more. Idempotent; also called by the garbage collector, wherever that happens to run."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            over = self._ended
            self._batches.clear()
            self._tell()
        if not over:
            self.stop_remote()


class Items[T](Iterator[T], AsyncIterator[T]):
    """Yields what the remote generator yields. Closing it, or dropping it, stops the generator.

    Also an asynchronous iterator, and a context manager of both kinds. Not for several threads at once.
    """

    __slots__ = ("__weakref__", "_items", "_source", "_used_bytes", "_used_items")

    def __init__(self, source: RemoteIterator) -> None:
        self._source = source
        self._items: Iterator[T] = iter(())
        self._used_items = 0
        self._used_bytes = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        for item in self._items:
            return item
        while True:
            self._give_credit()
            try:
                batch = self._source.take()
            except Over:
                raise StopIteration from None
            self._open(batch)
            for item in self._items:
                return item

    def _open(self, batch: Batch) -> None:
        data, views, count, size = batch
        self._used_items += count
        self._used_bytes += size
        self._items = iter(unpacked(data, views))

    def _give_credit(self) -> None:
        """Give credit for what was consumed: in large steps while items flow, at once when none are left."""
        used = self._used_items
        if used and (
            used >= CREDIT_EVERY or self._used_bytes >= WINDOW_BYTES // 4 or not self._source.has_more
        ):
            self._source.give_credit(used, self._used_bytes)
            self._used_items = self._used_bytes = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        while True:
            self._give_credit()
            try:
                batch = await self._taken()
            except Over:
                raise StopAsyncIteration from None
            if batch[3] <= QUICK_BYTES:
                self._open(batch)
            else:
                await asyncio.to_thread(self._open, batch)
            for item in self._items:
                return item

    async def _taken(self) -> Batch:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        await asyncio.sleep(0)  # or a quick generator would keep every other task from running
        while (batch := self._source.take(lambda: call_soon(loop, arrived.set))) is None:
            await arrived.wait()
            arrived.clear()
        return batch

    def close(self) -> None:
        """Stop the remote generator; its ``finally`` blocks run there. Idempotent."""
        self._items = iter(())
        self._source.close()

    async def aclose(self) -> None:
        """The same, where ``contextlib.aclosing`` looks for it."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._source.close()

    def __repr__(self) -> str:
        return f"<items of {self._source.name}()>"


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Call on an event loop, from any thread; nothing happens when it is gone."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
