"""Streams into tasks, and both ways at once: lazily, with back-pressure, errors on either side."""

from __future__ import annotations

import gc
import importlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skyward as sky


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


@sky.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@sky.function
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)


@sky.function
def first(numbers: Iterator[int], n: int) -> list[int]:
    return list(itertools.islice(numbers, n))


@sky.function
def scaled(numbers: Iterable[int], by: int) -> Iterator[int]:
    for number in numbers:
        yield number * by


@sky.function
def one() -> int:
    return 1


# in


def test_in(pool: sky.Pool) -> None:
    assert total(iter(range(10_000))) >> pool == 49_995_000
    assert total(i for i in range(10)) >> pool == 45
    assert total(numbers=iter([1, 2])) >> pool == 3
    assert total(iter(())) >> pool == 0


def test_an_iterable_that_is_none_itself_goes_as_it_is(pool: sky.Pool) -> None:
    @sky.function
    def kind(items: Iterable[int]) -> str:
        return type(items).__name__

    assert kind([1, 2]) >> pool == "list"
    assert kind(range(3)) >> pool == "range"
    assert kind(iter([1])) >> pool == "InStream"


def test_every_place_of_an_iterator(pool: sky.Pool) -> None:
    @sky.function
    def places(
        a: int, b: Iterator[int], /, *rest: Iterator[int], c: Iterator[int], **more: Iterator[int]
    ) -> list[Any]:
        return [a, list(b), [list(r) for r in rest], list(c), {k: list(v) for k, v in more.items()}]

    def numbers(n: int) -> Iterator[int]:
        return map(int, range(n))

    call = places(1, numbers(2), numbers(1), numbers(3), c=numbers(2), d=numbers(1))
    assert call >> pool == [1, [0, 1], [[0], [0, 1, 2]], [0, 1], {"d": [0]}]


def test_a_batch_longer_than_a_frame(pool: sky.Pool) -> None:
    @sky.function
    def lengths(items: Iterator[str]) -> list[int]:
        return [len(item) for item in items]

    assert lengths("x" * 20_000 for _ in range(300)) >> pool == [20_000] * 300
    assert lengths(iter(["a" * (3 << 20), "b"])) >> pool == [3 << 20, 1]

    @sky.function
    def long() -> Iterator[Any]:
        yield from ("y" * 20_000 for _ in range(300))
        yield b"z" * (3 << 20)
        yield bytearray(2 << 20)
        yield list(range(400_000))

    *texts, data, array, numbers = long() >> pool
    assert texts == ["y" * 20_000] * 300
    assert data == b"z" * (3 << 20)
    assert array == bytearray(2 << 20)
    assert numbers == list(range(400_000))


def test_an_item_of_a_module_that_the_function_does_not_know(
    pool: sky.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"shapes_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("class Point:\n    x = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    shapes = importlib.import_module(name)

    @sky.function
    def xs(items: Iterator[Any]) -> list[int]:
        return [item.x for item in items]

    assert xs(shapes.Point() for _ in range(2)) >> pool == [3, 3]


def test_what_is_fed_is_as_it_was_when_it_was_yielded(pool: sky.Pool) -> None:
    def growing() -> Iterator[Any]:
        state: list[int] = []
        array = np.zeros(400_000)
        for i in range(200):
            state.append(i)
            yield state
            if i % 50 == 0:
                array[:] = i
                yield array

    @sky.function
    def look(items: Iterator[Any]) -> list[float]:
        return [len(item) if isinstance(item, list) else float(item.min() + item.max()) for item in items]

    got = look(growing()) >> pool
    assert sorted(got) == sorted([*range(1, 201), 0.0, 100.0, 200.0, 300.0])


def test_an_input_that_raises(pool: sky.Pool) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone") as caught:
        total(broken()) >> pool
    assert any("an iterator that was given to total()" in note for note in caught.value.__notes__)

    @sky.function
    def careful(items: Iterator[int]) -> str:
        try:
            return str(sum(items))
        except OSError as error:
            return f"caught {error}"

    assert careful(broken()) >> pool == "caught the disk is gone"


def test_an_input_item_that_cannot_be_sent(pool: sky.Pool) -> None:
    def locks() -> Iterator[Any]:
        yield 1
        yield [threading.Lock()]

    with pytest.raises(sky.SerializationError, match=r"item\[0\] is a _thread.lock"):
        total(locks()) >> pool


def test_a_task_that_ends_early_stops_its_input(pool: sky.Pool) -> None:
    ended = threading.Event()

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    assert first(endless(), 3) >> pool == [0, 1, 2]
    assert ended.wait(30)


def test_one_iterator_feeds_one_task(pool: sky.Pool) -> None:
    shared = iter(range(10**9))
    with pytest.raises(
        sky.UsageError, match=r"given to total\(\) is being fed to another task: make one for each"
    ):
        (total(shared) & total(shared)) >> pool
    eventually(lambda: not pool.snapshot().tasks.running)
    assert total(iter([5])) >> pool == 5


# both ways


def test_both_ways(pool: sky.Pool) -> None:
    assert list(scaled(iter(range(3000)), 3) >> pool) == [3 * i for i in range(3000)]


def test_both_ways_without_end(pool: sky.Pool) -> None:
    stream = scaled(itertools.count(1), 2) >> pool
    assert list(itertools.islice(stream, 4000)) == list(range(2, 8002, 2))
    del stream
    gc.collect()
    assert one() >> pool == 1


def test_both_ways_one_at_a_time(pool: sky.Pool) -> None:
    """What is answered decides what is asked: nothing may be held back to fill a batch."""
    asked: list[int] = [1]
    more = threading.Semaphore(1)

    def questions() -> Iterator[int]:
        while more.acquire(timeout=30) and asked[-1] < 500:
            yield asked[-1]

    for answer in scaled(questions(), 2) >> pool:
        asked.append(answer)
        more.release()
    assert asked == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_a_stream_feeds_another(wide: sky.Pool) -> None:
    assert total(scaled(count(5000) >> wide, 2) >> wide) >> wide == 2 * sum(range(5000))
