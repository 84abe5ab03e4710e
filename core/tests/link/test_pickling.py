"""What crosses by value, what by name, and what beside the pickle."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
from skyward.errors import SerializationError
from skyward.link.identity import add_definition, class_id, known_class, main_function
from skyward.link.pickling import BLOB_MIN, Pickled, dumps, dumps_call, dumps_value, explain, is_atomic, loads


def no_module(name: str) -> bool:
    return False


def through(value: Any) -> Any:
    pickled = dumps(value)
    return loads(pickled.data, pickled.buffers)


@pytest.mark.parametrize("value", [1, "x", None, (1, "x"), [1.5, b"y"], True, 3j])
def test_what_is_atomic_needs_no_cloudpickle(value: Any) -> None:
    assert is_atomic(value)
    assert loads(dumps_value(value).data) == value


@pytest.mark.parametrize("value", [{}, object(), [[]], range(3), "x" * BLOB_MIN, list(range(20))])
def test_what_is_not_atomic(value: Any) -> None:
    assert not is_atomic(value)


@pytest.mark.parametrize("size", [BLOB_MIN - 1, BLOB_MIN])
@pytest.mark.parametrize("make", [bytes, bytearray, lambda n: np.zeros(n, np.uint8)])
def test_a_long_buffer_goes_beside_the_pickle(make: Any, size: int) -> None:
    value = make(size)
    pickled = dumps_call((value,), {}, is_project_module=no_module)
    assert len(pickled.buffers) == (size >= BLOB_MIN)
    assert len(pickled.data) < (1000 if size >= BLOB_MIN else size + 1000)
    (again,), _ = loads(pickled.data, pickled.buffers)
    assert type(again) is type(value)
    assert bytes(again) == bytes(value)


def test_an_array_that_is_not_in_one_piece_crosses_all_the_same() -> None:
    array = np.arange(4_000_000).reshape(2000, 2000)[::2, ::2]
    assert np.array_equal(through(array), array)


# classes


def test_a_class_among_arguments_is_named_and_collected() -> None:
    class Local:
        pass

    item = Local()
    pickled = dumps_call((item, [Local]), {}, is_project_module=no_module)
    assert pickled.classes == {Local}
    (again, kinds), _ = loads(pickled.data)
    assert type(again) is Local
    assert kinds == [Local]


def test_a_class_is_made_from_its_definition_where_it_is_not_known() -> None:
    """In another process, where there is nothing to find it by."""

    class Local:
        size = 3

        def double(self) -> int:
            return self.size * 2

    definition = dumps(Local, name_classes=True, in_band=True).data
    call = dumps_call((Local(), Local()), {}, is_project_module=no_module).data
    code = (
        "import sys\n"
        "from skyward.link.identity import add_definition\n"
        "from skyward.link.pickling import dumps_value, loads\n"
        f"add_definition({class_id(Local)!r}, {definition!r})\n"
        f"(a, b), _ = loads({call!r})\n"
        "assert type(a) is type(b) and a.double() == 6\n"
        "sys.stdout.buffer.write(dumps_value(a).data)\n"
    )
    back = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert type(loads(back)) is Local
    assert len(back) < 200, "the class is named, not sent back"


def test_a_changed_definition_changes_the_class_that_is_there() -> None:
    class Local:
        size = 3

    number = class_id(Local)
    add_definition(number, dumps(Local, in_band=True).data)
    Local.size = 4
    add_definition(number, dumps(Local, in_band=True).data)
    Local.size = 5
    assert known_class(number, "Local").size == 4
    assert Local.size == 4


def test_a_class_that_is_gone_is_named() -> None:
    with pytest.raises(LookupError, match="the class 'Gone', which was sent earlier, is gone"):
        known_class("no such number", "Gone")


def test_classes_that_name_each_other() -> None:
    class A:
        def other(self) -> Any:
            return B()

    class B:
        def other(self) -> Any:
            return A()

    code = ["from skyward.link.identity import add_definition", "from skyward.link.pickling import loads"]
    whole = {class_id(kind): dumps(kind, name_classes=True, in_band=True).data for kind in (A, B)}
    code += [f"add_definition({number!r}, {data!r})" for number, data in whole.items()]
    code.append(f"(a,), _ = loads({dumps_call((A(),), {}, is_project_module=no_module).data!r})")
    code.append("assert type(a.other().other()) is type(a)")
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True)


def test_a_function_of_main_is_found_under_its_decorators(monkeypatch: pytest.MonkeyPatch) -> None:
    import functools

    def plain() -> None:
        pass

    @functools.wraps(plain)
    def wrapper() -> None:
        plain()

    monkeypatch.setattr(sys.modules["__main__"], "found", wrapper, raising=False)
    code = plain.__code__
    assert main_function("found", code.co_name, code.co_firstlineno) is plain
    assert main_function("found", "another", 0) is wrapper


# exceptions


class Two(Exception):
    def __init__(self, a: int, *, b: int) -> None:
        super().__init__(f"{a} {b}")
        self.b = b


class OwnReduce(Two):
    def __reduce__(self) -> Any:
        return _two, (self.b,)


def _two(b: int) -> OwnReduce:
    return OwnReduce(7, b=b)


def test_an_exception_is_put_together_without_its_init() -> None:
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(Two(1, b=2)))
    again = through(Two(1, b=2))
    assert (type(again), str(again), again.b) == (Two, "1 2", 2)


def test_a_reduce_of_its_own_is_respected() -> None:
    assert str(through(OwnReduce(1, b=2))) == "7 2"


@pytest.mark.parametrize(
    "error",
    [
        OSError(2, "why", "/path"),
        KeyError("k"),
        SystemExit(3),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
)
def test_built_in_exceptions_cross_as_ever(error: BaseException) -> None:
    again = through(error)
    assert type(again) is type(error)
    assert str(again) == str(error)


# what can't cross


def explained(value: Any, root: str = "args[0]") -> SerializationError:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever its classes raise)
        dumps(value)
    return explain(caught.value, value, root, "work", "the arguments of")


def test_the_deepest_culprit_is_named() -> None:
    lock = threading.Lock()

    class Holder:
        def __init__(self) -> None:
            self.fine = 1
            self.table = {"a": [1, lock]}

    error = explained({"x": Holder()})
    assert error.path == "args[0]['x'].table['a'][1]"
    assert str(error).startswith(f"can't send the arguments of work(): {error.path} is a _thread.lock, which")


def test_a_cycle_and_great_depth_end() -> None:
    value: list[Any] = [threading.Lock()]
    value.append(value)
    assert explained(value).path == "args[0][0]"
    deep: Any = threading.Lock()
    for _ in range(50):
        deep = [deep]
    assert explained(deep).path.startswith("args[0][0][0]")


def test_what_is_ours_is_not_taken_apart() -> None:
    class Ours:
        def __init__(self) -> None:
            self.lock = threading.Lock()

    Ours.__module__ = "skyward.compute"
    assert explained(Ours()).path == "args[0]"


def test_pickled_without_anything_found() -> None:
    pickled = Pickled(b"x")
    assert (pickled.buffers, pickled.modules, pickled.classes, pickled.files) == ((), set(), set(), set())
