"""How coroutines wait for what happens on the engine's loop and in threads, without blocking their own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from skyward.engine.streams import call_soon
from skyward.futures import CallFuture
from skyward.waiting import Watch, cancel, settled

THREADS = 4
"""Enough for packing and unpickling, which hold the interpreter. Nothing waits for tasks in them."""
FEW = 32
"""So many small results are unpickled on the loop in well under a millisecond."""
END_SECONDS = 1.0
"""How long the end of a pool waits for these threads, which have nothing left to do, to be gone."""


class Awaiting:
    """A few threads, and the ways to wait. For the coroutines of one loop."""

    def __init__(self) -> None:
        self._started: list[threading.Thread] = []
        self._threads = ThreadPoolExecutor(
            THREADS, "skyward-aio", initializer=lambda: self._started.append(threading.current_thread())
        )

    async def end(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False)
        loop = asyncio.get_running_loop()
        until = loop.time() + END_SECONDS
        while any(thread.is_alive() for thread in self._started) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def in_thread[T](self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Begin to run ``function`` in a thread."""
        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(self._threads, function)
        except RuntimeError:  # ours are gone: the pool was closed before its last result was asked for
            return loop.run_in_executor(None, function)

    async def to_its_end(self, function: Callable[[], None], hurry: Callable[[], None] | None = None) -> None:
        """Run in a thread, to its end also when cancelled; that is raised then. ``hurry`` is told of it."""
        running = self.in_thread(function)
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                cancelled = error
                if hurry is not None:
                    hurry()
        running.result()
        if cancelled is not None:
            raise cancelled

    async def submitted(self, submit: Callable[[], Sequence[CallFuture]]) -> Sequence[CallFuture]:
        """Pack and submit in a thread. Cancelled meanwhile, this cancels what will have been submitted."""
        running = self.in_thread(submit)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            running.add_done_callback(_cancel_submitted)
            raise

    async def value(self, future: CallFuture, see: Callable[[CallFuture], None] | None = None) -> Any:
        """Return a task's value. Cancelled, this cancels the task. ``see`` is shown the future when done."""
        if not future.done():
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            future.on_done(lambda _: call_soon(loop, done.set))
            try:
                await done.wait()
            except asyncio.CancelledError:
                future.cancel()
                raise
        if see is not None:
            see(future)
        return future.result() if future.is_quick else await self.in_thread(future.result)

    async def settle(self, futures: Sequence[CallFuture], grace: float = 0.0) -> None:
        """Wait until all are done, or one has failed and the others had ``grace`` seconds to fail too."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        watch = Watch(futures, lambda: call_soon(loop, changed.set))
        await changed.wait()
        if watch.left and grace:
            changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace if watch.left else 0):
                    await changed.wait()

    async def values(self, futures: Sequence[CallFuture]) -> list[Any]:
        """Return the values in order; the first failure is raised at once and cancels the rest."""
        try:
            await self.settle(futures)
            return await self.unpickled(futures, lambda: settled(futures))
        finally:
            cancel(futures)

    async def unpickled(self, futures: Sequence[CallFuture], collect: Callable[[], list[Any]]) -> list[Any]:
        """Return ``collect()``, which unpickles what these hold: here if that is little."""
        if len(futures) <= FEW and all(future.is_quick for future in futures):
            return collect()
        return await self.in_thread(collect)


async def as_completed(futures: Sequence[CallFuture]) -> AsyncIterator[CallFuture]:
    """Yield futures as they are done."""
    loop = asyncio.get_running_loop()
    done: asyncio.Queue[Any] = asyncio.Queue()
    for future in futures:
        future.on_done(functools.partial(call_soon, loop, done.put_nowait))
    for _ in futures:
        yield await done.get()


def _cancel_submitted(running: asyncio.Future[Sequence[CallFuture]]) -> None:
    if not running.cancelled() and running.exception() is None:
        cancel(running.result())
