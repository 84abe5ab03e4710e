"""The blob store: equal bytes are one blob, unused ones leave in order, and no descriptor stays open."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skyward.link.blobs import BlobStore
from skyward.link.memory import map_file


def content(blob_fd: int, size: int) -> bytes:
    return os.pread(blob_fd, size, 0)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def store(dropped: list[int]) -> Iterator[BlobStore]:
    before = open_descriptors()
    made = BlobStore(dropped.append, cache_bytes=10_000)
    yield made
    made.close()
    assert open_descriptors() == before


def test_equal_bytes_are_one_blob(store: BlobStore) -> None:
    first, second = store.intern(b"a" * 5000), store.intern(bytearray(b"a" * 5000))
    assert first is second
    assert first.refs == 2
    assert content(first.fd, first.size) == b"a" * 5000
    assert store.bytes_stored == 5000


def test_bytes_that_differ_outside_the_sample_are_two_blobs(store: BlobStore) -> None:
    size = 3_000_000
    changed = bytearray(size)
    changed[20_000] = 1  # between two sampled pieces: step is about 46 KB, a piece 4 KB
    first, second = store.intern(bytes(size)), store.intern(changed)
    assert first.sample == second.sample
    assert first is not second
    assert content(second.fd, size) == bytes(changed)


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_sequence_is_stored_by_content(values: list[bytes]) -> None:
    store = BlobStore(lambda blob: None)
    try:
        numbers = [store.intern(value) for value in values]
        for value, blob in zip(values, numbers, strict=True):
            assert content(blob.fd, blob.size) == value
        assert len({blob.id for blob in numbers}) == len(set(values))
    finally:
        store.close()


def test_unused_blobs_leave_oldest_first_and_the_last_one_stays(store: BlobStore, dropped: list[int]) -> None:
    blobs = [store.intern(bytes([number]) * 4000) for number in range(4)]
    for blob in blobs:
        store.release(blob)
    assert dropped == [blobs[0].id, blobs[1].id]
    big = store.intern(b"x" * 50_000)
    store.release(big)
    assert dropped == [blob.id for blob in blobs]
    assert store.intern(b"x" * 50_000) is big


def test_a_blob_in_use_never_leaves(store: BlobStore, dropped: list[int]) -> None:
    kept = store.intern(b"k" * 9000)
    for number in range(5):
        store.release(store.intern(bytes([number]) * 9000))
    assert kept.id not in dropped
    assert content(kept.fd, kept.size) == b"k" * 9000


def test_a_mapping_can_be_written_to_and_nobody_else_sees_it(store: BlobStore) -> None:
    blob = store.intern(b"z" * 5000)
    mine, other = map_file(blob.fd, blob.size), map_file(blob.fd, blob.size)
    mine[0:3] = b"abc"
    assert bytes(other[0:3]) == b"zzz"
    assert content(blob.fd, 3) == b"zzz"


def test_chunks_are_the_bytes(store: BlobStore) -> None:
    data = os.urandom(10_000)
    blob = store.intern(data)
    assert b"".join(blob.chunks(3000)) == data
