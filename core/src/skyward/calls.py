"""From a pending call to a task that the engine has: packed on the caller's thread.

Iterators among the arguments become feeds; the future of a generator function's call is one of an iterator,
and done at once. Thread-safe.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from skyward.engine.feeds import InFeed
from skyward.engine.streams import Items, RemoteIterator
from skyward.engine.task import Batch, Task, TaskFuture
from skyward.errors import PoolStateError, UsageError
from skyward.function import Function, PendingFunction
from skyward.futures import Callbacks, CallFuture, InheritedFuture
from skyward.link import numbers
from skyward.link.pickling import dumps_small, is_atomic

if TYPE_CHECKING:
    from skyward.engine.loop import LoopThread
    from skyward.engine.packing import Code
    from skyward.engine.pool import PoolEngine
    from skyward.link.modules import Project

type AnyFunction = Function[..., Any, Any]

_STREAMED = frozenset({"Iterator", "Iterable", "Generator"})


class Calls:
    """One pool's way in."""

    def __init__(self, engine: PoolEngine, loop: LoopThread, project: Project) -> None:
        self._engine = engine
        self._loop = loop
        self._project = project
        self._callbacks = Callbacks(loop)
        self._default_timeout = engine.spec.default_compute_timeout
        self._closed = False
        self.inherited: dict[int, InheritedFuture] = {}
        """Of the tasks of a client that is gone, by their numbers."""
        engine.dispatcher.make_heir = self._inherit

    def _inherit(self, number: int, name: str, rank: int) -> InheritedFuture:
        future = self.inherited[number] = InheritedFuture(self._callbacks, name, rank)
        return future

    def submit(
        self,
        pending: PendingFunction[Any],
        *,
        rank: int | None = None,
        place: tuple[int, int] | None = None,
        batch: Batch | None = None,
        code: Code | None = None,
    ) -> CallFuture:
        """Pack a call and hand it to the engine.

        ``rank``: the only node that may run it. ``place``: its index among the tasks of a broadcast, and
        their number. ``code``: its function's, when the caller has it already. Raises PoolStateError, or
        SerializationError naming what can't be sent.
        """
        self._check_open()
        function: AnyFunction = pending.fn
        packer = self._engine.packer
        if code is None:
            code = packer.code(function)
        future = CallFuture(self._callbacks)
        timeout = pending.timeout or self._default_timeout
        task = Task(numbers.take(), code, future, 0.0 if timeout == math.inf else timeout)
        task.rank = rank
        task.batch = batch
        extra: dict[str, Any] = {} if place is None else {"place": place}
        if is_small(pending):
            task.data = dumps_small(pending.args, pending.kwargs)
        else:
            self._pack(task, pending, extra)
        code.tasks.add(task.id)
        future.sent_bytes = len(task.data)
        for blob in task.blobs:
            future.sent_bytes += blob.size
        if function.yields:
            self._receive(task, future, function.name, extra)
        else:
            future.when_cancelled(functools.partial(self._engine.dispatcher.cancel, task))
        task.extra = extra or None
        self._engine.dispatcher.submit(task)
        return future

    def _pack(self, task: Task, pending: PendingFunction[Any], extra: dict[str, Any]) -> None:
        """Pack arguments that are more than a few numbers and strings."""
        function: AnyFunction = pending.fn
        args, kwargs = pending.args, pending.kwargs
        if any(map(_is_iterator, args)) or any(map(_is_iterator, kwargs.values())):
            args, kwargs = self._feed(task, function, args, kwargs, extra)
        try:
            task.data, task.blobs, task.data_is_blob, task.modules = self._engine.packer.arguments(
                args, kwargs, function.name
            )
        except BaseException:
            for feed in task.streams:
                feed.stop()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise PoolStateError(
                f"the pool {self._engine.name!r} is closed: open another with `with sky.Compute(...)`"
            )

    def _receive(self, task: Task, future: CallFuture, name: str, extra: dict[str, Any]) -> None:
        """Have the task stream. The engine must not hold ``future``: that holds what the caller may drop."""
        extra["out"] = True
        task.output = RemoteIterator(name)
        task.future = TaskFuture()
        task.future.set_result(None)
        future.set_result(Items[Any](task.output))

    def _feed(
        self,
        task: Task,
        function: AnyFunction,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        extra: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the iterators among the arguments by streams that the task pulls from."""
        streamed = _streamed_parameters(function)
        places: list[tuple[int | str, int]] = []
        call_args: list[Any] = list(args)
        call_kwargs = dict(kwargs)
        arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for place, value in arguments:
            if not _is_iterator(value) or not (inspect.isgenerator(value) or streamed(place)):
                continue
            try:
                feed = InFeed(value, function.name, self._loop, self._project.is_project_module)
            except UsageError:
                for made in task.streams:
                    made.stop()
                raise
            task.streams += (feed,)
            places.append((place, feed.number))
            if isinstance(place, int):
                call_args[place] = None
            else:
                call_kwargs[place] = None
        if places:
            extra["places"] = places
            extra["streams"] = [feed.number for feed in task.streams]
        return tuple(call_args), call_kwargs

    def submit_all(self, pendings: Iterable[PendingFunction[Any]], batch: Batch | None) -> list[CallFuture]:
        """Submit several calls; all or none."""
        return _all_or_none(lambda pending: self.submit(pending, batch=batch), pendings)

    def submit_each(
        self, function: AnyFunction, items: Iterable[Any], batch: Batch | None
    ) -> list[CallFuture]:
        """Submit one call an item; all or none."""
        return _all_or_none(self.one_of(function, batch), items)

    def one_of(self, function: AnyFunction, batch: Batch | None = None) -> Callable[[Any], CallFuture]:
        """Return what submits ``function(item)``: the function is packed now, once."""
        code = self._engine.packer.code(function)
        timeout = function.timeout
        return lambda item: self.submit(
            PendingFunction(function, (item,), {}, timeout), batch=batch, code=code
        )

    def submit_everywhere(self, pending: PendingFunction[Any]) -> list[CallFuture]:
        """Submit a call once for each node that is ready now, by rank; all or none."""
        self._check_open()
        ranks = [node.rank for node in self._engine.ready_nodes]
        if not ranks:
            raise PoolStateError(f"no node of {self._engine.name!r} is ready at the moment")
        places = [(rank, (index, len(ranks))) for index, rank in enumerate(ranks)]
        return _all_or_none(lambda at: self.submit(pending, rank=at[0], place=at[1]), places)

    def close(self) -> None:
        """Take no more."""
        self._closed = True

    def end_callbacks(self) -> None:
        """Let the callbacks of all futures, which are done, run to their end."""
        self._callbacks.close()


def _all_or_none[A](submit: Callable[[A], CallFuture], items: Iterable[A]) -> list[CallFuture]:
    futures: list[CallFuture] = []
    try:
        for item in items:
            futures.append(submit(item))  # noqa: PERF401  (what was submitted must be known when one fails)
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return futures


def checked[T](pending: PendingFunction[T]) -> PendingFunction[T]:
    """Return ``pending``, or say what is no pending call."""
    given: Any = pending
    if isinstance(given, PendingFunction):
        return pending
    if isinstance(given, Function):
        raise UsageError(f"call it first: {given!r} makes the pending call that a pool runs")
    raise UsageError(f"a pool runs pending calls, such as train(data) of a @sky.function; not {given!r}")


def check_group(group: object, kind: type, takes: str) -> None:
    """Say what is no such group of calls."""
    if not isinstance(group, kind):
        raise UsageError(f"{takes}, not {group!r}")


def as_function(fn: Any) -> AnyFunction:
    """Return ``fn`` decorated, if it is not already."""
    return cast("AnyFunction", fn) if isinstance(fn, Function) else Function(fn)


def is_small(pending: PendingFunction[Any]) -> bool:
    """Whether the arguments are packed in no time worth mentioning."""
    return all(map(is_atomic, pending.args)) and all(map(is_atomic, pending.kwargs.values()))


def _is_iterator(value: object) -> bool:
    return hasattr(type(value), "__next__")


def _streamed_parameters(function: AnyFunction) -> Callable[[int | str], bool]:
    """Tell which parameters, by position or name, are annotated as iterators. Nothing is evaluated."""
    try:
        parameters = list(inspect.signature(function.body).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    by_name = {parameter.name: parameter for parameter in parameters}
    rest = {parameter.kind: parameter for parameter in parameters}

    def is_streamed(place: int | str) -> bool:
        if isinstance(place, str):
            parameter = by_name.get(place) or rest.get(inspect.Parameter.VAR_KEYWORD)
        elif place < len(parameters) and parameters[place].kind in _POSITIONAL:
            parameter = parameters[place]
        else:
            parameter = rest.get(inspect.Parameter.VAR_POSITIONAL)
        return parameter is not None and _is_streamed(parameter.annotation)

    return is_streamed


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _is_streamed(annotation: Any) -> bool:
    """Whether an annotation, a string or not, is ``Iterator``, ``Iterable`` or ``Generator`` of anything."""
    written = (
        annotation if isinstance(annotation, str) else str(getattr(annotation, "__origin__", annotation))
    )
    head = written.strip().removesuffix("'>").partition("[")[0]
    return head.rpartition(".")[2] in _STREAMED
