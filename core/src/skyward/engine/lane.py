"""A lane: the client's stream to one worker process, and the tasks that are under way on it.

Tasks are sent in the order they will be begun, so the first ``slots`` of the unanswered ones are running
and the rest are waiting there. Writes gather until ``flush``, which the dispatcher calls once per turn of
the loop. A lane outlives a cut connection; it ends with its process.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from skyward.engine.incoming import Incoming
from skyward.engine.task import Outcome, Task
from skyward.link import frames, numbers
from skyward.link.frames import ResultFrame, TaskFrame
from skyward.link.session import Inbox, Outbox

if TYPE_CHECKING:
    from skyward.engine.node import Node
    from skyward.link.blobs import Blob
    from skyward.link.modules import Source
    from skyward.link.wire import Wire


class Lane:
    """See the module. All methods belong to the loop."""

    def __init__(self, node: Node, index: int, generation: int, slots: int, handler: LaneHandler) -> None:
        self.node = node
        self.index = index
        self.generation = generation
        self.slots = slots
        self.single_use = False
        self.usable = False
        self.offered = False
        """Whether it is among the free lanes, where any thread may take it."""
        self.unanswered: dict[int, Task] = {}
        self.waiting: deque[Task] = deque()
        """The unanswered tasks that have not begun, oldest first; may hold some that are over."""
        self.running = 0
        self.uploading = 0
        """Tasks that have a slot here, and wait for their values to get to the node."""
        self.last_answer = 0.0
        self.recalling = False
        self.death: tuple[str, str] | None = None
        self.session: str | None = None
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.when_told: Callable[[], None] | None = None
        """Called once its process has said what it had from a client that is gone."""
        self._handler = handler
        self._wire: Wire | None = None
        self._codes: set[int] = set()
        self._blobs: set[int] = set()
        self._modules: dict[str, str] = {}
        self._batch: list[bytes] = []
        self._order = threading.Lock()
        """Held while bytes are queued and sent: a caller's thread may do that too, see ``express``."""
        self._incoming = Incoming(index, generation, node.depot, self.on_frame)
        self._handlers: dict[int, Callable[[memoryview], None]] = {
            frames.RESULT: self._on_result,
            frames.OUTPUT: self._on_output,
            frames.ITEMS: self._on_items,
            frames.CREDIT: self._on_credit,
            frames.STREAM_CLOSE: self._on_stream_close,
            frames.BLOB: lambda body: self._incoming.on_blob(body, self._take_fd),
            frames.RECALLED: self._on_recalled,
            frames.HERITAGE: lambda body: self._handler.on_heritage(self, frames.read_json(body)),
            frames.ACK: lambda body: self.outbox.acknowledge(frames.U64.unpack(body)[0]),
        }

    @property
    def load(self) -> int:
        return len(self.unanswered) + self.uploading

    @property
    def has_room(self) -> bool:
        """Whether a task sent now would begin at once."""
        return (
            self.usable
            and len(self.unanswered) + self.uploading < self.slots
            and not (self.single_use and self._codes)
        )

    # sending

    def attach(self, wire: Wire, received: int) -> None:
        """Send on over a new connection, from where the worker's end stopped."""
        with self._order:
            self._wire = wire
            for data, fds in self.outbox.since(received):
                wire.send(data, fds)

    def detach(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def write(self, data: bytes) -> None:
        """Queue frames; they leave with the next ``flush``."""
        self._batch.append(data)

    def flush(self) -> None:
        if self._batch:
            data = b"".join(self._batch)
            self._batch.clear()
            self._push(data)

    def _push(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        with self._order:
            self.outbox.push(data, fds)
            if self._wire is not None:
                self._wire.send(data, fds)

    def assign(self, task: Task, now: float) -> None:
        """Send a task, and before it whatever of its code and values this process has not got."""
        code = task.code
        if code.id not in self._codes:
            self._send_code(task)
        if task.modules:
            self.send_modules(task.modules)
        for blob in task.blobs:
            self.send_blob(blob)
        task.lane = self
        self.unanswered[task.id] = task
        if self.running < self.slots:
            self.running += 1
            self._handler.on_started(task, now)
            if self.running == len(self.unanswered):
                self.last_answer = now
        else:
            self.waiting.append(task)
        data, blobs, extra = task.data, task.blobs, task.extra
        if not blobs and not extra:
            head = frames.TASK_HEAD.pack(task.id, code.id, 0, len(data), 0)
            self._batch.append(frames.HEADER.pack(len(head) + len(data), frames.TASK) + head + data)
        else:
            numbers = tuple(blob.id for blob in blobs)
            self._batch.append(TaskFrame(task.id, code.id, data, numbers, task.data_is_blob, extra).pack())

    def express(self, task: Task, now: float) -> bool:
        """Send a task from the caller's own thread, which has this lane to itself; return whether that was
        done.

        Only where nothing has to go before it and nothing else runs: then no book of the loop's is touched
        by two.
        """
        wire = self._wire
        if wire is None or not wire.any_thread or self.slots != 1:
            return False
        if task.code.id not in self._codes or self._batch or self.unanswered:
            return False
        task.lane = self
        self.running = 1
        self.unanswered[task.id] = task
        if not self.usable:  # lost meanwhile; whoever declared it so has not seen the task, or hands it back
            return self.unanswered.pop(task.id, None) is None
        self._handler.on_started(task, now)
        head = frames.TASK_HEAD.pack(task.id, task.code.id, 0, len(task.data), 0)
        self._push(frames.HEADER.pack(len(head) + len(task.data), frames.TASK) + head + task.data)
        return True

    def _send_code(self, task: Task) -> None:
        code = task.code
        self.send_modules(code.modules)
        for blob in code.blobs:
            self.send_blob(blob)
        header = json.dumps(
            {
                "code": code.id,
                "name": code.name,
                "blobs": [blob.id for blob in code.blobs],
                "data_is_blob": code.data_is_blob,
            }
        ).encode()
        self.write(frames.frame(frames.CODE, len(header).to_bytes(4, "little") + header + code.data))
        self._codes.add(code.id)

    def send_modules(self, modules: dict[str, Source]) -> None:
        new = [source for source in modules.values() if self._modules.get(source.name) != source.digest]
        if new:
            self._modules.update((source.name, source.digest) for source in new)
            self.write(frames.json_frame(frames.MODULES, {"sources": [source.to_json() for source in new]}))

    def send_blob(self, blob: Blob) -> None:
        if blob.id in self._blobs:
            return
        self._blobs.add(blob.id)
        self.flush()
        if self.node.depot is not None and self.node.depot.has(blob):
            head = frames.BLOB_HEAD.pack(blob.id, blob.size, frames.BY_FILE)
            self._push(frames.frame(frames.BLOB, head))
            return
        if self.node.depot is None:  # not asked of the wire, which may be cut just now
            head = frames.BLOB_HEAD.pack(blob.id, blob.size, frames.BY_FD)
            self._push(frames.frame(frames.BLOB, head), (os.dup(blob.fd),))
            return
        self._push(frames.frame(frames.BLOB, frames.BLOB_HEAD.pack(blob.id, blob.size, frames.BY_CHUNKS)))
        number = frames.U64.pack(blob.id)
        for chunk in blob.chunks(frames.CHUNK):
            self._push(frames.frame(frames.BLOB_CHUNK, number + chunk))

    def lacks(self, task: Task) -> bool:
        """Whether the node must be brought something before this task can be sent."""
        depot = self.node.depot
        return depot is not None and not all(map(depot.has, self._needs(task)))

    def _needs(self, task: Task) -> tuple[Blob, ...]:
        return task.blobs if task.code.id in self._codes else (*task.blobs, *task.code.blobs)

    async def bring(self, task: Task) -> None:
        """Bring the node what the task needs. Raises OSError."""
        if self.node.depot is not None:
            await self.node.depot.bring(self._needs(task))

    def drop(self, blobs: list[int], codes: list[int]) -> None:
        blobs = [blob for blob in blobs if blob in self._blobs]
        codes = [code for code in codes if code in self._codes]
        self._blobs.difference_update(blobs)
        self._codes.difference_update(codes)
        if blobs or codes:
            self.write(frames.json_frame(frames.DROP, {"blobs": blobs, "codes": codes}))

    def drop_predecessors(self) -> None:
        """Have the process forget what a client had sent that is gone."""
        self.write(frames.json_frame(frames.DROP, {"below": numbers.first()}))
        self.flush()

    def cancel(self, task: Task) -> None:
        self.write(frames.frame(frames.CANCEL, frames.CANCEL_BODY.pack(task.id, frames.BY_CALLER)))
        self.flush()

    def recall(self) -> None:
        """Ask for the tasks that have not begun; ``on_recalled`` of the handler gets those."""
        numbers = [t.id for t in self.waiting if t.id in self.unanswered and not t.inherited]
        if numbers and not self.recalling:
            self.recalling = True
            self.write(frames.ids_frame(frames.RECALL, numbers))
            self.flush()

    # receiving

    def on_frame(self, kind: int, body: memoryview) -> None:
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(body)

    def on_received(self, size: int, fds: bool) -> None:
        acknowledgement = self.inbox.count(size, now=fds)
        if acknowledgement:
            self._push(acknowledgement)

    def _on_result(self, body: memoryview) -> None:
        result = ResultFrame.unpack(body)
        if self._incoming.parks(result.task, (), frames.RESULT, body):
            return
        task = self.unanswered.pop(result.task, None)
        if task is None:
            self._incoming.when_here(result.blobs, lambda views: None, lambda: None)
            return
        if task.started:
            self._finished_one()
        self._handler.on_answered(self, task, result.micros)
        self._incoming.when_here(
            result.blobs, partial(self._conclude, task, result), partial(self._handler.on_value_lost, task)
        )

    def _conclude(self, task: Task, result: ResultFrame, views: list[memoryview]) -> None:
        raised = result.status == frames.RAISED
        outcome = Outcome(bytes(result.data), views, raised=raised, task=task.name, rank=self.node.rank)
        self._handler.on_outcome(self, task, result.status, result.micros, outcome)

    def _finished_one(self) -> None:
        """A slot is free: the oldest waiting task begins, there and in our books."""
        self.last_answer = self._handler.now()
        self.running -= 1
        self._begin_waiting(self.last_answer)

    def _begin_waiting(self, now: float) -> None:
        while self.waiting and self.running < self.slots:
            task = self.waiting.popleft()
            if task.id in self.unanswered:
                self.running += 1
                self._handler.on_started(task, now)

    def _on_recalled(self, body: memoryview) -> None:
        self.recalling = False
        back = [self.unanswered.pop(number) for number in frames.read_ids(body) if number in self.unanswered]
        gone = {task.id for task in back}
        self.waiting = deque(task for task in self.waiting if task.id not in gone)
        # Some we took for begun, since those before them were over; the recall was there first.
        self.running -= sum(bool(task.started) for task in back)
        self._begin_waiting(self._handler.now())
        self._handler.on_recalled(self, back)

    def _on_output(self, body: memoryview) -> None:
        _, stream, overwrite = frames.OUTPUT_HEAD.unpack_from(body)
        line = bytes(body[frames.OUTPUT_HEAD.size :]).decode(errors="replace")
        self.node.on_output("stderr" if stream else "stdout", line, bool(overwrite))

    def _on_items(self, body: memoryview) -> None:
        number, count, blobs = frames.ITEMS_HEAD.unpack_from(body)
        start = frames.ITEMS_HEAD.size
        numbers = frames.read_ids(body[start : start + 8 * blobs])
        if self._incoming.parks(number, numbers, frames.ITEMS, body):
            return
        task = self.unanswered.get(number)
        if self._incoming.lacks(
            numbers
        ):  # its process goes, and with it what waits for the rest of the stream
            self.node.end_worker(self, "what it sent can't be fetched")
            return
        views = self._incoming.take(numbers)
        if task is not None and task.output is not None:
            task.output.add(bytes(body[start + 8 * blobs :]), views, count)
            self._handler.on_progress(task)

    def _on_credit(self, body: memoryview) -> None:
        number, items, size = frames.CREDIT_BODY.unpack(body)
        self._handler.on_credit(number, items, size)

    def _on_stream_close(self, body: memoryview) -> None:
        self._handler.on_stream_close(frames.U64.unpack(body)[0])

    def _take_fd(self) -> int:
        if self._wire is None:
            raise frames.FrameError("a descriptor without a wire")
        return self._wire.take_fd()

    def close(self) -> None:
        self.usable = False
        self.detach()
        self.outbox.close()
        self._incoming.close()


class FrameCounter:
    """Has a lane count whole frames: of one that was cut in two, the next connection brings all."""

    __slots__ = ("_bytes", "_lane", "_on_frame")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._on_frame = lane.on_frame
        self._bytes = 0

    def on_frame(self, kind: int, body: memoryview) -> None:
        self._bytes += frames.HEADER.size + len(body)
        self._on_frame(kind, body)

    def on_received(self, size: int, fds: bool) -> None:
        whole, self._bytes = self._bytes, 0
        # A process for one task waits for the word that its result is here, before it ends.
        self._lane.on_received(whole, fds or self._lane.single_use)


class LaneHandler:
    """What a lane tells the dispatcher. An interface; the dispatcher subclasses it."""

    def now(self) -> float:
        raise NotImplementedError

    def on_started(self, task: Task, now: float) -> None:
        raise NotImplementedError

    def on_progress(self, task: Task) -> None:
        raise NotImplementedError

    def on_answered(self, lane: Lane, task: Task, micros: int) -> None:
        raise NotImplementedError

    def on_outcome(self, lane: Lane, task: Task, status: int, micros: int, outcome: Outcome) -> None:
        raise NotImplementedError

    def on_value_lost(self, task: Task) -> None:
        raise NotImplementedError

    def on_recalled(self, lane: Lane, tasks: list[Task]) -> None:
        raise NotImplementedError

    def on_heritage(self, lane: Lane, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def on_credit(self, stream: int, items: int, size: int) -> None:
        raise NotImplementedError

    def on_stream_close(self, stream: int) -> None:
        raise NotImplementedError
