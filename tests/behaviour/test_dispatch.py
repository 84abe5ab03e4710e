"""Who gets which task: round-robin, order, sending ahead and taking back, large values over wires without
descriptors.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skyward as sky


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=4, console=False, logging=False) as opened:
        yield opened


@sky.function
def node_of(pause: float = 0.0) -> int:
    time.sleep(pause)
    return sky.instance_info().node


@sky.function
def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


@sky.function
def echo(value: Any) -> Any:
    return value


def test_tasks_go_round_all_nodes(pool: sky.Pool) -> None:
    assert node_of() @ pool == [0, 1, 2, 3]  # importing this module takes each node its own time
    nodes = sky.gather(*(node_of(0.2) for _ in range(8))) >> pool
    assert Counter(nodes) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_every_task_is_run_once_under_a_flood(pool: sky.Pool, tmp_path: Path) -> None:
    @sky.function
    def mark(number: int) -> int:
        descriptor = os.open(tmp_path / str(number), os.O_CREAT | os.O_EXCL)
        os.close(descriptor)
        return number

    assert pool.map(mark, range(2000)) == list(range(2000))
    assert len(list(tmp_path.iterdir())) == 2000


def test_a_long_task_among_short_ones_delays_none_of_them(pool: sky.Pool) -> None:
    sky.gather(*(sleep_for(0.0) for _ in range(200))) >> pool  # known to be short from now on: sent ahead
    slow = sleep_for(3.0) > pool
    begun = time.monotonic()
    sky.gather(*(sleep_for(0.0) for _ in range(400))) >> pool
    assert time.monotonic() - begun < 2.0
    assert not slow.done()
    slow.cancel()


def test_what_was_sent_ahead_of_a_long_task_is_taken_back(pool: sky.Pool) -> None:
    sky.gather(*(sleep_for(0.0) for _ in range(200))) >> pool
    pauses = [3.0 if number == 100 else 0.0 for number in range(400)]
    futures = [sleep_for(pause) > pool for pause in pauses]
    begun = time.monotonic()
    for pause, future in zip(pauses, futures, strict=True):
        if not pause:
            future.result()
    assert time.monotonic() - begun < 2.0
    futures[100].cancel()


def test_pinned_tasks_wait_for_their_node_and_others_do_not(pool: sky.Pool) -> None:
    blocker = pool.run_async(sleep_for(1.0), target=2)
    pinned = pool.run_async(node_of(), target=2)
    assert set(sky.gather(*(node_of() for _ in range(30))) >> pool) <= {0, 1, 3}
    assert pinned.result() == 2
    assert blocker.result()


def test_large_values_cross() -> None:
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        array = np.arange(3_000_000, dtype=np.float64)
        returned = echo(array) >> pool
        assert np.array_equal(returned, array)
        returned[0] = 7  # ours to write to
        text = "é" * 2_000_000
        assert echo({"text": text, "bytes": b"b" * 2_000_000, "array": array[:200_000]}) @ pool
        assert echo(text) >> pool == text
        assert echo(b"\0" * 5_000_000) >> pool == b"\0" * 5_000_000


def test_a_result_that_is_sent_on_is_what_the_caller_made_of_it(pool: sky.Pool) -> None:
    @sky.function
    def total(array: Any) -> float:
        return float(array.sum())

    array = echo(np.ones(1_000_000)) >> pool
    assert total(array) >> pool == 1e6
    array[3] = 11  # sent on as it is now, not as it came
    assert total(array) >> pool == 1e6 + 10
    array[3] = 1
    assert total(array) >> pool == 1e6


def test_a_worker_may_write_to_what_it_got(pool: sky.Pool) -> None:
    @sky.function
    def scribble(array: Any) -> float:
        array[:] = 5
        return float(array.sum())

    array = np.ones(1_000_000)
    assert [scribble(array) >> pool for _ in range(3)] == [5e6] * 3
    assert array.sum() == 1e6


def test_the_same_bytes_cross_once(pool: sky.Pool) -> None:
    array = np.random.default_rng(0).random(1_000_000)
    before = pool._engine.blobs.bytes_stored
    for _ in range(5):
        echo(array) @ pool
    assert pool._engine.blobs.bytes_stored - before == array.nbytes
