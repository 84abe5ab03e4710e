"""A task on the client: what is sent, what the caller holds, and how an outcome becomes a value.

Unpickling a result runs the user's code and can take long, so it happens on the thread that asks for the
result, once, and never on the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any

from skyward.errors import RemoteError, SerializationError, TaskError
from skyward.link.identity import bare_exception
from skyward.link.pickling import loads

if TYPE_CHECKING:
    from skyward.engine.feeds import InFeed
    from skyward.engine.packing import Code
    from skyward.engine.streams import RemoteIterator
    from skyward.link.blobs import Blob
    from skyward.link.modules import Source


LOCK_PATIENCE = 0.02
"""Seconds the loop waits for a future's lock, which nobody holds for longer than a few instructions."""


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

    __module__ = "skyward"  # this is how it is printed

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}\n"


def as_raised(
    text: str,
    description: dict[str, Any],
    exceptions: Sequence[bytes | None],
    classes: Sequence[bytes | None],
    *,
    task: str,
    rank: int,
) -> BaseException:
    """Make a remote exception ready to be raised here: its type, where it came from, its causes.

    Its traceback on the node is the cause of the last of them. Arguments: see ``pickle_failure`` of the node.
    An exception that can't be loaded here gets a stand-in. ``SystemExit`` and ``KeyboardInterrupt`` are
    exceptions like any other: a task that calls ``sys.exit(3)`` ends the script that waits for it, as it
    would have here.
    """
    error, *causes = map(_load_exception, exceptions)
    if error is None:
        error = _stand_in(description, classes, task, rank)
    elif isinstance(error, StopIteration):  # would end the caller's own loops in silence
        error = RemoteError(f"{task}() raised StopIteration", type_name="StopIteration", task=task, rank=rank)
    last = error
    for cause in causes:
        if cause is None:
            break
        last.__cause__ = cause
        last = cause
    if text:
        last.__cause__ = RemoteTraceback(text)
    if isinstance(error, TaskError) and error.rank is None:
        error.rank = rank
    error.add_note(f"raised by {task}() on node {rank}")
    return error


def _load_exception(data: bytes | None) -> BaseException | None:
    if data is None:
        return None
    try:
        error = loads(data)
    except Exception:
        return None
    return error if isinstance(error, BaseException) else None


def _stand_in(
    description: dict[str, Any], classes: Sequence[bytes | None], task: str, rank: int
) -> RemoteError:
    """Make an exception that reads like the remote one, and is caught like it where a class is known."""
    message, name = description["message"], description["type"]
    for data in classes:
        error = _of_both(data, message, name, task, rank)
        if error is not None:
            break
    else:
        error = RemoteError(f"{name}: {message}", type_name=name, task=task, rank=rank)
    for note in description["notes"]:
        error.add_note(note)
    return error


def _of_both(data: bytes | None, message: str, name: str, task: str, rank: int) -> RemoteError | None:
    """Make a RemoteError that is also of the pickled class; None where that can't be."""
    try:
        kind = loads(data) if data is not None else None
        if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, StopIteration):
            return None
        module, _, short = name.rpartition(".")
        both = type(short, (RemoteError, kind), {"__module__": module or "builtins", "__str__": _text})
        error: RemoteError = bare_exception(both)
        error.args = (message,)  # not through __init__, which would call that of the remote class
        error.type_name, error.task, error.rank = name, task, rank
    except Exception:
        return None
    return error


def _text(error: BaseException) -> str:
    """The text of a stand-in: that of the remote exception, whatever its class would say."""
    return str(error.args[0])


class TaskFuture(Future[Any]):
    """What the caller holds. It can be cancelled until it is done: that reaches the node."""

    def __init__(self) -> None:
        super().__init__()
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

    def settle(self, outcome: Outcome | None, error: BaseException | None) -> bool:
        """Take the outcome, unless there is one. Returns False if the lock can't be had within a moment."""
        if not self._condition.acquire(timeout=LOCK_PATIENCE):
            return False
        try:
            if self._state not in (PENDING, RUNNING):
                pass
            elif error is not None:
                self.set_exception(error)
            else:
                self.set_result(outcome)
        finally:
            self._condition.release()
        return True

    @property
    def was_cancelled(self) -> bool:
        """Whether the holder has cancelled it; asks for no lock."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def when_cancelled(self, reach: Callable[[], None]) -> None:
        """Have ``cancel`` call ``reach``, which takes it to the task."""
        self._on_cancel = reach

    def note_running(self) -> None:
        self._is_running = True

    def let_go(self) -> None:
        """Forget the task, which is over: the two would be garbage that only the collector can find."""
        self._on_cancel = None

    def running(self) -> bool:
        return self._is_running and not self.done()


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
        "attempts",
        "batch",
        "blobs",
        "code",
        "data",
        "data_is_blob",
        "deadline",
        "done",
        "extra",
        "future",
        "id",
        "inherited",
        "lane",
        "modules",
        "output",
        "rank",
        "started",
        "streams",
        "timeout",
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
        self.inherited = False
        """Whether another client had submitted it: only its lane has it, and nobody can run it again."""
        self.batch: Batch | None = None
        self.done = False

    @property
    def name(self) -> str:
        return self.code.name

    @property
    def can_retry(self) -> bool:
        """Whether running it again gives the caller the same: not once items have gone in or out."""
        return not self.inherited and not self.streams and (self.output is None or not self.output.touched)
