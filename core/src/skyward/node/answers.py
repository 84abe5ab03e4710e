"""What tasks came to: sent to the client, and remembered for another that may come after it.

A client whose process was killed takes with it what it had got. So a worker keeps its last answers although
they have arrived, and sends them again to a client that attaches: see ``Answers.bequeath``. What has not
arrived is never dropped.
"""

from __future__ import annotations

import base64
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from skyward.errors import SerializationError
from skyward.link import frames
from skyward.link.agentconfig import result_file
from skyward.link.frames import ResultFrame
from skyward.link.memory import file_of, write_all
from skyward.link.pickling import Pickled
from skyward.node.channel import Channel
from skyward.node.failures import pickle_failure

KEPT_BYTES = 1 << 25
"""Of answers that have arrived; the oldest go first. A value in a file counts with the file's agent."""
KEPT_ANSWERS = 10_000


class Value:
    """A large value on its way: under the worker's number, in a descriptor of ours or in a file (-1)."""

    __slots__ = ("fd", "number", "size")

    def __init__(self, number: int, size: int, fd: int) -> None:
        self.number = number
        self.size = size
        self.fd = fd

    @property
    def frame(self) -> bytes:
        how = frames.BY_FILE if self.fd < 0 else frames.BY_FD
        return frames.frame(frames.BLOB, frames.BLOB_HEAD.pack(self.number, self.size, how))


class Answer:
    """One task's outcome. ``end``: where it ends in the stream to the client; None while that is unknown."""

    __slots__ = ("data", "end", "name", "size", "task", "values")

    def __init__(self, task: int, name: str, values: list[Value], data: bytes) -> None:
        self.task = task
        self.name = name
        self.values = values
        self.data = data
        self.size = len(data) + sum(value.size for value in values if value.fd >= 0)
        self.end: int | None = None

    def send(self, push: Callable[[bytes, tuple[int, ...]], int]) -> None:
        for value in self.values:
            push(value.frame, (os.dup(value.fd),) if value.fd >= 0 else ())
        self.end = push(self.data, ())

    def forget(self) -> None:
        for value in self.values:
            if value.fd >= 0:
                os.close(value.fd)


class Answers:
    """One worker's. Any thread may answer; ``bequeath`` is the channel's."""

    def __init__(self, root: str, index: int, generation: int, channel: Channel) -> None:
        self._root = root
        self._index = index
        self._generation = generation
        self._channel = channel
        self._next = 1
        self._lock = threading.Lock()
        self._kept: deque[Answer] = deque()
        self._bytes = 0

    def send(self, task: int, status: int, micros: int, pickled: Pickled | None, name: str | None) -> None:
        """Send an outcome. ``name``: the task's, whose outcome is to be remembered; None: it is not."""
        micros = min(micros, 0xFFFFFFFF)
        if pickled is None:
            self._send(task, name, [], ResultFrame(task, status, micros, b"").pack())
        elif not pickled.buffers and len(pickled.data) < frames.CHUNK:
            self._send(task, name, [], ResultFrame(task, status, micros, pickled.data).pack())
        else:
            try:
                data, values = self._stored(pickled)
            except OSError as error:  # the disk is full
                failure = SerializationError(f"there is no room on the node for the result: {error}")
                self.send(task, frames.RAISED, micros, pickle_failure(failure), name)
                return
            numbers = tuple(value.number for value in values)
            self._send(task, name, values, ResultFrame(task, status, micros, data, numbers).pack())

    def send_pickle(self, pickled: Pickled, pack: Callable[[bytes, tuple[int, ...]], bytes]) -> int:
        """Send a pickle's large parts, then the frame that ``pack`` makes of the rest. Return the bytes sent.

        Raises OSError when the disk is full.
        """
        data, values = self._stored(pickled)
        for value in values:
            self._channel.send(value.frame, (value.fd,) if value.fd >= 0 else ())
        self._channel.send(pack(data, tuple(value.number for value in values)))
        return len(data) + sum(value.size for value in values)

    def _send(self, task: int, name: str | None, values: list[Value], data: bytes) -> None:
        answer = Answer(task, name or "", values, data)
        if name is not None:
            with self._lock:  # before it is sent: a client that attaches meanwhile must not miss it
                self._kept.append(answer)
                self._bytes += answer.size
                if self._bytes > KEPT_BYTES or len(self._kept) > KEPT_ANSWERS:
                    self._trim()
        answer.send(self._channel.send)
        if name is None:
            answer.forget()

    def _trim(self) -> None:
        arrived = self._channel.arrived
        while self._bytes > KEPT_BYTES or len(self._kept) > KEPT_ANSWERS:
            end = self._kept[0].end
            if end is None or end > arrived:
                return
            oldest = self._kept.popleft()
            self._bytes -= oldest.size
            oldest.forget()

    def _stored(self, pickled: Pickled) -> tuple[bytes, list[Value]]:
        """Put the large parts where the client gets them from; return the rest, and them."""
        parts: list[Any] = list(pickled.buffers)
        data = pickled.data
        if len(data) >= frames.CHUNK:
            parts.insert(0, memoryview(data))
            data = b""
        return data, [self._store(part) for part in parts]

    def _store(self, view: memoryview) -> Value:
        with self._lock:
            number = self._next
            self._next += 1
        if self._channel.passes_fds:
            return Value(number, view.nbytes, file_of(view))
        self._write(number, view)
        return Value(number, view.nbytes, -1)

    def _write(self, number: int, data: Any) -> None:
        path = os.path.join(self._root, result_file(self._index, self._generation, number))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, data)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    # for a client that comes after this one

    def names(self) -> list[tuple[int, str]]:
        """Return the tasks whose outcomes are remembered."""
        with self._lock:
            return [(answer.task, answer.name) for answer in self._kept]

    def bequeath(self, push: Callable[[bytes, tuple[int, ...]], int]) -> None:
        """Send all that is remembered once more."""
        with self._lock:
            for answer in self._kept:
                answer.send(push)

    def left_behind(self) -> list[dict[str, Any]]:
        """Return all that is remembered, for the agent: this process is about to end."""
        found: list[dict[str, Any]] = []
        for answer in self._kept:
            for value in answer.values:
                if value.fd >= 0:
                    self._write(value.number, os.pread(value.fd, value.size, 0))
                    os.close(value.fd)
                    value.fd = -1
            sent = [*(value.frame for value in answer.values), answer.data]
            found.append(
                {
                    "task": answer.task,
                    "name": answer.name,
                    "frames": [base64.b64encode(data).decode() for data in sent],
                }
            )
        return found
