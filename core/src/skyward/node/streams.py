"""Generators that cross: items out of a task with back-pressure, and items into it, as they are needed.

The window is counted in items and in bytes; the receiver gives credit for what it has consumed. A thread per
outgoing stream sends whatever has gathered as one frame, so that a quick generator pays for a frame per batch
and a slow one's item leaves at once. A large item is sent by the task itself before it goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from skyward.link import frames
from skyward.link.items import capped, caught, counted, packed, unpacked
from skyward.link.pickling import Pickled, dumps_value, explain, loads
from skyward.link.windows import BATCH, WINDOW_BYTES, WINDOW_ITEMS
from skyward.runtime import current_task

BATCH_BYTES = WINDOW_BYTES // 8
"""Bytes gathered before the producer has to wait, as ``BATCH`` is of items."""


class StreamClosed(Exception):
    """The client wants no more of the task, or the task is over."""


class OutStream:
    """Items on their way out. ``put`` and ``finish`` are the task's, the rest is the reading thread's."""

    def __init__(self, stream: int, send: Callable[[int, Pickled, int], int]) -> None:
        self._stream = stream
        self._send = send
        self._task = current_task.get() or "the generator"
        self._items: deque[Any] = deque()
        self._gathered_bytes = 0
        self._changed = threading.Condition()
        self._unconsumed_items = 0
        self._unconsumed_bytes = 0
        self._wants_items = False
        self._is_sending = False
        self._is_closed = False
        self._is_finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"skyward-stream-{stream}", daemon=True)
        self._thread.start()

    def put(self, item: Any) -> None:
        """Hand over one item; wait while the window is full. Raises StreamClosed when nobody wants it."""
        value, size = self._caught(item)
        items = self._items
        if type(value) is Pickled:
            self._put_alone(value)
            return
        if len(items) >= BATCH:
            self._wait_until(lambda: len(items) < BATCH)
        if self._gathered_bytes >= BATCH_BYTES:
            self._wait_until(lambda: not items)
            self._gathered_bytes = 0
        self._append(value, size)

    def offer(self, item: Any) -> bool:
        """Do the same if it takes no waiting, and return whether it was done. For an event loop's thread."""
        if len(self._items) >= BATCH or self._gathered_bytes >= BATCH_BYTES:
            return False
        value, size = self._caught(item)
        if type(value) is Pickled:
            return False
        self._append(value, size)
        return True

    def _caught(self, item: Any) -> tuple[Any, int]:
        try:
            return caught(item, dumps_value)
        except Exception as error:
            raise explain(error, item, "item", self._task, "back an item of") from None

    def _append(self, value: Any, size: int) -> None:
        if self._is_closed:
            raise StreamClosed
        self._items.append(value)
        self._gathered_bytes += size
        # The sender says so before it looks for items a last time, so that none is forgotten.
        if self._wants_items:
            with self._changed:
                self._changed.notify_all()

    def _put_alone(self, pickled: Pickled) -> None:
        """Send a large item, after all before it, at once: the task may write over it afterwards."""
        self._wait_until(lambda: not self._items and not self._is_sending and self._is_open())
        with self._changed:
            self._unconsumed_items += 1
            self._unconsumed_bytes += counted(pickled.data, pickled.buffers)
        self._send(self._stream, pickled, 1)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            while not condition():
                if self._error is not None:
                    raise self._error
                if self._is_closed:
                    raise StreamClosed
                self._changed.wait()

    def finish(self) -> None:
        """Wait until everything has been sent."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def credit(self, items: int, size: int) -> None:
        """Take note that the client has consumed so much."""
        with self._changed:
            self._unconsumed_items -= items
            self._unconsumed_bytes -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Send no more, and have ``put`` say so."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _is_open(self) -> bool:
        return self._unconsumed_items < WINDOW_ITEMS and self._unconsumed_bytes < WINDOW_BYTES

    def _run(self) -> None:
        try:
            while batch := self._gathered():
                pickled = packed(batch)
                with self._changed:
                    self._unconsumed_bytes += counted(pickled.data, pickled.buffers)
                self._send(self._stream, pickled, len(batch))
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _gathered(self) -> list[Any]:
        """Wait for items and for room, and return those; none when the stream is over."""
        items = self._items
        with self._changed:
            if self._is_sending:
                self._is_sending = False
                self._changed.notify_all()
            while not self._is_closed:
                self._wants_items = True
                if items and self._is_open():
                    break
                if self._is_finished and not items:
                    return []
                self._wants_items = not items
                self._changed.wait()
            self._wants_items = False
            if self._is_closed:
                return []
            self._is_sending = True
            batch = [items.popleft() for _ in range(len(items))]
            self._unconsumed_items += len(batch)
            self._changed.notify_all()
            return batch


class InStream(Iterator[Any]):
    """What a task sees of an iterator that lives on the client. Filled by the reading thread."""

    def __init__(self, stream: int, send: Callable[[bytes], object]) -> None:
        self._stream = stream
        self._send = send
        self._batches: deque[tuple[Pickled, int, int]] = deque()
        self._items: Iterator[Any] = iter(())
        self._changed = threading.Condition()
        self._has_asked = False
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
            self._give_credit()
            with self._changed:
                while not self._batches:
                    if self._ended:
                        self._raise()
                    self._changed.wait()
                pickled, count, size = self._batches.popleft()
            self._used = (count, size)
            self._items = iter(unpacked(pickled.data, pickled.buffers))

    def _give_credit(self) -> None:
        items, size = self._used
        if items or not self._has_asked:  # nothing is pulled before it is asked for
            self._has_asked = True
            self._used = (0, 0)
            self._send(frames.frame(frames.CREDIT, frames.CREDIT_BODY.pack(self._stream, items, size)))

    def _raise(self) -> None:
        if self._closed:  # not the end of the items: what a task does then must not be done
            raise StreamClosed
        if self._error is not None:
            error, self._error = self._error, None
            raise loads(error)
        raise StopIteration

    def add(self, pickled: Pickled, count: int, size: int) -> None:
        """Take a batch that came."""
        with self._changed:
            if not self._closed:
                self._batches.append((pickled, count, capped(size)))
                self._changed.notify()

    def end(self, error: bytes | None) -> None:
        """Take note that no more will come, and of what, pickled, the client's iterator raised."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the client to stop, unless it has; from then on, asking for an item raises StreamClosed."""
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
