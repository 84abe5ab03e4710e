"""Streams: out of generators, into iterators, both at once; back-pressure, early ends, errors."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skyward as sky

EXECUTORS = {
    "one thread": sky.Worker(),
    "threads": sky.Worker(concurrency=3, executor="thread"),
    "processes": sky.Worker(concurrency=3, executor="process"),
}
WINDOW = 2048 + 3 * 512
"""Items that may be under way: the window, and a batch at each end and in between."""


@pytest.fixture(scope="module", params=EXECUTORS)
def pool(request: pytest.FixtureRequest) -> Iterator[sky.Pool]:
    worker = EXECUTORS[request.param]
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def wide() -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, worker=sky.Worker(concurrency=8), console=False, logging=False) as opened:
        yield opened


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
