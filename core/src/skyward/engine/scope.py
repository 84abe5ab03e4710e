"""What a pool has started and not heard the end of. On the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from skyward.errors import PoolStateError
from skyward.events import Error
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Scope:
    """Tasks that end with the pool at the latest."""

    def __init__(self, pool: str, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._has_ended = False

    def spawn[T](self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that somebody waits for."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def hold[T](self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something for a caller outside. Raises PoolStateError when the pool ends before it does."""
        try:
            return await self.spawn(begin())
        except asyncio.CancelledError:
            if not self._has_ended:
                raise
            raise PoolStateError(f"the pool {self._pool!r} was closed meanwhile") from None

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something that nobody waits for; what it raises is told to those who listen."""
        self.spawn(coroutine).add_done_callback(self._report)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            publish(Error(pool=self._pool, message=f"{type(error).__name__}: {error}"))

    async def end(self) -> None:
        """Cancel everything, and wait until it is over."""
        self._has_ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
