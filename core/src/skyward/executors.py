"""A pool as ``concurrent.futures.Executor``, for code that takes one."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, Any, cast

from skyward.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward.futures import CallFuture
    from skyward.pool import Pool


class PoolExecutor(Executor):
    """What ``pool.executor()`` returns. Shutting it down leaves the pool open."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._futures: set[Future[Any]] = set()
        self._is_shut = False

    def submit[**P, R](self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``fn(*args, **kwargs)`` on one node. What can't be pickled, the future tells."""
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        try:
            future: Future[R] = self._pool.submit(fn, *args, **kwargs)
        except SerializationError as error:
            future = Future[R]()
            future.set_exception(error)
            return future
        self._futures.add(future)
        cast("CallFuture", future).on_done(self._futures.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more. ``cancel_futures``: what has not begun never will; what runs goes on."""
        self._is_shut = True
        futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                if not future.running():
                    future.cancel()
        if wait:
            wait_for(futures)
