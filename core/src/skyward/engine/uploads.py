"""Tasks that have a slot, and wait for their values to get to its node. On the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from skyward.engine.lane import Lane
    from skyward.engine.task import Task
    from skyward.link.blobs import BlobStore


class Uploads:
    """``done`` is told when a task can be sent, or why not."""

    def __init__(self, blobs: BlobStore, done: Callable[[Lane, Task, OSError | None], None]) -> None:
        self._blobs = blobs
        self._done = done
        self._under_way: dict[asyncio.Task[None], Task] = {}

    @property
    def tasks(self) -> Collection[Task]:
        """Those that wait."""
        return self._under_way.values()

    def bring(self, lane: Lane, task: Task) -> None:
        """Have the values that a task needs brought to the node; it keeps its slot there meanwhile."""
        lane.uploading += 1
        upload = asyncio.get_running_loop().create_task(self._bring(lane, task))
        self._under_way[upload] = task
        upload.add_done_callback(self._under_way.pop)

    async def _bring(self, lane: Lane, task: Task) -> None:
        blobs = (*task.blobs, *task.code.blobs)
        for blob in blobs:
            self._blobs.hold(blob)
        problem: OSError | None = None
        try:
            await lane.bring(task)
        except OSError as error:
            problem = error
        finally:
            lane.uploading -= 1
            for blob in blobs:
                self._blobs.release(blob)
        self._done(lane, task, problem)
