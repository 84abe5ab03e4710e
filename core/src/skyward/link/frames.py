"""The wire format: length-prefixed frames, each with a one-byte kind, over any ordered byte stream.

A frame is ``<u32 body length><u8 kind><body>``. What is frequent (tasks, results, items, output) is packed by
``struct``; what is rare is a JSON object. Nothing in here is ever unpickled to be understood, so a node
can't run code on the client by sending a frame. The client numbers tasks, code and blobs; a worker numbers
the blobs that it sends. Used by ``skyward.engine`` and ``skyward.node``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
"""Raised when a frame changes its meaning; both sides say theirs in the greeting."""

MAX_BODY = 1 << 30
"""A longer body can only be a broken peer: whatever is large travels as blob chunks of 1 MiB."""

CHUNK = 1 << 20

# client → worker
HELLO = 1
CODE = 2
TASK = 3
CANCEL = 4
RECALL = 5
ACK = 6
DROP = 7
FACTS = 8
MODULES = 9
# both ways
BLOB = 20
BLOB_CHUNK = 21
ITEMS = 22
CREDIT = 23
STREAM_END = 24
STREAM_CLOSE = 25
PING = 26
# worker → client
READY = 40
RESULT = 41
RECALLED = 42
OUTPUT = 43
HERITAGE = 44
# agent ↔ client
COMMAND = 60
NOTICE = 61

HEADER = struct.Struct("<IB")
TASK_HEAD = struct.Struct("<QQBII")  # task, code, flags, inline length, blob count
RESULT_HEAD = struct.Struct("<QBIII")  # task, status, microseconds, inline length, blob count
U64 = struct.Struct("<Q")
CANCEL_BODY = struct.Struct("<QB")
BLOB_HEAD = struct.Struct("<QQB")  # blob, size, how it comes: BY_FD, BY_CHUNKS or BY_FILE
ITEMS_HEAD = struct.Struct("<QII")  # stream, number of items, blob count
CREDIT_BODY = struct.Struct("<QII")  # stream, items, bytes
STREAM_END_HEAD = struct.Struct("<QB")  # stream, status
OUTPUT_HEAD = struct.Struct("<QBB")  # task (0: none), stream, overwrite

BY_FD = 1
BY_CHUNKS = 2
BY_FILE = 3  # in the machine's folder, named by ``agentconfig``

# flags of a task
DATA_IS_BLOB = 1
HAS_EXTRA = 2

# status of a result
OK = 0
RAISED = 1
CANCELLED = 2
STREAM_DONE = 3

# why a task is cancelled
BY_CALLER = 0
BY_TIMEOUT = 1


class FrameError(Exception):
    """The peer sent what is no frame; the connection can't be used any further."""


def frame(kind: int, body: bytes = b"") -> bytes:
    return HEADER.pack(len(body), kind) + body


def json_frame(kind: int, message: dict[str, Any]) -> bytes:
    return frame(kind, json.dumps(message, separators=(",", ":")).encode())


def ids_frame(kind: int, ids: list[int]) -> bytes:
    return frame(kind, struct.pack(f"<{len(ids)}Q", *ids))


def read_ids(body: memoryview) -> tuple[int, ...]:
    return struct.unpack(f"<{len(body) // 8}Q", body)


def read_json(body: memoryview) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(bytes(body))
    if type(value) is not dict:
        raise FrameError("expected a JSON object")
    return value


# Plain classes: an agent, which is waited for when a node starts, would import dataclasses for nothing else.


class TaskFrame:
    """One task as it crosses. ``data``: the pickled ``(args, kwargs)``, empty when it is the first blob."""

    __slots__ = ("blobs", "code", "data", "data_is_blob", "extra", "task")

    def __init__(
        self,
        task: int,
        code: int,
        data: bytes | memoryview,
        blobs: tuple[int, ...] = (),
        data_is_blob: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.task = task
        self.code = code
        self.data = data
        self.blobs = blobs
        self.data_is_blob = data_is_blob
        self.extra = extra

    def pack(self) -> bytes:
        flags = (DATA_IS_BLOB if self.data_is_blob else 0) | (HAS_EXTRA if self.extra else 0)
        head = TASK_HEAD.pack(self.task, self.code, flags, len(self.data), len(self.blobs))
        if not self.blobs and not self.extra:
            return b"".join((HEADER.pack(len(head) + len(self.data), TASK), head, self.data))
        tail = struct.pack(f"<{len(self.blobs)}Q", *self.blobs)
        extra = json.dumps(self.extra).encode() if self.extra else b""
        return frame(TASK, b"".join((head, self.data, tail, extra)))

    @classmethod
    def unpack(cls, body: memoryview) -> TaskFrame:
        task, code, flags, length, count = TASK_HEAD.unpack_from(body)
        start = TASK_HEAD.size
        data = bytes(body[start : start + length])
        if not flags and not count:
            return cls(task, code, data)
        end = start + length + 8 * count
        blobs = read_ids(body[start + length : end])
        extra = json.loads(bytes(body[end:])) if flags & HAS_EXTRA else None
        return cls(task, code, data, blobs, bool(flags & DATA_IS_BLOB), extra)


class ResultFrame:
    """One outcome. ``data``: the pickled value or exception, or empty when it is the first blob."""

    __slots__ = ("blobs", "data", "micros", "status", "task")

    def __init__(
        self, task: int, status: int, micros: int, data: bytes | memoryview, blobs: tuple[int, ...] = ()
    ) -> None:
        self.task = task
        self.status = status
        self.micros = micros
        self.data = data
        self.blobs = blobs

    def pack(self) -> bytes:
        head = RESULT_HEAD.pack(self.task, self.status, self.micros, len(self.data), len(self.blobs))
        if not self.blobs:
            return b"".join((HEADER.pack(len(head) + len(self.data), RESULT), head, self.data))
        return frame(RESULT, b"".join((head, self.data, struct.pack(f"<{len(self.blobs)}Q", *self.blobs))))

    @classmethod
    def unpack(cls, body: memoryview) -> ResultFrame:
        task, status, micros, length, count = RESULT_HEAD.unpack_from(body)
        start = RESULT_HEAD.size
        data = bytes(body[start : start + length])
        return cls(task, status, micros, data, read_ids(body[start + length :]) if count else ())


class Splitter:
    """Cuts a byte stream into frames. Feed it what arrives; it yields ``(kind, body)``.

    A body is a view that is valid only until the next ``feed``: copy what must outlive it.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
        view = memoryview(self._rest + data if self._rest else data)
        position, end, head = 0, len(view), HEADER.size
        unpack = HEADER.unpack_from
        while end - position >= head:
            length, kind = unpack(view, position)
            if length > MAX_BODY:
                raise FrameError(f"a frame of {length} bytes")
            stop = position + head + length
            if stop > end:
                break
            yield kind, view[position + head : stop]
            position = stop
        self._rest = bytes(view[position:])
