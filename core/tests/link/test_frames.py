"""Frames: what is packed is what is unpacked, however the bytes are cut; what is no frame is refused."""

from __future__ import annotations

import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyward.link import frames
from skyward.link.frames import FrameError, ResultFrame, Splitter, TaskFrame

U8, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
FRAMES = st.lists(st.tuples(U8, st.binary(max_size=200)), max_size=20)
EXTRA = st.none() | st.dictionaries(
    st.text(max_size=5), st.integers() | st.text(max_size=5), min_size=1, max_size=3
)


def fed(splitter: Splitter, *pieces: bytes) -> list[tuple[int, bytes]]:
    return [(kind, bytes(body)) for piece in pieces for kind, body in splitter.feed(piece)]


@given(FRAMES, st.lists(st.integers(0, 4000), max_size=20))
def test_however_the_stream_is_cut_the_same_frames_come_out(
    sent: list[tuple[int, bytes]], at: list[int]
) -> None:
    stream = b"".join(frames.frame(kind, body) for kind, body in sent)
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in at)})
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert fed(Splitter(), *pieces) == sent


@given(FRAMES)
def test_byte_by_byte(sent: list[tuple[int, bytes]]) -> None:
    stream = b"".join(frames.frame(kind, body) for kind, body in sent)
    assert fed(Splitter(), *(stream[place : place + 1] for place in range(len(stream)))) == sent


def test_a_frame_comes_as_soon_as_its_last_byte_and_not_before() -> None:
    splitter, data = Splitter(), frames.frame(7, b"body")
    assert fed(splitter, data[:-1]) == []
    assert fed(splitter, data[-1:] + data[:3]) == [(7, b"body")]
    assert fed(splitter, data[3:]) == [(7, b"body")]


def test_a_body_longer_than_any_of_ours_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(FrameError):
        fed(Splitter(), struct.pack("<IB", frames.MAX_BODY + 1, 1))


@given(
    task=U64,
    code=U64,
    data=st.binary(max_size=100),
    blobs=st.lists(U64, max_size=4).map(tuple),
    as_blob=st.booleans(),
    extra=EXTRA,
)
def test_a_task_crosses_whole(
    task: int, code: int, data: bytes, blobs: tuple[int, ...], as_blob: bool, extra: dict[str, object] | None
) -> None:
    as_blob = as_blob and bool(blobs)
    sent = TaskFrame(task, code, data, blobs, as_blob, extra)
    ((kind, body),) = Splitter().feed(sent.pack())
    assert kind == frames.TASK
    got = TaskFrame.unpack(body)
    assert (got.task, got.code, bytes(got.data), got.blobs, got.data_is_blob) == (
        task,
        code,
        data,
        blobs,
        as_blob,
    )
    assert got.extra == (extra or None)


@given(
    task=U64,
    status=st.integers(0, 3),
    micros=U32,
    data=st.binary(max_size=100),
    blobs=st.lists(U64, max_size=4).map(tuple),
)
def test_a_result_crosses_whole(
    task: int, status: int, micros: int, data: bytes, blobs: tuple[int, ...]
) -> None:
    sent = ResultFrame(task, status, micros, data, blobs)
    ((kind, body),) = Splitter().feed(sent.pack())
    assert kind == frames.RESULT
    got = ResultFrame.unpack(body)
    assert (got.task, got.status, got.micros, bytes(got.data), got.blobs) == (
        task,
        status,
        micros,
        data,
        blobs,
    )


@given(st.lists(U64, max_size=50))
def test_ids_cross(ids: list[int]) -> None:
    ((kind, body),) = Splitter().feed(frames.ids_frame(frames.RECALL, ids))
    assert (kind, frames.read_ids(body)) == (frames.RECALL, tuple(ids))


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"x"', b"null"])
def test_a_message_is_an_object(body: bytes) -> None:
    with pytest.raises(FrameError):
        frames.read_json(memoryview(body))


def test_a_message_crosses() -> None:
    message = {"event": "output", "lines": ["ünïcode", "\ud83d\ude00"], "index": -1}
    ((kind, body),) = Splitter().feed(frames.json_frame(frames.NOTICE, message))
    assert kind == frames.NOTICE
    assert frames.read_json(body) == json.loads(json.dumps(message))


def test_kinds_differ() -> None:
    names = [
        "HELLO", "CODE", "TASK", "CANCEL", "RECALL", "ACK", "DROP", "FACTS", "MODULES", "BLOB", "BLOB_CHUNK",
        "ITEMS", "CREDIT", "STREAM_END", "STREAM_CLOSE", "PING", "READY", "RESULT", "RECALLED", "OUTPUT",
        "COMMAND", "NOTICE",
    ]  # fmt: skip
    kinds = [getattr(frames, name) for name in names]
    assert len(set(kinds)) == len(kinds)
    assert all(0 < kind < 256 for kind in kinds)
