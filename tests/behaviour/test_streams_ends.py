"""How streams end early, several of them at once, and what becomes of them with their node."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

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
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)


@sky.function
def scaled(numbers: Iterable[int], by: int) -> Iterator[int]:
    for number in numbers:
        yield number * by


@sky.function
def one() -> int:
    return 1


# early ends


def test_closing_runs_the_generators_finally(pool: sky.Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream = forever(log) >> pool
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    stream.close()
    assert list(stream) == []
    eventually(log.with_suffix(".ended").exists)
    assert one() >> pool == 1


def test_dropping_an_iterator_stops_its_generator(pool: sky.Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for i in forever(log) >> pool:
        if i == 10:
            break
    eventually(log.with_suffix(".ended").exists)
    log = tmp_path / "never asked"
    stream = forever(log) >> pool
    eventually(log.with_suffix(".asked").exists)
    del stream
    eventually(log.with_suffix(".ended").exists)
    log = tmp_path / "a future"
    future = forever(log) > pool
    eventually(log.with_suffix(".asked").exists)
    del future
    gc.collect()
    eventually(log.with_suffix(".ended").exists)
    assert one() >> pool == 1


def test_a_generator_in_a_long_step_is_stopped(pool: sky.Pool, tmp_path: Path) -> None:
    @sky.function
    def sleepy() -> Generator[int]:
        try:
            yield 1
            for _ in range(6000):
                time.sleep(0.01)
        finally:
            (tmp_path / "ended").touch()

    stream = sleepy() >> pool
    assert next(stream) == 1
    stream.close()
    eventually((tmp_path / "ended").exists)
    assert one() >> pool == 1


def test_closing_an_async_generator_runs_its_finally(pool: sky.Pool, tmp_path: Path) -> None:
    @sky.function
    async def forever_async() -> AsyncIterator[int]:
        try:
            for i in itertools.count():
                yield i
        finally:
            (tmp_path / "ended").touch()

    stream: Any = forever_async() >> pool
    assert [next(stream) for _ in range(300)] == list(range(300))
    stream.close()
    eventually((tmp_path / "ended").exists)
    assert one() >> pool == 1


def test_a_with_block_closes_a_stream(pool: sky.Pool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream: Any = forever(log) >> pool
    with stream as items:
        assert next(items) == 0
    eventually(log.with_suffix(".ended").exists)


def test_the_end_of_the_pool_ends_its_streams(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ZeroDivisionError):
        with sky.Compute(nodes=1, console=False, logging=False) as pool:
            stream = forever(log) >> pool
            assert next(stream) == 0
            raise ZeroDivisionError
    with pytest.raises(sky.PoolStateError, match="was closed before the task was done"):
        list(stream)


# several


def test_several_streams_at_once(wide: sky.Pool) -> None:
    streams = [count(2000 + i) >> wide for i in range(4)]
    assert [sum(1 for _ in stream) for stream in streams[::-1]] == [2003, 2002, 2001, 2000]
    pairs = list(zip(count(3000) >> wide, scaled(iter(range(3000)), 1) >> wide, strict=True))
    assert pairs == [(i, i) for i in range(3000)]


def test_several_threads_each_with_a_stream(wide: sky.Pool) -> None:
    sums: dict[int, int] = {}

    def consume(n: int) -> None:
        sums[n] = sum(count(n) >> wide)

    threads = [threading.Thread(target=consume, args=(1000 * n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sums == {n: n * (n - 1) // 2 for n in range(1000, 7000, 1000)}


def test_a_waiting_task_that_another_process_takes_over_keeps_its_input(tmp_path: Path) -> None:
    @sky.function
    def hold(name: str) -> None:
        (tmp_path / f"{name}.began").touch()
        while not (tmp_path / f"{name}.go").exists():
            time.sleep(0.005)

    with sky.Compute(nodes=2, worker=sky.Worker(buffer=4), console=False, logging=False) as pool:
        held = [pool.run_async(hold(str(rank)), target=rank) for rank in range(2)]
        eventually(lambda: all((tmp_path / f"{rank}.began").exists() for rank in range(2)))
        totals = [total(iter(range(1000 + i))) > pool for i in range(8)]  # four wait at either
        time.sleep(0.3)
        (tmp_path / "1.go").touch()
        try:
            answers = [future.result(20) for future in totals]
        finally:
            (tmp_path / "0.go").touch()
        assert answers == [n * (n - 1) // 2 for n in range(1000, 1008)]
        assert [future.result(30) for future in held] == [None, None]


def test_a_lost_node_ends_a_stream_that_has_begun() -> None:
    @sky.function
    def die_after(n: int) -> Iterator[int]:
        yield from range(n)
        time.sleep(0.5)
        os.kill(os.getpid(), 9)
        yield -1

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        stream = die_after(10) >> pool
        assert [next(stream) for _ in range(10)] == list(range(10))
        with pytest.raises((sky.NodeLostError, sky.TaskLostError)):
            next(stream)
        assert one() >> pool == 1
    assert "pytest" in sys.modules
