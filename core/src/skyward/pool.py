"""A pool as its user holds it: a synchronous face over the engine.

Packing a call happens on the caller's thread, everything after that on the engine's loop; waiting is for a
future.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Literal, Never, cast, overload

from skyward.calls import as_function, check_group, checked
from skyward.engine.task import Batch
from skyward.errors import CollectionsUnavailableError, ConfigError, UsageError
from skyward.function import PendingFunction, PendingFunctionGroup, StreamGroup
from skyward.lifetime import Lifetime
from skyward.spec import Nodes, PoolState
from skyward.waiting import MapWindow, as_they_come, mapped, values, values_of_nodes

if TYPE_CHECKING:
    from os import PathLike

    from skyward.events import Log
    from skyward.forwards import Forward
    from skyward.futures import InheritedFuture
    from skyward.snapshot import NodeSnapshot, PoolSnapshot
    from skyward.spec import NodeSpec
    from skyward.timing import Timing
    from skyward.transfers import Transfer

type NodeTarget = Literal["head"] | int | None
"""The head node, a rank, or any node."""


class Pool:
    """Nodes that take tasks. Opened by ``sky.Compute`` or a ``sky.Session``; safe to use from any thread."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._engine = lifetime.engine
        self._calls = lifetime.calls

    # tasks

    def __rrshift__(self, other: Never) -> Never:
        """What no pending call or group took on: a list of calls, usually."""
        what = type(other).__name__
        raise UsageError(f"a pool runs pending calls, not a {what}: `sky.gather(*calls) >> pool` for several")

    __rmatmul__ = __rrshift__

    def run[T](self, pending: PendingFunction[T], *, target: NodeTarget = None) -> T:
        """Run on one node and return the value. ``target``: the head node or a rank, instead of any.

        Raises what the function raised, TaskTimeoutError, TaskLostError, NodeLostError or SerializationError.
        """
        future = self.run_async(pending, target=target)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a no-op unless waiting was interrupted
            raise

    def run_async[T](self, pending: PendingFunction[T], *, target: NodeTarget = None) -> Future[T]:
        """Run on one node without waiting. Cancelling the future reaches the task, also while it runs.

        A generator function's future is done at once: its value is the iterator.
        """
        return self._calls.submit(checked(pending), rank=self.rank_of(target))

    def broadcast[T](self, pending: PendingFunction[T]) -> list[T]:
        """Run on every node that is ready now; return the values by node index.

        Raises what the function raised on one node; an ExceptionGroup when it failed on several.
        """
        futures = self._calls.submit_everywhere(checked(pending))
        return values_of_nodes(futures, pending.fn.name)

    def run_parallel[*Ts](self, group: PendingFunctionGroup[*Ts]) -> tuple[*Ts]:
        """Run a group's calls in parallel and return their values. The first failure cancels the rest."""
        check_group(group, PendingFunctionGroup, "run_parallel takes a group such as sky.gather(a, b)")
        with self.progress("gather", len(group)) as batch:
            return cast("tuple[*Ts]", tuple(values(self._calls.submit_all(group.items, batch))))

    def run_stream[T](self, group: StreamGroup[T]) -> Iterator[T]:
        """Run a group's calls in parallel and yield their values as they come."""
        check_group(group, StreamGroup, "run_stream takes sky.gather(a, b, stream=True)")
        return as_they_come(self._calls.submit_all(group.items, None), group.ordered)

    @overload
    def map[A, R](
        self, fn: Callable[[A], PendingFunction[R]], items: Iterable[A], *, stream: Literal[False] = False
    ) -> list[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], PendingFunction[R]], items: Iterable[A], *, stream: Literal[True]
    ) -> Iterator[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], Coroutine[Any, Any, R]], items: Iterable[A], *, stream: Literal[False] = False
    ) -> list[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], Coroutine[Any, Any, R]], items: Iterable[A], *, stream: Literal[True]
    ) -> Iterator[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], R], items: Iterable[A], *, stream: Literal[False] = False
    ) -> list[R]: ...
    @overload
    def map[A, R](
        self, fn: Callable[[A], R], items: Iterable[A], *, stream: Literal[True]
    ) -> Iterator[R]: ...
    def map(self, fn: Any, items: Iterable[Any], *, stream: bool = False) -> Any:
        """Run ``fn`` on each item, one task an item; return the values in the items' order.

        ``fn`` may be plain or decorated. The first failure is raised and cancels the rest. ``stream=True``
        yields values as they are asked for and takes items, on the same thread, some way ahead of them: both
        may be endless.
        """
        function = as_function(fn)
        if stream:
            return mapped(MapWindow(self._calls.one_of(function), iter(items), lambda: self.concurrency))
        todo = list(items)
        with self.progress(function.name, len(todo)) as batch:
            return values(self._calls.submit_each(function, todo, batch))

    @overload
    def submit[**P, R](
        self, fn: Callable[P, PendingFunction[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit[**P, R](
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn(*args, **kwargs)`` on one node, as ``concurrent.futures.Executor.submit`` does."""
        function = as_function(fn)
        return self._calls.submit(PendingFunction(function, args, kwargs, function.timeout))

    def executor(self) -> Executor:
        """Return a ``concurrent.futures.Executor`` over this pool; shutting it down leaves the pool open."""
        from skyward.executors import PoolExecutor

        return PoolExecutor(self)

    def rank_of(self, target: object) -> int | None:
        """Return the rank that a target means; None: any. Raises ConfigError for one that is no node's."""
        if target is None:
            return None
        if target == "head":
            return 0
        if isinstance(target, bool) or not isinstance(target, int):
            raise UsageError(f"target is 'head' or a node's rank, not {target!r}")
        wanted = self._engine.snapshot().scaling.desired
        if not 0 <= target < wanted:
            raise ConfigError(f"target={target}: the pool's nodes are 0 to {wanted - 1}")
        return target

    @contextlib.contextmanager
    def progress(self, name: str, total: int) -> Generator[Batch]:
        """Show tasks that are given this batch as one thing with progress, until the block ends."""
        batch = Batch(name, total)
        self._engine.batches[id(batch)] = batch
        try:
            yield batch
        finally:
            del self._engine.batches[id(batch)]

    def inherited(self) -> list[InheritedFuture]:
        """Return the tasks of the client before us, if we attached to its pool, in the order of submission.

        Those that nodes had when it was killed: each is a ``Future`` with the function's ``name`` and the
        ``node`` that has it. Finished ones too, whether or not their results had arrived there; of those that
        had, a node keeps the last 32 MiB of each worker. What was only queued there is gone.
        """
        return [future for _, future in sorted(self._calls.inherited.items())]

    # the nodes' machines

    def upload(
        self, local: str | PathLike[str], remote: str | PathLike[str], *, node: NodeTarget = None
    ) -> list[Transfer]:
        """Bring a file or folder to every ready node, or to one: ``"head"`` or a rank.

        ``remote`` is relative to the folder that tasks run in, which goes with the pool; ``~/`` is the user's
        home. A file goes into ``remote`` if that is a folder or ends in "/"; of a folder the content goes
        there. What a node has already is skipped; what was cut off, also by Ctrl-C, goes on where it ended.

        Raises ConfigError for what is wrong here, NodeError there, ConnectError when a node is out of reach;
        an ExceptionGroup when several failed. The others have theirs.
        """
        return self._moved("upload", local, remote, node)

    def download(
        self, remote: str | PathLike[str], local: str | PathLike[str], *, node: NodeTarget = "head"
    ) -> list[Transfer]:
        """Bring a file or folder from a node, as ``upload`` does the other way.

        ``node=None`` is every ready node; ``local`` then holds ``{rank}``, which is replaced.
        """
        return self._moved("download", local, remote, node)

    def _moved(self, kind: Literal["upload", "download"], *paths_and_node: Any) -> list[Transfer]:
        future = self.moving(kind, *paths_and_node)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a no-op unless waiting was interrupted
            raise

    def moving(
        self, kind: Literal["upload", "download"], local: object, remote: object, node: NodeTarget
    ) -> Future[list[Transfer]]:
        """Begin an upload or a download without waiting for it. Cancelling the future stops it."""
        from skyward.transfers import start

        return start(self._engine, self._lifetime.loop, kind, local, remote, self.rank_of(node))

    def forward(
        self, port: int, *, node: Literal["head"] | int = "head", local_port: int | None = None
    ) -> Forward:
        """Have a port of this computer's 127.0.0.1 lead to ``port`` of a node's own 127.0.0.1.

        ``with pool.forward(8888) as web: print(web.url)``; it ends with the block, by ``close()``, or with
        the pool. ``local_port``: which port of this computer, instead of one that is free.
        """
        from skyward.forwards import Forward

        return Forward(self._engine, self._lifetime.loop, port, self._one_rank(node), local_port)

    def shell(self, node: Literal["head"] | int = "head") -> int:
        """Run a shell on a node, in this program's terminal, until it ends; return its exit status.

        Tasks go on meanwhile. Raises UsageError where there is no terminal, ConnectError when it is cut off.
        """
        from skyward.shells import run

        return run(self._engine, self._lifetime.loop, self._one_rank(node))

    def _one_rank(self, node: NodeTarget) -> int:
        rank = self.rank_of(node)
        if rank is None:
            raise UsageError("node is 'head' or a node's rank, not None: it is one node that is meant")
        return rank

    # the pool itself

    @property
    def name(self) -> str:
        """What consoles and logs call it."""
        return self._engine.name

    @property
    def is_active(self) -> bool:
        """Whether the pool takes tasks."""
        return not self._lifetime.is_over and self._engine.state is PoolState.READY

    @property
    def concurrency(self) -> int:
        """Tasks that run at once on the nodes that are ready."""
        return self._engine.ready_count * self._engine.slots_per_node

    def current_nodes(self) -> int:
        """How many nodes are ready now."""
        return self._engine.ready_count

    def nodes(self) -> tuple[NodeSnapshot, ...]:
        """Describe each node as it is now."""
        return self.snapshot().nodes

    def snapshot(self) -> PoolSnapshot:
        """Describe the pool as it is now."""
        return self._engine.snapshot()

    def timing(self) -> Timing:
        """Tell where the time went until the nodes were ready; print it for a waterfall."""
        return self._engine.timing()

    def cost(self) -> float:
        """Return what the machines have cost so far in USD, by their listed prices."""
        return self.snapshot().cost_usd

    def logs(self, node: int | None = None) -> list[Log]:
        """Return the last 10,000 lines that tasks printed, oldest first: of all nodes, or of one."""
        return [line for line in list(self._engine.log) if node is None or line.instance.node == node]

    def resize(self, nodes: NodeSpec) -> None:
        """Want another number of nodes from now on; returns at once. Busy nodes finish before they go."""
        self._lifetime.loop.call(self._engine.resize, Nodes.from_spec(nodes))

    def wait_for_nodes(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` nodes are ready. Raises TimeoutError after ``timeout`` seconds."""
        until = time.monotonic() + timeout if timeout is not None else math.inf
        while self.current_nodes() < n:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.current_nodes()} of {n} nodes were ready after {timeout:g} s")
            time.sleep(0.01)

    def _no_collections(self, *args: object, **kwargs: object) -> Any:
        reason = self._lifetime.plan.topology.collections_error()
        raise CollectionsUnavailableError(reason or "distributed collections are not available in this pool")

    dict = set = counter = queue = barrier = lock = _no_collections

    def __repr__(self) -> str:
        return f"<pool {self.name}: {self._engine.state.value}, {self.current_nodes()} nodes>"
