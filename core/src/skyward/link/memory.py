"""Memory that two processes can share: anonymous files, and what maps them.

A mapping is private: its holder may write to it, nobody else sees that, and only the pages written to are
copied. While nobody has written to it, it is what its file holds; then the file can be passed on, and the
bytes need no copy: ``file_behind``.

Mapped here and not by ``mmap.mmap``, because that keeps a descriptor as long as the mapping lives: a thousand
large results in a list would be all that a process may have open.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from collections.abc import Callable
from typing import Any

WRITE_BYTES = 1 << 23
"""Bytes a write: long enough to cost nothing, short enough for other threads to get the interpreter in
between.
"""
FILES_KEPT = 64
"""Descriptors kept of files that are mapped, so that they can be passed on."""

_PROT_READ_WRITE = 1 | 2
_MAP_PRIVATE = 2
_FAILED = ctypes.c_void_p(-1).value
_WRITE = 0x200  # PyBUF_WRITE

_system = ctypes.CDLL(None, use_errno=True)
_mmap: Callable[..., int] = _system.mmap
_system.mmap.restype = ctypes.c_void_p
_system.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_longlong,
]  # fmt: skip
_munmap: Callable[..., int] = _system.munmap
_system.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_view_of: Callable[..., memoryview] = ctypes.pythonapi.PyMemoryView_FromMemory
ctypes.pythonapi.PyMemoryView_FromMemory.restype = ctypes.py_object
ctypes.pythonapi.PyMemoryView_FromMemory.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]

_PRESENT_OR_SWAPPED, _OF_A_FILE = 0xC0, 0x20  # in the highest byte of a page's entry in pagemap
_WRITTEN = bytes(bool(top & _PRESENT_OR_SWAPPED) and not top & _OF_A_FILE for top in range(256))
_ENTRY = 8


def memory_file() -> int:
    """Return the descriptor of an empty file that lives in memory, or at least has no name.

    Raises OSError; the limit on open files is raised first, as far as this process may.
    """
    try:
        return _memory_file()
    except OSError as error:
        if error.errno != errno.EMFILE or not _raise_limit():
            raise
    return _memory_file()


def _raise_limit() -> bool:
    """Allow this process as many open files as it may have; return whether that was more than before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS says "unlimited" and does not mean it
        return False
    return True


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("skyward", os.MFD_CLOEXEC)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_all(fd: int, view: memoryview) -> None:
    view = view.cast("B") if view.format != "B" or view.ndim != 1 else view
    done, size = 0, len(view)
    while done < size:
        done += os.write(fd, view[done : done + WRITE_BYTES])


def map_file(fd: int, size: int) -> memoryview:
    """Map a file's first ``size`` bytes. The descriptor stays the caller's.

    The mapping ends with its last view. Raises OSError.
    """
    return memoryview(_Mapping(fd, size))


def file_behind(view: memoryview) -> int | None:
    """Return a new descriptor of the file whose bytes these are: all of them, and unchanged since they were
    mapped. None when that can't be told; then they must be copied.
    """
    if view.readonly or not view.nbytes:
        return None
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    entry = _kept.get(address)
    if entry is None or entry[1] != view.nbytes:
        return None
    try:
        return None if _was_written(address, view.nbytes) else os.dup(entry[0])
    except OSError:  # no such thing as pagemap here
        return None


def _was_written(address: int, size: int) -> bool:
    """Whether any page of a mapping is a copy of its own. Raises OSError where the kernel doesn't tell."""
    page = os.sysconf("SC_PAGE_SIZE")
    first, count = address // page, -(-size // page)
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), count * _ENTRY, first * _ENTRY)
    if len(entries) != count * _ENTRY:
        raise OSError("pagemap ended early")
    return 1 in entries[_ENTRY - 1 :: _ENTRY].translate(_WRITTEN)


type _Kept = dict[int, tuple[int, int]]

_kept: _Kept = {}
"""Of mappings that live, by address: a descriptor of our own, and the size."""


class _Mapping:
    """Memory with an end: the exporter of its buffer, so that it lives as long as any view of it."""

    __slots__ = ("_address", "_size")

    def __init__(self, fd: int, size: int) -> None:
        self._size = 0
        self._address = _mmap(None, size, _PROT_READ_WRITE, _MAP_PRIVATE, fd, 0)
        if self._address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, f"{os.strerror(number)}: mapping {size} bytes")
        self._size = size
        if len(_kept) < FILES_KEPT:
            with contextlib.suppress(OSError):  # too many open files: then it is copied when it is sent on
                _kept[self._address] = (os.dup(fd), size)

    def __buffer__(self, flags: int) -> memoryview:
        return _view_of(self._address, self._size, _WRITE)

    def __del__(self, kept: _Kept = _kept, close: Any = os.close, unmap: Any = _munmap) -> None:
        if self._size:  # when Python ends, the module may be gone already: hence the arguments
            entry = kept.pop(self._address, None)
            unmap(self._address, self._size)
            if entry is not None:
                close(entry[0])


def file_of(view: memoryview) -> int:
    """Return a new descriptor of a file with these bytes: what they were mapped from, or else a copy."""
    behind = file_behind(view)
    if behind is not None:
        return behind
    fd = memory_file()
    try:
        write_all(fd, view)
    except BaseException:
        os.close(fd)
        raise
    return fd
