"""Streams out of generators: every kind of item, errors, back-pressure."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skyward as sky

WINDOW = 2048 + 3 * 512
"""Items that may be under way: the window, and a batch at each end and in between."""


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


def settled(number: Callable[[], int]) -> int:
    """Return a number once it has stood still for a second."""
    last, since = number(), time.monotonic()
    while time.monotonic() - since < 1.0:
        time.sleep(0.05)
        if (now := number()) != last:
            last, since = now, time.monotonic()
    return last


def memory(pid: int | str = "self") -> int:
    """Bytes that a process has in memory that belong to it alone."""
    with open(f"/proc/{pid}/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Point:
    x: int
    y: str


@sky.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@sky.function
def forever(log: Path) -> Generator[int]:
    """Note each item as it is asked for, and the end."""
    try:
        for i in itertools.count():
            with log.with_suffix(".asked").open("ab") as file:
                file.write(b".")
            yield i
    finally:
        log.with_suffix(".ended").touch()


@sky.function
def wrong_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise LookupError(f"after {n}")


@sky.function
def one() -> int:
    return 1


# out


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 5000])
def test_out(pool: sky.Pool, n: int) -> None:
    assert list(count(n) >> pool) == list(range(n))


def test_an_item_arrives_when_it_is_yielded(pool: sky.Pool, tmp_path: Path) -> None:
    @sky.function
    def one_by_one() -> Iterator[int]:
        for i in range(3):
            yield i
            limit = time.monotonic() + 30
            while not (tmp_path / str(i)).exists() and time.monotonic() < limit:
                time.sleep(0.005)

    for i in one_by_one() >> pool:
        (tmp_path / str(i)).touch()
    assert len(list(tmp_path.iterdir())) == 3


def test_every_kind_of_item(pool: sky.Pool) -> None:
    items = [
        1,
        2.5,
        None,
        True,
        "text",
        b"bytes",
        "é" * 3000,
        (1, "a"),
        [1, [2]],
        {"k": {3}},
        Point(1, "p"),
        1 << 100,
    ]

    @sky.function
    def give() -> Iterator[Any]:
        yield from items

    assert list(give() >> pool) == items


def test_an_item_is_as_it_was_when_it_was_yielded(pool: sky.Pool) -> None:
    @sky.function
    def growing() -> Iterator[Any]:
        state: list[int] = []
        array = np.zeros(400_000)
        for i in range(300):
            state.append(i)
            yield state
            if i % 100 == 0:
                array[:] = i
                yield array

    got = list(growing() >> pool)
    lists = [item for item in got if isinstance(item, list)]
    arrays = [item for item in got if isinstance(item, np.ndarray)]
    assert [len(state) for state in lists] == list(range(1, 301))
    assert [(array.min(), array.max()) for array in arrays] == [(0, 0), (100, 100), (200, 200)]


def test_a_generator_that_raises_midway(pool: sky.Pool) -> None:
    stream = wrong_after(500) >> pool
    got: list[int] = []
    with pytest.raises(LookupError, match="after 500") as caught:
        for item in stream:
            got.append(item)  # noqa: PERF402  (what came before the error counts)
    assert got == list(range(500))
    assert any("raised by wrong_after() on node 0" in note for note in caught.value.__notes__)
    assert list(stream) == []
    assert one() >> pool == 1


def test_an_item_that_cannot_be_sent(pool: sky.Pool) -> None:
    @sky.function
    def locks() -> Iterator[Any]:
        yield 1
        yield {"lock": threading.Lock()}

    stream = locks() >> pool
    assert next(stream) == 1
    with pytest.raises(sky.SerializationError, match=r"item\['lock'\] is a _thread.lock"):
        next(stream)


def test_out_with_a_timeout_counts_what_the_consumer_waits(pool: sky.Pool) -> None:
    stream = count(3000).with_timeout(1.0) >> pool
    got = [next(stream)]
    time.sleep(2.0)  # a slow consumer is no fault of the generator's
    assert [*got, *stream] == list(range(3000))

    @sky.function
    def stuck() -> Iterator[int]:
        yield 1
        time.sleep(60)

    stream = stuck().with_timeout(0.5) >> pool
    assert next(stream) == 1
    with pytest.raises(sky.TaskTimeoutError):
        next(stream)
    assert one() >> pool == 1


# back-pressure


def test_a_generator_runs_no_further_ahead_than_the_window(pool: sky.Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream = forever(log) >> pool
    assert next(stream) == 0
    asked = settled(lambda: log.with_suffix(".asked").stat().st_size)
    assert 100 < asked < WINDOW
    stream.close()
    eventually(log.with_suffix(".ended").exists)


def test_a_caller_is_pulled_no_further_ahead_than_the_window(pool: sky.Pool, tmp_path: Path) -> None:
    pulled = 0

    def numbers() -> Iterator[int]:
        nonlocal pulled
        for i in itertools.count():
            pulled = i
            yield i

    @sky.function
    def take_one_and_wait(items: Iterator[int]) -> int:
        item = next(items)
        (tmp_path / "began").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        return item

    future = take_one_and_wait(numbers()) > pool
    eventually((tmp_path / "began").exists)
    assert 100 < settled(lambda: pulled) < WINDOW
    (tmp_path / "go").touch()
    assert future.result(30) == 0


def test_memory_stays_flat_on_both_sides(wide: sky.Pool) -> None:
    """Far more bytes go through than either side may gain, while the consumer is slower than the producer."""
    item = 2000
    n = 200_000  # 400 MB

    @sky.function
    def produce(pids: Iterator[int]) -> Iterator[tuple[int, bytes]]:
        for i in range(n):
            grown = memory() if i % 1000 == 0 else 0
            yield grown, i.to_bytes(8, "big") * (item // 8)

    produced: list[int] = []
    before = memory()
    here = 0
    for i, (there, data) in enumerate(produce(iter([1])) >> wide):
        if there:
            produced.append(there)
            here = max(here, memory())
            time.sleep(0.001)
        assert len(data) == item, i
    assert i == n - 1
    assert max(produced) - produced[5] < 60 << 20
    assert here - before < 60 << 20


def test_large_items_keep_memory_flat(wide: sky.Pool) -> None:
    size = 8 << 20

    @sky.function
    def arrays() -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        for i in range(60):  # 480 MB
            yield memory(), np.full(size // 8, float(i))

    @sky.function
    def mean(items: Iterator[np.ndarray[Any, Any]]) -> tuple[float, int]:
        means, peak = [], 0
        for item in items:
            means.append(item.mean())
            peak = max(peak, memory())
        return float(np.mean(means)), peak

    start = memory()
    there: list[int] = []
    for i, (grown, array) in enumerate(arrays() >> wide):
        there.append(grown)
        assert array[0] == array[-1] == i
        assert memory() - start < 120 << 20
        time.sleep(0.005)
    assert i == 59
    assert max(there) - there[2] < 120 << 20
    value, peak = mean(np.full(size // 8, float(i)) for i in range(60)) >> wide
    assert value == 29.5
    assert peak - there[0] < 200 << 20
