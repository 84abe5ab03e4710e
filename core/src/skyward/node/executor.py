"""Runs tasks: on the main thread when there is one slot, on threads when there are more.

A slot takes the oldest task, runs it in a context of its own and sends its outcome before it takes the
next. The order of tasks is the client's, so that it knows which were running should the process die.

Cancelling raises ``KeyboardInterrupt`` in the task, as Ctrl-C would: by a signal on the main thread (which
also ends a sleep or a read), asynchronously in other threads. A thread that does not end by itself is left
behind and its slot goes to a new one; the main thread can't be, so the client has the process ended.
"""

from __future__ import annotations

import contextvars
import ctypes
import inspect
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from skyward.link import frames
from skyward.link.frames import TaskFrame
from skyward.link.pickling import Pickled, dumps_value, explain, loads
from skyward.node.failures import pickle_failure
from skyward.node.streams import InStream, OutStream, StreamClosed
from skyward.runtime import current_task, shard_place

if TYPE_CHECKING:
    import asyncio

ABANDON_AFTER = 2.0
"""Seconds that a cancelled task in a thread has before its slot is given to a new thread."""


class Running:
    """One task under way."""

    __slots__ = ("abandoned", "cancelled", "future", "interruptible", "is_over", "out", "task", "thread")

    def __init__(self, task: TaskFrame) -> None:
        self.task = task
        self.thread = threading.get_ident()
        self.cancelled = False
        self.abandoned = False
        self.is_over = False
        self.interruptible = False
        self.future: Any = None
        self.out: OutStream | None = None


class Executor:
    """The slots of one process. ``submit``, ``cancel`` and ``recall`` are called by who reads frames.

    With one slot, that is the slot itself while it has no task: by ``lead``.
    """

    def __init__(
        self,
        slots: int,
        send: Callable[[bytes], object],
        send_pickle: Callable[[Pickled, Callable[[bytes, tuple[int, ...]], bytes]], int],
        answer: Callable[[int, int, int, Pickled | None, str | None], None],
        function: Callable[[int], Any],
        name: Callable[[int], str],
        views: Callable[[tuple[int, ...]], list[memoryview]],
        after_task: Callable[[], None],
        lead: Callable[[Callable[[], bool]], bool],
        finish_output: Callable[[], None],
    ) -> None:
        self.slots = slots
        self._send = send
        self._send_pickle = send_pickle
        self._answer = answer
        self._function = function
        self._name = name
        self._views = views
        self._after_task = after_task
        self._lead = lead
        self._finish_output = finish_output
        self._queue: queue.SimpleQueue[TaskFrame] = queue.SimpleQueue()
        self._waiting: dict[int, TaskFrame] = {}
        self._running: dict[int, Running] = {}
        self._in_streams: dict[int, InStream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_lock = threading.Lock()

    # who reads

    def submit(self, task: TaskFrame) -> None:
        for stream in (task.extra or {}).get("streams", ()):
            self._in_streams[stream] = InStream(stream, self._send)
        self._waiting[task.task] = task
        self._queue.put(task)

    def recall(self, tasks: Iterable[int]) -> list[int]:
        """Take back tasks that have not begun; return those that had not."""
        return [task for task in tasks if self._waiting.pop(task, None) is not None]

    def under_way(self) -> list[tuple[TaskFrame, bool]]:
        """Return the tasks that are not over, oldest first, and whether each has begun."""
        waiting = list(self._waiting.values())  # first: one that begins meanwhile must not be missed
        running = [running.task for running in list(self._running.values())]
        begun = {task.task for task in running}
        return [(task, True) for task in running] + [(t, False) for t in waiting if t.task not in begun]

    def cancel(self, task: int) -> None:
        if self._waiting.pop(task, None) is not None:
            self._answer(task, frames.CANCELLED, 0, None, None)
            return
        running = self._running.get(task)
        if running is None or running.cancelled:
            return
        running.cancelled = True
        if running.out is not None:
            running.out.close()
        for stream in (running.task.extra or {}).get("streams", ()):
            feed = self._in_streams.get(stream)
            if feed is not None:
                feed.close()
        self._interrupt(running)
        if self.slots > 1:
            timer = threading.Timer(ABANDON_AFTER, self._abandon, (running,))
            timer.daemon = True
            timer.start()

    def _interrupt(self, running: Running) -> None:
        if running.future is not None:
            running.future.cancel()
        elif self.slots == 1:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        elif running.interruptible:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(running.thread), ctypes.py_object(KeyboardInterrupt)
            )

    def _abandon(self, running: Running) -> None:
        if running.is_over:
            return
        running.abandoned = True
        del self._running[running.task.task]
        self._start_thread()
        self._answer(running.task.task, frames.CANCELLED, 0, None, None)

    def out_stream(self, stream: int) -> OutStream | None:
        running = self._running.get(stream)
        return running.out if running else None

    def in_stream(self, stream: int) -> InStream | None:
        return self._in_streams.get(stream)

    # the slots

    def run(self) -> None:
        """Run tasks until ``stop``; call on the main thread."""
        if self.slots == 1:
            signal.signal(signal.SIGINT, self._on_interrupt)
            self._work()
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in range(self.slots):
            self._start_thread()
        threading.Event().wait()

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="skyward-slot", daemon=True).start()

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if any(running.cancelled and running.interruptible for running in list(self._running.values())):
            raise KeyboardInterrupt

    def _work(self) -> None:
        while True:
            while self.slots == 1 and self._queue.empty() and self._lead(self._queue.empty):
                pass
            task = self._queue.get()
            if self._waiting.pop(task.task, None) is None:
                continue
            running = self._running[task.task] = Running(task)
            try:
                self._run_one(running)
            except KeyboardInterrupt:  # it came late, when the task was over already
                pass
            if running.abandoned:
                return
            self._after_task()

    def _run_one(self, running: Running) -> None:
        task = running.task
        begun = time.perf_counter_ns()
        status, pickled = frames.OK, None
        try:
            try:
                running.interruptible = True
                status, pickled = contextvars.copy_context().run(self._call, running)
            finally:
                running.interruptible = False
        except BaseException as error:
            if running.cancelled:
                status = frames.CANCELLED
            else:
                status, pickled = frames.RAISED, pickle_failure(error)
        if task.extra:
            for stream in task.extra.get("streams", ()):
                self._in_streams.pop(stream).close()
        if running.abandoned:
            return
        running.is_over = True
        lasting = status in (frames.OK, frames.RAISED) and not is_streamed(task)
        name = self._name(task.code) if lasting else None
        micros = (time.perf_counter_ns() - begun) // 1000
        self._answer(task.task, status, micros, pickled, name)
        self._running.pop(task.task, None)  # only now: it is always here or among the answers

    def _call(self, running: Running) -> tuple[int, Pickled | None]:
        task = running.task
        name = self._name(task.code)
        current_task.set(name)
        function = self._function(task.code)
        args, kwargs = self._arguments(task)
        if task.extra and "place" in task.extra:
            first, count = task.extra["place"]
            shard_place.set((first, count))
        try:
            return self._run_body(running, function, args, kwargs)
        finally:
            self._finish_output()

    def _run_body(
        self, running: Running, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, Pickled | None]:
        task = running.task
        value = function(*args, **kwargs)
        del args, kwargs
        if inspect.iscoroutine(value):
            value = self._await(running, value)
        if task.extra and task.extra.get("out"):
            return self._stream_out(running, value), None
        try:
            return frames.OK, dumps_value(value)
        except Exception as error:
            raise explain(error, value, "result", self._name(task.code), "back the result of") from None

    def _arguments(self, task: TaskFrame) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not task.blobs:
            args, kwargs = loads(task.data)
        else:
            views = self._views(task.blobs)
            args, kwargs = loads(views[0], views[1:]) if task.data_is_blob else loads(task.data, views)
        if task.extra and "places" in task.extra:
            args = list(args)
            for place, stream in task.extra["places"]:
                if isinstance(place, int):
                    args[place] = self._in_streams[stream]
                else:
                    kwargs[place] = self._in_streams[stream]
            args = tuple(args)
        return args, kwargs

    def _await(self, running: Running, coroutine: Any) -> Any:
        """Run a coroutine on the worker's loop; the slot waits for it."""
        import asyncio  # most workers never do

        running.future = asyncio.run_coroutine_threadsafe(_outcome(coroutine), self._event_loop())
        if running.cancelled:
            running.future.cancel()
        try:
            value, error = running.future.result()
        except KeyboardInterrupt:
            running.future.cancel()
            raise
        if error is not None:
            raise error
        return value

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        with self._loop_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="skyward-async", daemon=True).start()
            return self._loop

    def _stream_out(self, running: Running, value: Any) -> int:
        out = running.out = OutStream(running.task.task, self._send_items)
        try:
            if running.cancelled:
                raise StreamClosed
            if hasattr(value, "__aiter__"):
                self._await(running, _drain(value, out))
            else:
                for item in value:
                    out.put(item)
            out.finish()
        except StreamClosed:
            out.close()
        except BaseException:
            out.finish()
            raise
        finally:
            if hasattr(value, "close"):
                value.close()
        return frames.STREAM_DONE

    def _send_items(self, stream: int, pickled: Pickled, count: int) -> int:
        return self._send_pickle(
            pickled,
            lambda data, blobs: frames.frame(
                frames.ITEMS,
                frames.ITEMS_HEAD.pack(stream, count, len(blobs))
                + b"".join(map(frames.U64.pack, blobs))
                + data,
            ),
        )


def is_streamed(task: TaskFrame) -> bool:
    """Whether items go in or out of it while it runs."""
    return task.extra is not None and bool(task.extra.get("out") or task.extra.get("streams"))


async def _outcome(coroutine: Any) -> tuple[Any, BaseException | None]:
    """Await a coroutine; what would end the loop, such as SystemExit, is handed over instead."""
    try:
        return await coroutine, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


async def _drain(source: Any, out: OutStream) -> None:
    """Move an asynchronous generator's items into the stream; waiting for the window is off the loop."""
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        async for item in source:
            if not out.offer(item):
                await loop.run_in_executor(None, out.put, item)
    finally:
        await source.aclose()
