"""What a task raises is raised here as its own type, says where it came from, and hurts nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Never

import pytest
import skyward as sky


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        yield pool


def failure(pool: sky.Pool, function: Callable[..., Any], *args: Any) -> BaseException:
    error = pool.submit(function, *args).exception(timeout=60)
    assert error is not None
    return error


# exceptions of every kind


class PlainArguments(Exception):
    pass


class OtherArguments(Exception):
    """Its ``args`` are not what its ``__init__`` takes: plain pickle can't make it again."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


class OfTheSystem(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "not there", path)
        self.extra = "kept"


class OfText(UnicodeDecodeError):
    def __init__(self, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "bad byte")


class OwnNew(Exception):
    def __new__(cls, a: int, b: int) -> OwnNew:
        return super().__new__(cls, a)

    def __init__(self, a: int, b: int) -> None:
        self.b = b


class HoldsALock(KeyError):
    def __init__(self) -> None:
        super().__init__("the key")
        self.lock = threading.Lock()


class ReducedWrongly(RuntimeError):
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("x",)


class TextFails(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_keeps_its_type_and_arguments(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise PlainArguments("a", 2)

    error = failure(pool, fail)
    assert type(error) is PlainArguments
    assert error.args == ("a", 2)


def test_an_exception_whose_init_takes_something_else(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise OtherArguments(3, why="because")

    error = failure(pool, fail)
    assert type(error) is OtherArguments
    assert (str(error), error.code) == ("3: because", 3)


def test_exceptions_with_fields_that_python_keeps_for_them(pool: sky.Pool) -> None:
    def fail_system() -> Never:
        raise OfTheSystem("/nowhere")

    def fail_text() -> Never:
        raise OfText(b"\xff")

    def fail_new() -> Never:
        raise OwnNew(1, 2)

    system, text, new = failure(pool, fail_system), failure(pool, fail_text), failure(pool, fail_new)
    assert type(system) is OfTheSystem
    assert (system.filename, system.errno, system.extra) == ("/nowhere", 2, "kept")
    assert type(text) is OfText
    assert (text.object, text.reason) == (b"\xff", "bad byte")
    assert type(new) is OwnNew
    assert (new.args, new.b) == ((1,), 2)


def test_one_that_can_t_be_pickled_has_a_stand_in_that_is_caught_the_same(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise HoldsALock

    with pytest.raises(HoldsALock) as caught:
        pool.submit(fail).result()
    error: Any = caught.value
    assert isinstance(error, sky.RemoteError)
    assert str(error) == "'the key'"
    assert error.type_name.endswith("HoldsALock")
    assert "raise HoldsALock" in str(error.__cause__)


def test_one_that_can_t_be_unpickled_has_a_stand_in(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise ReducedWrongly("told")

    error = failure(pool, fail)
    assert isinstance(error, ReducedWrongly)
    assert isinstance(error, sky.RemoteError)
    assert str(error) == "told"


def test_one_that_has_no_text_arrives(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise TextFails

    assert type(failure(pool, fail)) is TextFails


def test_one_from_a_module_that_is_only_there_is_caught_as_what_it_derives_from(pool: sky.Pool) -> None:
    def fail() -> Never:
        import types

        module = types.ModuleType("only_there")
        sys.modules["only_there"] = module
        exec("class Far(LookupError): pass", module.__dict__)
        raise module.Far("x")

    with pytest.raises(LookupError, match=r"^x") as caught:
        pool.submit(fail).result()
    assert isinstance(caught.value, sky.RemoteError)
    assert caught.value.type_name == "only_there.Far"


def test_notes_and_causes_come_along(pool: sky.Pool) -> None:
    def fail() -> Never:
        try:
            {}["missing"]
        except KeyError as error:
            problem = ValueError("bad table")
            problem.add_note("a hint")
            raise problem from error

    error = failure(pool, fail)
    assert type(error) is ValueError
    assert error.__notes__ == ["a hint", "raised by fail() on node 0"]
    assert isinstance(error.__cause__, KeyError)
    assert "raise problem from error" in str(error.__cause__.__cause__)


def test_a_group_comes_with_its_members(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise ExceptionGroup(
            "several", [OtherArguments(1, why="x"), ExceptionGroup("inner", [ValueError("y")])]
        )

    caught: list[str] = []
    try:
        pool.submit(fail).result()
    except* ValueError as group:
        caught.append(repr(group.exceptions[0]))
    except* OtherArguments as group:
        caught.append(type(group.exceptions[0]).__name__)
    assert sorted(caught) == ["ExceptionGroup('inner', [ValueError('y')])", "OtherArguments"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_ends_a_program_is_an_exception_like_any_other(
    kind: type[BaseException], pool: sky.Pool
) -> None:
    def fail() -> Never:
        raise kind(3)

    error = failure(pool, fail)
    assert type(error) is kind
    assert error.args == (3,)
    assert pool.submit(os.getpid).result() > 0


def test_a_coroutine_that_exits_leaves_the_others_alone(pool: sky.Pool) -> None:
    async def leave() -> Never:
        sys.exit(3)

    async def stay() -> int:
        return 5

    with sky.Compute(nodes=1, console=False, logging=False, shutdown_timeout=1) as other:
        futures = other.submit(leave), other.submit(stay)
        try:
            assert type(futures[0].exception(timeout=5)) is SystemExit
            assert futures[1].result(timeout=5) == 5
        finally:
            for future in futures:
                future.cancel()


def test_stop_iteration_does_not_end_the_caller_s_loop(pool: sky.Pool) -> None:
    def fail() -> Never:
        raise StopIteration(3)

    assert isinstance(failure(pool, fail), sky.RemoteError)


def test_an_error_in_a_generator_comes_after_its_items(pool: sky.Pool) -> None:
    @sky.function
    def items() -> Iterator[int]:
        yield 1
        raise OtherArguments(1, why="x")

    stream = items() >> pool
    assert next(stream) == 1
    with pytest.raises(OtherArguments):
        next(stream)


def test_one_exception_for_one_node_and_a_group_for_several() -> None:
    @sky.function
    def fail(nodes: int) -> None:
        if sky.instance_info().node < nodes:
            raise OtherArguments(sky.instance_info().node, why="x")

    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        with pytest.raises(OtherArguments):
            fail(1) @ pool
        with pytest.raises(ExceptionGroup, match=r"fail\(\) failed on 2 of 2 nodes") as caught:
            fail(2) @ pool
        assert [type(error) for error in caught.value.exceptions] == [OtherArguments] * 2


# as a person sees it


SCRIPT = """\
import skyward as sky

def helper(x):
    raise ValueError(f"bad {x}")

@sky.function
def work(depth):
    if depth:
        return work(depth - 1)
    helper(depth)

if __name__ == "__main__":
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        work(2) >> pool
"""


def test_an_uncaught_error_shows_the_user_s_lines_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    there, here = done.stderr.split("The above exception was the direct cause of the following exception:")
    assert 'raise ValueError(f"bad {x}")' in there
    assert there.count("in work") == 3
    assert os.path.dirname(sky.__file__) not in there, "our frames are none of the user's business"
    assert "ValueError: bad 0" in there
    assert "work(2) >> pool" in here
    assert done.stderr.splitlines()[-2:] == ["ValueError: bad 0", "raised by work() on node 0"]


def test_a_task_that_exits_ends_the_script_that_waits_for_it_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace('raise ValueError(f"bad {x}")', "raise SystemExit(7)"))
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 7
