"""A task on the client: what is sent, what the caller holds, and how an outcome becomes a value.

Unpickling a result runs the user's code and can take long, so it happens on the thread that asks for the result,
once, and never on the loop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from skyward.errors import RemoteError, SerializationError
from skyward.link.pickling import loads

if TYPE_CHECKING:
    from skyward.engine.packing import Code
    from skyward.engine.streams import InFeed, RemoteIterator
    from skyward.link.blobs import Blob
    from skyward.link.modules import Source


class Outcome:
    """A result as it arrived: pickled, and from where."""

    __slots__ = ("data", "raised", "rank", "task", "views")

    def __init__(self, data: bytes, views: Sequence[Any], *, raised: bool, task: str, rank: int) -> None:
        self.data = data
        self.views = views
        self.raised = raised
        self.task = task
        self.rank = rank

    def unpack(self) -> tuple[bool, Any]:
        """Return ``(True, value)`` or ``(False, exception)``."""
        try:
            if not self.views:
                value = loads(self.data)
            elif self.data:
                value = loads(self.data, self.views)
            else:
                value = loads(self.views[0], self.views[1:])
        except Exception as error:
            problem = SerializationError(
                f"the {'exception' if self.raised else 'result'} of {self.task}() on node {self.rank} "
                f"can't be unpickled here: {type(error).__name__}: {error}",
                path="result",
                task=self.task,
                rank=self.rank,
            )
            problem.__cause__ = error
            return False, problem
        if not self.raised:
            return True, value
        return False, as_raised(*value, task=self.task, rank=self.rank)


class RemoteTraceback(Exception):
    """The ``__cause__`` of a remote exception: its traceback as it was printed on the node."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}\n"


def as_raised(
    error: BaseException | None, text: str, description: dict[str, Any], *, task: str, rank: int
) -> BaseException:
    """Make a remote exception ready to be raised here: its type, its traceback as cause, where it came from."""
    if error is None:
        error = _stand_in(description, task, rank)
    if isinstance(error, StopIteration):  # would end the caller's own loops in silence
        error = RemoteError(f"{task}() raised StopIteration", type_name="StopIteration", task=task, rank=rank)
    error.__cause__ = RemoteTraceback(text)
    error.add_note(f"raised by {task}() on node {rank}")
    return error


def _stand_in(description: dict[str, Any], task: str, rank: int) -> RemoteError:
    """Make an exception that reads like the remote one, and is caught like it where its class came along."""
    kind = description.get("class")
    message, name = description["message"], description["type"]
    error: RemoteError | None = None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            both = type(kind.__name__, (RemoteError, kind), {"__module__": kind.__module__})
            error = both.__new__(both)
            RemoteError.__init__(error, message, type_name=name, task=task, rank=rank)
        except TypeError:  # the two can't be one class
            error = None
    if error is None:
        error = RemoteError(f"{name}: {message}", type_name=name, task=task, rank=rank)
    for note in description.get("notes", ()):
        error.add_note(note)
    return error


class TaskFuture(Future[Any]):
    """What the caller holds. Unlike a thread pool's, it can be cancelled until it is done: that reaches the node."""

    def __init__(self) -> None:
        super().__init__()
        self._unpacked: tuple[bool, Any] | None = None
        self._unpack_lock = threading.Lock()
        self._on_cancel: Callable[[], None] | None = None
        self._is_running = False

    def cancel(self) -> bool:
        """Cancel the task, also while it runs. Returns False only when it is done already."""
        if self.done():
            return self.cancelled()
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()
        on_cancel = self._on_cancel
        if on_cancel is not None:
            on_cancel()
        return True

    def note_running(self) -> None:
        self._is_running = True

    def let_go(self) -> None:
        """Forget the task, which is over: the two would be garbage that only the collector can find."""
        self._on_cancel = None

    def running(self) -> bool:
        return self._is_running and not self.done()

    def result(self, timeout: float | None = None) -> Any:
        value = super().result(timeout)
        if not isinstance(value, Outcome):
            return value
        ok, unpacked = self._unpack(value)
        if ok:
            return unpacked
        try:
            raise unpacked
        finally:
            del unpacked, value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        if error is not None:
            return error
        value = super().result(0)
        if not isinstance(value, Outcome):
            return None
        ok, unpacked = self._unpack(value)
        return None if ok else unpacked

    def _unpack(self, outcome: Outcome) -> tuple[bool, Any]:
        with self._unpack_lock:
            if self._unpacked is None:
                self._unpacked = outcome.unpack()
                outcome.data, outcome.views = b"", ()
            return self._unpacked


class Batch:
    """Tasks that a person sees as one thing: a ``map`` or a group. Counted as they end."""

    __slots__ = ("done", "name", "started", "total")

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.total = total
        self.done = 0
        self.started = time.time()


class Task:
    """One task and all the engine knows of it. Touched only by the loop once it was submitted."""

    __slots__ = (
        "attempts", "batch", "blobs", "code", "data", "data_is_blob", "deadline", "done", "extra", "future", "id", "lane",
        "modules", "output", "rank", "started", "streams", "timeout",
    )

    def __init__(self, number: int, code: Code, future: TaskFuture, timeout: float) -> None:
        self.id = number
        self.code = code
        self.future = future
        self.timeout = timeout
        """Seconds it may run; 0: as long as it likes."""
        self.data = b""
        self.data_is_blob = False
        self.blobs: tuple[Blob, ...] = ()
        self.extra: dict[str, Any] | None = None
        self.rank: int | None = None
        """The only node that may run it, or None."""
        self.streams: tuple[InFeed, ...] = ()
        self.output: RemoteIterator | None = None
        self.attempts = 0
        """How often it was lost with its node."""
        self.modules: dict[str, Source] = {}
        self.started = 0.0
        self.deadline = 0.0
        self.lane: Any = None
        self.batch: Batch | None = None
        self.done = False

    @property
    def name(self) -> str:
        return self.code.name

    @property
    def can_retry(self) -> bool:
        """Whether running it again gives the caller the same: not once items have gone in or out."""
        return not self.streams and (self.output is None or not self.output.touched)
