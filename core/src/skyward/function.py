"""What a user writes: decorated functions, the calls they make, and the operators that send those somewhere.

A decorated function called on the client runs nothing: it returns a frozen ``PendingFunction``. Inside a task
(and under ``.local``) there is nothing to send a call to, so there it simply runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    Never,
    Self,
    TypeGuard,
    TypeVar,
    TypeVarTuple,
    cast,
    overload,
)

from skyward.active import sky
from skyward.errors import ConfigError, UsageError
from skyward.runtime import current_task, inside_task
from skyward.targets import Target, resolve

__all__ = ["Function", "PendingFunction", "PendingFunctionGroup", "StreamGroup", "function", "gather", "sky"]


class Function[**P, T, R]:
    """A decorated function. ``P``: its parameters, ``T``: what a task returns, ``R``: what a call returns.

    ``T`` and ``R`` differ for coroutine functions: the task returns what they return when awaited.
    """

    _skyward_decorated = True
    """Tells the pickler, which knows nothing of this module, that the plain function is ``_skyward_body``."""

    __name__: str
    __qualname__: str

    def __init__(self, body: Callable[P, R], timeout: float | None = None) -> None:
        self.become(body, timeout)

    def become(self, body: Callable[P, R], timeout: float | None) -> None:
        """Take a body and a timeout. For unpickling, where the object is there before its body."""
        if _is_pending(body):
            raise UsageError(f"give the function itself, not a call of it: {body.fn.name}, without (...)")
        if not callable(body) or isinstance(body, type):
            raise UsageError(f"@sky.function decorates a function, not {body!r}")
        self._skyward_body = body
        self.timeout = _checked_timeout(timeout)
        functools.update_wrapper(self, body, updated=())

    @property
    def name(self) -> str:
        """The function's name, as errors and consoles show it."""
        body: Any = self._skyward_body
        return getattr(body, "__name__", None) or type(body).__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> PendingFunction[T]:
        """Make a pending call. Inside a task: run it, and return its value."""
        if inside_task():
            return cast("PendingFunction[T]", self._skyward_body(*args, **kwargs))
        return PendingFunction(self, args, kwargs, self.timeout)

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the plain function here, now."""
        token = current_task.set(self.name)
        try:
            return self._skyward_body(*args, **kwargs)
        finally:
            current_task.reset(token)

    def wrap_body(self, decorator: Callable[[Callable[P, R]], Callable[P, R]]) -> Function[P, T, R]:
        """Return this function with its body decorated, so that other decorators can stand above this one."""
        return Function[P, T, R](decorator(self._skyward_body), self.timeout)

    @property
    def body(self) -> Callable[P, R]:
        """The plain function."""
        return self._skyward_body

    @functools.cached_property
    def yields(self) -> bool:
        """Whether it is a generator function: its calls stream."""
        import inspect

        body = inspect.unwrap(self._skyward_body)
        return inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__[S, **Q, U, V](
        self: Function[Concatenate[S, Q], U, V], instance: S, owner: type | None = None
    ) -> Function[Q, U, V]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind like a plain function, so that methods can be decorated."""
        if instance is None:
            return self
        bind = getattr(self._skyward_body, "__get__")  # noqa: B009  (a Callable need not have one)
        return Function[..., Any, Any](bind(instance, owner), self.timeout)

    def _not_called(self, other: Never) -> Never:
        raise UsageError(
            f"call it first: `{self.name}(...) >> pool`; a function that was not called is no task"
        )

    __rshift__ = __gt__ = __matmul__ = __and__ = _not_called

    # The body is set after the object exists, because it may refer to it: recursion, through its global name.
    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_function, (), (self._skyward_body, self.timeout), None, None, _restore_function

    def __repr__(self) -> str:
        return f"<sky.function {self.name}>"


def _empty_function() -> Function[..., Any, Any]:
    return cast("Any", Function).__new__(Function)  # type: ignore[no-any-return]


def _restore_function(made: Function[..., Any, Any], state: tuple[Callable[..., Any], float | None]) -> None:
    made.become(*state)


def _checked_timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise UsageError(f"timeout is a number of seconds, not {timeout!r}: sky.time.minutes(10) is one")
    if not timeout > 0:
        raise ConfigError(f"timeout must be above 0 seconds, not {timeout!r}")
    return float(timeout)


# Declared, because it would not be inferred from methods that return lists and futures. A call of a function
# that returns an int may stand where one is wanted that returns an int or a str: nothing can be put into it.
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
Us = TypeVarTuple("Us")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PendingFunction(Generic[T_co]):  # noqa: UP046  (see T_co)
    """A call that has not been sent anywhere. ``timeout``: seconds it may run; None: the pool's default."""

    fn: Function[..., T_co, Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    timeout: float | None = None

    def with_timeout(self, seconds: float) -> PendingFunction[T_co]:
        """Return the same call with another limit on how long it may run."""
        return dataclasses.replace(self, timeout=_checked_timeout(seconds))

    def __rshift__(self, target: Target) -> T_co:
        """Run on one node and return the value. Raises what the function raised."""
        return resolve(target).run(self)

    def __gt__(self, target: Target) -> Future[T_co]:
        """Run on one node, without waiting. Don't chain: Python reads ``a > b > c`` as two comparisons."""
        return resolve(target).run_async(self)

    def __matmul__(self, target: Target) -> list[T_co]:
        """Run on every ready node and return the values by node index."""
        return resolve(target).broadcast(self)

    @overload
    def __and__(self, other: PendingFunction[U]) -> PendingFunctionGroup[T_co, U]: ...
    @overload
    def __and__(self, other: PendingFunctionGroup[*Us]) -> PendingFunctionGroup[T_co, *Us]: ...
    def __and__(self, other: Any) -> Any:
        """Group with another call, to run in parallel: ``(a & b) >> pool``."""
        if isinstance(other, PendingFunctionGroup):
            return PendingFunctionGroup[*tuple[Any, ...]]((self, *other.items))
        return PendingFunctionGroup[*tuple[Any, ...]]((self, _member(other)))

    def __reduce__(self) -> Any:
        raise UsageError(
            f"{self.fn.name}(...) has not run, so it can't be sent: send it first and pass on its value"
        )

    # Never: to type checkers no argument is right, so that they report what raises here.
    def __lt__(self, other: Never) -> Never:
        raise UsageError(f"write `{self.fn.name}(...) > pool`: the call on the left, the pool on the right")

    def __bool__(self) -> bool:
        raise UsageError(
            f"{self.fn.name}(...) has not run, so it is neither true nor false: send it first, "
            f"`{self.fn.name}(...) >> pool` (a chain such as `a > b > c` is two comparisons in Python)"
        )

    def __repr__(self) -> str:
        return f"<pending {self.fn.name}(...): send it with `>> pool`>"


class _Group:
    """Several calls: they go to a pool with ``>>`` only."""

    __slots__ = ("items",)

    def __init__(self, items: tuple[PendingFunction[Any], ...]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[PendingFunction[Any]]:
        return iter(self.items)

    def __gt__(self, target: Never) -> Never:
        raise UsageError("a group goes to a pool with `>>`: `(a & b) >> pool`; `>` takes a single call")

    def __matmul__(self, target: Never) -> Never:
        raise UsageError("a group goes to a pool with `>>`: `(a & b) >> pool`; `@` takes a single call")

    def __bool__(self) -> bool:
        raise UsageError(
            "a group has not run, so it is neither true nor false: send it first, `(a & b) >> pool`"
        )

    def __repr__(self) -> str:
        return f"<group of {len(self.items)} pending calls: send it with `>> pool`>"


class PendingFunctionGroup[*Ts](_Group):
    """Calls to run in parallel; ``>>`` returns a tuple of their values, in order. Immutable."""

    __slots__ = ()

    @overload
    def __and__[U](self, other: PendingFunction[U]) -> PendingFunctionGroup[*Ts, U]: ...
    @overload
    def __and__(
        self, other: PendingFunctionGroup[*tuple[Any, ...]]
    ) -> PendingFunctionGroup[*tuple[Any, ...]]: ...
    def __and__(self, other: Any) -> Any:
        if isinstance(other, PendingFunctionGroup):
            return PendingFunctionGroup[*tuple[Any, ...]]((*self.items, *other.items))
        return PendingFunctionGroup[*tuple[Any, ...]]((*self.items, _member(other)))

    def __rshift__(self, target: Target) -> tuple[*Ts]:
        """Run all in parallel and return their values. The first failure is raised, and cancels the rest."""
        return resolve(target).run_parallel(self)

    def with_timeout(self, seconds: float) -> PendingFunctionGroup[*Ts]:
        """Return the group with another limit on how long each call may run."""
        return PendingFunctionGroup(tuple(item.with_timeout(seconds) for item in self.items))


class StreamGroup[T](_Group):
    """A group whose values are yielded as they come: what ``gather(..., stream=True)`` returns."""

    __slots__ = ("ordered",)

    def __init__(self, items: tuple[PendingFunction[T], ...], ordered: bool) -> None:
        super().__init__(items)
        self.ordered = ordered

    def __rshift__(self, target: Target) -> Iterator[T]:
        """Run all in parallel; iterate over their values in submission order, or as they complete."""
        return resolve(target).run_stream(self)

    def with_timeout(self, seconds: float) -> StreamGroup[T]:
        """Return the group with another limit on how long each call may run."""
        return StreamGroup(tuple(item.with_timeout(seconds) for item in self.items), self.ordered)


def _is_pending(value: object) -> TypeGuard[PendingFunction[Any]]:
    return isinstance(value, PendingFunction)


def _member(other: object) -> PendingFunction[Any]:
    if _is_pending(other):
        return other
    if isinstance(other, (Function, StreamGroup)):
        raise UsageError(f"`&` groups calls, not {other!r}: call the function first")
    raise UsageError(
        f"`&` groups calls that have not run, and one side is already a value ({type(other).__name__}): "
        "Python binds `>>` tighter than `&`, so write `(a & b) >> pool`"
    )


# One overload an arity, because a variadic type can't be taken out of its PendingFunction; each on one line,
# to be read as a table. More calls than these are typed by what they have in common.


# fmt: off
@overload
def gather[A](a: PendingFunction[A], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A]: ...  # noqa: E501
@overload
def gather[A, B](a: PendingFunction[A], b: PendingFunction[B], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B]: ...  # noqa: E501
@overload
def gather[A, B, C](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B, C]: ...  # noqa: E501
@overload
def gather[A, B, C, D](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B, C, D]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B, C, D, E]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E, F](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], f: PendingFunction[F], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B, C, D, E, F]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E, F, G](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], f: PendingFunction[F], g: PendingFunction[G], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B, C, D, E, F, G]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E, F, G, H](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], f: PendingFunction[F], g: PendingFunction[G], h: PendingFunction[H], /, *, stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[A, B, C, D, E, F, G, H]: ...  # noqa: E501
@overload
def gather[T](*pendings: PendingFunction[T], stream: Literal[False] = False, ordered: bool = True) -> PendingFunctionGroup[*tuple[T, ...]]: ...  # noqa: E501
@overload
def gather[A, B](a: PendingFunction[A], b: PendingFunction[B], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B]: ...  # noqa: E501
@overload
def gather[A, B, C](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B | C]: ...  # noqa: E501
@overload
def gather[A, B, C, D](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B | C | D]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B | C | D | E]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E, F](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], f: PendingFunction[F], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B | C | D | E | F]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E, F, G](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], f: PendingFunction[F], g: PendingFunction[G], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B | C | D | E | F | G]: ...  # noqa: E501
@overload
def gather[A, B, C, D, E, F, G, H](a: PendingFunction[A], b: PendingFunction[B], c: PendingFunction[C], d: PendingFunction[D], e: PendingFunction[E], f: PendingFunction[F], g: PendingFunction[G], h: PendingFunction[H], /, *, stream: Literal[True], ordered: bool = True) -> StreamGroup[A | B | C | D | E | F | G | H]: ...  # noqa: E501
@overload
def gather[T](*pendings: PendingFunction[T], stream: Literal[True], ordered: bool = True) -> StreamGroup[T]: ...  # noqa: E501
# fmt: on
def gather(*pendings: Any, stream: bool = False, ordered: bool = True) -> Any:
    """Group calls to run in parallel; the same as ``a & b & c``.

    ``stream=True``: ``>>`` returns an iterator at once, in submission order, or in order of completion with
    ``ordered=False``.
    """
    items = tuple(_member(pending) for pending in pendings)
    if not items:
        raise UsageError("sky.gather() needs at least one pending call")
    return StreamGroup(items, ordered) if stream else PendingFunctionGroup[*tuple[Any, ...]](items)


class _Decorator:
    """What ``@sky.function(timeout=...)`` returns; typed for each kind of function."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = _checked_timeout(timeout)

    @overload
    def __call__[**P, T](
        self, fn: Callable[P, Coroutine[Any, Any, T]]
    ) -> Function[P, T, Coroutine[Any, Any, T]]: ...
    @overload
    def __call__[**P, T](
        self, fn: Callable[P, AsyncIterator[T]]
    ) -> Function[P, Iterator[T], AsyncIterator[T]]: ...
    @overload
    def __call__[**P, T](self, fn: Callable[P, T]) -> Function[P, T, T]: ...
    def __call__(self, fn: Any) -> Any:
        return Function[..., Any, Any](fn, self._timeout)


@overload
def function[**P, T](fn: Callable[P, Coroutine[Any, Any, T]]) -> Function[P, T, Coroutine[Any, Any, T]]: ...
@overload
def function[**P, T](fn: Callable[P, AsyncIterator[T]]) -> Function[P, Iterator[T], AsyncIterator[T]]: ...
@overload
def function[**P, T](fn: Callable[P, T]) -> Function[P, T, T]: ...
@overload
def function(*, timeout: float | None = None) -> _Decorator: ...
def function(fn: Any = None, *, timeout: float | None = None) -> Any:
    """Mark a function for remote execution: calling it then returns a ``PendingFunction`` and runs nothing.

    ``timeout``: seconds one call may run; None: the pool's ``default_compute_timeout``. Generator functions
    stream their items; coroutine functions run on the worker's event loop.
    """
    if fn is None:
        return _Decorator(timeout)
    if isinstance(fn, Function):
        raise UsageError(f"{fn!r} is decorated already")
    return Function[..., Any, Any](fn, timeout)
