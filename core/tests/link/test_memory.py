"""Mappings: private to their holder, free of descriptors, and passed on only while nobody wrote to them."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import sys
from collections.abc import Iterator

import pytest
from skyward.link.memory import FILES_KEPT, file_behind, map_file, memory_file, write_all

SIZE = 3_000_001  # not a multiple of any page

pagemap = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which pages were written to")


@pytest.fixture
def file() -> Iterator[int]:
    fd = memory_file()
    write_all(fd, memoryview(bytes(range(256)) * (SIZE // 256 + 1))[:SIZE])
    yield fd
    os.close(fd)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_it_shows_the_bytes_and_keeps_what_is_written_to_itself(file: int) -> None:
    one, other = map_file(file, SIZE), map_file(file, SIZE)
    assert (len(one), one[255], one[-1]) == (SIZE, 255, (SIZE - 1) % 256)
    one[7] = 99
    assert (one[7], other[7], os.pread(file, 1, 7)) == (99, 7, b"\7")


def test_it_lives_as_long_as_any_view_and_then_ends(file: int) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("memfd:skyward" in line for line in maps)

    if sys.platform != "linux":
        pytest.skip("only Linux lists what is mapped")
    before = mapped()
    part = map_file(file, SIZE)[100:200]
    gc.collect()
    assert mapped() == before + 1
    assert part[0] == 100
    del part
    assert mapped() == before


def test_more_mappings_than_a_process_may_have_files(file: int) -> None:
    before = open_files()
    views = [map_file(file, SIZE) for _ in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 100 + 500)]
    assert open_files() <= before + FILES_KEPT
    assert all(view[1] == 1 for view in views)
    del views
    assert open_files() == before


@pagemap
def test_what_was_only_read_is_passed_on(file: int) -> None:
    view = map_file(file, SIZE)
    sum(view[::4096])  # reads every page
    behind = file_behind(pickle.PickleBuffer(view).raw())
    assert behind is not None
    assert os.path.sameopenfile(behind, file)
    os.close(behind)


@pagemap
@pytest.mark.parametrize("place", [0, SIZE // 2, SIZE - 1])
def test_what_was_written_to_is_not(file: int, place: int) -> None:
    view = map_file(file, SIZE)
    view[place] = view[place]  # even when the byte is the same: the page is a copy
    assert file_behind(view) is None


def test_what_is_only_a_part_is_not(file: int) -> None:
    view = map_file(file, SIZE)
    assert file_behind(view[:-1]) is None
    assert file_behind(view[4096:]) is None
    assert file_behind(view.toreadonly()) is None
    assert file_behind(memoryview(bytearray(SIZE))) is None


def test_an_address_that_is_used_again_is_not_the_old_file(file: int) -> None:
    map_file(file, SIZE)
    for _ in range(20):
        other = memory_file()
        write_all(other, memoryview(bytes(SIZE)))
        view = map_file(other, SIZE)
        behind = file_behind(view)
        assert behind is None or os.path.sameopenfile(behind, other)
        if behind is not None:
            os.close(behind)
        os.close(other)


def test_a_file_that_can_not_be_mapped_is_an_error() -> None:
    with pytest.raises(OSError, match="mapping 100 bytes"):
        map_file(999_999, 100)


def test_the_limit_on_open_files_is_raised_when_it_is_met() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 200:
        pytest.skip("this process may open hardly any files")
    files: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        files += [memory_file() for _ in range(150)]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
