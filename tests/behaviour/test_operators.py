"""What a user writes: ``>>``, ``>``, ``@``, ``&``, ``gather``, their targets, and the functions they take."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
import skyward as sky


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=3, console=False, logging=False) as opened:
        yield opened


@sky.function
def add(a: int, b: int = 1) -> int:
    return a + b


@sky.function
def describe(name: str) -> str:
    return f"<{name}>"


@sky.function
def node() -> int:
    return sky.instance_info().node


@sky.function
def fail(message: str, pause: float = 0.0) -> None:
    time.sleep(pause)
    raise ValueError(message)


@sky.function
def fail_on(nodes: tuple[int, ...]) -> int:
    number = sky.instance_info().node
    if number in nodes:
        raise LookupError(f"not on {number}")
    return number


@sky.function
def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@sky.function
def squares(n: int) -> Iterator[int]:
    for i in range(n):
        yield i * i


@sky.function
async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "rested"


@sky.function
async def countdown(n: int) -> AsyncIterator[int]:
    for i in range(n, 0, -1):
        await asyncio.sleep(0)
        yield i


@sky.function
def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial.local(n - 1)


@sky.function
def fibonacci(n: int) -> Any:
    a: Any = fibonacci  # a call inside a task runs at once
    return n if n < 2 else a(n - 1) + a(n - 2)


@dataclass
class Scale:
    factor: int

    @sky.function
    def times(self, number: int) -> int:
        return self.factor * number

    @sky.function
    def multiples(self, n: int) -> Iterator[int]:
        yield from (self.factor * i for i in range(n))

    @staticmethod
    @sky.function
    def half(number: int) -> float:
        return number / 2


# one call


def test_one_node_and_the_value(pool: sky.Pool) -> None:
    assert add(1, b=2) >> pool == 3


def test_nothing_runs_before_it_is_sent(pool: sky.Pool) -> None:
    call = add(1, 2)
    assert (call.args, call.kwargs, call.fn) == ((1, 2), {}, add)
    with pytest.raises(AttributeError):
        call.args = ()  # type: ignore[misc]
    assert [call >> pool, call >> pool] == [3, 3]


def test_without_blocking(pool: sky.Pool) -> None:
    future = sleep_for(0.2) > pool
    assert isinstance(future, Future)
    assert not future.done()
    assert future.result(timeout=30) == 0.2


def test_every_node_in_order(pool: sky.Pool) -> None:
    assert node() @ pool == [0, 1, 2]


def test_a_method_keeps_its_object(pool: sky.Pool) -> None:
    scale = Scale(3)
    assert scale.times(4) >> pool == 12
    assert list(scale.multiples(3) >> pool) == [0, 3, 6]
    assert Scale.half(5) >> pool == 2.5
    assert scale.times.local(5) == 15
    scale.factor = 5
    assert scale.times(4) >> pool == 20


def test_recursion(pool: sky.Pool) -> None:
    assert factorial(5) >> pool == 120
    assert fibonacci(10) >> pool == 55


def test_local_runs_here() -> None:
    assert add.local(2, b=5) == 7
    assert list(squares.local(3)) == [0, 1, 4]
    assert asyncio.run(nap.local(0.0)) == "rested"
    assert fibonacci.local(8) == 21


def test_async_functions(pool: sky.Pool) -> None:
    assert nap(0.01) >> pool == "rested"
    assert nap(0.01) @ pool == ["rested"] * 3


def test_async_generators(pool: sky.Pool) -> None:
    assert list(countdown(300) >> pool) == list(range(300, 0, -1))


def test_lambdas_partials_and_closures(pool: sky.Pool) -> None:
    offset = 10
    assert sky.function(lambda x: x + offset)(5) >> pool == 15


def test_metadata_is_that_of_the_plain_function() -> None:
    assert add.__name__ == "add"
    assert repr(add) == "<sky.function add>"
    assert repr(add(1)) == "<pending add(...): send it with `>> pool`>"


# streams by operator


def test_a_generator_sent_without_blocking_is_a_future_of_an_iterator(pool: sky.Pool) -> None:
    future = squares(4) > pool
    assert list(future.result(timeout=30)) == [0, 1, 4, 9]
    assert future.done()
    assert not future.cancel()


def test_a_generator_on_every_node_is_a_list_of_iterators(pool: sky.Pool) -> None:
    @sky.function
    def where() -> Iterator[int]:
        for _ in range(2):
            yield sky.instance_info().node

    iterators = where() @ pool
    assert [list(iterator) for iterator in iterators] == [[0, 0], [1, 1], [2, 2]]


def test_generators_in_a_group(pool: sky.Pool) -> None:
    a, b, c = (squares(3) & add(1) & squares(2)) >> pool
    assert (list(a), b, list(c)) == ([0, 1, 4], 2, [0, 1])


# groups


def test_groups(pool: sky.Pool) -> None:
    assert (add(1) & describe("x")) >> pool == (2, "<x>")
    assert (add(1) & describe("x") & add(2)) >> pool == (2, "<x>", 3)
    assert ((add(1) & add(2)) & (add(3) & add(4))) >> pool == (2, 3, 4, 5)
    assert (add(1) & (add(2) & add(3))) >> pool == (2, 3, 4)


def test_gather_is_a_group(pool: sky.Pool) -> None:
    group = sky.gather(*(add(i) for i in range(20)))
    assert len(group) == 20
    assert group >> pool == tuple(range(1, 21))
    assert sky.gather(add(1)) >> pool == (2,)


def test_gather_streams_in_order(pool: sky.Pool) -> None:
    started = time.monotonic()
    stream = sky.gather(sleep_for(0.4), sleep_for(0.01), sleep_for(0.02), stream=True) >> pool
    assert time.monotonic() - started < 0.4
    assert list(stream) == [0.4, 0.01, 0.02]


def test_gather_streams_as_they_complete(pool: sky.Pool) -> None:
    stream = sky.gather(sleep_for(1.5), sleep_for(0.6), sleep_for(0.01), stream=True, ordered=False) >> pool
    assert list(stream) == [0.01, 0.6, 1.5]


def test_a_closed_stream_of_a_group_cancels_the_rest(pool: sky.Pool) -> None:
    stream: Any = sky.gather(add(1), *(sleep_for(60.0) for _ in range(6)), stream=True) >> pool
    assert next(stream) == 2
    stream.close()
    assert node() @ pool == [0, 1, 2]  # at once: nobody sleeps any more


def test_the_first_failure_of_a_group_is_raised_at_once_and_cancels_the_rest(pool: sky.Pool) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="early"):
        (sleep_for(60.0) & fail("early")) >> pool
    assert node() @ pool == [0, 1, 2]
    assert time.monotonic() - started < 30


def test_a_failure_ends_a_stream_where_it_is(pool: sky.Pool) -> None:
    stream = sky.gather(add(1), fail("second"), add(3), stream=True) >> pool
    assert next(stream) == 2
    with pytest.raises(ValueError, match="second"):
        next(stream)
    assert list(stream) == []


# broadcast failures


def test_one_node_failing_in_a_broadcast_is_its_own_exception(pool: sky.Pool) -> None:
    with pytest.raises(LookupError, match="not on 1"):
        fail_on((1,)) @ pool


def test_several_nodes_failing_in_a_broadcast_are_a_group(pool: sky.Pool) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        fail_on((0, 2)) @ pool
    assert sorted(str(error) for error in caught.value.exceptions) == ["not on 0", "not on 2"]
    assert "fail_on() failed on 2 of 3 nodes" in str(caught.value)


def test_a_broadcast_does_not_wait_for_the_others_once_one_failed(pool: sky.Pool) -> None:
    @sky.function
    def uneven() -> None:
        if sky.instance_info().node == 2:
            raise RuntimeError("node 2")
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(RuntimeError, match="node 2"):
        uneven() @ pool
    assert time.monotonic() - started < 30
    assert node() @ pool == [0, 1, 2]


# targets


def test_sky_and_the_module_mean_the_innermost_pool() -> None:
    contextvars.Context().run(_use_nested_pools)  # where the module's own pool is not open


def _use_nested_pools() -> None:
    with sky.Compute(nodes=1, console=False, logging=False) as outer:
        assert add(1) >> sky == 2
        assert add(1) >> sky.sky == 2
        assert (add(1) & add(2)) >> sky == (2, 3)
        assert node() @ sky == [0]
        assert (add(1) > sky).result(30) == 2
        assert list(sky.gather(add(1), add(2), stream=True) >> sky) == [2, 3]
        with sky.Compute(nodes=2, console=False, logging=False):
            assert len(node() @ sky) == 2
            assert len(node() @ outer) == 1
        assert len(node() @ sky) == 1
        outcome: list[Any] = []

        def elsewhere() -> None:
            try:
                add(1) >> sky
            except sky.NoActivePoolError as error:
                outcome.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(outcome) == 1  # a thread has a context of its own
    with pytest.raises(RuntimeError, match=r"no pool is open here: use `with sky\.Compute"):
        add(1) >> sky


def test_a_pool_can_be_closed_in_another_thread() -> None:
    compute = sky.Compute(nodes=1, console=False, logging=False)
    pool = contextvars.Context().run(compute.__enter__)
    thread = threading.Thread(target=compute.__exit__, args=(None, None, None))
    thread.start()
    thread.join(60)
    assert not pool.is_active
    with pytest.raises(sky.PoolStateError, match="closed"):
        add(1) >> pool


# timeouts


def test_with_timeout(pool: sky.Pool) -> None:
    call = sleep_for(60.0)
    assert call.with_timeout(0.3).timeout == 0.3
    assert call.timeout is None
    with pytest.raises(TimeoutError, match=r"sleep_for\(\) on node \d ran longer than 0.3 s"):
        call.with_timeout(0.3) >> pool
    with pytest.raises(sky.TaskTimeoutError):
        (sleep_for(0.0) & call).with_timeout(0.5) >> pool
    assert node() @ pool == [0, 1, 2]


def test_a_function_has_a_timeout_of_its_own(pool: sky.Pool) -> None:
    @sky.function(timeout=0.3)
    def slow() -> None:
        time.sleep(60)

    assert slow().timeout == 0.3
    with pytest.raises(sky.TaskTimeoutError):
        slow() >> pool
