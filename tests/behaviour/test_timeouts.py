"""A task that runs too long: told on time whatever it does, and its node works on."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
from typing import TYPE_CHECKING

import pytest
import skyward as sky

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXECUTORS = {
    "one thread": sky.Worker(),
    "threads": sky.Worker(concurrency=2),
    "processes": sky.Worker(concurrency=2, executor="process"),
}
LIMIT = 0.5
LATE = 3.0
"""Seconds that a loaded machine may be late in telling. What would hang does so for a thousand."""


@pytest.fixture(scope="module", autouse=True)
def impatient() -> Iterator[None]:
    """A cancelled task has less time to end than users' tasks have, before its process is ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skyward.engine.stopping.KILL_AFTER", 1.0)
        yield


@pytest.fixture(scope="module", params=list(EXECUTORS))
def pool(request: pytest.FixtureRequest, machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, worker=EXECUTORS[request.param], console=False, logging=False) as pool:
        yield pool


@sky.function
def hang(how: str) -> None:
    match how:
        case "pure Python":
            while True:
                pass
        case "sleep":
            time.sleep(1000)
        case "deaf":
            while True:
                try:
                    time.sleep(1000)
                except BaseException:
                    continue
        case "C code that keeps the lock":
            any(itertools.repeat(0))  # looks at no signal and lets no other thread run
        case "regular expression":
            re.match(r"(a+)+$", "a" * 60 + "b")


@sky.function
async def hang_async() -> None:
    import asyncio

    await asyncio.sleep(1000)


@sky.function
def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize(
    "how", ["pure Python", "sleep", "deaf", "C code that keeps the lock", "regular expression"]
)
def test_a_task_that_never_returns(pool: sky.Pool, how: str) -> None:
    begun = time.monotonic()
    with pytest.raises(sky.TaskTimeoutError, match=r"^hang\(\) on node 0 ran longer than 0.5 s") as caught:
        hang(how).with_timeout(LIMIT) >> pool
    assert LIMIT <= time.monotonic() - begun < LIMIT + LATE
    assert (caught.value.task, caught.value.rank) == ("hang", 0)
    assert isinstance(caught.value, TimeoutError)
    # Every slot, also that of the task.
    assert (sky.gather(*(double(x) for x in range(6))) >> pool) == (0, 2, 4, 6, 8, 10)


def test_a_coroutine_that_never_returns(pool: sky.Pool) -> None:
    with pytest.raises(sky.TaskTimeoutError, match=r"hang_async\(\) on node 0"):
        hang_async().with_timeout(LIMIT) >> pool
    assert (double(1) >> pool) == 2


def test_what_a_task_that_timed_out_had_started_is_ended(pool: sky.Pool) -> None:
    if pool.concurrency > 1:
        pytest.skip("its process ends for sure only where it had the process for itself")
    import subprocess

    @sky.function
    def child(path: str) -> None:
        process = subprocess.Popen(["sleep", "1000"])
        with open(path + "~", "w") as file:
            file.write(str(process.pid))
        os.replace(path + "~", path)
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                continue

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pid")
        with pytest.raises(sky.TaskTimeoutError):
            child(path).with_timeout(LIMIT) >> pool
        assert (double(1) >> pool) == 2
        with open(path) as file:
            pid = int(file.read())
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until, "the grandchild lives"
        time.sleep(0.01)


def test_waiting_for_a_slot_does_not_count() -> None:
    @sky.function
    def nap() -> None:
        time.sleep(0.3)

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        sky.gather(*(nap().with_timeout(2.0) for _ in range(10))) >> pool


def test_the_timeout_of_the_pool_the_function_and_the_call() -> None:
    @sky.function
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @sky.function(timeout=0.3)
    def short(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    with sky.Compute(nodes=1, default_compute_timeout=0.6, console=False, logging=False) as pool:
        with pytest.raises(sky.TaskTimeoutError, match=r"longer than 0.6 s"):
            nap(30) >> pool
        with pytest.raises(sky.TaskTimeoutError, match=r"longer than 0.3 s"):
            short(30) >> pool
        assert (short(0.7).with_timeout(30) >> pool) == 0.7
        assert (nap(0.9).with_timeout(math.inf) >> pool) == 0.9


def test_many_timeouts_at_once_take_no_longer_than_one() -> None:
    worker = sky.Worker(concurrency=8)
    with sky.Compute(nodes=2, worker=worker, console=False, logging=False) as pool:
        begun = time.monotonic()
        futures = [hang("sleep").with_timeout(LIMIT) > pool for _ in range(16)]
        for future in futures:
            with pytest.raises(sky.TaskTimeoutError):
                future.result(timeout=60)
        assert time.monotonic() - begun < LIMIT + LATE
        assert pool.map(double, range(50)) == [2 * x for x in range(50)]


def test_the_others_of_a_process_that_had_to_be_ended_run_again(tmp_path: Path) -> None:
    """Two tasks in threads of one process; one freezes it. The other has its value in the end."""

    @sky.function
    def note() -> int:
        with open(tmp_path / "runs", "a") as file:
            file.write("x")
        for _ in range(200):
            time.sleep(0.01)
        return 5

    with sky.Compute(nodes=1, worker=sky.Worker(concurrency=2), console=False, logging=False) as pool:
        hang("not at all") >> pool  # its module is there: what follows is quick to begin
        other = note() > pool
        while not (tmp_path / "runs").exists():
            time.sleep(0.01)
        with pytest.raises(sky.TaskTimeoutError):
            hang("C code that keeps the lock").with_timeout(LIMIT) >> pool
        assert other.result(timeout=60) == 5
    assert (tmp_path / "runs").read_text() == "xx"


@pytest.mark.parametrize("executor", list(EXECUTORS))
def test_a_cancelled_future_ends_its_task(executor: str, tmp_path: Path) -> None:
    @sky.function
    def note(path: str) -> None:
        try:
            open(path, "w").close()
            while True:
                time.sleep(0.01)
        finally:
            os.unlink(path)

    path = tmp_path / "running"
    with sky.Compute(nodes=1, worker=EXECUTORS[executor], console=False, logging=False) as pool:
        future = note(str(path)) > pool
        until = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < until
            time.sleep(0.005)
        assert future.cancel()
        while path.exists():
            assert time.monotonic() < until, "it runs on"
            time.sleep(0.005)
        assert (double(4) >> pool) == 8
