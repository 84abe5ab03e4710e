"""What is told when an operator or a call is used in a way it can't be, before anything runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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


loose: Any = add
gather: Any = sky.gather

MISUSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a group with >": (lambda p: (loose(1) & loose(2)) > p, "(a & b) >> pool"),
    "a group with @": (lambda p: (loose(1) & loose(2)) @ p, "(a & b) >> pool"),
    "a stream with >": (lambda p: sky.gather(loose(1), stream=True) > p, "(a & b) >> pool"),
    "a stream with @": (lambda p: sky.gather(loose(1), stream=True) @ p, "(a & b) >> pool"),
    "& after >>": (lambda p: loose(1) & loose(2) >> p, "Python binds `>>` tighter than `&`"),
    "a chained comparison": (lambda p: loose(1) > loose(2) > p, "can't be sent to"),
    "less than": (lambda p: loose(1) < p, "the call on the left, the pool on the right"),
    "truth": (lambda p: bool(loose(1)), "has not run"),
    "truth of a group": (lambda p: bool(loose(1) & loose(2)), "has not run"),
    "a number": (lambda p: loose(1) >> 3, "can't be sent to 3"),
    "the class": (lambda p: loose(1) >> sky.Compute, "open it first"),
    "a pool that is not open": (lambda p: loose(1) >> sky.Compute(nodes=1), "open it first"),
    "another module": (lambda p: loose(1) >> threading, "can't be sent to"),
    "a function that was not called": (lambda p: loose >> p, "call it first: `add(...) >> pool`"),
    "the same, grouped": (lambda p: loose(1) & loose, "call the function first"),
    "the same, on the left": (lambda p: loose & loose(1), "call it first"),
    "a number in a group": (lambda p: loose(1) & 3, "already a value (int)"),
    "gather of nothing": (lambda p: sky.gather(), "at least one"),
    "gather of values": (lambda p: gather(1, 2), "already a value (int)"),
    "a timeout of nothing": (lambda p: loose(1).with_timeout(0), "above 0 seconds"),
    "a timeout in words": (lambda p: loose(1).with_timeout("5m"), "number of seconds"),
    "run without calling": (lambda p: p.run(loose), "call it first"),
    "run of a value": (lambda p: p.run(3), "runs pending calls"),
    "broadcast of a value": (lambda p: p.broadcast(3), "runs pending calls"),
    "run_parallel of a call": (lambda p: p.run_parallel(loose(1)), "takes a group"),
    "run_stream of a group": (lambda p: p.run_stream(loose(1) & loose(2)), "stream=True"),
    "decorated twice": (lambda p: sky.function(loose), "decorated already"),
    "a class": (lambda p: sky.function(int), "decorates a function"),
}


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_told_before_anything_runs(pool: sky.Pool, name: str) -> None:
    misuse, text = MISUSES[name]
    with pytest.raises((sky.UsageError, sky.ConfigError)) as caught:
        misuse(pool)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_chained_comparison_sends_nothing(pool: sky.Pool) -> None:
    done = pool.snapshot().tasks.done
    with pytest.raises(TypeError):
        loose(1) > loose(2) > pool  # noqa: B015  (this is the mistake)
    assert pool.snapshot().tasks.done == done


def test_a_wrong_argument_is_the_functions_own_error(pool: sky.Pool) -> None:
    wrong: Any = add
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        wrong(1, c=2) >> pool
