"""The client's end of a stream into a task: a feed that pulls the caller's iterator as the task asks for it.

It keeps the window of ``skyward.link.windows``: what was not consumed is not sent, so memory stays flat on
both sides.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from skyward.errors import UsageError
from skyward.link import numbers
from skyward.link.items import caught, counted, packed
from skyward.link.pickling import Pickled, dumps, explain, loads
from skyward.link.windows import BATCH, WINDOW_BYTES, WINDOW_ITEMS

if TYPE_CHECKING:
    from skyward.engine.loop import LoopThread

_sources: dict[int, InFeed] = {}
"""Iterators that are being fed to a task, by identity: two tasks would each get a part and not know it."""
_sources_lock = threading.Lock()


class InFeed:
    """Feeds an iterator of the caller's to a task, as the task asks for it.

    Pulls on a thread of its own, which may wait for the next item as long as that takes: what it has by then
    is pickled and sent by the loop.
    """

    def __init__(
        self, source: Iterator[Any], name: str, loop: LoopThread, is_project_module: Callable[[str], bool]
    ) -> None:
        self.number = numbers.take()
        self._source = source
        self._name = name
        self._loop = loop
        self._is_project_module = is_project_module
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._modules: set[str] = set()
        self._items_bytes = 0
        self._is_called = False
        self._pulled = self._handed_over = self._consumed = 0
        self._unconsumed_bytes = 0
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.send: Callable[[InFeed, int, Pickled], None] = lambda feed, count, pickled: None
        self.send_end: Callable[[InFeed, bytes | None], None] = lambda feed, error: None
        with _sources_lock:
            if id(source) in _sources:
                raise UsageError(
                    f"an iterator given to {name}() is being fed to another task: make one for each"
                )
            _sources[id(source)] = self

    # the loop

    def credit(self, items: int, size: int) -> None:
        """Take note that the task has consumed so much; nothing, when it asks for the first item."""
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name=f"skyward-feed-{self.number}", daemon=True)
            self._thread.start()
        with self._changed:
            self._consumed += items
            self._unconsumed_bytes -= size
            self._changed.notify()

    def stop(self) -> None:
        """Pull no more. Where the source is being waited for, its thread ends with the next item."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is None:
            self._let_go()

    def _let_go(self) -> None:
        with _sources_lock:
            _sources.pop(id(self._source), None)

    def _send_gathered(self) -> None:
        self._is_called = False  # first: what is put from now on calls again
        batch = [self._items.popleft() for _ in range(len(self._items))]
        if batch:
            pickled = packed(batch)
            pickled.modules = frozenset(self._modules)
            self._hand_over(pickled, len(batch))

    def _hand_over(self, pickled: Pickled, count: int) -> None:
        with self._changed:
            self._unconsumed_bytes += counted(pickled.data, pickled.buffers)
        self.send(self, count, pickled)
        with self._changed:
            self._handed_over += count
            self._changed.notify()

    # its thread

    def _run(self) -> None:
        error: bytes | None = None
        try:
            while (room := self._room()) and self._pull(room):
                pass
        except BaseException as problem:
            problem.add_note(f"raised by an iterator that was given to {self._name}()")
            error = _pickle_error(problem)
        finally:
            self._let_go()
            if inspect.isgenerator(self._source):
                self._source.close()
        self._wait_until(lambda: self._handed_over == self._pulled)
        self.send_end(self, error)

    def _room(self) -> int:
        """Wait for room, and return for how many items there is; 0: no more are wanted."""
        self._wait_until(self._has_room)
        room = min(BATCH - len(self._items), WINDOW_ITEMS - (self._pulled - self._consumed))
        return 0 if self._stopped else room

    def _has_room(self) -> bool:
        return (
            len(self._items) < BATCH
            and (self._items_bytes < WINDOW_BYTES // 8 or not self._items)
            and self._pulled - self._consumed < WINDOW_ITEMS
            and self._unconsumed_bytes < WINDOW_BYTES
        )

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            while not self._stopped and not condition():
                self._changed.wait()

    def _pull(self, most: int) -> bool:
        """Take and send up to so many items. Return whether there may be more."""
        items, dump = self._items, self._dump
        self._items_bytes = 0
        taken = 0
        for item in itertools.islice(self._source, most):
            taken += 1
            try:
                value, size = caught(item, dump)
            except UsageError:  # a call that has not run: says what to do
                raise
            except Exception as problem:
                raise explain(problem, item, "item", self._name, "an item to") from problem
            self._pulled += 1
            if type(value) is Pickled:
                self._put_alone(value)
                return not self._stopped
            items.append(value)
            self._items_bytes += size
            if not self._is_called:
                self._is_called = True
                self._loop.call(self._send_gathered)
            if self._stopped or self._items_bytes >= WINDOW_BYTES // 8:
                return not self._stopped
        return taken == most

    def _dump(self, item: Any) -> Pickled:
        pickled = dumps(item, is_project_module=self._is_project_module)
        self._modules |= pickled.modules
        return pickled

    def _put_alone(self, pickled: Pickled) -> None:
        """Send a large item after all before it, and wait until the loop has copied it.

        Its owner may write over it as soon as we pull the next.
        """
        copied = threading.Event()
        self._wait_until(lambda: self._handed_over == self._pulled - 1)
        self._hand_over(pickled, 1)
        self._loop.call(self._note, copied)
        self._wait_until(copied.is_set)

    def _note(self, event: threading.Event) -> None:
        event.set()
        with self._changed:
            self._changed.notify()


def _pickle_error(error: BaseException) -> bytes:
    """Pickle what the caller's iterator raised; if it can't cross, something that reads like it."""
    try:
        data = dumps(error).data
        loads(data)
        return data
    except Exception:
        return dumps(RuntimeError(f"{type(error).__name__}: {error}")).data
