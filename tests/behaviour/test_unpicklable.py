"""What can't cross is named by the path to it, whichever way it was going."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import skyward as sky


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        yield pool


lock = threading.Lock()


class Holder:
    def __init__(self) -> None:
        self.inner = {"deep": [lock]}

    def method(self, x: int) -> int:
        return x


class InSlots:
    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = lock


class OnTheClass:
    pass


@sky.function
def takes(*args: Any, **kwargs: Any) -> None:
    pass


def unpicklable() -> dict[str, Callable[[sky.Pool], Any]]:
    """Path -> what has something at that path that can't be pickled."""
    import functools

    here = threading.Lock()
    table = {"key": here}

    class Local:
        held = here

    def helper() -> Any:
        return here

    def default(x: Any = here) -> Any:
        return x

    return {
        "args[0]['lock']": lambda pool: takes({"lock": lock}) >> pool,
        "args[1][2]": lambda pool: takes(1, [1, 2, lock]) >> pool,
        "kwargs['x'].inner['deep'][0]": lambda pool: takes(x=Holder()) >> pool,
        "args[0].held": lambda pool: takes(InSlots()) >> pool,
        "args[0].<here>": lambda pool: takes(lambda: here) >> pool,
        "args[0].<class Local>.held": lambda pool: takes(Local()) >> pool,
        "args[0].<key>": lambda pool: takes({lock: 1}) >> pool,
        "args[0]": lambda pool: takes(pool) >> pool,
        "<lambda>.<table>['key']": lambda pool: pool.submit(lambda: table),
        "<lambda>.<helper>.<here>": lambda pool: pool.submit(lambda: helper()),
        "default.<defaults>[0]": lambda pool: pool.submit(default),
        "method.__self__.inner['deep'][0]": lambda pool: pool.submit(Holder().method, 1),
        "partial.args[0]": lambda pool: pool.submit(functools.partial(takes.local, lock)),
        "result['a'][1]": lambda pool: pool.submit(lambda: {"a": [1, threading.Lock()]}).result(),
    }


@pytest.mark.parametrize("path", unpicklable())
def test_what_can_t_be_pickled_is_named(path: str, pool: sky.Pool) -> None:
    with pytest.raises(TypeError) as caught:
        unpicklable()[path](pool)
    error = caught.value
    assert isinstance(error, sky.SerializationError)
    assert error.path == path
    assert f"{path} is a " in str(error)
    assert "can't be pickled" in str(error)
    assert "\n" not in str(error)


def test_a_global_that_can_t_be_pickled_is_named(pool: sky.Pool) -> None:
    names: dict[str, Any] = {"__name__": "__main__", "lock": lock}
    exec("def helper(): return lock\ndef work(): return helper()", names)
    with pytest.raises(sky.SerializationError) as caught:
        pool.submit(names["work"])
    assert caught.value.path == "work.<global helper>.<global lock>"


def test_a_result_that_only_exists_there_says_so(pool: sky.Pool) -> None:
    def work() -> Any:
        import types

        module = types.ModuleType("only_there")
        sys.modules["only_there"] = module
        exec("class Far: pass", module.__dict__)
        return module.Far()

    with pytest.raises(
        sky.SerializationError,
        match=r"the result of work\(\) on node 0 can't be unpickled here: .*only_there",
    ):
        pool.submit(work).result()


def test_an_item_that_can_t_be_pickled_is_named(pool: sky.Pool) -> None:
    @sky.function
    def out() -> Iterator[Any]:
        yield 1
        yield threading.Lock()

    @sky.function
    def into(items: Iterator[Any]) -> int:
        return len(list(items))

    with pytest.raises(
        sky.SerializationError, match=r"can't send back an item of out\(\): item is a _thread\.lock"
    ):
        list(out() >> pool)
    with pytest.raises(
        sky.SerializationError, match=r"can't send an item to into\(\): item is a _thread\.lock"
    ):
        into(iter([1, threading.Lock()])) >> pool
