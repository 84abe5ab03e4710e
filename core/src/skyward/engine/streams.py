"""The client's ends of streams: an iterator over what a remote generator yields, and a feed into a task's iterator.

Both keep the window of ``skyward.link.windows``: what was not consumed is not sent, so memory stays flat. The
caller's own iterator is pulled on a thread of its own, because it may block.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from skyward.link.pickling import Pickled, dumps, explain, loads
from skyward.link.windows import BATCH, WINDOW_BYTES, WINDOW_ITEMS

if TYPE_CHECKING:
    from skyward.engine.loop import LoopThread

CREDIT_EVERY = WINDOW_ITEMS // 4


class RemoteIterator(Iterator[Any], AsyncIterator[Any]):
    """Yields what the remote generator yields. Closing it, or dropping it, stops the generator.

    Also an asynchronous iterator. Not for several threads at once.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._batches: deque[tuple[bytes, Sequence[Any], int, int]] = deque()
        self._items: Iterator[Any] = iter(())
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._closed = False
        self._used_items = 0
        self._used_bytes = 0
        self._batch_bytes = 0
        self.touched = False
        """Whether any item has arrived: from then on, the task can't be run again for the caller."""
        self.give_credit: Callable[[int, int], None] = lambda items, size: None
        self.stop_remote: Callable[[], None] = lambda: None

    # the loop

    def add(self, data: bytes, views: Sequence[Any], count: int) -> None:
        size = len(data) + sum(len(view) for view in views)
        with self._changed:
            self.touched = True
            if not self._closed:
                self._batches.append((data, views, count, size))
                self._changed.notify()

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    @property
    def is_waiting(self) -> bool:
        """Whether the consumer has all that came: only then does time count against the remote side."""
        return not self._batches

    # the consumer

    def __iter__(self) -> RemoteIterator:
        return self

    def __next__(self) -> Any:
        while True:
            for item in self._items:
                return item
            self._consumed()
            with self._changed:
                while not self._batches:
                    if self._closed:
                        raise StopIteration
                    if self._ended:
                        error, self._error = self._error, None
                        if error is not None:
                            raise error
                        raise StopIteration
                    self._changed.wait()
                data, views, count, size = self._batches.popleft()
            self._used_items += count
            self._used_bytes += size
            batch = loads(data, views) if data else loads(views[0], views[1:])
            self._items = iter(batch)

    def _consumed(self) -> None:
        """Give credit for what was consumed: in large steps while items flow, at once when none are left."""
        if self._used_items >= CREDIT_EVERY or self._used_bytes >= WINDOW_BYTES // 4 or (
            self._used_items and not self._batches
        ):
            self.give_credit(self._used_items, self._used_bytes)
            self._used_items = self._used_bytes = 0

    def __aiter__(self) -> RemoteIterator:
        return self

    async def __anext__(self) -> Any:
        for item in self._items:
            return item
        found, item = await asyncio.get_running_loop().run_in_executor(None, self._next_or_end)
        if not found:
            raise StopAsyncIteration
        return item

    def _next_or_end(self) -> tuple[bool, Any]:
        try:
            return True, next(self)
        except StopIteration:
            return False, None

    def close(self) -> None:
        """Stop the remote generator; its ``finally`` blocks run there. Idempotent."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            over = self._ended
            self._batches.clear()
            self._items = iter(())
            self._changed.notify_all()
        if not over:
            self.stop_remote()

    async def aclose(self) -> None:
        self.close()

    def __enter__(self) -> RemoteIterator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and not self._ended:
            self.stop_remote()

    def __repr__(self) -> str:
        return f"<items of {self._name}()>"


_numbers = itertools.count(1)


class InFeed:
    """Feeds an iterator of the caller's to a task, as the task asks for it. ``pump`` runs on its own thread."""

    def __init__(self, source: Iterator[Any], loop: LoopThread, is_project_module: Callable[[str], bool]) -> None:
        self.number = next(_numbers)
        self._source = source
        self._loop = loop
        self._is_project_module = is_project_module
        self._changed = threading.Condition()
        self._unconsumed_items = 0
        self._unconsumed_bytes = 0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.send: Callable[[InFeed, int, Pickled], None] = lambda feed, count, pickled: None
        self.send_end: Callable[[InFeed, bytes | None], None] = lambda feed, error: None

    # the loop

    def start(self) -> None:
        """Begin to pull. The task was handed to a node."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"skyward-feed-{self.number}", daemon=True)
            self._thread.start()

    def credit(self, items: int, size: int) -> None:
        with self._changed:
            self._unconsumed_items -= items
            self._unconsumed_bytes -= size
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    # its thread

    def _run(self) -> None:
        error: bytes | None = None
        try:
            while batch := self._gather():
                try:
                    pickled = self._pickle(batch)
                except Exception as problem:
                    raise explain(problem, batch, "items", "feed", "the items of") from problem
                size = len(pickled.data) + sum(len(view) for view in pickled.buffers)
                with self._changed:
                    self._unconsumed_items += len(batch)
                    self._unconsumed_bytes += size
                self.send(self, len(batch), pickled)
        except BaseException as problem:
            error = _pickle_error(problem)
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
        self.send_end(self, error)

    def _gather(self) -> list[Any]:
        """Wait for room, then take items: many of a quick source, what there is of a slow one. Empty at the end."""
        import time

        with self._changed:
            while not self._stopped and not (
                self._unconsumed_items < WINDOW_ITEMS and self._unconsumed_bytes < WINDOW_BYTES
            ):
                self._changed.wait()
            if self._stopped:
                return []
        batch: list[Any] = []
        until = time.perf_counter() + 0.001
        for item in self._source:
            batch.append(item)
            if len(batch) >= BATCH or time.perf_counter() > until:
                break
        return batch

    def _pickle(self, batch: list[Any]) -> Pickled:
        return dumps(batch, is_project_module=self._is_project_module)


def _pickle_error(error: BaseException) -> bytes:
    try:
        data = dumps(error, main_by_name=False).data
        loads(data)
        return data
    except Exception:
        return dumps(RuntimeError(f"{type(error).__name__}: {error}")).data


