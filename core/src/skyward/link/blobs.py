"""Large values as memory that is addressed by its content and can be shared without copying.

The client's ``BlobStore`` turns a buffer into a ``Blob``: an anonymous memory file with a number. The same
bytes are the same blob, so a node gets them once, whatever carried them. A node only knows numbers. Hashing
everything would cost more than copying it, so a buffer is only compared, and only with blobs that share a
sample of it: bytes whose sample is new can't be known already.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from skyward.link import numbers
from skyward.link.memory import file_of

CACHE_BYTES = 1 << 29
"""Bytes of unused blobs kept for the next task that carries the same; the oldest go first, the last one
stays.

More would not be found again more often, and memory that a process has never had is slow to get on virtual
machines.
"""

COPY_BYTES = 1 << 28
"""A larger copy is a file: our own memory stays what it was."""

_SAMPLES = 64
_SAMPLE_BYTES = 4096
_COMPARE_BYTES = 1 << 18
"""Bytes compared at a time: they stay in the processor's cache."""


class Blob:
    """Bytes held by the client. ``refs`` counts the tasks and functions that need it; see ``BlobStore``.

    ``held``: a file of ours, or memory that nobody can change.
    """

    __slots__ = ("_held", "id", "refs", "sample", "size")

    def __init__(self, number: int, size: int, held: int | memoryview, sample: bytes) -> None:
        self.id = number
        self.size = size
        self.sample = sample
        self.refs = 0
        self._held = held

    @property
    def fd(self) -> int:
        """The file. Only where descriptors are passed, and then there is one."""
        assert isinstance(self._held, int)
        return self._held

    def holds(self, view: memoryview) -> bool:
        """Whether these are its bytes."""
        starts = range(0, self.size, _COMPARE_BYTES)
        return len(view) == self.size and all(
            view[start : start + _COMPARE_BYTES] == memoryview(piece)
            for start, piece in zip(starts, self.chunks(_COMPARE_BYTES), strict=True)
        )

    def chunks(self, size: int) -> Iterator[bytes]:
        """Read the bytes in pieces, for a wire that passes no descriptors."""
        held = self._held
        if isinstance(held, int):
            return (os.pread(held, size, start) for start in range(0, self.size, size))
        return (bytes(held[start : start + size]) for start in range(0, self.size, size))

    def close(self) -> bytearray | None:
        """Let go of the bytes; return the memory that held them, if it was made for that."""
        held, self._held = self._held, memoryview(b"")
        if isinstance(held, int):
            os.close(held)
            return None
        return held.obj if isinstance(held.obj, bytearray) else None


def _sample(view: memoryview) -> bytes:
    size = len(view)
    state = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    step = max(1, (size - _SAMPLE_BYTES) // _SAMPLES)
    for start in range(0, size, step):
        state.update(view[start : start + _SAMPLE_BYTES])
    return state.digest()


class BlobStore:
    """The client's blobs. ``intern`` runs on the callers' threads, the rest on the loop; ``on_drop`` on
    either. ``passes_fds``: whether a blob is sent as a descriptor, and must be a file for that.
    """

    def __init__(
        self,
        on_drop: Callable[[int], None],
        cache_bytes: int = CACHE_BYTES,
        *,
        passes_fds: bool = True,
    ) -> None:
        self._on_drop = on_drop
        self._limit = cache_bytes
        self._passes_fds = passes_fds
        self._lock = threading.Lock()
        self._by_sample: dict[bytes, list[Blob]] = {}
        self._idle: OrderedDict[int, Blob] = OrderedDict()
        self._idle_bytes = 0
        self._closed = False
        self._spare: bytearray | None = None
        """What held a blob that is gone."""
        self.bytes_stored = 0

    def intern(self, buffer: Any) -> Blob:
        """Return the blob with these bytes, made now if they are new, with one reference that the caller
        owns.
        """
        view = memoryview(buffer).cast("B") if not isinstance(buffer, memoryview) else buffer.cast("B")
        sample = _sample(view)
        with self._lock:
            candidates = list(self._by_sample.get(sample, ()))
            for blob in candidates:
                self._keep(blob)
        found = next((blob for blob in candidates if blob.holds(view)), None)
        for blob in candidates:
            if blob is not found:
                self.release(blob)
        if found is not None:
            return found
        in_file = self._passes_fds or (len(view) > COPY_BYTES and type(view.obj) is not bytes)
        return self._add(view, sample, file_of(view) if in_file else self._memory_of(view))

    def _add(self, view: memoryview, sample: bytes, held: int | memoryview) -> Blob:
        with self._lock:
            blob = Blob(numbers.take(), len(view), held, sample)
            blob.refs = 1
            self._by_sample.setdefault(sample, []).append(blob)
            self.bytes_stored += blob.size
        return blob

    def _memory_of(self, view: memoryview) -> memoryview:
        """Return the bytes where nobody can change them: a copy, unless that is where they are."""
        if type(view.obj) is bytes:
            return view
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None or not len(view) <= len(spare) <= 2 * len(view):
            return memoryview(bytearray(view))
        copy = memoryview(spare)[: len(view)]
        copy[:] = view  # into memory that the process has: getting some would cost more than the copying
        return copy

    def hold(self, blob: Blob) -> None:
        """Take one more reference to a blob that has one."""
        with self._lock:
            self._keep(blob)

    def _keep(self, blob: Blob) -> None:
        blob.refs += 1
        if self._idle.pop(blob.id, None) is not None:
            self._idle_bytes -= blob.size

    def release(self, blob: Blob) -> None:
        """Give one reference back. The bytes stay for a while, for the next that carries them."""
        dropped: list[Blob] = []
        with self._lock:
            blob.refs -= 1
            if blob.refs or self._closed:
                return
            self._idle[blob.id] = blob
            self._idle_bytes += blob.size
            while self._idle_bytes > self._limit and len(self._idle) > 1:
                dropped.append(self._evict())
        for old in dropped:
            self._on_drop(old.id)
            self._spare = old.close() or self._spare

    def _evict(self) -> Blob:
        _, old = self._idle.popitem(last=False)
        self._idle_bytes -= old.size
        self.bytes_stored -= old.size
        same = self._by_sample[old.sample]
        same.remove(old)
        if not same:
            del self._by_sample[old.sample]
        return old

    def close(self) -> None:
        """Close every descriptor. Tasks that still hold blobs must not be sent any more."""
        with self._lock:
            self._closed = True
            blobs = [blob for same in self._by_sample.values() for blob in same]
            self._by_sample.clear()
            self._idle.clear()
            self._idle_bytes = 0
            self._spare = None
        for blob in blobs:
            blob.close()
