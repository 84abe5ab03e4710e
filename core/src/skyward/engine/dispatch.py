"""Which task goes to which slot, and what becomes of it. Runs on the loop; O(1) a task.

- Tasks are begun in the order they were submitted, round-robin over free slots; a pinned task waits for its
  node.
- Beyond the free slots, a lane gets ``Worker.buffer`` more tasks, and as many as fit into a few
  milliseconds of a function known to be short: what is sent ahead costs no round trip. Should one of them
  turn out long, the others are recalled as soon as somebody is idle.
- A task has one outcome. A lost process hands its tasks back: those it had not begun go to the front of
  the queue, those it ran are run again or failed, by what killed it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skyward.engine.ahead import Ahead
from skyward.engine.deadlines import Deadlines
from skyward.engine.free import FreeLanes
from skyward.engine.inheritance import inherit
from skyward.engine.lane import Lane, LaneHandler
from skyward.engine.outcomes import crashed, interrupted, not_brought, settle, timed_out
from skyward.engine.queue import TaskQueue
from skyward.engine.relay import StreamRelay
from skyward.engine.reports import report_completed, report_started
from skyward.engine.stopping import stop
from skyward.engine.task import Outcome, Task, TaskFuture
from skyward.engine.uploads import Uploads
from skyward.errors import NodeLostError, PoolStateError, SkywardError
from skyward.events import TaskCompleted, TaskStarted
from skyward.link import frames
from skyward.subscriptions import wanted

if TYPE_CHECKING:
    from skyward.engine.loop import LoopThread
    from skyward.engine.packing import Packer
    from skyward.link.blobs import BlobStore

IDLE_POLL = 0.005
"""Seconds between looks at whether the last task is over, at the end of a pool."""
TURN = 1000
"""Tasks taken in per turn of the loop, so that it stays responsive."""


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
        self._retries = retries
        self._on_pressure = on_pressure
        self._inbox: deque[Task] = deque()
        self._woken = False
        self._queue = TaskQueue()
        self._lanes: list[Lane] = []
        self._free = FreeLanes()
        self._touched: set[Lane] = set()
        self._flushing = False
        self._pumping = False
        self._running: set[Task] = set()
        self._uploads = Uploads(blobs, self.on_brought)
        self._arriving: set[Task] = set()
        self._deadlines = Deadlines(self._loop, self._running, self._time_out)
        self._relay = StreamRelay(loop, blobs, packer)
        self._ahead = Ahead(self._loop, self._lanes, buffer)
        self._closed: SkywardError | None = None
        self.done = 0
        self.failed = 0
        self.make_heir: Callable[[int, str, int], TaskFuture]
        """Makes the future of a task that a client had submitted which is gone: number, name, rank."""

    # from any thread

    def submit(self, task: Task) -> None:
        """Take a task: at once where a lane is idle, which saves a change of threads, or by the inbox."""
        if not self._inbox and not self._queue.open and self._express(task):
            return
        self._inbox.append(task)
        if not self._woken:
            self._woken = True
            self._thread.call(self._take_in)

    def _express(self, task: Task) -> bool:
        now = time.monotonic()
        plain = task.rank is None and not task.extra and not task.blobs and not task.modules
        in_time = self._deadlines.covers(now + task.timeout)
        return plain and in_time and self._closed is None and self._free.express(task, now)

    def cancel(self, task: Task) -> None:
        self._thread.call(self._cancel, task)

    # what the pool asks

    @property
    def queued(self) -> int:
        return len(self._queue) + len(self._inbox) + len(self._uploads.tasks) + len(self._arriving)

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
        while self.queued or any(lane.load for lane in self._lanes):  # noqa: ASYNC110  (only at the end)
            await asyncio.sleep(IDLE_POLL)

    def add_lane(self, lane: Lane) -> None:
        lane.usable = True
        lane.last_answer = self.now()
        self._lanes.append(lane)
        self._free.offer(lane)
        self._pump()

    def remove_lane(self, lane: Lane) -> None:
        lane.usable = False
        if lane in self._lanes:
            self._lanes.remove(lane)

    def drop(self, *, blobs: list[int], codes: list[int]) -> None:
        for lane in self._lanes:
            lane.drop(blobs, codes)
            self._touch(lane)
            if lane.node.depot is not None:
                lane.node.depot.drop(blobs)

    def close(self, error: SkywardError) -> None:
        """Fail every task that is not over, now and later."""
        self._closed = error
        self._deadlines.close()
        self._ahead.close()
        self._take_in()
        tasks = self._queue.clear()
        tasks += [task for lane in self._lanes for task in lane.unanswered.values()]
        tasks += [*self._uploads.tasks, *self._arriving]
        for task in tasks:
            self._fail(task, error)

    # taking in and handing out

    def _take_in(self) -> None:
        self._woken = False
        self._free.reclaim()
        for _ in range(min(len(self._inbox), TURN)):
            task = self._inbox.popleft()
            if self._closed is not None:
                self._fail(task, self._closed)
            elif task.future.was_cancelled:
                self._finish(task)
            else:
                if task.output is not None or task.streams:
                    self._relay.open(task, self._deadlines.extend, self._cancel)
                self._queue.put(task)
        if self._inbox and not self._woken:
            self._woken = True
            self._loop.call_soon(self._take_in)
        self._pump()
        self._flush()  # nothing more to gather: another turn of the loop would only cost time

    def _pump_soon(self) -> None:
        """Hand out once for all the results that came in one read."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        now = self.now()
        useless: list[Lane] = []
        while self._queue and (lane := self._free.take()) is not None:
            if not lane.has_room:
                continue
            task = self._queue.next_for(lane.node.rank)
            if task is None:
                useless.append(lane)
                continue
            if lane.lacks(task):
                self._uploads.bring(lane, task)
            else:
                lane.assign(task, now)
                self._touch(lane)
            self._free.offer(lane)
        for lane in useless:
            self._free.offer(lane)
        if self._queue.open:
            self._send_ahead(now)
            self._on_pressure()

    def _send_ahead(self, now: float) -> None:
        for lane, room in self._ahead.rooms(self._queue.open):
            for _ in range(room):
                task = self._queue.next_for(lane.node.rank)
                if task is None:
                    break
                if lane.lacks(task):
                    self._queue.put_first(task)
                    break
                lane.assign(task, now)
            self._touch(lane)

    def on_brought(self, lane: Lane, task: Task, problem: OSError | None) -> None:
        """A task's values are on the node of its lane, or can't be brought there."""
        if problem is not None and not isinstance(problem, ConnectionError):
            self._fail(task, not_brought(task, lane.node.rank, problem))
        elif not task.done and lane.usable and problem is None:
            lane.assign(task, self.now())
            lane.flush()
        elif not task.done:
            self._queue.put_first(task)
        self._free.offer(lane)
        self._pump()

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

    # what comes back

    def on_recalled(self, lane: Lane, tasks: list[Task]) -> None:
        for task in reversed(tasks):
            self._running.discard(task)
            task.started = 0.0
            self._queue.put_first(task)
        self._free.offer(lane)
        self._pump()

    def on_heritage(self, lane: Lane, message: dict[str, Any]) -> None:
        inherit(self, lane, message, self.make_heir)

    # outcomes

    def on_started(self, task: Task, now: float) -> None:
        task.started = now
        if task.done:  # cancelled before we heard that it had begun
            return
        self._running.add(task)
        task.future.note_running()
        if task.timeout:
            self._deadlines.watch(task, now)
        if wanted(TaskStarted):
            report_started(self._pool, task)

    def on_progress(self, task: Task) -> None:
        self._deadlines.extend(task)

    def on_credit(self, stream: int, items: int, size: int) -> None:
        self._relay.on_credit(stream, items, size)

    def on_stream_close(self, stream: int) -> None:
        self._relay.on_close(stream)

    def on_answered(self, lane: Lane, task: Task, micros: int) -> None:
        """A task is over on its node; its values may still be on their way."""
        lane.node.done += 1
        ema = task.code.ema_micros
        task.code.ema_micros = micros if ema is None else ema + 0.2 * (micros - ema)
        self._running.discard(task)
        self._arriving.add(task)
        if task.inherited:
            lane.node.lanes.on_inherited_done(lane)
        self._free.offer(lane)
        if self._queue:
            self._pump_soon()

    def on_outcome(self, lane: Lane, task: Task, status: int, micros: int, outcome: Outcome) -> None:
        self._arriving.discard(task)
        if not task.done:
            if wanted(TaskCompleted):
                report_completed(self._pool, lane, task, status, micros)
            self._complete(task, status, outcome)

    def on_value_lost(self, task: Task) -> None:
        """The machine went before it had handed a result over."""
        self._arriving.discard(task)
        if not task.done:
            rank = task.lane.node.rank
            task.started, task.lane = 0.0, None
            self._lost(task, rank, "was lost with its node before its result had arrived")
            self._pump()

    def _complete(self, task: Task, status: int, outcome: Outcome) -> None:
        failed = status == frames.RAISED
        self.failed += failed
        self.done += not failed
        self._finish(task)
        if task.output is not None:
            task.output.end(outcome.unpack()[1] if failed else None)
        elif status == frames.CANCELLED:
            settle(task.future, error=PoolStateError(f"{task.name}() was cancelled on its node"))
        else:
            settle(task.future, outcome)

    def _fail(self, task: Task, error: BaseException) -> None:
        if task.done:
            return
        self.failed += 1
        self._finish(task)
        if task.output is not None:
            task.output.end(error)
        settle(task.future, error=error)

    def _finish(self, task: Task) -> None:
        """Let go of what the task holds; it has its outcome, or nobody wants one."""
        if task.done:
            return
        task.done = True
        if task.batch is not None:
            task.batch.done += 1
        self._running.discard(task)
        if task.streams:
            self._relay.close(task)
        for blob in task.blobs:
            self._blobs.release(blob)
        self._packer.release(task.code, task.id)
        task.future.let_go()

    def _cancel(self, task: Task) -> None:
        """The caller wants it no more. What runs keeps its slot until its process says that it has ended."""
        if task.done:
            return
        lane: Lane | None = task.lane
        self._finish(task)
        if task.output is not None:
            task.output.end(None)
        if lane is not None and task.id in lane.unanswered:
            self._running.discard(task)
            stop(lane, task, "its task was cancelled and did not end")

    def _time_out(self, task: Task) -> None:
        lane: Lane = task.lane
        self._fail(task, timed_out(task, lane.node.rank))
        stop(lane, task, f"a task ran longer than {task.timeout:g} s and did not end when cancelled")

    # losing a process

    def on_lane_lost(self, lane: Lane, kind: str, cause: str) -> None:
        """Decide what becomes of the tasks of a process that died; the kinds are those of ``node.deaths``."""
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
            if not began and not task.inherited:
                self._queue.put_first(task)
            elif began and kind in ("crash", "oom"):
                self._fail(task, crashed(task, rank, cause, len(running)))
            else:
                self._lost(task, rank, cause)
        lane.close()
        self._pump()

    def _lost(self, task: Task, rank: int, cause: str) -> None:
        task.attempts += 1
        if task.attempts <= self._retries and task.can_retry:
            self._queue.put_first(task)
            return
        self._fail(task, interrupted(task, rank, cause))

    def abandon_rank(self, rank: int, reason: str) -> None:
        """Fail the tasks pinned to a node that will not come back."""
        for task in self._queue.abandoned(rank):
            self._fail(task, NodeLostError(f"{task.name}() can't run on node {rank}: {reason}", rank=rank))
