"""Large values on a node that no descriptor reaches: files in the machine's folder, once for all workers.

What a task needs is uploaded before the task is sent; what a worker answers is downloaded before the answer
counts. Both stream, so that neither side holds more than the value itself, and both go on when the connection
was cut. On the loop.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from skyward.errors import ConnectError, HostKeyError
from skyward.link.agentconfig import blob_file
from skyward.link.frames import CHUNK
from skyward.link.memory import map_file, memory_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skyward.link.blobs import Blob
    from skyward.link.links import Files

PASSING = (ConnectionError, ConnectError, HostKeyError)
"""What a transfer is tried again after. Whether the node is lost for it, its agent's line decides."""
PIECE = CHUNK // 4
"""Bytes read at a time: other work on the loop gets its turn in between."""


class Depot:
    """One node's. ``command`` tells its agent something; ``delays``: seconds before each try."""

    def __init__(
        self, files: Files, command: Callable[[dict[str, Any]], None], delays: tuple[float, ...]
    ) -> None:
        self._files = files
        self._command = command
        self._delays = delays
        self._there: dict[int, asyncio.Task[None]] = {}
        self._fetches: set[asyncio.Task[Any]] = set()

    def has(self, blob: Blob) -> bool:
        """Whether it is there, whole."""
        upload = self._there.get(blob.id)
        return upload is not None and upload.done()

    async def bring(self, blobs: Iterable[Blob]) -> None:
        """Upload what is not there. Raises OSError, saying what the machine said."""
        for blob in blobs:
            upload = self._there.get(blob.id)
            if upload is None:
                upload = self._there[blob.id] = asyncio.create_task(self._upload(blob))
            try:
                await asyncio.shield(upload)
            except OSError:
                if self._there.get(blob.id) is upload:
                    del self._there[blob.id]
                raise
            except asyncio.CancelledError:
                if not upload.cancelled():
                    raise
                raise ConnectionResetError("the machine was lost") from None

    async def _upload(self, blob: Blob) -> None:
        for delay in self._delays:
            await asyncio.sleep(delay)
            try:
                await self._files.put(blob_file(blob.id), blob.chunks(PIECE))
            except PASSING:
                continue
            return
        raise ConnectionResetError("the machine could not be reached any more")

    async def fetch(self, name: str, size: int) -> memoryview:
        """Download a file that a worker wrote, and have it removed there. Raises OSError."""
        task = asyncio.current_task()
        assert task is not None
        self._fetches.add(task)
        fd = memory_file()
        try:
            await self._download(name, size, fd)
            view = map_file(fd, size)
        finally:
            os.close(fd)
            self._fetches.discard(task)
        self._command({"do": "remove", "names": [name]})
        return view

    async def _download(self, name: str, size: int, fd: int) -> None:
        done = 0
        for delay in self._delays:
            await asyncio.sleep(delay)
            try:
                async for data in self._files.get(name, done):
                    done += os.write(fd, data)
            except PASSING:
                continue
            if done == size:
                return
        raise ConnectionResetError(f"{done} of {size} bytes of a result arrived")

    def drop(self, blobs: Iterable[int]) -> None:
        """Have files removed that no task needs any more."""
        names = [blob_file(blob) for blob in blobs if self._there.pop(blob, None) is not None]
        if names:
            self._command({"do": "remove", "names": names})

    def close(self) -> None:
        """Stop what is under way."""
        for transfer in (*self._there.values(), *self._fetches):
            transfer.cancel()
