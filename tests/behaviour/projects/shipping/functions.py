"""Functions of every kind, and what changes between two dispatches."""

from __future__ import annotations

import argparse
import enum
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import skyward as sky
from cases import case, run


@dataclass
class Row:
    a: int


class Color(enum.Enum):
    RED = 1


class Sub:
    def __init__(self, value=5):
        self.value = value

    def go(self):
        return self.value

    @classmethod
    def make(cls, value):
        return cls(value)

    @sky.function
    def remote(self, x):
        return self.value + x


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
    run()
