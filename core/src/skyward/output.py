"""What a task prints: whole lines on their way to the client, and who may print at all.

On a node, `sys.stdout` and `sys.stderr` are each a `TaskStream`, which cuts what is printed into lines and
hands them on. `stdout`, `stderr`, `silent` and `redirect_output` decide, for the context they are used in,
where that goes instead. On the client, where no `TaskStream` is installed, they put a `_Router` in front of
the stream there is for as long as it is needed, and other threads print through it as before.

Invariants: what one `print` writes never mixes with what another thread or task writes; a filter holds for
its task's whole body, generators included, and for no other task; printing never waits for a lock of ours.

Bounds: what does not go through `sys.stdout` or `sys.stderr` (child processes, C code; on the client also a
stream object fetched before the filter was entered) is not filtered. A thread that a task starts by itself
has an empty context, unless Python was told to pass it on (3.14's ``-X thread_inherit_context=1``), so it
prints unfiltered and under no task's name; `asyncio.to_thread` and `contextvars.copy_context().run` do
carry the context along.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import skyward.runtime as runtime
from skyward.errors import ConfigError, UsageError
from skyward.lines import LineWriter

if TYPE_CHECKING:
    from skyward.runtime import InstanceInfo

__all__ = ["CallbackWriter", "OutputFilter", "TaskStream", "redirect_output", "silent", "stderr", "stdout"]

type StreamName = Literal["stdout", "stderr"]
type Only = Literal["head"] | Callable[[InstanceInfo], bool]


class _Nowhere(LineWriter):
    """Where suppressed output goes."""

    def __init__(self) -> None:
        super().__init__(lambda line, overwrite: None)

    def write(self, text: str, /) -> int:
        return len(text)

    def flush(self) -> None:
        pass


_NOWHERE = _Nowhere()

_SINKS: dict[str, ContextVar[LineWriter | None]] = {
    "stdout": ContextVar("skyward_stdout", default=None),
    "stderr": ContextVar("skyward_stderr", default=None),
}
"""Where each stream's output goes in this context; ``None``: where it always goes."""


class TaskStream(LineWriter):
    """A worker's `sys.stdout` or `sys.stderr`: hands each line to ``emit`` in the context that printed it.

    ``emit(line, overwrite)`` is called by the printing thread, so it must be quick, and may read
    `runtime.current_task`. See `LineWriter` for when it is called. ``fileno`` is the descriptor that child
    processes inherit. Installed by the node's worker for the life of its process, hence never closed.
    """

    def __init__(self, stream_name: StreamName, emit: Callable[[str, bool], None], fileno: int) -> None:
        super().__init__(emit)
        self.name = f"<{stream_name}>"
        self._fileno = fileno
        self._sink = _SINKS[stream_name]

    def write(self, text: str, /) -> int:
        sink = self._sink.get()
        if sink is not None:
            return sink.write(text)
        return LineWriter.write(self, text)

    def flush(self) -> None:
        sink = self._sink.get()
        if sink is not None:
            sink.flush()
        else:
            LineWriter.flush(self)

    def fileno(self) -> int:
        return self._fileno


class CallbackWriter(LineWriter):
    """Calls ``callback`` with each line, without its end; what a carriage return wrote over is not a line.

    While the callback runs, its own output goes where it would go without this redirection.
    """

    def __init__(self, callback: Callable[[str], object]) -> None:
        super().__init__(self._deliver)
        self._callback = callback
        self._outside: dict[str, LineWriter | None] = {name: sink.get() for name, sink in _SINKS.items()}

    def _deliver(self, line: str, overwrite: bool) -> None:
        if overwrite:
            return
        with _Scope(self._outside):
            self._callback(line)


class _Router:
    """Stands before a stream of the client's and sends what a redirected context writes to its sink."""

    def __init__(self, inner: Any, name: str) -> None:
        self.inner = inner
        self.users = 0
        self._sink = _SINKS[name]

    def write(self, text: str, /) -> int:
        return cast("int", (self._sink.get() or self.inner).write(text))

    def writelines(self, lines: Iterable[str], /) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        (self._sink.get() or self.inner).flush()

    @property
    def buffer(self) -> Any:
        return (self._sink.get() or self.inner).buffer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


_routers = threading.Lock()


def _route(name: str) -> _Router | None:
    """Make sure that ``sys.<name>`` asks the context. The router, if one is needed, must be given back."""
    with _routers:
        stream: object = getattr(sys, name)
        if stream is None or isinstance(stream, TaskStream):
            return None
        router = stream if isinstance(stream, _Router) else _Router(stream, name)
        router.users += 1
        setattr(sys, name, router)
        return router


def _unroute(name: str, router: _Router) -> None:
    with _routers:
        router.users -= 1
        # Somebody may have put another stream in front meanwhile. Then ours stays behind it: without a sink
        # in the context it changes nothing.
        if router.users == 0 and getattr(sys, name) is router:
            setattr(sys, name, router.inner)


class _Scope:
    """While entered, this context's streams go to the given sinks. May be entered again after it was left."""

    __slots__ = ("_entered", "_sinks")

    def __init__(self, sinks: Mapping[str, LineWriter | None]) -> None:
        self._sinks = sinks
        self._entered: list[tuple[str, Token[LineWriter | None], _Router | None]] = []

    def __enter__(self) -> None:
        for name, sink in self._sinks.items():
            router = _route(name)
            self._entered.append((name, _SINKS[name].set(sink), router))

    def __exit__(self, *_: object) -> None:
        while self._entered:
            name, token, router = self._entered.pop()
            try:
                _SINKS[name].reset(token)
            except ValueError:
                # A generator of the user's holds the redirection and is closed in another context than it was
                # started in. That context has ended, and its sinks with it.
                pass
            if router is not None:
                _unroute(name, router)


@dataclass(frozen=True, slots=True)
class OutputFilter:
    """A decorator that lets a task's output through on some workers only; ``only=None``: on none.

    Works above ``@sky.function``, where it wraps the function's body, and below it. Asked once a call, when
    the body begins. On this machine (``.local``) a call counts as running on node 0 of 1.
    """

    streams: tuple[StreamName, ...]
    only: Only | None

    def __call__[F: Callable[..., Any]](self, fn: F, /) -> F:
        wrap_body: Any = getattr(fn, "wrap_body", None)
        if wrap_body is not None:
            return cast("F", wrap_body(self))
        if not callable(fn):
            raise UsageError(
                f"an output filter decorates a function, not {type(fn).__name__}: "
                "write @sky.stdout(only='head'), or @sky.silent without parentheses"
            )
        return cast("F", self._wrap(fn))

    def _wrap(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(fn):
            return _filtered_async_generator(fn, self)
        if inspect.isgeneratorfunction(fn):
            return _filtered_generator(fn, self)
        if inspect.iscoroutinefunction(fn):
            return _filtered_coroutine(fn, self)
        return _filtered_call(fn, self)

    def scope(self) -> _Scope:
        """What to enter around the body, or each step of it, on this worker."""
        return _Scope({} if self._passes() else dict.fromkeys(self.streams, _NOWHERE))

    def _passes(self) -> bool:
        if self.only is None:
            return False
        facts = runtime.facts()
        if self.only == "head":
            return facts is None or not (runtime.number(facts, "node") or runtime.number(facts, "worker", 0))
        if facts is not None:
            return bool(self.only(runtime.instance_info()))
        from skyward.runtime_models import InstanceInfo

        return bool(self.only(InstanceInfo(node=0, total_nodes=1)))


def stdout(only: Only) -> OutputFilter:
    """Let the decorated function's standard output through on some workers only.

    only: ``"head"``, or a predicate of the worker's `InstanceInfo`. Raises `ConfigError` for anything else.
    """
    return OutputFilter(("stdout",), _checked(only, "stdout"))


def stderr(only: Only) -> OutputFilter:
    """Let the decorated function's standard error through on some workers only; see `stdout`."""
    return OutputFilter(("stderr",), _checked(only, "stderr"))


def silent[F: Callable[..., Any]](fn: F, /) -> F:
    """Let nothing through that the decorated function prints, on any worker. Used without parentheses."""
    return OutputFilter(("stdout", "stderr"), None)(fn)


@contextmanager
def redirect_output(
    callback: Callable[[str], object],
) -> Generator[tuple[CallbackWriter, CallbackWriter], None, None]:
    """Call ``callback`` with every line that this context prints, instead of printing it.

    Yields the writers of standard output and standard error; each line comes without its end, and a last one
    that has none comes on exit. Other tasks and threads are not touched.
    """
    writers = CallbackWriter(callback), CallbackWriter(callback)
    with _Scope({"stdout": writers[0], "stderr": writers[1]}):
        try:
            yield writers
        finally:
            for writer in writers:
                writer.finish(everything=True)


def _checked(only: object, name: str) -> Only:
    if only == "head" or (callable(only) and not hasattr(only, "wrap_body")):
        return cast("Only", only)
    raise ConfigError(
        f"sky.{name}(only=...) takes 'head' or a function of InstanceInfo, not {only!r}: "
        f"for example sky.{name}(only=lambda info: info.node < 2)"
    )


# Wrappers travel to the node by value, so they may name only functions and classes of this module.


def _filtered_call(fn: Callable[..., Any], spec: OutputFilter) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with spec.scope():
            return fn(*args, **kwargs)

    return wrapper


def _filtered_coroutine(fn: Callable[..., Awaitable[Any]], spec: OutputFilter) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with spec.scope():
            return await fn(*args, **kwargs)

    return wrapper


def _filtered_generator(
    fn: Callable[..., Generator[Any, Any, Any]], spec: OutputFilter
) -> Callable[..., Generator[Any, Any, Any]]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from _steps(fn(*args, **kwargs), spec.scope()))

    return wrapper


def _steps(body: Generator[Any, Any, Any], scope: _Scope) -> Generator[Any, Any, Any]:
    """Run ``body`` with the scope entered in each step only: between them, its consumer prints freely."""
    step: Callable[[], Any] = functools.partial(next, body)
    while True:
        try:
            with scope:
                item = step()
        except StopIteration as end:
            return end.value
        try:
            step = functools.partial(body.send, (yield item))
        except GeneratorExit:
            with scope:
                body.close()
            raise
        except BaseException as error:
            step = functools.partial(body.throw, error)


def _filtered_async_generator(
    fn: Callable[..., AsyncGenerator[Any, Any]], spec: OutputFilter
) -> Callable[..., AsyncGenerator[Any, Any]]:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body, scope = fn(*args, **kwargs), spec.scope()
        step: Callable[[], Awaitable[Any]] = functools.partial(anext, body)
        while True:
            try:
                with scope:
                    item = await step()
            except StopAsyncIteration:
                return
            try:
                step = functools.partial(body.asend, (yield item))
            except GeneratorExit:
                with scope:
                    await body.aclose()
                raise
            except BaseException as error:
                step = functools.partial(body.athrow, error)

    return wrapper
