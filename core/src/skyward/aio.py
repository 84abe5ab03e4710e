"""Pools for coroutines: ``async with sky.aio.Compute(...) as pool:`` and ``await pool.run(task(...))``.

The running loop is never blocked: opening, closing, packing of what may be large and unpickling of what is
large happen in a few threads of the pool's own, everything else is quick. Cancelling what awaits a task
reaches the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast, overload
from weakref import WeakSet

from skyward import pool as threaded
from skyward.active import activate, deactivate
from skyward.awaiting import FEW, Awaiting, as_completed
from skyward.calls import as_function, check_group, checked, is_small
from skyward.errors import PoolStateError, UsageError
from skyward.function import Function, PendingFunction, PendingFunctionGroup, StreamGroup
from skyward.lifetime import AttachKwargs, Lifetime
from skyward.opening import PoolKwargs, plan
from skyward.waiting import FAILURE_GRACE, MapWindow, cancel, settled_nodes

if TYPE_CHECKING:
    from contextvars import Token
    from os import PathLike
    from types import TracebackType

    from skyward.engine.streams import Items
    from skyward.events import Log
    from skyward.forwards import Forward
    from skyward.futures import CallFuture, InheritedFuture
    from skyward.options import Options
    from skyward.pool import NodeTarget
    from skyward.snapshot import NodeSnapshot, PoolSnapshot
    from skyward.spec import NodeSpec, Spec
    from skyward.timing import Timing
    from skyward.transfers import Transfer


FILL_SECONDS = 0.001
"""How long a streamed map takes items although a value is there: one thread hop is for several of them."""


class Compute:
    """Open a pool for an ``async with`` block. Arguments as for ``sky.Compute``; mistakes raise on entry.

    Inside the block ``sky`` means this pool too, for code that runs in threads (``asyncio.to_thread``).
    """

    def __init__(
        self,
        *specs: Spec,
        name: str | None = None,
        options: Options | None = None,
        **fields: Unpack[PoolKwargs],
    ) -> None:
        arguments = (specs, name, options, cast("dict[str, Any]", fields))
        self._make: Callable[[], Lifetime] = lambda: Lifetime(plan(*arguments))
        self._lifetime: Lifetime | None = None
        self._awaiting: Awaiting | None = None
        self._token: Token[threaded.Pool | None] | None = None

    @classmethod
    def attach(cls, name: str, **options: Unpack[AttachKwargs]) -> Self:
        """Have a pool again whose process was killed, as ``sky.Compute.attach``; mistakes raise on entry."""
        compute = cls()
        compute._make = lambda: Lifetime.attached(name, options)
        return compute

    async def __aenter__(self) -> Pool:
        if self._awaiting is not None:
            raise PoolStateError("this sky.aio.Compute is open already; make another for another pool")
        awaiting = self._awaiting = Awaiting()
        try:
            await awaiting.to_its_end(self._begin)
            lifetime = self._lifetime
            assert lifetime is not None
            pool = threaded.Pool(lifetime)
            lifetime.guard()
            await awaiting.to_its_end(functools.partial(lifetime.report, pool))
            await asyncio.wrap_future(lifetime.provision())
            await awaiting.to_its_end(functools.partial(lifetime.enter, pool))
        except BaseException:
            await self._close(drain=False)
            raise
        self._token = activate(pool)
        return Pool(pool, lifetime, awaiting)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token, self._token = self._token, None
        if token is not None:
            deactivate(token)
        await self._close(drain=error is None)

    def _begin(self) -> None:
        self._lifetime = self._make()

    async def _close(self, *, drain: bool) -> None:
        lifetime, self._lifetime = self._lifetime, None
        awaiting, self._awaiting = self._awaiting, None
        assert awaiting is not None
        try:
            if lifetime is not None:
                await awaiting.to_its_end(functools.partial(lifetime.close, drain=drain), lifetime.hurry)
        finally:
            await awaiting.end()


class Pool:
    """An open pool, for the coroutines of one event loop. ``pool.sync`` is the same one, for threads."""

    def __init__(self, pool: threaded.Pool, lifetime: Lifetime, awaiting: Awaiting) -> None:
        self.sync = pool
        self._calls = lifetime.calls
        self._awaiting = awaiting
        self._seen: WeakSet[Function[..., Any, Any]] = WeakSet()
        self._tasks: set[asyncio.Task[Any]] = set()

    # tasks

    async def run[T](self, pending: PendingFunction[T], *, target: NodeTarget = None) -> T:
        """Run on one node and return the value, as ``Pool.run`` does. A generator's items: see ``stream``."""
        checked(pending)
        rank = self.sync.rank_of(target)
        (future,) = await self._submitted(lambda: [self._calls.submit(pending, rank=rank)], [pending])
        value: T = await self._awaiting.value(future)
        return value

    def run_async[T](self, pending: PendingFunction[T], *, target: NodeTarget = None) -> asyncio.Task[T]:
        """Run on one node without awaiting. Cancelling what is returned reaches the task."""
        return self._spawned(self.run(checked(pending), target=target))

    async def stream[T](
        self,
        pending: PendingFunction[Iterator[T]],
        *,
        target: NodeTarget = None,
    ) -> AsyncGenerator[T]:
        """Yield what a generator function yields: ``async for item in pool.stream(count(10))``.

        It begins with the first item that is asked for; closing it stops the generator on its node.
        """
        call: PendingFunction[Any] = checked(pending)
        if not call.fn.yields:
            raise UsageError(
                f"{call.fn.name}() is no generator function: `await pool.run(...)` returns its value"
            )
        async with cast("Items[T]", await self.run(call, target=target)) as items:
            async for item in items:
                yield item

    async def broadcast[T](self, pending: PendingFunction[T]) -> list[T]:
        """Run on every node that is ready now, as ``Pool.broadcast`` does."""
        checked(pending)
        futures = await self._submitted(lambda: self._calls.submit_everywhere(pending), [pending])
        try:
            await self._awaiting.settle(futures, FAILURE_GRACE)
            return await self._awaiting.unpickled(futures, lambda: settled_nodes(futures, pending.fn.name))
        finally:
            cancel(futures)

    async def run_parallel[*Ts](self, group: PendingFunctionGroup[*Ts]) -> tuple[*Ts]:
        """Run a group's calls in parallel and return their values. The first failure cancels the rest."""
        check_group(group, PendingFunctionGroup, "run_parallel takes a group such as sky.gather(a, b)")
        with self.sync.progress("gather", len(group)) as batch:
            futures = await self._submitted(lambda: self._calls.submit_all(group.items, batch), group.items)
            return cast("tuple[*Ts]", tuple(await self._awaiting.values(futures)))

    async def run_stream[T](self, group: StreamGroup[T]) -> AsyncIterator[T]:
        """Run a group's calls in parallel and yield their values as they come."""
        check_group(group, StreamGroup, "run_stream takes sky.gather(a, b, stream=True)")
        futures = await self._submitted(lambda: self._calls.submit_all(group.items, None), group.items)
        try:
            if group.ordered:
                for future in futures:
                    yield await self._awaiting.value(future)
            else:
                async for future in as_completed(futures):
                    yield await self._awaiting.value(future)
        finally:
            cancel(futures)

    @overload
    def map[A, R](
        self, fn: Callable[[A], PendingFunction[R]], items: Iterable[A], *, stream: Literal[False] = False
    ) -> Coroutine[Any, Any, list[R]]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], PendingFunction[R]], items: Iterable[A], *, stream: Literal[True]
    ) -> AsyncIterator[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], Coroutine[Any, Any, R]], items: Iterable[A], *, stream: Literal[False] = False
    ) -> Coroutine[Any, Any, list[R]]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], Coroutine[Any, Any, R]], items: Iterable[A], *, stream: Literal[True]
    ) -> AsyncIterator[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], R], items: Iterable[A], *, stream: Literal[False] = False
    ) -> Coroutine[Any, Any, list[R]]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], R], items: Iterable[A], *, stream: Literal[True]
    ) -> AsyncIterator[R]: ...
    def map(self, fn: Any, items: Iterable[Any], *, stream: bool = False) -> Any:
        """Run ``fn`` on each item: ``await`` the list, or with ``stream=True`` iterate by ``async for``.

        As ``Pool.map``. Items are taken in a thread, so they may come from where taking them blocks.
        """
        function = as_function(fn)
        return self._map_stream(function, items) if stream else self._map_list(function, items)

    async def _map_list(self, function: Function[..., Any, Any], items: Iterable[Any]) -> list[Any]:
        todo = (
            list(items)
            if isinstance(items, (list, tuple, range))
            else await self._awaiting.in_thread(lambda: list(items))
        )
        with self.sync.progress(function.name, len(todo)) as batch:
            futures = await self._awaiting.submitted(lambda: self._calls.submit_each(function, todo, batch))
            return await self._awaiting.values(futures)

    async def _map_stream(
        self, function: Function[..., Any, Any], items: Iterable[Any]
    ) -> AsyncIterator[Any]:
        submit = await self._awaiting.in_thread(lambda: self._calls.one_of(function))
        window = MapWindow(submit, iter(items), lambda: self.sync.concurrency)
        try:
            while True:
                if window.is_low:
                    await self._awaiting.in_thread(lambda: window.fill(FILL_SECONDS))
                future = window.pop()
                if future is None:
                    return
                yield await self._awaiting.value(future, window.weigh)
        finally:
            window.close()

    @overload
    def submit[**P, R](
        self, fn: Callable[P, PendingFunction[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Task[R]: ...
    @overload
    def submit[**P, R](
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Task[R]: ...
    @overload
    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Task[R]: ...
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` on one node. What is returned can be awaited later, and cancelled."""
        function = as_function(fn)
        return self._spawned(self.run(PendingFunction(function, args, kwargs, function.timeout)))

    # the nodes' machines

    async def upload(
        self, local: str | PathLike[str], remote: str | PathLike[str], *, node: NodeTarget = None
    ) -> list[Transfer]:
        """Bring a file or folder to every ready node, or to one, as ``Pool.upload``. Cancelling stops it."""
        return await asyncio.wrap_future(self.sync.moving("upload", local, remote, node))

    async def download(
        self, remote: str | PathLike[str], local: str | PathLike[str], *, node: NodeTarget = "head"
    ) -> list[Transfer]:
        """Bring a file or folder from a node, as ``Pool.download``. Cancelling stops it."""
        return await asyncio.wrap_future(self.sync.moving("download", local, remote, node))

    @contextlib.asynccontextmanager
    async def forward(
        self, port: int, *, node: Literal["head"] | int = "head", local_port: int | None = None
    ) -> AsyncGenerator[Forward]:
        """Have a port of this computer lead to one of a node: ``async with pool.forward(8888) as web:``."""
        forward = self.sync.forward(port, node=node, local_port=local_port)
        try:
            yield forward
        finally:
            await self._awaiting.in_thread(forward.close)

    async def shell(self, node: Literal["head"] | int = "head") -> int:
        """Run a shell on a node, in this program's terminal; return its exit status."""
        return await self._awaiting.in_thread(lambda: self.sync.shell(node))

    # the pool itself

    @property
    def name(self) -> str:
        """What consoles and logs call it."""
        return self.sync.name

    @property
    def is_active(self) -> bool:
        """Whether the pool takes tasks."""
        return self.sync.is_active

    @property
    def concurrency(self) -> int:
        """Tasks that run at once on the nodes that are ready."""
        return self.sync.concurrency

    def current_nodes(self) -> int:
        """How many nodes are ready now."""
        return self.sync.current_nodes()

    def nodes(self) -> tuple[NodeSnapshot, ...]:
        """Describe each node as it is now."""
        return self.sync.nodes()

    def inherited(self) -> list[InheritedFuture]:
        """Return the tasks of a client that is gone, as ``Pool.inherited``. See ``asyncio.wrap_future``."""
        return self.sync.inherited()

    def snapshot(self) -> PoolSnapshot:
        """Describe the pool as it is now."""
        return self.sync.snapshot()

    def timing(self) -> Timing:
        """Tell where the time went until the nodes were ready."""
        return self.sync.timing()

    def cost(self) -> float:
        """Return what the machines have cost so far in USD, by their listed prices."""
        return self.sync.cost()

    def logs(self, node: int | None = None) -> list[Log]:
        """Return the last lines that tasks printed, as ``Pool.logs``."""
        return self.sync.logs(node)

    def resize(self, nodes: NodeSpec) -> None:
        """Want another number of nodes from now on; returns at once. Busy nodes finish before they go."""
        self.sync.resize(nodes)

    async def wait_for_nodes(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` nodes are ready. Raises TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            while self.current_nodes() < n:  # noqa: ASYNC110  (nodes come by minutes, an event a node is not worth it)
                await asyncio.sleep(0.01)

    def __repr__(self) -> str:
        return f"<asynchronous {self.sync!r}"

    # how calls go out

    async def _submitted(
        self, submit: Callable[[], Sequence[CallFuture]], pendings: Sequence[PendingFunction[Any]]
    ) -> Sequence[CallFuture]:
        """Submit here if that is quick (few and small, of functions that were packed), or in a thread."""
        if len(pendings) <= FEW and all(p.fn in self._seen and is_small(p) for p in pendings):
            return submit()
        futures = await self._awaiting.submitted(submit)
        self._seen.update(p.fn for p in pendings)
        return futures

    def _spawned[T](self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)  # a loop holds its tasks weakly
        task.add_done_callback(self._tasks.discard)
        return task
