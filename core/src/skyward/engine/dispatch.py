"""Which task goes to which slot, and what becomes of it. Runs on the loop; O(1) a task.

- Tasks are begun in the order they were submitted, round-robin over free slots; a pinned task waits for its node.
- Beyond the free slots, a lane gets ``Worker.buffer`` more tasks, and as many as fit into a few milliseconds of a
  function known to be short: what is sent ahead costs no round trip. Should one of them turn out long, the others are
  recalled as soon as somebody is idle.
- A task has one outcome. A lost process hands its tasks back: those it had not begun go to the front of
  the queue, those it ran are run again or failed, by what killed it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from skyward.engine.lane import Lane, LaneHandler
from skyward.engine.task import Outcome, Task
from skyward.errors import NodeLostError, PoolStateError, SkywardError, TaskLostError, TaskTimeoutError
from skyward.events import TaskCompleted, TaskStarted
from skyward.link import frames
from skyward.subscriptions import publish, wanted

if TYPE_CHECKING:
    from skyward.engine.loop import LoopThread
    from skyward.engine.packing import Packer
    from skyward.engine.streams import InFeed
    from skyward.link.blobs import BlobStore

PREFETCH_MICROS = 3000
"""Work sent ahead of a lane, when tasks are known to be shorter: hides the round trip, delays nobody noticeably."""
PREFETCH_MAX = 256
STALL_SECONDS = 0.02
"""Without an answer for this long, a lane's waiting tasks are recalled if somebody else is idle."""
KILL_AFTER = 3.0
"""Seconds a cancelled task has to end before its process is ended."""
TURN = 1000
"""Tasks taken in per turn of the loop, so that it stays responsive: about 10 ms."""


class Dispatcher(LaneHandler):
    """See the module. ``submit`` and ``cancel`` may be called from any thread."""

    def __init__(
        self,
        pool: str,
        loop: LoopThread,
        blobs: BlobStore,
        packer: Packer,
        *,
        buffer: int,
        retries: int,
        on_pressure: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._thread = loop
        self._loop = loop.loop
        self._blobs = blobs
        self._packer = packer
        self._buffer = buffer
        self._retries = retries
        self._on_pressure = on_pressure
        self._inbox: deque[Task] = deque()
        self._woken = False
        self._queue: deque[Task] = deque()
        self._pinned: dict[int, deque[Task]] = {}
        self._lanes: list[Lane] = []
        self._free: deque[Lane] = deque()
        self._touched: set[Lane] = set()
        self._flushing = False
        self._running: set[Task] = set()
        self._next_deadline = float("inf")
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._recall_timer: asyncio.TimerHandle | None = None
        self._closed: SkywardError | None = None
        self._streaming: dict[int, Task] = {}
        self.done = 0
        self.failed = 0
        self.last_busy = 0.0
        self._unfinished = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # from any thread

    def submit(self, task: Task) -> None:
        self._inbox.append(task)
        if not self._woken:
            self._woken = True
            self._thread.call(self._take_in)

    def cancel(self, task: Task) -> None:
        self._thread.call(self._cancel, task)

    # what the pool asks

    @property
    def queued(self) -> int:
        return len(self._queue) + len(self._inbox) + sum(map(len, self._pinned.values()))

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def lanes(self) -> list[Lane]:
        return self._lanes

    def now(self) -> float:
        return self._loop.time()

    async def idle(self) -> None:
        """Wait until every task is over."""
        while self._inbox or self._unfinished:
            await self._idle.wait()
            await asyncio.sleep(0)

    def add_lane(self, lane: Lane) -> None:
        lane.usable = True
        lane.last_answer = self.now()
        self._lanes.append(lane)
        self._offer(lane)
        self._pump()

    def remove_lane(self, lane: Lane) -> None:
        lane.usable = False
        if lane in self._lanes:
            self._lanes.remove(lane)

    def drop(self, *, blobs: list[int], codes: list[int]) -> None:
        for lane in self._lanes:
            lane.drop(blobs, codes)
            self._touch(lane)

    def close(self, error: SkywardError) -> None:
        """Fail every task that is not over, now and later."""
        self._closed = error
        for timer in (self._deadline_timer, self._recall_timer):
            if timer is not None:
                timer.cancel()
        self._take_in()
        tasks = [*self._queue, *(task for pinned in self._pinned.values() for task in pinned)]
        tasks += [task for lane in self._lanes for task in lane.unanswered.values()]
        self._queue.clear()
        self._pinned.clear()
        for task in tasks:
            self._fail(task, error)

    # taking in and handing out

    def _take_in(self) -> None:
        self._woken = False
        for _ in range(min(len(self._inbox), TURN)):
            task = self._inbox.popleft()
            self._unfinished += 1
            self._idle.clear()
            if self._closed is not None:
                self._fail(task, self._closed)
            elif task.future.cancelled():
                self._finish(task)
            else:
                if task.output is not None or task.streams:
                    self._open_streams(task)
                self._enqueue(task)
        if self._inbox and not self._woken:
            self._woken = True
            self._loop.call_soon(self._take_in)
        self._pump()

    def _enqueue(self, task: Task, *, first: bool = False) -> None:
        queue = self._queue if task.rank is None else self._pinned.setdefault(task.rank, deque())
        if first:
            queue.appendleft(task)
        else:
            queue.append(task)

    def _offer(self, lane: Lane) -> None:
        if lane.usable and not lane.queued_free and lane.load < lane.slots:
            lane.queued_free = True
            self._free.append(lane)

    def _next_for(self, lane: Lane) -> Task | None:
        """Take the oldest task that may go to ``lane``: one pinned to its node first."""
        for queue in (self._pinned.get(lane.node.rank), self._queue):
            while queue:
                task = queue.popleft()
                if not task.done:
                    return task
        return None

    def _pump(self) -> None:
        now = self.now()
        useless: list[Lane] = []
        while self._free and (self._queue or self._pinned):
            lane = self._free.popleft()
            lane.queued_free = False
            if not lane.usable or lane.load >= lane.slots:
                continue
            task = self._next_for(lane)
            if task is None:
                useless.append(lane)
                continue
            lane.assign(task, now)
            self._touch(lane)
            self._offer(lane)
        for lane in useless:
            self._offer(lane)
        if self._pinned:
            self._pinned = {rank: queue for rank, queue in self._pinned.items() if queue}
        if self._queue:
            self._prefetch(now)
            self._on_pressure()

    def _prefetch(self, now: float) -> None:
        ema = self._queue[0].code.ema_micros
        ahead = self._buffer
        if ema is not None:
            ahead += min(PREFETCH_MAX, int(PREFETCH_MICROS / max(ema, 1.0)))
        if not ahead:
            return
        share = len(self._queue) // max(1, len(self._lanes)) + 1
        for lane in self._lanes:
            room = min(lane.slots + ahead - lane.load, share)
            if not lane.usable or lane.single_use:
                continue
            while room > 0 and self._queue:
                task = self._next_for(lane)
                if task is None:
                    break
                lane.assign(task, now)
                room -= 1
            self._touch(lane)
        self._watch_stalls()

    def _touch(self, lane: Lane) -> None:
        """Have what was written to ``lane`` sent at the end of this turn of the loop."""
        self._touched.add(lane)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        for lane in self._touched:
            lane.flush()
        self._touched.clear()

    # recalling what was sent ahead

    def _watch_stalls(self) -> None:
        if self._recall_timer is None:
            self._recall_timer = self._loop.call_later(STALL_SECONDS, self._look_for_stalls)

    def _look_for_stalls(self) -> None:
        self._recall_timer = None
        waiting = [lane for lane in self._lanes if lane.load > lane.slots]
        if not waiting:
            return
        if not self._queue and any(lane.usable and lane.load < lane.slots for lane in self._lanes):
            for lane in waiting:
                if self.now() - lane.last_answer > STALL_SECONDS:
                    lane.recall()
        self._watch_stalls()

    def on_recalled(self, lane: Lane, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            self._enqueue(task, first=True)
        self._pump()

    # outcomes

    def on_started(self, task: Task, now: float) -> None:
        task.started = now
        self._running.add(task)
        task.future._is_running = True
        if task.timeout:
            task.deadline = now + task.timeout
            if task.deadline < self._next_deadline:
                self._watch_deadline(task.deadline)
        if wanted(TaskStarted):
            publish(
                TaskStarted(
                    pool=self._pool, task_id=task.id, instance=task.lane.node.instance, function_name=task.name
                )
            )

    def on_progress(self, task: Task) -> None:
        if task.timeout:
            task.deadline = self.now() + task.timeout

    def on_result(self, lane: Lane, task: Task, status: int, micros: int, outcome: Outcome) -> None:
        self.last_busy = lane.last_answer
        ema = task.code.ema_micros
        task.code.ema_micros = micros if ema is None else ema + 0.2 * (micros - ema)
        if not task.done:
            self._complete(task, status, outcome)
            if wanted(TaskCompleted):
                self._report(lane, task, status, micros)
        self._running.discard(task)
        self._offer(lane)
        if self._queue or self._pinned:
            self._pump()

    def _complete(self, task: Task, status: int, outcome: Outcome) -> None:
        failed = status == frames.RAISED
        self.failed += failed
        self.done += not failed
        self._finish(task)
        if task.output is not None:
            task.output.end(outcome.unpack()[1] if failed else None)
        elif status == frames.CANCELLED:
            self._set_exception(task, PoolStateError(f"{task.name}() was cancelled on its node"))
        else:
            self._set_result(task, outcome)

    def _report(self, lane: Lane, task: Task, status: int, micros: int) -> None:
        publish(
            TaskCompleted(
                pool=self._pool,
                task_id=task.id,
                instance=lane.node.instance,
                function_name=task.name,
                duration=micros / 1e6,
                success=status != frames.RAISED,
                error="raised" if status == frames.RAISED else "",
            )
        )

    @staticmethod
    def _set_result(task: Task, outcome: Outcome) -> None:
        if not task.future.done():
            try:
                task.future.set_result(outcome)
            except Exception:  # cancelled between the two lines, on another thread
                return

    @staticmethod
    def _set_exception(task: Task, error: BaseException) -> None:
        if not task.future.done():
            try:
                task.future.set_exception(error)
            except Exception:  # as above
                return

    def _fail(self, task: Task, error: BaseException) -> None:
        if task.done:
            return
        self.failed += 1
        self._finish(task)
        if task.output is not None:
            task.output.end(error)
        self._set_exception(task, error)

    def _finish(self, task: Task) -> None:
        """Let go of what the task holds; it has its outcome, or nobody wants one."""
        if task.done:
            return
        task.done = True
        if task.batch is not None:
            task.batch.done += 1
        self._unfinished -= 1
        if not self._unfinished:
            self._idle.set()
        self._running.discard(task)
        self._streaming.pop(task.id, None)
        for feed in task.streams:
            feed.stop()
        for blob in task.blobs:
            self._blobs.release(blob)
        self._packer.release(task.code)
        task.data = b""

    def _cancel(self, task: Task) -> None:
        """The caller wants it no more. What runs keeps its slot until its process says that it has ended."""
        if task.done:
            return
        lane: Lane | None = task.lane
        self._finish(task)
        if task.output is not None:
            task.output.end(None)
        if lane is not None and task.id in lane.unanswered:
            self._stop(lane, task, "its task was cancelled and did not end")

    def _stop(self, lane: Lane, task: Task, why: str) -> None:
        self._running.discard(task)
        lane.cancel(task)
        delay = KILL_AFTER if lane.slots == 1 else 5 * KILL_AFTER
        self._loop.call_later(delay, self._end_process, lane, task, why)

    def _end_process(self, lane: Lane, task: Task, why: str) -> None:
        if task.id in lane.unanswered and task.lane is lane and lane.usable:
            lane.node.end_worker(lane, why)

    # time

    def _watch_deadline(self, deadline: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._next_deadline = deadline
        self._deadline_timer = self._loop.call_at(deadline, self._look_for_timeouts)

    def _look_for_timeouts(self) -> None:
        self._deadline_timer = None
        self._next_deadline = float("inf")
        now = self.now()
        for task in list(self._running):
            if not task.timeout:
                continue
            if task.output is not None and not task.output.is_waiting:
                task.deadline = now + task.timeout  # its consumer is the slow one
            if task.deadline <= now:
                self._time_out(task)
        deadlines = [task.deadline for task in self._running if task.timeout]
        if deadlines:
            self._watch_deadline(min(deadlines))

    def _time_out(self, task: Task) -> None:
        lane: Lane = task.lane
        self._fail(
            task,
            TaskTimeoutError(
                f"{task.name}() on node {lane.node.rank} ran longer than {task.timeout:g} s; give it more with "
                f".with_timeout(seconds) or Options(default_compute_timeout=...)",
                task=task.name,
                rank=lane.node.rank,
            ),
        )
        self._stop(lane, task, f"a task ran longer than {task.timeout:g} s and did not end when cancelled")

    # streams

    def _open_streams(self, task: Task) -> None:
        self._streaming[task.id] = task
        for feed in task.streams:
            feed.send = lambda feed, count, pickled: self._thread.call(self._send_items, task, feed, count, pickled)
            feed.send_end = lambda feed, error: self._thread.call(self._send_end, task, feed, error)
        if task.output is not None:
            task.output.give_credit = lambda items, size: self._thread.call(self._give_credit, task, items, size)
            task.output.stop_remote = lambda: self._thread.call(self._cancel, task)

    def _send_items(self, task: Task, feed: object, count: int, pickled: object) -> None:
        from skyward.engine.streams import InFeed
        from skyward.link.pickling import Pickled

        lane: Lane | None = task.lane
        if lane is None or task.done or not isinstance(feed, InFeed) or not isinstance(pickled, Pickled):
            return
        data, blobs, _ = self._packer.store(pickled, [self._blobs.intern(view) for view in pickled.buffers])
        for blob in blobs:
            lane.send_blob(blob)
        numbers = b"".join(frames.U64.pack(blob.id) for blob in blobs)
        head = frames.ITEMS_HEAD.pack(feed.number, count, len(blobs))
        lane.write(frames.frame(frames.ITEMS, head + numbers + data))
        lane.flush()
        for blob in blobs:
            self._blobs.release(blob)

    def _send_end(self, task: Task, feed: object, error: bytes | None) -> None:
        from skyward.engine.streams import InFeed

        lane: Lane | None = task.lane
        if lane is None or task.done or not isinstance(feed, InFeed):
            return
        status = frames.OK if error is None else frames.RAISED
        lane.write(frames.frame(frames.STREAM_END, frames.STREAM_END_HEAD.pack(feed.number, status) + (error or b"")))
        lane.flush()

    def _give_credit(self, task: Task, items: int, size: int) -> None:
        lane: Lane | None = task.lane
        if lane is not None and not task.done:
            self.on_progress(task)
            lane.write(frames.frame(frames.CREDIT, frames.CREDIT_BODY.pack(task.id, items, size)))
            lane.flush()

    def on_credit(self, stream: int, items: int, size: int) -> None:
        for feed in self._feeds(stream):
            feed.credit(items, size)

    def on_stream_close(self, stream: int) -> None:
        for feed in self._feeds(stream):
            feed.stop()

    def _feeds(self, stream: int) -> Iterable[InFeed]:
        return [feed for task in self._streaming.values() for feed in task.streams if feed.number == stream]

    # losing a process

    def on_lane_lost(self, lane: Lane, kind: str, cause: str) -> None:
        """Decide what becomes of the tasks of a process that died. See ``skyward.node.deaths`` for the kinds."""
        self.remove_lane(lane)
        rank = lane.node.rank
        tasks = list(lane.unanswered.values())
        lane.unanswered.clear()
        lane.waiting.clear()
        running = [task for task in tasks if task.started and not task.done]
        for task in reversed(tasks):
            self._running.discard(task)
            if task.done:
                continue
            began, task.started, task.lane = bool(task.started), 0.0, None
            if not began:
                self._enqueue(task, first=True)
            elif kind in ("crash", "oom"):
                self._fail(task, self._crashed(task, rank, cause, len(running)))
            else:
                self._lost(task, rank, cause)
        lane.close()
        self._pump()

    def _lost(self, task: Task, rank: int, cause: str) -> None:
        task.attempts += 1
        if task.attempts <= self._retries and task.can_retry:
            self._enqueue(task, first=True)
            return
        tries = f"{task.attempts} times, more than retry_on_interruption allows" if task.can_retry else "while streaming"
        self._fail(
            task, NodeLostError(f"{task.name}() was lost {tries}; last on node {rank}: its process {cause}", rank=rank)
        )

    @staticmethod
    def _crashed(task: Task, rank: int, cause: str, running: int) -> TaskLostError:
        also = (
            f" ({running} tasks ran in that process: Worker(executor='process') keeps them apart)"
            if running > 1
            else ""
        )
        return TaskLostError(
            f"{task.name}() on node {rank} did not end: its worker process {cause}{also}", task=task.name, rank=rank
        )

    def abandon_rank(self, rank: int, reason: str) -> None:
        """Fail the tasks pinned to a node that will not come back."""
        for task in self._pinned.pop(rank, ()):
            self._fail(task, NodeLostError(f"{task.name}() can't run on node {rank}: {reason}", rank=rank))
