"""Pools for coroutines: every way to run, streams, and a loop that is never blocked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skyward as sky

SLICE = 0.35
"""Seconds that a loop of a loaded machine may be late by itself; what blocks it here would take longer."""


def pool(nodes: int = 1, **fields: Any) -> sky.aio.Compute:
    return sky.aio.Compute(nodes=nodes, console=False, logging=False, **fields)


def run[T](main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 100))


@contextlib.asynccontextmanager
async def unblocked() -> AsyncGenerator[None]:
    """Fail if the loop could not turn for a while."""
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - before)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
    assert worst < SLICE, f"the loop stood still for {worst:.2f} s"


async def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        await asyncio.sleep(0.005)


@sky.function
def add(a: int, b: int = 1) -> int:
    return a + b


@sky.function
def node() -> int:
    return sky.instance_info().node


@sky.function
def fail(text: str) -> None:
    raise ValueError(text)


@sky.function
def echo(value: Any) -> Any:
    return value


@sky.function
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


@sky.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@sky.function
def counted(n: int) -> Generator[int]:
    yield from range(n)


@sky.function
def forever(folder: Path) -> Generator[int]:
    try:
        yield from itertools.count()
    finally:
        (folder / "generator.ended").touch()


def plain(n: int) -> int:
    return n + 1


def test_every_way_to_run() -> None:
    async def main() -> None:
        async with pool(nodes=2) as p:
            assert await p.run(add(1)) == 2
            assert await p.run(nap(0.01)) == "rested"
            assert await p.run(node(), target="head") == 0
            assert await p.run(node(), target=1) == 1
            assert await p.broadcast(node()) == [0, 1]
            assert await p.run_parallel(add(1) & echo("x")) == (2, "x")
            assert [v async for v in p.run_stream(sky.gather(add(1), add(2), stream=True))] == [2, 3]
            naps = [nap(0.5), nap(0.01)]
            assert [v async for v in p.run_stream(sky.gather(*naps, stream=True, ordered=False))] == [
                "rested"
            ] * 2
            assert await p.map(plain, range(100)) == list(range(1, 101))
            assert await p.map(add, [1, 2]) == [2, 3]
            assert await p.map(plain, (i for i in range(3))) == [1, 2, 3]
            assert await asyncio.gather(*(p.run(add(i)) for i in range(50))) == list(range(1, 51))
            futures = [p.submit(plain, i) for i in range(10)]
            assert [await future for future in futures] == list(range(1, 11))
            assert await p.run_async(add(4)) == 5
            assert (p.current_nodes(), p.concurrency, p.is_active) == (2, 2, True)
            await p.wait_for_nodes(2)
            with pytest.raises(TimeoutError):
                await p.wait_for_nodes(3, timeout=0.05)
        assert not p.is_active
        with pytest.raises(sky.PoolStateError, match="is closed"):
            await p.run(add(1))

    run(main())


def test_errors_are_the_functions_own() -> None:
    async def main() -> None:
        async with pool(nodes=2) as p:
            with pytest.raises(ValueError, match="alone"):
                await p.run(fail("alone"))
            with pytest.raises(ValueError, match="grouped"):
                await p.run_parallel(nap(60.0) & fail("grouped"))
            with pytest.raises(ExceptionGroup):
                await p.broadcast(fail("everywhere"))
            with pytest.raises(sky.SerializationError, match=r"args\[0\]"):
                await p.run(echo(threading.Lock()))
            with pytest.raises(sky.TaskTimeoutError):
                await p.run(nap(60.0).with_timeout(0.3))
            wrong: Any = add
            with pytest.raises(sky.UsageError, match="call it first"):
                await p.run(wrong)
            with pytest.raises(sky.UsageError, match="it is awaited"):
                add(1) >> p  # type: ignore[operator]
            assert await p.broadcast(node()) == [0, 1]

    run(main())


def test_mistakes_are_raised_on_entry() -> None:
    async def main() -> None:
        with pytest.raises(sky.ConfigError):
            async with pool(nodes=0):
                raise AssertionError
        compute = pool()
        async with compute as p:
            with pytest.raises(sky.PoolStateError, match="open already"):
                await compute.__aenter__()
            assert await p.run(add(1)) == 2
        async with compute as p:
            assert await p.run(add(1)) == 2

    run(main())


def test_sky_means_the_pool_in_threads_of_the_block() -> None:
    async def main() -> None:
        async with pool():
            assert await asyncio.to_thread(lambda: add(1) >> sky) == 2

    run(main())


# streams


def test_asynchronous_iteration() -> None:
    async def main() -> None:
        async with pool(worker=sky.Worker(concurrency=3)) as p:
            assert [i async for i in p.stream(count(5000))] == list(range(5000))
            assert [i async for i in p.stream(counted(3), target=0)] == [0, 1, 2]
            with pytest.raises(sky.UsageError, match=r"echo\(\) is no generator function"):
                await anext(p.stream(echo(1)))
            streams: Any = await p.broadcast(count(3))
            assert [[i async for i in stream] for stream in streams] == [[0, 1, 2]]
            items: Any = await p.run(count(10))
            async with items as stream:
                assert await anext(stream) == 0
            assert [i async for i in stream] == []

            async def consume(n: int) -> int:
                return sum([i async for i in p.stream(count(n))])

            assert await asyncio.gather(*(consume(n) for n in (1000, 2000, 3000))) == [
                n * (n - 1) // 2 for n in (1000, 2000, 3000)
            ]

    run(main())


def test_a_quick_stream_leaves_the_loop_to_others() -> None:
    async def main() -> None:
        async with pool() as p:
            async with unblocked():
                assert sum([i async for i in p.stream(count(100_000))]) == 4_999_950_000

    run(main())


def test_the_end_of_an_asynchronous_iteration_stops_the_generator(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool() as p:
            for end in ("closed", "dropped", "cancelled"):
                stream = p.stream(forever(tmp_path))
                assert await anext(stream) == 0
                if end == "closed":
                    await stream.aclose()
                elif end == "cancelled":

                    async def consume(items: Any) -> None:
                        async for _ in items:
                            pass

                    task = asyncio.create_task(consume(stream))
                    await asyncio.sleep(0.05)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    del task
                del stream
                gc.collect()
                await eventually((tmp_path / "generator.ended").exists)
                (tmp_path / "generator.ended").unlink()
                assert await p.run(add(1)) == 2, end

    run(main())


def test_a_streamed_map() -> None:
    async def main() -> None:
        async with pool(nodes=2) as p:
            got: list[int] = []
            values = p.map(plain, itertools.count(), stream=True)
            async for value in values:
                got.append(value)
                if value == 3000:
                    break
            assert got == list(range(1, 3001))
            await values.aclose()  # type: ignore[attr-defined]
            assert [v async for v in p.map(plain, range(3), stream=True)] == [1, 2, 3]
            with pytest.raises(ValueError, match="7"):
                async for _ in p.map(fail, ["7"], stream=True):
                    pass

            def blocking() -> Iterator[int]:
                for i in range(3):
                    time.sleep(0.6)
                    yield i

            async with unblocked():
                assert [v async for v in p.map(plain, blocking(), stream=True)] == [1, 2, 3]
                assert await p.map(plain, blocking()) == [1, 2, 3]

    run(main())


# the loop


def test_opening_and_closing_do_not_block() -> None:
    async def main() -> None:
        async with unblocked():
            async with pool(nodes=2) as p:
                assert await p.run(add(1)) == 2

    run(main())


class Slow:
    """Takes its time to be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(0.6)
        return Slow, ()


class Heavy:
    """Long, and takes its time to be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return lift, (bytes(100_000),)


def lift(data: bytes) -> Heavy:
    time.sleep(0.6)
    return Heavy()


@sky.function
def several() -> Iterator[Any]:
    yield from (Heavy() for _ in range(2))


def test_large_and_slow_values_do_not_block() -> None:
    async def main() -> None:
        large = np.ones(12_500_000)  # 100 MB
        async with pool() as p:
            await p.run(echo(1))
            async with unblocked():
                assert (await p.run(echo(large))).sum() == large.sum()
                await p.run(sky.function(lambda value: None)(Slow()))
                await p.map(sky.function(lambda value: None), [Slow()])
                await p.submit(len, [Slow()])
                make = sky.function(lambda: Heavy())
                assert isinstance(await p.run(make()), Heavy)
                assert len(await p.broadcast(make())) == 1
                assert len(await p.map(sky.function(lambda _: Heavy()), [1])) == 1
                async for item in p.stream(several()):
                    assert isinstance(item, Heavy)

    run(main())


def test_waiting_coroutines_need_no_threads() -> None:
    async def main() -> None:
        async with pool(worker=sky.Worker(concurrency=64)) as p:
            waiting = [asyncio.create_task(p.run(nap(3.0))) for _ in range(60)]
            await asyncio.sleep(0.2)
            started = time.monotonic()
            assert await p.run(add(1)) == 2
            assert time.monotonic() - started < 2
            assert await asyncio.gather(*waiting) == ["rested"] * 60
            assert time.monotonic() - started < 30

    run(main())
