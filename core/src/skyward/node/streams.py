"""Generators that cross: items out of a task with back-pressure, and items into it, pulled as they are needed.

The window is counted in items and in bytes; the receiver gives credit for what it has consumed. A thread per
outgoing stream pickles whatever has gathered into one frame, so that a quick generator pays for a frame per batch and
a slow one's item leaves at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from skyward.link import frames
from skyward.link.pickling import Pickled, dumps_value, loads
from skyward.link.windows import BATCH, WINDOW_BYTES, WINDOW_ITEMS


class StreamClosed(Exception):
    """The client wants no more items."""


class OutStream:
    """Items of one task on their way to the client. ``put`` is called by the task, the rest by the reading thread."""

    def __init__(self, stream: int, send: Callable[[int, Pickled, int], int]) -> None:
        self._stream = stream
        self._send = send
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._unconsumed_items = 0
        self._unconsumed_bytes = 0
        self._closed = False
        self._finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"skyward-stream-{stream}", daemon=True)
        self._thread.start()

    def put(self, item: Any) -> None:
        """Hand over one item; wait while the window is full. Raises StreamClosed when nobody wants it."""
        with self._changed:
            while len(self._items) >= BATCH and not self._closed and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                raise StreamClosed
            self._items.append(item)
            if len(self._items) == 1:
                self._changed.notify_all()

    def finish(self) -> None:
        """Wait until everything has been sent."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def credit(self, items: int, size: int) -> None:
        with self._changed:
            self._unconsumed_items -= items
            self._unconsumed_bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _open(self) -> bool:
        return self._unconsumed_items < WINDOW_ITEMS and self._unconsumed_bytes < WINDOW_BYTES

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._items and self._open()):
                    if self._finished and not self._items:
                        return
                    self._changed.wait()
                if self._closed:
                    return
                batch = list(self._items)
                self._items.clear()
                self._unconsumed_items += len(batch)
                self._changed.notify_all()
            try:
                size = self._send(self._stream, dumps_value(batch), len(batch))
            except Exception as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._unconsumed_bytes += size


class InStream(Iterator[Any]):
    """What a task sees of an iterator that lives on the client. Filled by the reading thread."""

    def __init__(self, stream: int, send: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._send = send
        self._batches: deque[tuple[Pickled | None, int, int]] = deque()
        self._items: Iterator[Any] = iter(())
        self._changed = threading.Condition()
        self._used = (0, 0)
        self._error: bytes | None = None
        self._ended = False
        self._closed = False

    def __iter__(self) -> InStream:
        return self

    def __next__(self) -> Any:
        while True:
            for item in self._items:
                return item
            items, size = self._used
            if items:
                self._used = (0, 0)
                self._send(frames.frame(frames.CREDIT, frames.CREDIT_BODY.pack(self._stream, items, size)))
            with self._changed:
                while not self._batches:
                    if self._ended:
                        self._raise()
                    self._changed.wait()
                pickled, count, size = self._batches.popleft()
            assert pickled is not None
            self._used = (count, size)
            self._items = iter(loads(pickled.data, pickled.buffers))

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise loads(error)
        raise StopIteration

    def add(self, pickled: Pickled, count: int, size: int) -> None:
        with self._changed:
            self._batches.append((pickled, count, size))
            self._changed.notify()

    def end(self, error: bytes | None) -> None:
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the client to stop, unless it has. Called when the task is over."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            over = self._ended
            self._ended = True
            self._batches.clear()
            self._changed.notify_all()
        if not over:
            self._send(frames.frame(frames.STREAM_CLOSE, frames.U64.pack(self._stream)))
