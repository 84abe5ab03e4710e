"""Everything a script may be made of. Each case returns True; prints one JSON line for each."""

from __future__ import annotations

import argparse
import enum
import functools
import json
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import plain.thing
import sibling
import skyward as sky
import toolbox.deep.er
from sibling import Point, area
from toolbox import up

CASES: list[Callable[[Any], bool]] = []


def case(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    CASES.append(function)
    return function


# what lives beside the script


@sky.function
def uses_sibling(r):
    return area(r), sibling.LIMIT, sibling.late()


@case
def a_sibling_module(pool):
    return uses_sibling(2) >> pool == (12, 7, "imported when it was needed")


@sky.function
def uses_package(x):
    return up(x), toolbox.deep.er.deepest(), plain.thing.N


@case
def a_package_with_relative_and_circular_imports(pool):
    return uses_package(1) >> pool == (102, 105, 3)


@sky.function
def imports_inside():
    import sibling as s
    from toolbox.deep.er import deepest

    return deepest() + s.LIMIT


@case
def imports_inside_a_function(pool):
    return imports_inside() >> pool == 112


@sky.function
def moved(point):
    assert isinstance(point, Point)
    return point.double()


@case
def a_class_of_a_sibling_is_one_class(pool):
    point = moved(Point(2)) >> pool
    return type(point) is Point and point.x == 4


@sky.function
def in_trouble():
    raise sibling.Trouble(3, why="no reason")


@case
def an_exception_of_a_sibling_is_caught(pool):
    try:
        in_trouble() >> pool
    except sibling.Trouble as error:
        return type(error) is sibling.Trouble and error.code == 3 and str(error) == "3: no reason"
    return False


# classes of the script


@dataclass
class Row:
    a: int
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Pair(NamedTuple):
    left: int
    right: Color


class Oops(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class Meta(type):
    def __new__(mcs, name, bases, namespace):
        return super().__new__(mcs, name, bases, {**namespace, "made_by": "Meta"})


class Made(metaclass=Meta):
    pass


class Base(ABC):
    @abstractmethod
    def go(self): ...


class Sub(Base):
    def __init__(self, value=5):
        super().__init__()
        self.value = value

    def go(self):
        return self.value

    @property
    def doubled(self):
        return self.value * 2

    @classmethod
    def make(cls, value):
        return cls(value)

    @staticmethod
    def nine():
        return 9

    @sky.function
    def remote(self, x):
        return self.value + x

    class Inner:
        pass


class Box[T]:
    def __init__(self, value: T) -> None:
        self.value = value


@sky.function
def next_row(row: Row) -> Row:
    assert isinstance(row, Row)
    return Row(row.a + 1, ["x"])


@case
def a_dataclass(pool):
    row = next_row(Row(1)) >> pool
    return type(row) is Row and row == Row(2, ["x"])


@case
def a_dataclass_with_slots(pool):
    return pool.map(lambda s: Slotted(s.a + 1), [Slotted(1)]) == [Slotted(2)]


@sky.function
def blue(color):
    assert color is Color.RED
    return Color.BLUE, Flags.A | Flags.B


@case
def an_enum_member_is_the_member(pool):
    color, flags = blue(Color.RED) >> pool
    return color is Color.BLUE and type(flags) is Flags and flags == Flags.A | Flags.B


@case
def a_named_tuple(pool):
    pair = pool.submit(lambda p: Pair(p.left + 1, p.right), Pair(1, Color.BLUE)).result()
    return type(pair) is Pair and pair == (2, Color.BLUE)


@sky.function
def fails():
    raise Oops(3, "bad")


@case
def an_exception_of_the_script(pool):
    try:
        fails() >> pool
    except Oops as error:
        return type(error) is Oops and error.code == 3
    return False


@case
def an_exception_group_of_the_script_s(pool):
    def fail():
        raise ExceptionGroup("several", [Oops(1, "a"), ValueError("b")])

    try:
        pool.submit(fail).result()
    except ExceptionGroup as group:
        return [type(error) for error in group.exceptions] == [Oops, ValueError]
    return False


@case
def a_metaclass(pool):
    return (
        type(pool.submit(lambda: Made()).result()) is Made
        and pool.submit(lambda: Made.made_by).result() == "Meta"
    )


@case
def an_abstract_base_class(pool):
    sub = pool.submit(lambda s: (s.go(), s.doubled, Sub.make(3), Sub.nine()), Sub()).result()
    return sub[:2] == (5, 10) and type(sub[2]) is Sub and sub[2].value == 3 and sub[3] == 9


@case
def a_nested_class(pool):
    return type(pool.submit(lambda: Sub.Inner()).result()) is Sub.Inner


@case
def a_generic_class(pool):
    box = pool.submit(lambda b: Box(b.value + 1), Box(1)).result()
    return type(box) is Box and box.value == 2


@case
def a_class_inside_a_function(pool):
    @dataclass
    class Here:
        v: int

    @sky.function
    def f(here: Here) -> Here:
        return Here(here.v + 1)

    here = f(Here(1)) >> pool
    return type(here) is Here and here.v == 2


@case
def a_class_that_the_function_never_names(pool):
    rows = pool.map(lambda item: item, [Row(1), Sub(2), Color.RED])
    return rows[0] == Row(1) and type(rows[1]) is Sub and rows[2] is Color.RED


@case
def a_class_made_on_the_node(pool):
    def make():
        class There:
            x = 5

        return There()

    return pool.submit(make).result().x == 5


@case
def classes_and_functions_come_back_as_themselves(pool):
    found = pool.submit(lambda: (Row, Color, helper, uses_sibling, area, twice)).result()
    return all(a is b for a, b in zip(found[:3], (Row, Color, helper), strict=True)) and found[4] is area


class Tally:
    seen = 0


@case
def a_class_keeps_its_state_between_the_tasks_of_a_process(pool):
    def count(tally):
        type(tally).seen += 1
        return type(tally).seen

    return max(pool.map(count, [Tally() for _ in range(6)])) > 1


@case
def a_class_changed_here_is_changed_there(pool):
    class Config:
        rate = 1

    def read(config):
        return config.rate

    first = pool.map(read, [Config()] * 4)
    Config.rate = 2
    return first == [1] * 4 and pool.map(read, [Config()] * 4) == [2] * 4


class Loader:
    def read(self):
        return loaded


loaded: Any


def load():
    global loaded
    loaded = 5


@case
def a_method_sees_the_globals_that_a_function_sets(pool):
    def work(loader):
        load()
        return loader.read(), Loader().read()

    return pool.submit(work, Loader()).result() == (5, 5)


# functions


offset = 3


def helper(x):
    return x + offset


def added(a, b):
    return a + b + offset


@case
def a_closure(pool):
    k = 5

    def add(x):
        return x + k

    return pool.map(add, [1, 2]) == [6, 7] and pool.submit(lambda: k * 2).result() == 10


@case
def a_lambda(pool):
    return pool.map(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]


@case
def a_partial(pool):
    return pool.map(functools.partial(pow, 2), range(4)) == [1, 2, 4, 8] and pool.map(
        functools.partial(added, 10), [0, 1]
    ) == [13, 14]


@case
def a_built_in_function(pool):
    return pool.map(abs, [-1, 2]) == [1, 2] and pool.map("x".join, [["a", "b"]]) == ["axb"]


@case
def bound_methods(pool):
    sub = Sub(3)
    made = pool.map(Sub.make, [1])
    return sub.remote(4) >> pool == 7 and pool.map(sub.remote.local, [1]) == [4] and type(made[0]) is Sub


@case
def an_object_that_is_called(pool):
    class Adder:
        def __call__(self, x):
            return x + 1

    return pool.map(Adder(), [1]) == [2]


@sky.function
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


@sky.function
def even(n):
    return True if n == 0 else odd(n - 1)


@sky.function
def odd(n):
    return False if n == 0 else even(n - 1)


@case
def recursion(pool):
    return factorial(10) >> pool == 3628800 and even(10) >> pool is True and odd(10) >> pool is False


def twice(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return wrapper


@sky.function
@twice
def doubled(x):
    return x


@case
def a_function_under_other_decorators(pool):
    return doubled(2) >> pool == 4


@sky.function
def with_defaults(*, color=Color.RED, row=Row(5)):
    return color, row


@case
def defaults(pool):
    color, row = with_defaults() >> pool
    return color is Color.RED and type(row) is Row


@case
def super_in_a_local_class(pool):
    class A:
        def f(self):
            return 1

    class B(A):
        def f(self):
            return super().f() + 1

    return pool.map(lambda _: B().f(), [0]) == [2]


@sky.function
def rows(n: int) -> Iterator[Row]:
    for i in range(n):
        yield Row(i)


@sky.function
def total(items: Iterator[Row]) -> int:
    return sum(item.a for item in items if type(item) is Row)


@case
def streams_of_a_class(pool):
    return [type(row) for row in rows(3) >> pool] == [Row] * 3 and total(iter([Row(1), Row(2)])) >> pool == 3


# what changes between two dispatches


counter = 1
table = {"a": [1]}
arguments = argparse.Namespace(rate=0.1)
weights = np.zeros(10)
big_weights = np.zeros(400_000)
settings = Sub(1)


def seen(function, change, pool):
    """Whether ``function`` gives something else after ``change``."""
    before = pool.submit(function).result()
    again = pool.submit(function).result()
    change()
    return before == again != pool.submit(function).result()


@case
def a_global_that_is_bound_anew(pool):
    return seen(lambda: counter, lambda: globals().__setitem__("counter", counter + 1), pool)


@case
def a_dict_that_changes(pool):
    return seen(lambda: table["a"][-1], lambda: table["a"].append(9), pool)


@case
def an_attribute_that_changes(pool):
    return seen(lambda: arguments.rate, lambda: setattr(arguments, "rate", 0.2), pool) and seen(
        lambda: settings.go(), lambda: setattr(settings, "value", 2), pool
    )


@case
def an_array_that_changes_in_place(pool):
    def step():
        global weights, big_weights
        weights += 1
        big_weights -= 1

    return seen(lambda: (float(weights.sum()), float(big_weights.sum())), step, pool)


@case
def a_helper_s_global_that_changes(pool):
    return seen(lambda: helper(1), lambda: globals().__setitem__("offset", offset + 1), pool)


@case
def a_model_s_attribute_under_a_bound_method(pool):
    sub = Sub(1)
    return seen(sub.go, lambda: setattr(sub, "value", 2), pool)


@case
def what_was_sent_before_a_change_keeps_the_old(pool):
    rate = 1.0
    first = pool.submit(lambda: rate)
    rate = 2.0
    second = pool.submit(lambda: rate)
    rate = 3.0
    return (first.result(), second.result()) == (1.0, 2.0)


if __name__ == "__main__":
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        for function in CASES:
            try:
                problem = "" if function(pool) is True else "it did not return True"
            except Exception as error:
                problem = "".join(traceback.format_exception(error))
            print(json.dumps([function.__name__, problem]))
