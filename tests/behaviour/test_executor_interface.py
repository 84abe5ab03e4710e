"""A pool where the standard library takes an executor or a future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Executor, Future
from pathlib import Path
from typing import Any

import pytest
import skyward as sky


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=2, worker=sky.Worker(concurrency=2), console=False, logging=False) as opened:
        yield opened


def power(base: int, exponent: int = 2) -> int:
    value: int = base**exponent
    return value


def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def fail(message: str) -> None:
    raise KeyError(message)


def hold(folder: Path, name: str) -> str:
    (folder / f"{name}.began").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    return name


def until(path: Path) -> None:
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_submit(pool: sky.Pool) -> None:
    future = pool.submit(power, 3, exponent=3)
    assert isinstance(future, Future)
    assert future.result(timeout=30) == 27
    assert future.exception() is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)


def test_a_result_waits_no_longer_than_asked(pool: sky.Pool) -> None:
    future = pool.submit(sleep_for, 60.0)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0.05)
    assert future.cancel()


def test_wait(pool: sky.Pool) -> None:
    futures: list[Future[Any]] = [pool.submit(power, n) for n in range(50)]
    done, rest = concurrent.futures.wait(futures, timeout=30)
    assert done == set(futures)
    assert not rest
    slow = pool.submit(sleep_for, 60.0)
    quick = pool.submit(power, 2)
    both: list[Future[Any]] = [slow, quick]
    done, rest = concurrent.futures.wait(both, timeout=30, return_when=FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {slow})
    slow.cancel()
    assert concurrent.futures.wait([slow], timeout=30).done == {slow}


def test_as_completed(pool: sky.Pool) -> None:
    futures = [pool.submit(sleep_for, seconds) for seconds in (1.0, 0.01)]
    assert list(concurrent.futures.as_completed(futures, timeout=30)) == futures[::-1]
    cancelled = pool.submit(sleep_for, 60.0)
    threading.Timer(0.05, cancelled.cancel).start()
    assert list(concurrent.futures.as_completed([cancelled], timeout=30)) == [cancelled]


def test_wait_for_the_first_exception(pool: sky.Pool) -> None:
    slow = pool.submit(sleep_for, 5.0)
    bad = pool.submit(fail, "x")
    try:
        both: list[Future[Any]] = [slow, bad]
        done, _ = concurrent.futures.wait(both, timeout=30, return_when=FIRST_EXCEPTION)
        assert done == {bad}
    finally:
        slow.cancel()


def test_the_executor_is_one(pool: sky.Pool) -> None:
    with pool.executor() as executor:
        assert isinstance(executor, Executor)
        assert executor.submit(power, 4).result(30) == 16
        assert list(executor.map(power, range(5), range(5))) == [1, 1, 4, 27, 256]
        with pytest.raises(KeyError, match="lost"):
            list(executor.map(fail, ["lost"]))
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(power, 1)
    assert pool.submit(power, 3).result(30) == 9  # the pool itself stays open


def test_the_end_of_an_executors_block_waits(pool: sky.Pool) -> None:
    with pool.executor() as executor:
        futures = [executor.submit(sleep_for, 0.1) for _ in range(8)]
    assert all(future.done() for future in futures)


def test_an_executor_shut_down_cancels_what_is_queued_only(pool: sky.Pool, tmp_path: Path) -> None:
    executor = pool.executor()
    running = [executor.submit(hold, tmp_path, str(i)) for i in range(4)]
    for i in range(4):
        until(tmp_path / f"{i}.began")
    queued = [executor.submit(hold, tmp_path, "queued") for _ in range(4)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    assert not any(future.done() for future in running)
    (tmp_path / "go").touch()
    executor.shutdown(wait=True)
    assert [future.result(0) for future in running] == ["0", "1", "2", "3"]
    assert not (tmp_path / "queued.began").exists()


def test_what_cannot_be_sent_is_told_by_the_executors_future(pool: sky.Pool) -> None:
    future = pool.executor().submit(power, threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(sky.SerializationError, match=r"args\[0\] is a _thread.lock"):
        future.result(0)
    with pytest.raises(sky.UsageError, match="decorates a function"):
        pool.executor().submit(3)  # type: ignore[arg-type]


# asyncio


def test_wrap_future(pool: sky.Pool) -> None:
    async def use() -> tuple[int, BaseException | None]:
        value = await asyncio.wrap_future(pool.submit(power, 5))
        error = (await asyncio.gather(asyncio.wrap_future(pool.submit(fail, "y")), return_exceptions=True))[0]
        return value, error

    value, error = asyncio.run(use())
    assert value == 25
    assert isinstance(error, KeyError)


def test_cancelling_a_wrapped_future_reaches_the_task(pool: sky.Pool, tmp_path: Path) -> None:
    source = pool.submit(hold, tmp_path, "wrapped")

    async def use() -> None:
        wrapped = asyncio.wrap_future(source)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await wrapped

    asyncio.run(use())
    assert source.cancelled()
    assert concurrent.futures.wait([pool.submit(power, n) for n in range(8)], timeout=30).not_done == set()


def test_run_in_executor(pool: sky.Pool) -> None:
    async def use() -> list[Any]:
        loop = asyncio.get_running_loop()
        executor = pool.executor()
        return await asyncio.gather(*(loop.run_in_executor(executor, power, n) for n in range(20)))

    assert asyncio.run(use()) == [n * n for n in range(20)]
