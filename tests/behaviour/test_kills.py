"""Processes killed from outside while tasks run: every task ends exactly once, with its value, and nodes come
back.
"""

from __future__ import annotations

import collections
import functools
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
import skyward as sky

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leftovers")


@sky.function
def square(folder: str, number: int) -> int:
    """Note the execution in a file of this process, then compute."""
    with open(os.path.join(folder, f"runs-{os.getpid()}"), "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.002)
    return number * number


def count_in(done: collections.Counter[int], number: int, future: object) -> None:
    done[number] += 1


def runs(folder: Path) -> collections.Counter[int]:
    """How often each task was begun."""
    counts: collections.Counter[int] = collections.Counter()
    for file in folder.glob("runs-*"):
        counts.update(map(int, file.read_text().split()))
    return counts


@sky.function
def whoami() -> tuple[int, int, int]:
    """My node's rank, my process and its agent."""
    return sky.instance_info().node, os.getpid(), os.getppid()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds:g} s for: {what}"
        time.sleep(0.01)


def killed_one(pool: sky.Pool, victim: str, chance: random.Random) -> bool:
    """Kill a process of some node. One may have ended by now: a worker still answers for a killed agent."""
    pids = [whoami() > pool for _ in range(3)]
    _, pid, agent = chance.choice(pids).result(timeout=60)
    if agent == 1:  # what a process is told whose parent is gone
        return False
    try:
        os.kill(pid if victim == "worker" else agent, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def reached(completions: collections.Counter[int], goal: int) -> bool:
    return completions.total() >= goal


def machines(pool: sky.Pool) -> list[str]:
    return [node.machine for node in pool.nodes()]


TASKS = 1000


WORKERS = [
    sky.Worker(concurrency=2),
    sky.Worker(concurrency=2, executor="process"),
    sky.Worker(buffer=8),
]


@pytest.mark.parametrize("victim", ["worker", "agent"])
@pytest.mark.parametrize("seed", range(5))
def test_a_kill_in_the_middle_of_many_tasks(victim: str, seed: int, tmp_path: Path) -> None:
    worker = WORKERS[seed % len(WORKERS)]
    chance = random.Random(seed)
    kills = 2
    with sky.Compute(nodes=2, worker=worker, console=False, logging=False) as pool:
        before = machines(pool)
        futures = [square(str(tmp_path), number) > pool for number in range(TASKS)]
        completions: collections.Counter[int] = collections.Counter()
        for number, future in enumerate(futures):
            future.add_done_callback(functools.partial(count_in, completions, number))
        for goal in sorted(chance.randrange(TASKS // 10, TASKS * 8 // 10) for _ in range(kills)):
            wait_until(functools.partial(reached, completions, goal), "progress")
            wait_until(functools.partial(killed_one, pool, victim, chance), "a process that lives")
        assert [future.result(timeout=60) for future in futures] == [n * n for n in range(TASKS)]
        if victim == "agent":  # the last may have been killed when all was done
            wait_until(lambda: machines(pool) != before, "a replacement")
        pool.wait_for_nodes(2, timeout=60)
        assert sorted(rank for rank, _, _ in whoami() @ pool) == [0, 1]
        assert victim == "agent" or machines(pool) == before
    assert completions == dict.fromkeys(range(TASKS), 1)
    counts = runs(tmp_path)
    assert set(counts) == set(range(TASKS))
    # Only what a killed process had begun, and not yet answered, was begun again. With tasks sent ahead, a
    # worker may have finished a few whose answers the client had not read.
    again = sum(counts.values()) - TASKS
    assert again <= kills * 40, f"{again} tasks were run again"


def test_a_worker_killed_keeps_its_node_and_its_machine() -> None:
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        before = machines(pool)
        (_, pid0, agent0), (_, pid1, _) = whoami() @ pool
        os.kill(pid0, signal.SIGKILL)
        after = whoami() @ pool
        assert [after[0][0], after[0][2]] == [0, agent0]
        assert after[0][1] != pid0
        assert after[1][1] == pid1
        assert machines(pool) == before


def test_an_agent_killed_is_replaced_at_its_rank_by_another_machine() -> None:
    replaced: list[sky.Event] = []
    with (
        sky.subscribe(replaced.append, sky.InstanceReplaced),
        sky.Compute(nodes=2, console=False, logging=False) as pool,
    ):
        before = machines(pool)
        (_, _, agent0), (_, pid1, agent1) = whoami() @ pool
        os.kill(agent0, signal.SIGKILL)
        wait_until(lambda: machines(pool)[0] != before[0] and pool.current_nodes() == 2, "a new node 0")
        after = whoami() @ pool
        assert [rank for rank, _, _ in after] == [0, 1]
        assert after[0][2] != agent0
        assert after[1][1:] == (pid1, agent1)
        assert machines(pool)[1] == before[1]
    (event,) = replaced
    assert isinstance(event, sky.InstanceReplaced)
    assert (event.old_id, event.new.node) == (before[0], 0)


def test_a_broadcast_whose_node_dies_waits_for_its_replacement(tmp_path: Path) -> None:
    @sky.function
    def slow(folder: str) -> int:
        rank = sky.instance_info().node
        open(os.path.join(folder, f"{rank}-{os.getppid()}"), "w").close()
        until = time.monotonic() + 60
        while not os.path.exists(os.path.join(folder, "go")):
            assert time.monotonic() < until
            time.sleep(0.01)
        return rank

    with sky.Compute(nodes=3, console=False, logging=False) as pool:
        agents = [agent for _, _, agent in whoami() @ pool]
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.extend(slow(str(tmp_path)) @ pool))
        thread.start()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "all three began")
        os.kill(agents[1], signal.SIGKILL)
        wait_until(lambda: len(list(tmp_path.glob("1-*"))) == 2, "node 1 began again")
        (tmp_path / "go").touch()
        thread.join(60)
        assert results == [0, 1, 2]
    assert len(list(tmp_path.glob("0-*"))) == len(list(tmp_path.glob("2-*"))) == 1


def test_all_nodes_lost_at_once_come_back(tmp_path: Path) -> None:
    with sky.Compute(nodes=3, console=False, logging=False) as pool:
        agents = [agent for _, _, agent in whoami() @ pool]
        futures = [square(str(tmp_path), number) > pool for number in range(300)]
        for agent in agents:
            os.kill(agent, signal.SIGKILL)
        assert [future.result(timeout=60) for future in futures] == [n * n for n in range(300)]
        pool.wait_for_nodes(3, timeout=60)
        assert sorted(rank for rank, _, _ in whoami() @ pool) == [0, 1, 2]


@sky.function
def kill(whom: str, folder: str) -> None:
    open(os.path.join(folder, f"{os.getpid()}"), "w").close()
    os.kill(os.getpid() if whom == "worker" else os.getppid(), signal.SIGKILL)
    time.sleep(1000)


@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("whom", ["worker", "agent"])
def test_a_task_is_lost_only_as_often_as_allowed(whom: str, retries: int, tmp_path: Path) -> None:
    with sky.Compute(nodes=2, retry_on_interruption=retries, console=False, logging=False) as pool:
        with pytest.raises(
            sky.NodeLostError, match=rf"^kill\(\) was lost {retries + 1} times?, .*on node \d"
        ) as lost:
            kill(whom, str(tmp_path)) >> pool
        assert lost.value.rank in (0, 1)
        assert len(list(tmp_path.iterdir())) == retries + 1
        pool.wait_for_nodes(2, timeout=60)
        assert len(whoami() @ pool) == 2


def test_a_task_that_ends_its_own_process_is_not_run_again(tmp_path: Path) -> None:
    @sky.function
    def leave(folder: str) -> None:
        open(os.path.join(folder, f"{os.getpid()}"), "w").close()
        os._exit(1)

    with sky.Compute(nodes=2, retry_on_interruption=3, console=False, logging=False) as pool:
        with pytest.raises(sky.TaskLostError, match="status 1"):
            leave(str(tmp_path)) >> pool
    assert len(list(tmp_path.iterdir())) == 1


def test_waiting_tasks_of_a_crashed_process_are_not_lost_with_it(tmp_path: Path) -> None:
    """Tasks sent ahead had not begun: they run elsewhere, and it counts as no attempt."""

    @sky.function
    def leave_when_told(folder: str) -> None:
        until = time.monotonic() + 60
        while not os.path.exists(os.path.join(folder, "go")):
            assert time.monotonic() < until
            time.sleep(0.005)
        os._exit(1)

    worker = sky.Worker(buffer=20)
    with sky.Compute(nodes=1, worker=worker, retry_on_interruption=0, console=False, logging=False) as pool:
        doomed = leave_when_told(str(tmp_path)) > pool
        futures = [square(str(tmp_path), number) > pool for number in range(20)]
        time.sleep(0.2)
        (tmp_path / "go").touch()
        with pytest.raises(sky.TaskLostError):
            doomed.result(timeout=60)
        assert [future.result(timeout=60) for future in futures] == [n * n for n in range(20)]
    assert runs(tmp_path) == dict.fromkeys(range(20), 1)


def test_a_stream_whose_node_dies_says_so() -> None:
    @sky.function
    def count(n: int) -> object:
        yield from range(n)

    @sky.function
    def pid_then_wait() -> object:
        yield os.getppid()
        time.sleep(1000)

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        items = iter(pid_then_wait() >> pool)  # type: ignore[call-overload]
        os.kill(next(items), signal.SIGKILL)
        with pytest.raises(sky.NodeLostError, match=r"pid_then_wait\(\) was lost while streaming.*node 0"):
            next(items)
        pool.wait_for_nodes(1, timeout=60)
        assert list(count(5) >> pool) == [0, 1, 2, 3, 4]  # type: ignore[call-overload]


def test_large_values_survive_a_kill() -> None:
    @sky.function
    def echo(data: bytes, number: int) -> tuple[int, bytes]:
        return number, data

    payload = os.urandom(3_000_000)
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        futures = [echo(payload, number) > pool for number in range(60)]
        for victim in random.choices(("worker", "agent"), k=2):
            wait_until(functools.partial(killed_one, pool, victim, random.Random()), "a process that lives")
        for number, future in enumerate(futures):
            assert future.result(timeout=60) == (number, payload)


def test_a_worker_without_an_agent_ends_even_if_it_never_listens(tmp_path: Path) -> None:
    """The interpreter's lock is held for ever, so that no thread of the worker can notice that its agent
    died.
    """

    @sky.function
    def freeze(folder: str) -> None:
        import itertools

        with open(os.path.join(folder, "~"), "w") as file:
            file.write(f"{os.getpid()} {os.getppid()}")
        os.rename(os.path.join(folder, "~"), os.path.join(folder, "pids"))
        any(itertools.repeat(0))

    with sky.Compute(nodes=1, retry_on_interruption=0, console=False, logging=False) as pool:
        future = freeze(str(tmp_path)) > pool
        wait_until((tmp_path / "pids").exists, "it runs")
        pid, agent = map(int, (tmp_path / "pids").read_text().split())
        os.kill(agent, signal.SIGKILL)
        with pytest.raises(sky.NodeLostError):
            future.result(timeout=60)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the worker to end")
