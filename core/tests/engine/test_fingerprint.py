"""What makes a function be pickled again, and what does not."""

from __future__ import annotations

import argparse
import functools
import logging
import threading
from array import array
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from skyward.engine.fingerprint import PARTS_MAX, fingerprint


class Holder:
    def __init__(self) -> None:
        self.value = 1
        self.inner = SimpleNamespace(deep=[1])

    def method(self) -> int:
        return self.value


class InSlots:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1


Holder.__module__ = InSlots.__module__ = "__main__"  # what a script's classes are


class Version:
    """Counts its changes, as tensors do."""

    @property
    def _version(self) -> int:
        return VERSIONS[0]


VERSIONS = [0]


def changes() -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """What a function captures, and a change of it."""
    return {
        "a list": ([1], lambda value: value.append(2)),
        "an item deep inside": ({"a": [(1, {2: [3]})]}, lambda value: value["a"][0][1][2].append(4)),
        "a set": ({1}, lambda value: value.add(2)),
        "an attribute": (Holder(), lambda value: setattr(value, "value", 2)),
        "a deep attribute": (Holder(), lambda value: value.inner.deep.append(2)),
        "an attribute in slots": (InSlots(), lambda value: setattr(value, "value", 2)),
        "parsed arguments": (argparse.Namespace(rate=1), lambda value: setattr(value, "rate", 2)),
        "an array": (np.zeros(10), lambda value: value.__setitem__(3, 1)),
        "a large array": (np.zeros(1_000_000), lambda value: value.__iadd__(1)),
        "the shape of an array": (np.zeros((4, 2)), lambda value: value.resize((2, 4), refcheck=False)),
        "a bytearray": (bytearray(b"x"), lambda value: value.extend(b"y")),
        "an array.array": (array("i", [1]), lambda value: value.append(2)),
        "what counts its changes": (Version(), lambda value: VERSIONS.__setitem__(0, 1)),
        "a bound method's object": (Holder().method, lambda value: setattr(value.__self__, "value", 2)),
        "a partial's argument": (functools.partial(len, [1]), lambda value: value.args[0].append(2)),
        "an attribute of a class": (
            type("Kind", (), {"x": 1, "__module__": "__main__"}),
            lambda value: setattr(value, "x", 2),
        ),
    }


@pytest.mark.parametrize("what", changes())
def test_a_change_is_noticed(what: str) -> None:
    captured, change = changes()[what]

    def function() -> Any:
        return captured

    before = fingerprint(function)
    assert fingerprint(function) == before
    change(captured)
    assert fingerprint(function) != before


def test_another_value_is_noticed() -> None:
    def make(captured: Any) -> Callable[[], Any]:
        return lambda: captured

    values = [1, 1.0, True, "1", b"1", None, [], (), {}, [1], object(), np.zeros(1), np.zeros(2), len, Holder]
    found = [fingerprint(make(value)) for value in values]
    for i, one in enumerate(found):
        assert [j for j, other in enumerate(found) if one == other] == [i]


def test_a_helper_s_change_and_a_default_s_are_noticed() -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("k = [1]\ndef helper(): return k\ndef work(x=[], *, y={}): return helper()", names)
    work = names["work"]
    seen = [fingerprint(work)]
    for change in (
        lambda: names["k"].append(2),
        lambda: names.__setitem__("helper", len),
        lambda: work.__defaults__[0].append(1),
        lambda: work.__kwdefaults__["y"].update(a=1),
    ):
        change()
        assert fingerprint(work) not in seen
        seen.append(fingerprint(work))


def test_recursion_ends() -> None:
    names: dict[str, Any] = {"__name__": "__main__", "loop": []}
    names["loop"].append(names["loop"])
    exec("def a(n): return b(n), loop\ndef b(n): return a(n)", names)
    assert fingerprint(names["a"]) == fingerprint(names["a"])


def test_what_holds_half_the_world_costs_little() -> None:
    logger, lock, many = logging.getLogger("some.where"), threading.Lock(), list(range(1_000_000))

    def function() -> Any:
        return logger, lock, many

    before = fingerprint(function)
    assert len(before) < PARTS_MAX + 50
    logger.debug("changes the logger's cache")
    assert fingerprint(function) == before


def test_an_object_that_can_t_be_looked_at_is_one_part() -> None:
    class Closed:
        @property
        def __dict__(self) -> Any:
            raise RuntimeError("outside of its context")

    Closed.__module__ = "__main__"
    closed = Closed()

    def function() -> Any:
        return closed

    assert fingerprint(function) == fingerprint(function)


def test_an_attribute_of_the_same_name_as_a_global_is_not_looked_at() -> None:
    names: dict[str, Any] = {"__name__": "__main__", "pool": [1]}
    exec("def work(x): return x.pool", names)
    before = fingerprint(names["work"])
    names["pool"].append(2)
    assert fingerprint(names["work"]) == before
