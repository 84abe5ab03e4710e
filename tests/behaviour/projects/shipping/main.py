"""Modules beside a script, and classes of its own."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import plain.thing
import sibling
import skyward as sky
import toolbox.deep.er
from cases import case, run
from sibling import Point, area
from toolbox import up


def helper(x):
    return x


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
    found = pool.submit(lambda: (Row, Color, helper, uses_sibling, area)).result()
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


if __name__ == "__main__":
    run()
