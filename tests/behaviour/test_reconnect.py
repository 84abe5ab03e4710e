"""Connections that are cut while both ends live: nobody notices, nothing is lost, nothing runs twice."""

from __future__ import annotations

import collections
import functools
import hashlib
import os
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import skyward as sky

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Literal

    type Executor = Literal["thread", "process"]

pytestmark = pytest.mark.usefixtures("no_leftovers")


def cut(pool: sky.Pool, chance: random.Random, *, agent: bool = False) -> None:
    """Cut one connection of a random node, as a network would: there is no public way to ask for that.

    Half of the time what has arrived here can still be read, else it is lost with the connection.
    """
    engine: Any = pool._engine

    def on_loop() -> None:
        node = chance.choice(engine.ready_nodes)
        wires = [node._agent._wire] if agent else [lane._wire for lane in node.lanes]
        wires = [wire for wire in wires if wire is not None and not wire._closed]
        if not wires:
            return
        wire = chance.choice(wires)
        if chance.random() < 0.5:
            transport = wire._channel if hasattr(wire, "_channel") else None
            if transport is None:
                wire._sock.shutdown(socket.SHUT_RDWR)
            else:
                transport.abort()
        else:
            wire.close()
            wire._on_closed()

    done = threading.Event()
    engine._loop.call_soon_threadsafe(on_loop)
    engine._loop.call_soon_threadsafe(done.set)
    assert done.wait(30)


@sky.function
def note(folder: str, number: int, size: int) -> tuple[int, bytes]:
    with open(os.path.join(folder, f"runs-{os.getpid()}"), "a") as file:
        file.write(f"{number}\n")
    return number, random.Random(number).randbytes(size)


def count_in(done: collections.Counter[int], number: int, future: object) -> None:
    done[number] += 1


def runs(folder: Path) -> collections.Counter[int]:
    counts: collections.Counter[int] = collections.Counter()
    for file in folder.glob("runs-*"):
        counts.update(map(int, file.read_text().split()))
    return counts


SIZES = (0, 0, 10, 1000, 90_000, 300_000, 1_200_000)
"""Of results: most are small, some fill a socket, some go as shared memory."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("executor", ["thread", "process"])
def test_two_thousand_tasks_over_connections_cut_twenty_times(
    executor: Executor, seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    worker = sky.Worker(concurrency=2, executor=executor)
    sizes = [chance.choice(SIZES) for _ in range(2000)]
    with sky.Compute(nodes=2, worker=worker, retry_on_interruption=0, console=False, logging=False) as pool:
        pids = pool.map(os.getpgid, [0] * 20)
        done: collections.Counter[int] = collections.Counter()
        futures = [note(str(tmp_path), number, size) > pool for number, size in enumerate(sizes)]
        for number, future in enumerate(futures):
            future.add_done_callback(functools.partial(count_in, done, number))
        for share in range(20):
            until = time.monotonic() + 60
            while sum(done.values()) < 2000 * share / 20:
                assert time.monotonic() < until, f"only {sum(done.values())} tasks are done"
                time.sleep(0.001)
            cut(pool, chance)
        for number, (future, size) in enumerate(zip(futures, sizes, strict=True)):
            assert future.result(timeout=60) == (number, random.Random(number).randbytes(size))
        assert set(pool.map(os.getpgid, [0] * 20)) <= set(pids), "a process was replaced"
    assert done == dict.fromkeys(range(2000), 1)
    assert runs(tmp_path) == dict.fromkeys(range(2000), 1)


@sky.function
def count(n: int, size: int) -> Iterator[tuple[int, bytes]]:
    for number in range(n):
        yield number, random.Random(number).randbytes(size)


@sky.function
def digest(items: Iterator[bytes]) -> tuple[int, str]:
    total, sha = 0, hashlib.sha256()
    for item in items:
        total += 1
        sha.update(item)
    return total, sha.hexdigest()


@sky.function
def upper(words: Iterator[str]) -> Iterator[str]:
    for word in words:
        yield word.upper()


class Cutter:
    """Cuts connections from a thread of its own until the block ends."""

    def __init__(self, pool: sky.Pool, seed: int) -> None:
        self._pool = pool
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.cuts = 0

    def _run(self) -> None:
        while not self._over.wait(self._chance.uniform(0.0, 0.03)):
            cut(self._pool, self._chance)
            self.cuts += 1

    def until(self, cuts: int) -> Iterator[None]:
        """Go on until there were that many cuts, and at least once."""
        yield
        while self.cuts < cuts:
            assert self._thread.is_alive(), "nobody cuts any more"
            yield

    def __enter__(self) -> Cutter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("size", [10, 50_000, 1_500_000])
def test_streams_out_of_tasks(size: int) -> None:
    n = 20_000_000 // (size + 1000)
    with sky.Compute(nodes=2, retry_on_interruption=0, console=False, logging=False) as pool:
        list(count(3, 10) >> pool)
        with Cutter(pool, size) as cutter:
            for number, item in enumerate(count(n, size) >> pool):
                assert item == (number, random.Random(number).randbytes(size))
            assert number == n - 1
            for _ in cutter.until(5):
                assert len(list(count(10, size) >> pool)) == 10


@pytest.mark.parametrize("size", [10, 50_000, 1_500_000])
def test_streams_into_tasks(size: int) -> None:
    n = 20_000_000 // (size + 1000)
    chunks = [random.Random(number).randbytes(size) for number in range(min(n, 200))]
    expected = hashlib.sha256()
    for number in range(n):
        expected.update(chunks[number % len(chunks)])
    with sky.Compute(nodes=2, retry_on_interruption=0, console=False, logging=False) as pool:
        with Cutter(pool, size) as cutter:
            for _ in cutter.until(5):
                items = (chunks[number % len(chunks)] for number in range(n))
                assert (digest(items) >> pool) == (n, expected.hexdigest())


def test_streams_both_ways() -> None:
    words = [f"word {number}" for number in range(5000)]
    with sky.Compute(nodes=1, retry_on_interruption=0, console=False, logging=False) as pool:
        with Cutter(pool, 1) as cutter:
            for _ in cutter.until(5):
                assert list(upper(iter(words)) >> pool) == [word.upper() for word in words]


def test_large_arguments_and_results() -> None:
    @sky.function
    def echo(data: bytes) -> bytes:
        return data

    with sky.Compute(nodes=2, retry_on_interruption=0, console=False, logging=False) as pool:
        with Cutter(pool, 2):
            for number in range(40):
                data = random.Random(number).randbytes(5_000_000)
                assert (echo(data) >> pool) == data


def test_output_is_neither_lost_nor_doubled() -> None:
    @sky.function
    def talk(n: int) -> None:
        for number in range(n):
            print(f"line {number}")

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        with Cutter(pool, 3) as cutter:
            talk(9000) >> pool
        until = time.monotonic() + 30
        while len(pool.logs()) < 9000 and time.monotonic() < until:
            time.sleep(0.01)
        assert [line.line for line in pool.logs()] == [f"line {number}" for number in range(9000)]
        assert cutter.cuts


def test_a_task_under_way_while_the_connection_is_cut_has_its_value() -> None:
    @sky.function
    def nap() -> int:
        time.sleep(1)
        return os.getpid()

    with sky.Compute(nodes=1, retry_on_interruption=0, console=False, logging=False) as pool:
        pid = nap() >> pool
        future = nap() > pool
        time.sleep(0.3)
        cut(pool, random.Random(1))
        assert future.result(timeout=30) == pid


def test_the_connection_to_the_agent_comes_back_too() -> None:
    @sky.function
    def pids() -> tuple[int, int]:
        return os.getpid(), os.getppid()

    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        before, machines = pids() @ pool, [node.machine for node in pool.nodes()]
        chance = random.Random(5)
        for _ in range(20):
            cut(pool, chance, agent=True)
            assert len(pids() @ pool) == 2
        assert [node.machine for node in pool.nodes()] == machines
        assert pids() @ pool == before
        # It is heard again: a death is told by the agent, over that connection.
        with pytest.raises(sky.TaskLostError, match="status 5"):
            leave() >> pool


@sky.function
def leave() -> None:
    os._exit(5)


def test_a_process_for_one_task_waits_for_the_client_to_come_back() -> None:
    worker = sky.Worker(executor="process", reuse_processes=False)
    with sky.Compute(nodes=2, worker=worker, retry_on_interruption=0, console=False, logging=False) as pool:
        chance = random.Random(6)
        futures = [nap_briefly(number) > pool for number in range(30)]
        for _ in range(20):
            cut(pool, chance)
            time.sleep(0.02)
        assert [future.result(timeout=60) for future in futures] == list(range(30))


@sky.function
def nap_briefly(number: int) -> int:
    time.sleep(0.05)
    return number
