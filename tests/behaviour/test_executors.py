"""Where tasks run: in threads or processes, as many at once as was asked for, and apart from each other."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import skyward as sky

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    type Executor = Literal["thread", "process"]

EXECUTORS = {
    "one thread": sky.Worker(),
    "threads": sky.Worker(concurrency=3),
    "processes": sky.Worker(concurrency=2, executor="process"),
}


@pytest.fixture(scope="module", params=list(EXECUTORS))
def pool(request: pytest.FixtureRequest, machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(
        nodes=1,
        worker=EXECUTORS[request.param],
        retry_on_interruption=1,
        console=False,
        logging=False,
    ) as pool:
        yield pool


@sky.function
def process_and_thread() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


@sky.function
def meet(folder: str, name: str, others: int) -> tuple[int, int]:
    """Return once as many tasks are here at once as were said to."""
    open(os.path.join(folder, name), "w").close()
    until = time.monotonic() + 30
    while len(os.listdir(folder)) < others:
        assert time.monotonic() < until, "the others did not come"
        time.sleep(0.005)
    return os.getpid(), threading.get_ident()


def test_as_many_tasks_run_at_once_as_there_are_slots(pool: sky.Pool, tmp_path: Path) -> None:
    slots = pool.concurrency
    places = sky.gather(*(meet(str(tmp_path), str(number), slots) for number in range(slots))) >> pool
    assert len(set(places)) == slots


def test_processes_are_kept_and_reused(pool: sky.Pool) -> None:
    places = sky.gather(*(process_and_thread() for _ in range(60))) >> pool
    assert len(set(places)) <= pool.concurrency


def test_one_slot_is_the_main_thread() -> None:
    @sky.function
    def is_main() -> bool:
        return threading.current_thread() is threading.main_thread()

    for worker in (sky.Worker(), sky.Worker(concurrency=2, executor="process")):
        with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
            assert is_main() >> pool


def test_threads_share_a_process_and_processes_do_not() -> None:
    kinds: tuple[tuple[Executor, int], ...] = (("thread", 1), ("process", 2))
    for executor, processes in kinds:
        worker = sky.Worker(concurrency=2, executor=executor)
        with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
            pids = {pid for pid, _ in sky.gather(*(process_and_thread() for _ in range(40))) >> pool}
        assert len(pids) == processes


def test_a_fresh_process_for_each_task() -> None:
    worker = sky.Worker(concurrency=2, executor="process", reuse_processes=False)
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
        pids = [pid for pid, _ in sky.gather(*(process_and_thread() for _ in range(20))) >> pool]
    assert len(set(pids)) == 20


def test_a_fresh_process_after_a_task_that_failed_timed_out_or_died() -> None:
    @sky.function
    def pid_after(what: str) -> int:
        match what:
            case "fail":
                raise ValueError(os.getpid())
            case "hang":
                time.sleep(1000)
            case "die":
                os._exit(7)
            case _:
                return os.getpid()
        raise AssertionError

    worker = sky.Worker(executor="process", reuse_processes=False)
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
        with pytest.raises(ValueError, match=r"^\d+") as failed:
            pid_after("fail") >> pool
        with pytest.raises(sky.TaskTimeoutError):
            pid_after("hang").with_timeout(0.5) >> pool
        with pytest.raises(sky.TaskLostError, match="exited with status 7"):
            pid_after("die") >> pool
        assert pid_after("") >> pool != int(failed.value.args[0])


def test_a_large_result_arrives_from_a_process_that_ends_after_it() -> None:
    @sky.function
    def much(n: int) -> bytes:
        return b"x" * n

    worker = sky.Worker(executor="process", reuse_processes=False)
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
        for size in (10, 300_000, 5_000_000):
            assert (much(size) >> pool) == b"x" * size


@pytest.mark.parametrize("buffer", [0, 5])
def test_buffered_tasks_all_run_once_each(buffer: int, tmp_path: Path) -> None:
    @sky.function
    def note(number: int) -> int:
        with open(tmp_path / "log", "a") as file:
            file.write(f"{number}\n")
        time.sleep(0.002)
        return number

    with sky.Compute(nodes=2, worker=sky.Worker(buffer=buffer), console=False, logging=False) as pool:
        assert pool.map(note, range(200)) == list(range(200))
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(200))


def test_what_was_sent_ahead_to_a_busy_node_is_not_stuck_behind_its_task(tmp_path: Path) -> None:
    @sky.function
    def wait_for(path: str, seen: str) -> None:
        open(seen, "w").close()
        until = time.monotonic() + 60
        while path and not os.path.exists(path):
            assert time.monotonic() < until
            time.sleep(0.005)

    with sky.Compute(nodes=2, worker=sky.Worker(buffer=10), console=False, logging=False) as pool:
        gate = tmp_path / "gate"
        held = wait_for(str(gate), str(tmp_path / "first")) > pool
        while not (tmp_path / "first").exists():
            time.sleep(0.01)
        quick = [wait_for("", str(tmp_path / str(number))) > pool for number in range(30)]
        for future in quick:  # the other node does them all
            future.result(timeout=60)
        assert not held.done()
        gate.touch()
        held.result(timeout=60)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this machine has one core")
def test_processes_use_the_cores() -> None:
    @sky.function
    def burn(n: int) -> float:
        total = 0.0
        for i in range(n):
            total += i * i % 7
        return total

    def seconds(concurrency: int) -> float:
        worker = sky.Worker(concurrency=concurrency, executor="process")
        with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
            pool.map(burn, [1000] * 4)
            begun = time.perf_counter()
            pool.map(burn, [1_000_000] * 8)
            return time.perf_counter() - begun

    # Other programs want the cores too, so the best of a few: what could not scale would never be quick.
    ratios = []
    for _ in range(5):
        ratios.append(seconds(2) / seconds(1))
        if ratios[-1] < 0.75:
            return
    pytest.fail(f"two processes took {ratios} of the time of one")


# tasks that take their process with them


@sky.function
def die(how: str) -> None:
    match how:
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)


@sky.function
def double(x: int) -> int:
    return 2 * x


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("segfault", sky.TaskLostError, r"SIGSEGV \(segmentation fault\)"),
        ("exit", sky.TaskLostError, "exited with status 3"),
        ("abort", sky.TaskLostError, "SIGABRT"),
        ("kill", sky.NodeLostError, "SIGKILL"),
        ("terminate", sky.NodeLostError, "SIGTERM"),
    ],
)
def test_a_task_that_ends_its_process_is_told_so(
    pool: sky.Pool, how: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=rf"^die\(\).* on node 0.*{words}") as caught:
        die(how) >> pool
    assert getattr(caught.value, "rank", None) == 0
    assert (double(21) >> pool) == 42


def test_system_exit_is_an_exception_like_others(pool: sky.Pool) -> None:
    @sky.function
    def leave() -> None:
        sys.exit(4)

    pid = process_and_thread() >> pool
    with pytest.raises((SystemExit, sky.RemoteError), match="4"):  # whether it may end the caller, others say
        leave() >> pool
    if pool.concurrency == 1:
        assert process_and_thread() >> pool == pid


def test_a_death_in_one_process_leaves_the_other_alone() -> None:
    @sky.function
    def slow(x: int) -> tuple[int, int]:
        time.sleep(1)
        return x, os.getpid()

    worker = sky.Worker(concurrency=2, executor="process")
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as pool:
        kept = slow(5) > pool
        with pytest.raises(sky.TaskLostError):
            die("segfault") >> pool
        assert kept.result(timeout=60)[0] == 5


def test_threads_of_a_process_that_died_all_hear_of_it(tmp_path: Path) -> None:
    """Each task that ran there is told; which of them did it can't be known."""

    @sky.function
    def wait_or_die(name: str, n: int) -> None:
        open(os.path.join(str(tmp_path), name), "w").close()
        while len(os.listdir(str(tmp_path))) < n:
            time.sleep(0.005)
        if name == "0":
            os._exit(9)
        time.sleep(1000)

    with sky.Compute(nodes=1, worker=sky.Worker(concurrency=3), console=False, logging=False) as pool:
        futures = [wait_or_die(str(number), 3) > pool for number in range(3)]
        for future in futures:
            with pytest.raises(sky.TaskLostError, match=r"status 9.*3 tasks ran in that process"):
                future.result(timeout=60)
        assert (double(1) >> pool) == 2


# out of memory


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group that allows 100 MB; the kernel kills in it whoever wants more."""
    from pathlib import Path

    parent = Path("/sys/fs/cgroup/memory")
    group = parent / f"skyward-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(100 << 20))
    except OSError as error:
        pytest.skip(f"no memory control group (v1) can be made here: {error}")
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        (parent / "cgroup.procs").write_text(pid)
    until = time.monotonic() + 10
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize("executor", list(EXECUTORS))
def test_a_task_killed_for_memory(executor: str, memory_group: Path) -> None:
    @sky.function
    def devour(group: str) -> int:
        with open(os.path.join(group, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))
        return len(bytearray(1 << 30))

    with sky.Compute(nodes=1, worker=EXECUTORS[executor], console=False, logging=False) as pool:
        with pytest.raises(sky.TaskLostError, match=r"^devour\(\) on node 0 .*out of memory"):
            devour(str(memory_group)) >> pool
        assert (double(2) >> pool) == 4
