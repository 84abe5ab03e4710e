"""Carries streams between their ends on the client and the lane of their task. Runs on the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyward.link import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward.engine.feeds import InFeed
    from skyward.engine.lane import Lane
    from skyward.engine.loop import LoopThread
    from skyward.engine.packing import Packer
    from skyward.engine.task import Task
    from skyward.link.blobs import BlobStore
    from skyward.link.pickling import Pickled


class StreamRelay:
    """See the module. A stream's frames go where its task is; once the task is over they go nowhere."""

    def __init__(self, thread: LoopThread, blobs: BlobStore, packer: Packer) -> None:
        self._thread = thread
        self._blobs = blobs
        self._packer = packer
        self._feeds: dict[int, InFeed] = {}

    def open(self, task: Task, on_progress: Callable[[Task], None], cancel: Callable[[Task], None]) -> None:
        """Connect a task's streams, before it is sent anywhere."""
        call = self._thread.call
        for feed in task.streams:
            self._feeds[feed.number] = feed
            feed.send = lambda feed, count, pickled: call(self._send_items, task, feed, count, pickled)
            feed.send_end = lambda feed, error: call(self._send_end, task, feed, error)
        if task.output is not None:

            def credit(items: int, size: int) -> None:
                if not task.done:
                    on_progress(task)
                    self._write(task, frames.CREDIT, frames.CREDIT_BODY.pack(task.id, items, size))

            task.output.give_credit = lambda items, size: call(credit, items, size)
            task.output.stop_remote = lambda: call(cancel, task)

    def close(self, task: Task) -> None:
        """Stop pulling from the caller's iterators; the task is over."""
        for feed in task.streams:
            self._feeds.pop(feed.number, None)
            feed.stop()

    def on_credit(self, stream: int, items: int, size: int) -> None:
        """A task has consumed items of its input."""
        feed = self._feeds.get(stream)
        if feed is not None:
            feed.credit(items, size)

    def on_close(self, stream: int) -> None:
        """A task wants no more of its input."""
        feed = self._feeds.get(stream)
        if feed is not None:
            feed.stop()

    def _write(self, task: Task, kind: int, body: bytes) -> None:
        lane: Lane | None = task.lane
        if lane is not None and not task.done:
            lane.write(frames.frame(kind, body))
            lane.flush()

    def _send_items(self, task: Task, feed: InFeed, count: int, pickled: Pickled) -> None:
        lane: Lane | None = task.lane
        if lane is None or task.done:
            return
        if pickled.modules or pickled.classes:
            lane.send_modules(self._packer.sources(pickled))
        data, blobs, _ = self._packer.store(pickled, [self._blobs.intern(view) for view in pickled.buffers])
        for blob in blobs:
            lane.send_blob(blob)
        numbers = b"".join(frames.U64.pack(blob.id) for blob in blobs)
        head = frames.ITEMS_HEAD.pack(feed.number, count, len(blobs))
        self._write(task, frames.ITEMS, head + numbers + data)
        for blob in blobs:
            self._blobs.release(blob)

    def _send_end(self, task: Task, feed: InFeed, error: bytes | None) -> None:
        status = frames.OK if error is None else frames.RAISED
        self._write(
            task, frames.STREAM_END, frames.STREAM_END_HEAD.pack(feed.number, status) + (error or b"")
        )
