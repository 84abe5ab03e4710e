"""A pool's methods: where a task runs, many at once, cancelling, use by many threads and after the end."""

from __future__ import annotations

import contextvars
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import skyward as sky


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=2, console=False, logging=False) as opened:
        yield opened


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


@sky.function
def node() -> int:
    return sky.instance_info().node


@sky.function
def double(n: int) -> int:
    return 2 * n


@sky.function
def hold(folder: Path, name: str) -> str:
    """Tell that it began, wait to be let go, and tell how it ended."""
    (folder / f"{name}.began").touch()
    try:
        while not (folder / f"{name}.go").exists():
            time.sleep(0.005)
    except BaseException as error:
        (folder / f"{name}.ended").write_text(type(error).__name__)
        raise
    return name


def plain(n: int) -> int:
    return n + 1


def fail_at_three(n: int) -> int:
    if n == 3:
        raise ValueError("three")
    return n


# where


def test_targets(pool: sky.Pool) -> None:
    assert pool.run(node()) in (0, 1)
    assert [pool.run(node(), target="head") for _ in range(4)] == [0] * 4
    assert [pool.run(node(), target=1) for _ in range(4)] == [1] * 4
    assert pool.run_async(node(), target=1).result(30) == 1


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        (2, sky.ConfigError, "the pool's nodes are 0 to 1"),
        (-1, sky.ConfigError, "the pool's nodes are 0 to 1"),
        ("tail", sky.UsageError, "'head' or a node's rank"),
        (True, sky.UsageError, "'head' or a node's rank"),
        (1.0, sky.UsageError, "'head' or a node's rank"),
    ],
)
def test_wrong_targets(pool: sky.Pool, target: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pool.run(node(), target=target)


def test_the_methods_behind_the_operators(pool: sky.Pool) -> None:
    assert pool.broadcast(node()) == [0, 1]
    assert pool.run_parallel(sky.gather(double(1), double(2))) == (2, 4)
    assert list(pool.run_stream(sky.gather(double(1), double(2), stream=True))) == [2, 4]
    assert (pool.concurrency, pool.current_nodes(), pool.is_active) == (2, 2, True)
    assert len(pool.nodes()) == 2


# map


def test_map_takes_plain_and_decorated_functions(pool: sky.Pool) -> None:
    assert pool.map(plain, range(100)) == list(range(1, 101))
    assert pool.map(double, iter([3, 1, 2])) == [6, 2, 4]
    assert pool.map(lambda n: n * n, (1, 2)) == [1, 4]
    assert pool.map(plain, []) == []


def test_map_runs_one_task_an_item(pool: sky.Pool) -> None:
    before = pool.snapshot().tasks.done
    pool.map(plain, range(50))
    assert pool.snapshot().tasks.done - before == 50


def test_map_raises_the_first_failure_and_cancels_the_rest(pool: sky.Pool, tmp_path: Path) -> None:
    @sky.function
    def hold_or_fail(name: str) -> str:
        if name == "fail":
            raise ValueError("it failed")
        return hold.local(tmp_path, name)

    with pytest.raises(ValueError, match="it failed"):
        pool.map(hold_or_fail, ["a", "fail", "b", "c"])
    assert node() @ pool == [0, 1]
    assert not (tmp_path / "c.began").exists()


def test_a_streamed_map_takes_endless_items(pool: sky.Pool) -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        for n in itertools.count():
            taken += 1
            yield n

    values = pool.map(plain, endless(), stream=True)
    assert list(itertools.islice(values, 5000)) == list(range(1, 5001))
    assert taken < 5000 + 1100
    assert isinstance(values, Iterator)
    values.close()  # type: ignore[attr-defined]
    eventually(lambda: not pool.snapshot().tasks.queued and not pool.snapshot().tasks.running)


def test_a_streamed_map_keeps_order_and_raises_in_place(pool: sky.Pool) -> None:
    values = pool.map(fail_at_three, itertools.count(), stream=True)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(values)
    assert list(values) == []


def test_a_streamed_map_of_large_values_keeps_few(pool: sky.Pool) -> None:
    taken = 0

    def large() -> Iterator[bytes]:
        nonlocal taken
        for i in range(200):
            taken += 1
            yield bytes([i]) * (4 << 20)

    values = pool.map(len, large(), stream=True)
    assert next(values) == 4 << 20
    assert taken < 40  # 64 MiB are under way at most
    assert sum(1 for _ in values) == 199


def test_what_an_item_source_raises_is_raised(pool: sky.Pool) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        pool.map(plain, items())
    with pytest.raises(OSError, match="no more"):
        list(pool.map(plain, items(), stream=True))
    assert node() @ pool == [0, 1]


# futures


def test_cancelling_a_running_task_interrupts_it_and_frees_its_slot(pool: sky.Pool, tmp_path: Path) -> None:
    futures = [pool.run_async(hold(tmp_path, str(i)), target=i) for i in range(2)]
    eventually(lambda: all((tmp_path / f"{i}.began").exists() for i in range(2)))
    assert all(future.running() for future in futures)
    assert futures[0].cancel()
    assert futures[0].cancelled()
    assert futures[0].done()
    with pytest.raises(CancelledError):
        futures[0].result()
    eventually((tmp_path / "0.ended").exists)
    eventually(lambda: (tmp_path / "0.ended").read_text() == "KeyboardInterrupt")
    assert pool.run(node(), target=0) == 0
    (tmp_path / "1.go").touch()
    assert futures[1].result(30) == "1"
    assert not futures[1].cancel()


def test_a_cancelled_queued_task_never_begins(pool: sky.Pool, tmp_path: Path) -> None:
    running = [pool.run_async(hold(tmp_path, str(i)), target=i) for i in range(2)]
    eventually(lambda: all((tmp_path / f"{i}.began").exists() for i in range(2)))
    queued = [hold(tmp_path, f"queued{i}") > pool for i in range(3)]
    assert not any(future.running() for future in queued)
    assert all(future.cancel() for future in queued)
    time.sleep(0.5)  # what was sent ahead to wait on its node is told there
    for i in range(2):
        (tmp_path / f"{i}.go").touch()
    assert [future.result(30) for future in running] == ["0", "1"]
    assert node() @ pool == [0, 1]
    assert not list(tmp_path.glob("queued*"))


def test_done_callbacks_are_called_once_whatever_the_outcome(pool: sky.Pool, tmp_path: Path) -> None:
    called: list[Future[Any]] = []
    good = double(1) > pool
    bad = pool.submit(fail_at_three, 3)
    cancelled = hold(tmp_path, "x") > pool
    for future in (good, bad, cancelled):
        future.add_done_callback(called.append)
    eventually((tmp_path / "x.began").exists)
    cancelled.cancel()
    eventually(lambda: len(called) == 3)
    assert set(called) == {good, bad, cancelled}
    assert isinstance(bad.exception(), ValueError)
    good.add_done_callback(called.append)  # done already: called at once, here
    assert called[3:] == [good]


def test_a_callback_may_wait_for_another_task(pool: sky.Pool) -> None:
    results: list[int] = []
    future = double(1) > pool
    future.add_done_callback(lambda done: results.append(double(done.result()) >> pool))
    eventually(lambda: results == [4])


def test_a_callback_that_raises_hurts_nobody(pool: sky.Pool, caplog: pytest.LogCaptureFixture) -> None:
    def broken(done: Future[int]) -> None:
        raise RuntimeError("in a callback")

    later: list[Future[int]] = []
    future = double(1) > pool
    future.add_done_callback(broken)
    future.add_done_callback(later.append)
    eventually(lambda: later == [future])
    assert double(1) >> pool == 2
    assert "exception calling callback" in caplog.text


# threads


def test_use_from_many_threads_at_once(pool: sky.Pool) -> None:
    def user(number: int) -> list[int]:
        offset = number * 1000
        local = sky.function(lambda n: n + offset)
        values = [double(offset) >> pool, local(1) >> pool]
        values += pool.map(local, range(50))
        values += (double(1) & local(2)) >> pool
        return values

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(user, range(32)))
    for number, values in enumerate(answers):
        offset = number * 1000
        assert values == [2 * offset, 1 + offset, *(n + offset for n in range(50)), 2, 2 + offset]


# the end


def test_a_closed_pool_says_so() -> None:
    with sky.Compute(nodes=1, name=None, console=False, logging=False) as pool:
        assert double(1) >> pool == 2
        executor = pool.executor()
    assert not pool.is_active
    uses: list[Callable[[], Any]] = [
        lambda: double(1) >> pool,
        lambda: double(1) > pool,
        lambda: double(1) @ pool,
        lambda: (double(1) & double(2)) >> pool,
        lambda: sky.gather(double(1), stream=True) >> pool,
        lambda: pool.map(plain, [1]),
        lambda: next(pool.map(plain, [1], stream=True)),
        lambda: pool.submit(plain, 1),
        lambda: executor.submit(plain, 1),
    ]
    for use in uses:
        with pytest.raises(sky.PoolStateError, match=r"is closed: open another with `with sky\.Compute"):
            use()


def test_the_end_of_the_block_waits_for_tasks(tmp_path: Path) -> None:
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        futures = [pool.submit(plain, n) for n in range(100)]
        held = hold(tmp_path, "held") > pool
        eventually((tmp_path / "held.began").exists)
        called: list[Any] = []
        held.add_done_callback(called.append)
        threading.Timer(0.3, (tmp_path / "held.go").touch).start()
    assert [future.result(0) for future in futures] == list(range(1, 101))
    assert held.result(0) == "held"
    assert called == [held]


def test_an_exception_in_the_block_does_not_wait_for_tasks(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        with sky.Compute(nodes=1, console=False, logging=False) as pool:
            futures = [hold(tmp_path, name) > pool for name in "ab"]
            eventually((tmp_path / "a.began").exists)
            raise ZeroDivisionError
    assert time.monotonic() - started < 30
    for future in futures:
        with pytest.raises(sky.PoolStateError, match="was closed before the task was done"):
            future.result(0)


def test_nothing_of_a_pool_is_left() -> None:
    before = set(threading.enumerate())
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        future = double(1) > pool
        future.add_done_callback(lambda done: None)
        assert future.result(30) == 2
        assert list(pool.map(plain, range(10), stream=True))
    assert not {thread for thread in set(threading.enumerate()) - before if thread.is_alive()}


def test_a_compute_opens_once_at_a_time() -> None:
    compute = sky.Compute(nodes=1, console=False, logging=False)
    with compute as pool:
        with pytest.raises(sky.PoolStateError, match="open already"):
            compute.__enter__()
        assert double(1) >> pool == 2
    with compute as again:
        assert double(2) >> again == 4


# sessions


def test_a_session_opens_several_pools() -> None:
    with sky.Session(console=False, logging=False) as session:
        one = session.compute(nodes=1)
        two = session.compute(nodes=2)
        assert session.pools == (one, two)
        assert (len(node() @ one), len(node() @ two)) == (1, 2)
        with pytest.raises(sky.NoActivePoolError):
            contextvars.Context().run(lambda: node() >> sky)
        assert session.stop_pool(one.name)
        assert not session.stop_pool(one.name)
        assert not one.is_active
        assert list(session.pools) == [two]
        assert double(1) >> two == 2
    assert not two.is_active
    assert not session.is_active
    with pytest.raises(sky.PoolStateError, match="the session is closed"):
        session.compute(nodes=1)
    session.close()


def test_a_session_ends_at_once_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with sky.Session(console=False, logging=False) as session:
            pool = session.compute(nodes=1)
            future = hold(tmp_path, "x") > pool
            raise ZeroDivisionError
    with pytest.raises(sky.PoolStateError):
        future.result(0)


def test_an_answer_that_comes_before_submit_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    from skyward.engine.lane import Lane

    express = Lane.express

    def slow(self: Lane, *args: Any) -> bool:
        done = express(self, *args)
        time.sleep(0.2)  # the caller's thread is not scheduled for a while
        return done

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        assert double(0) >> pool == 0
        monkeypatch.setattr(Lane, "express", slow)
        for n in range(1, 4):
            assert (double(n) > pool).result(5) == 2 * n
