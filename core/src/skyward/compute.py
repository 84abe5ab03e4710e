"""Pools as users hold them: a synchronous face over the engine, and the context managers that open and close them.

Packing a call happens on the caller's thread, everything after that on the engine's loop; waiting is for a future.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast, overload

from skyward.active import active_pool
from skyward.engine import host
from skyward.engine.pool import PoolEngine
from skyward.engine.screens import Screen
from skyward.engine.streams import InFeed, RemoteIterator
from skyward.engine.task import Batch, Task, TaskFuture
from skyward.errors import CollectionsUnavailableError, ConfigError, PoolStateError, UsageError
from skyward.function import Function, PendingFunction, PendingFunctionGroup, StreamGroup
from skyward.link.modules import Project
from skyward.opening import Plan, PoolKwargs, plan
from skyward.spec import Nodes, PoolState

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from skyward.events import Log
    from skyward.options import LogConfig, Options
    from skyward.snapshot import NodeSnapshot, PoolSnapshot
    from skyward.spec import NodeSpec, Spec

FAILURE_GRACE = 0.5
"""Seconds that the other nodes of a broadcast get to fail too, once one has: one error then tells of all."""
MAP_WINDOW = 1024
"""Items of a streamed map that are under way at once."""

_numbers = itertools.count(1)
_project = Project()


class Pool:
    """Nodes that take tasks. Opened by ``sky.Compute`` or a ``sky.Session``; safe to use from any thread."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._loop = host.acquire()
        self._closed = False
        self._close_lock = threading.Lock()
        self._screen: Screen | None = None
        self._log_file: Any = None
        self._around = contextlib.ExitStack()
        try:
            self._engine = PoolEngine(
                plan.name, plan.specs, plan.options.selection, plan.topology, self._loop, _project
            )
        except BaseException:
            host.release()
            raise

    # life

    def _open(self) -> None:
        """Provision, and return when usable; on failure or Ctrl-C, end whatever was started."""
        host.guard.add(id(self), lambda: self._close(drain=False))
        try:
            self._start_reporting()
            self._loop.start(self._engine.start()).result()
            self._around.enter_context(self._engine.hooks.client(self, self._engine.cluster()))
        except BaseException:
            self._close(drain=False)
            raise

    def _start_reporting(self) -> None:
        logging = self._plan.options.logging
        if logging is not False:
            from skyward.engine.logfile import LogFile
            from skyward.options import LogConfig

            config: LogConfig = LogConfig() if logging is True else logging
            self._log_file = LogFile(config, self.name)
        if self._plan.console is not None:
            self._screen = Screen(self._plan.console, self)

    def _close(self, *, drain: bool) -> None:
        """Tear down. Idempotent; a second Ctrl-C meanwhile is only raised when everything is gone."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        interrupt: BaseException | None = None
        try:
            self._around.close()
        except BaseException as error:
            interrupt = error
            drain = False
        for patience in (drain, False):
            try:
                self._loop.start(self._engine.stop(drain=patience)).result()
                break
            except (KeyboardInterrupt, SystemExit) as error:
                interrupt = error
        for reporter in (self._screen, self._log_file):
            if reporter is not None:
                reporter.close()
        host.guard.remove(id(self))
        host.release()
        if interrupt is not None:
            raise interrupt

    # tasks

    def run[T](self, pending: PendingFunction[T], *, target: Literal["head"] | int | None = None) -> T:
        """Run on one node and return the value. ``target``: the head node or a rank, instead of any.

        Raises what the function raised, TaskTimeoutError, TaskLostError, NodeLostError or SerializationError.
        """
        future = self.run_async(pending, target=target)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a no-op unless waiting was interrupted
            raise

    def run_async[T](
        self, pending: PendingFunction[T], *, target: Literal["head"] | int | None = None
    ) -> Future[T]:
        """Run on one node without waiting. Cancelling the future reaches the task, also while it runs."""
        return self._submit(_checked(pending), rank=self._rank(target))

    def broadcast[T](self, pending: PendingFunction[T]) -> list[T]:
        """Run on every node that is ready now; return the values by node index.

        Raises what the function raised on one node; an ExceptionGroup when it failed on several.
        """
        ranks = [node.rank for node in self._engine.ready_nodes]
        if not ranks:
            raise PoolStateError(f"no node of {self.name!r} is ready at the moment")
        futures = [
            self._submit(_checked(pending), rank=rank, place=(index, len(ranks)))
            for index, rank in enumerate(ranks)
        ]
        _wait_for_all(futures, pending.fn.name)
        return [future.result() for future in futures]

    def run_parallel[*Ts](self, group: PendingFunctionGroup[*Ts]) -> tuple[*Ts]:
        """Run a group's calls in parallel and return their values in order; the first failure cancels the rest."""
        if not isinstance(group, PendingFunctionGroup):
            raise UsageError(f"run_parallel takes a group such as sky.gather(a, b), not {group!r}")
        with self._batch("gather", len(group)) as batch:
            futures = [self._submit(item, batch=batch) for item in group.items]
            return cast("tuple[*Ts]", tuple(_results(futures)))

    def run_stream[T](self, group: StreamGroup[T]) -> Iterator[T]:
        """Run a group's calls in parallel and yield their values as they come."""
        batch = Batch("gather", len(group))
        futures = [self._submit(item, batch=batch) for item in group.items]
        return _stream(futures, group.ordered)

    @overload
    def map[A, R](self, fn: Callable[[A], R], items: Iterable[A], *, stream: Literal[False] = False) -> list[R]: ...
    @overload
    def map[A, R](self, fn: Callable[[A], R], items: Iterable[A], *, stream: Literal[True]) -> Iterator[R]: ...
    @overload
    def map[A, R](
        self, fn: Function[[A], R, Any], items: Iterable[A], *, stream: Literal[False] = False
    ) -> list[R]: ...
    @overload
    def map[A, R](self, fn: Function[[A], R, Any], items: Iterable[A], *, stream: Literal[True]) -> Iterator[R]: ...
    def map(self, fn: Any, items: Iterable[Any], *, stream: bool = False) -> Any:
        """Run ``fn`` on each item, one task an item; return the values in the items' order.

        ``fn`` may be plain or decorated. ``stream=True`` yields values as they are asked for and takes items as they
        are needed, so both may be endless.
        """
        call = _as_function(fn)
        if stream:
            return self._map_stream(call, iter(items))
        todo = list(items)
        with self._batch(call.name, len(todo)) as batch:
            futures = [self._submit(PendingFunction(call, (item,), {}, call.timeout), batch=batch) for item in todo]
            return list(_results(futures))

    def _map_stream(self, call: Function[..., Any, Any], items: Iterator[Any]) -> Iterator[Any]:
        window: deque[TaskFuture] = deque()
        try:
            for item in items:
                window.append(self._submit(PendingFunction(call, (item,), {}, call.timeout)))
                while len(window) >= MAP_WINDOW or (window and window[0].done()):
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()

    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` on one node, as ``concurrent.futures.Executor.submit`` does."""
        call = _as_function(fn)
        return cast("Future[R]", self._submit(PendingFunction(call, args, kwargs, call.timeout)))

    def executor(self) -> Executor:
        """Return a ``concurrent.futures.Executor`` over this pool; shutting it down leaves the pool open."""
        return PoolExecutor(self)

    def _rank(self, target: object) -> int | None:
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

    def _submit(
        self,
        pending: PendingFunction[Any],
        *,
        rank: int | None = None,
        place: tuple[int, int] | None = None,
        batch: Batch | None = None,
    ) -> TaskFuture:
        """Pack a call on this thread and hand it to the engine."""
        if self._closed:
            raise PoolStateError(f"the pool {self.name!r} is closed: open another with `with sky.Compute(...)`")
        engine, packer = self._engine, self._engine.packer
        function: Function[..., Any, Any] = pending.fn
        timeout = pending.timeout or engine.spec.default_compute_timeout
        code = packer.code(function)
        future = TaskFuture()
        task = Task(next(_numbers), code, future, 0.0 if math.isinf(timeout) else timeout)
        args, kwargs = pending.args, pending.kwargs
        extra: dict[str, Any] = {}
        if any(map(_is_iterator, args)) or any(map(_is_iterator, kwargs.values())):
            args, kwargs = self._feed(task, function, args, kwargs, extra)
        task.data, task.blobs, task.data_is_blob, task.modules = packer.arguments(args, kwargs, function.name)
        packer.acquire(code)
        if place is not None:
            extra["place"] = place
        if _yields(function):
            extra["out"] = True
            task.output = RemoteIterator(function.name)
        task.extra = extra or None
        task.rank = rank
        task.batch = batch
        future._on_cancel = functools.partial(engine.dispatcher.cancel, task)
        if task.output is not None:
            future.set_result(task.output)
        engine.dispatcher.submit(task)
        return future

    def _feed(
        self,
        task: Task,
        function: Function[..., Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        extra: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace the iterators among the arguments by streams that the task pulls from."""
        streamed = _streamed_parameters(function)
        places: list[tuple[int | str, int]] = []
        feeds: list[InFeed] = []
        call_args: list[Any] = list(args)
        call_kwargs = dict(kwargs)
        for place, value in (*enumerate(args), *kwargs.items()):
            if not _is_iterator(value) or not (inspect.isgenerator(value) or streamed(place)):
                continue
            feed = InFeed(value, self._loop, _project.is_project_module)
            feeds.append(feed)
            places.append((place, feed.number))
            if isinstance(place, int):
                call_args[place] = None
            else:
                call_kwargs[place] = None
        if feeds:
            task.streams = tuple(feeds)
            extra["places"] = places
            extra["streams"] = [feed.number for feed in feeds]
        return tuple(call_args), call_kwargs

    @contextlib.contextmanager
    def _batch(self, name: str, total: int) -> Iterator[Batch]:
        """Show these tasks as one thing with progress, for as long as the caller waits for them."""
        batch = Batch(name, total)
        self._engine.batches[id(batch)] = batch
        try:
            yield batch
        finally:
            del self._engine.batches[id(batch)]

    # the pool itself

    @property
    def name(self) -> str:
        return self._plan.name

    @property
    def is_active(self) -> bool:
        """Whether the pool takes tasks."""
        return not self._closed and self._engine.state is PoolState.READY

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

    def cost(self) -> float:
        """Return what the machines have cost so far in USD, by their listed prices."""
        return self.snapshot().cost_usd

    def logs(self, node: int | None = None) -> list[Log]:
        """Return the last lines that tasks printed, oldest first: of all nodes, or of one. The last 10,000 are kept."""
        return [line for line in list(self._engine.log) if node is None or line.instance.node == node]

    def resize(self, nodes: NodeSpec) -> None:
        """Want another number of nodes from now on; returns at once. Busy nodes finish before they go."""
        self._loop.call(self._engine.resize, Nodes.from_spec(nodes))

    def wait_for_nodes(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` nodes are ready. Raises TimeoutError after ``timeout`` seconds."""
        until = time.monotonic() + timeout if timeout is not None else math.inf
        while self.current_nodes() < n:
            if time.monotonic() > until:
                raise TimeoutError(f"{self.current_nodes()} of {n} nodes were ready after {timeout:g} s")
            time.sleep(0.01)

    def _no_collections(self, *args: object, **kwargs: object) -> Any:
        reason = self._plan.topology.collections_error()
        raise CollectionsUnavailableError(reason or "distributed collections are not available in this pool")

    dict = set = counter = queue = barrier = lock = _no_collections

    def __repr__(self) -> str:
        return f"<pool {self.name}: {self._engine.state.value}, {self.current_nodes()} nodes>"


class Compute:
    """Open a pool for a ``with`` block: provision on entry, tear down on exit, also on an exception or Ctrl-C.

    Three forms, never mixed: fields (``nodes=4, accelerator=...``), one or more ``sky.Spec``, or ``name=`` a pool of
    ``skyward.toml``. Fields of ``Options`` may be given beside the first two. Mistakes are raised here, before
    anything starts.
    """

    def __init__(
        self, *specs: Spec, name: str | None = None, options: Options | None = None, **fields: Unpack[PoolKwargs]
    ) -> None:
        self._plan = plan(specs, name, options, cast("dict[str, Any]", fields))
        self._pool: Pool | None = None
        self._token: Token[Pool | None] | None = None

    def __enter__(self) -> Pool:
        if self._pool is not None:
            raise PoolStateError("this sky.Compute is open already; make another for another pool")
        pool = Pool(self._plan)
        pool._open()
        self._pool = pool
        self._token = active_pool.set(pool)
        return pool

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, self._pool = self._pool, None
        if self._token is not None:
            active_pool.reset(self._token)
        if pool is not None:
            pool._close(drain=error is None)


class Session:
    """Several pools whose lifetime is managed by hand; all that are open are closed with the session."""

    def __init__(
        self, console: bool | str = True, logging: bool | LogConfig = True, shutdown_timeout: float = 120.0
    ) -> None:
        self._defaults: dict[str, Any] = {
            "console": console, "logging": logging, "shutdown_timeout": shutdown_timeout
        }  # fmt: skip
        self._pools: dict[str, Pool] = {}
        self._open = True

    def compute(
        self, *specs: Spec, name: str | None = None, options: Options | None = None, **fields: Unpack[PoolKwargs]
    ) -> Pool:
        """Open a pool and return it when it is usable. Arguments as for ``sky.Compute``."""
        if not self._open:
            raise PoolStateError("the session is closed")
        given = cast("dict[str, Any]", fields)
        if options is None:
            given = {**self._defaults, **given}
        pool = Pool(plan(specs, name, options, given))
        pool._open()
        self._pools[pool.name] = pool
        return pool

    @property
    def is_active(self) -> bool:
        """Whether pools can be opened."""
        return self._open

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The open pools, oldest first."""
        return tuple(self._pools.values())

    def stop_pool(self, name: str) -> bool:
        """Tear one pool down, once its tasks are done. Returns whether there was one of that name."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            pool._close(drain=True)
        return pool is not None

    def close(self) -> None:
        """Tear down every pool, once its tasks are done. Idempotent."""
        self._end(drain=True)

    def _end(self, *, drain: bool) -> None:
        self._open = False
        while self._pools:
            self._pools.popitem()[1]._close(drain=drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(drain=error is None)


class PoolExecutor(Executor):
    """A pool as ``concurrent.futures.Executor``, for code that takes one."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._futures: set[Future[Any]] = set()
        self._shut = False

    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        try:
            future = self._pool.submit(fn, *args, **kwargs)
        except TypeError as error:  # what can't be pickled: an executor tells through the future
            future = Future()
            future.set_exception(error)
            return future
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._shut = True
        for future in list(self._futures):
            if cancel_futures:
                future.cancel()
            elif wait:
                with contextlib.suppress(BaseException):
                    future.exception()


def _checked[T](pending: PendingFunction[T]) -> PendingFunction[T]:
    if isinstance(pending, PendingFunction):
        return pending
    if isinstance(pending, Function):
        raise UsageError(f"call it first: {pending.name}(...) makes the pending call that a pool runs")
    raise UsageError(f"a pool runs pending calls, such as train(data) of a @sky.function; not {pending!r}")


def _as_function(fn: Any) -> Function[..., Any, Any]:
    return cast("Function[..., Any, Any]", fn) if isinstance(fn, Function) else Function(fn)


def _yields(function: Function[..., Any, Any]) -> bool:
    body = inspect.unwrap(function._skyward_body)
    return inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body)


def _is_iterator(value: object) -> bool:
    return hasattr(type(value), "__next__")


_STREAMED = frozenset({"Iterator", "Iterable", "Generator"})


def _streamed_parameters(function: Function[..., Any, Any]) -> Callable[[int | str], bool]:
    """Tell which parameters are annotated as iterators, by position or name; annotations are read as they are written."""
    try:
        parameters = list(inspect.signature(function._skyward_body).parameters.values())
    except (TypeError, ValueError):
        parameters = []

    def is_streamed(place: int | str) -> bool:
        for position, parameter in enumerate(parameters):
            if place in (position, parameter.name):
                annotation = parameter.annotation
                written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
                if not isinstance(annotation, str) and not written:
                    written = str(annotation)
                return written.rpartition("[")[0].rpartition(".")[2] in _STREAMED or written.split("[")[0].rpartition(
                    "."
                )[2] in _STREAMED
        return False

    return is_streamed


def _results(futures: Sequence[TaskFuture]) -> Iterator[Any]:
    """Yield results in order; whatever ends this early cancels what is not done."""
    failed = threading.Event()
    try:
        for future in futures:
            future.add_done_callback(lambda done: failed.set() if _failed(done) else None)
        for future in futures:
            if failed.is_set():
                break
            yield future.result()
        for future in futures:
            if failed.is_set() and future.done() and not future.cancelled():
                future.result()
    finally:
        for future in futures:
            future.cancel()


def _failed(future: Future[Any]) -> bool:
    from skyward.engine.task import Outcome

    if future.cancelled():
        return True
    value = getattr(future, "_result", None)
    return future._exception is not None or (isinstance(value, Outcome) and value.raised)  # type: ignore[attr-defined]


def _wait_for_all(futures: Sequence[TaskFuture], name: str) -> None:
    """Wait for every future; once one failed, the others get a moment to fail too and are cancelled then."""
    from concurrent.futures import FIRST_EXCEPTION, wait

    try:
        pending = {future for future in futures}
        while pending:
            done, pending = wait(pending, return_when=FIRST_EXCEPTION)
            if any(_failed(future) for future in done):
                break
        if pending:
            wait(pending, timeout=FAILURE_GRACE)
        errors = [error for future in futures if future.done() and not future.cancelled() and (error := future.exception())]
    finally:
        for future in futures:
            future.cancel()
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(f"{name}() failed on {len(errors)} of {len(futures)} nodes", errors)


def _stream(futures: list[TaskFuture], ordered: bool) -> Iterator[Any]:
    from concurrent.futures import as_completed

    try:
        for future in futures if ordered else as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


__all__ = ["Compute", "Pool", "PoolExecutor", "Session"]
