"""The futures that callers hold, and the thread on which what they hang on those runs.

A callback may take its time or wait for another task. On the loop, which ends tasks, it would wait forever.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from skyward.engine.task import Outcome, TaskFuture

if TYPE_CHECKING:
    from skyward.engine.loop import LoopThread

QUICK_BYTES = 1 << 16
"""A result up to this size is unpickled on an event loop; a larger one in a thread."""
STOP_SECONDS = 5.0
"""How long the end of a pool waits for callbacks that are running."""

type _Callback = Callable[[Future[Any]], object]


class Callbacks:
    """Runs the callbacks of one pool's futures, one after another. The thread starts with the first."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop.loop
        self._queue: queue.SimpleQueue[tuple[_Callback, Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def run(self, callback: _Callback, future: Future[Any]) -> None:
        """Call ``callback`` here, or on our thread if here is the loop."""
        if not self._is_loop():
            callback(future)  # concurrent.futures logs what it raises
            return
        self._queue.put((callback, future))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="skyward-callbacks", daemon=True)
                self._thread.start()

    def _is_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            callback, future = entry
            try:
                callback(future)
            except Exception:  # as concurrent.futures does, and in its name
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", future)
            del entry, callback, future

    def close(self) -> None:
        """Run what is queued, then end the thread. No future of the pool may end afterwards."""
        thread = self._thread
        self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_SECONDS)


class Raised(Exception):
    """Stands in a future for an exception that has not been unpickled: who waits for one must notice it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class CallFuture(TaskFuture):
    """A task's outcome. ``sent_bytes``: what its arguments took."""

    def __init__(self, callbacks: Callbacks) -> None:
        super().__init__()
        self._callbacks = callbacks
        self._unpacked: tuple[bool, Any] | None = None
        self._unpack_lock = threading.Lock()
        self.sent_bytes = 0

    def add_done_callback(self, fn: _Callback) -> None:
        """Call ``fn(future)`` when it is done; now, if it is. Never on a thread that tasks depend on."""
        super().add_done_callback(functools.partial(self._callbacks.run, fn))

    def on_done(self, fn: _Callback) -> None:
        """The same on whatever thread it is, the loop's too: ``fn`` must be quick and wait for nothing."""
        super().add_done_callback(fn)

    def set_result(self, result: Any) -> None:
        """Take the outcome. For the engine."""
        if isinstance(result, Outcome) and result.raised:
            self.set_exception(Raised(result))
        else:
            super().set_result(result)

    def result(self, timeout: float | None = None) -> Any:
        """Return the value, or raise what the function raised; TimeoutError after ``timeout`` seconds."""
        ok, value = self._taken(timeout)
        if ok:
            return value
        try:
            raise value
        finally:
            del value  # or it would hold this frame, which holds it

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the function raised, or None. Raises TimeoutError after ``timeout`` seconds."""
        ok, value = self._taken(timeout)
        return None if ok else value

    def _taken(self, timeout: float | None) -> tuple[bool, Any]:
        """Return ``(True, value)`` or ``(False, exception)``; what came pickled is unpickled once."""
        error: BaseException | None = Future[Any].exception(self, timeout)
        outcome = error.outcome if isinstance(error, Raised) else self._result if error is None else None
        if not isinstance(outcome, Outcome):
            return (True, outcome) if error is None else (False, error)
        with self._unpack_lock:
            if self._unpacked is None:
                self._unpacked = outcome.unpack()
                outcome.data, outcome.views = b"", ()
            return self._unpacked

    def wait(self) -> None:
        """Wait until it is done, and leave the outcome pickled."""
        with contextlib.suppress(CancelledError):
            Future[Any].exception(self)

    @property
    def failed(self) -> bool:
        """Whether it is done and there is no value. Tells without unpickling."""
        return self.done() and (self.cancelled() or self._exception is not None)

    @property
    def received_bytes(self) -> int:
        """What came back and has not been unpickled."""
        outcome = self._result
        return len(outcome.data) + sum(map(len, outcome.views)) if isinstance(outcome, Outcome) else 0

    @property
    def is_quick(self) -> bool:
        """Whether ``result`` of this future, which is done, takes no time worth mentioning."""
        return self.received_bytes <= QUICK_BYTES


class InheritedFuture(CallFuture):
    """The outcome of a task that another client had submitted, which is gone: see ``Pool.inherited``."""

    def __init__(self, callbacks: Callbacks, name: str, node: int) -> None:
        super().__init__(callbacks)
        self.name = name
        """The function's."""
        self.node = node
        """The rank of the node that has it."""

    def __repr__(self) -> str:
        state = "done" if self.done() else "running" if self.running() else "waiting"
        return f"<inherited task {self.name}() on node {self.node}: {state}>"
