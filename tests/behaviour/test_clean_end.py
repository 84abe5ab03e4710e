"""However a script ends, nothing of it stays: no process, thread, socket or file."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING

import pytest
import skyward as sky

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    type Executor = Literal["thread", "process"]

pytestmark = pytest.mark.usefixtures("no_leftovers")

SECONDS = 60.0
"""More than anything here may take on a loaded machine."""


@sky.function
def double(x: int) -> int:
    return 2 * x


@sky.function
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@sky.function
def begin_and_hang(path: str, how: str) -> None:
    import itertools

    open(path, "w").close()
    while True:
        try:
            if how == "locked":
                any(itertools.repeat(0))
            time.sleep(1000)
        except BaseException:
            if how == "polite":
                raise


def wait_for(path: Path) -> None:
    until = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not come"
        time.sleep(0.005)


# in this process


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_after_the_block(executor: Executor) -> None:
    worker = sky.Worker(concurrency=2, executor=executor)
    with sky.Compute(nodes=2, worker=worker, console=False, logging=False) as pool:
        assert (double(2) >> pool) == 4
        assert any("skyward" in thread.name for thread in threading.enumerate())
    assert not [thread for thread in threading.enumerate() if "skyward" in thread.name]
    assert not pool.is_active
    with pytest.raises(sky.PoolStateError, match="closed"):
        double(2) >> pool


def test_after_an_exception_in_the_block() -> None:
    begun = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        with sky.Compute(nodes=2, console=False, logging=False) as pool:
            future = nap(1000) > pool
            _ = 1 // 0
    assert time.monotonic() - begun < SECONDS
    with pytest.raises(sky.PoolStateError, match="closed before the task was done"):
        future.result(timeout=0)


def test_tasks_under_way_at_the_end_of_the_block_are_waited_for() -> None:
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        futures = [nap(0.05) > pool for _ in range(10)]
    assert [future.result(timeout=0) for future in futures] == [0.05] * 10


@pytest.mark.parametrize("executor", ["thread", "process"])
@pytest.mark.parametrize("how", ["polite", "deaf", "locked"])
def test_a_stuck_task_is_ended(how: str, executor: Executor, tmp_path: Path) -> None:
    worker = sky.Worker(executor=executor)
    with sky.Compute(nodes=1, worker=worker, shutdown_timeout=4.0, console=False, logging=False) as pool:
        future = begin_and_hang(str(tmp_path / "begun"), how) > pool
        wait_for(tmp_path / "begun")
        begun = time.monotonic()
    assert time.monotonic() - begun < 20
    with pytest.raises(sky.PoolStateError):
        future.result(timeout=0)


def test_callers_on_other_threads_are_told(tmp_path: Path) -> None:
    outcome: list[BaseException] = []

    def call(pool: sky.Pool) -> None:
        try:
            begin_and_hang(str(tmp_path / "begun"), "polite") >> pool
        except BaseException as error:
            outcome.append(error)

    with pytest.raises(RuntimeError, match="enough"):
        with sky.Compute(nodes=1, console=False, logging=False) as pool:
            thread = threading.Thread(target=call, args=(pool,))
            thread.start()
            wait_for(tmp_path / "begun")
            raise RuntimeError("enough")
    thread.join(SECONDS)
    assert [type(error) for error in outcome] == [sky.PoolStateError]


def test_an_iterator_that_was_not_read_to_its_end() -> None:
    @sky.function
    def count() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    with sky.Compute(nodes=1, shutdown_timeout=0.5, console=False, logging=False) as pool:
        items = iter(count() >> pool)
        assert next(items) == 0


@pytest.mark.parametrize("hides", [False, True], ids=["child", "daemon"])
@pytest.mark.parametrize("end", ["block", "agent", "worker"])
def test_what_a_task_started_ends_with_its_node(hides: bool, end: str, tmp_path: Path) -> None:
    """A child in the worker's group ends with the worker; one in a session of its own ends with the node."""
    if hides and end == "agent":
        pytest.skip("the provider ends it: see its own tests")

    @sky.function
    def start(hides: bool) -> tuple[int, int, int]:
        process = subprocess.Popen(["sleep", "1000"], start_new_session=hides)
        process.returncode = 0  # nobody waits for it
        return process.pid, os.getpid(), os.getppid()

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        child, worker, agent = start(hides) >> pool
        assert is_running(child)
        if end != "block":
            os.kill(agent if end == "agent" else worker, signal.SIGKILL)
            assert (double(1) >> pool) == 2
            if not hides:
                until = time.monotonic() + SECONDS
                while is_running(child):
                    assert time.monotonic() < until
                    time.sleep(0.01)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def test_many_pools_one_after_another_and_at_once() -> None:
    for _ in range(3):
        with (
            sky.Compute(nodes=1, console=False, logging=False) as one,
            sky.Compute(nodes=2, console=False, logging=False) as two,
        ):
            wait([double(1) > one, double(2) > two], timeout=SECONDS)


def test_a_session_closes_its_pools() -> None:
    with sky.Session(console=False, logging=False) as session:
        pools = [session.compute(nodes=1, name=None) for _ in range(2)]
        assert [double(number) >> pool for number, pool in enumerate(pools)] == [0, 2]
    assert not any(pool.is_active for pool in pools)


def test_a_short_shutdown_timeout_is_about_tasks_only(tmp_path: Path) -> None:
    problems: list[sky.Event] = []
    with sky.subscribe(problems.append, sky.Error):
        with sky.Compute(nodes=1, shutdown_timeout=0.1, console=False, logging=False) as pool:
            _ = begin_and_hang(str(tmp_path / "begun"), "locked") > pool
            wait_for(tmp_path / "begun")
    assert not [problem for problem in problems if "ending machines" in str(problem)]
