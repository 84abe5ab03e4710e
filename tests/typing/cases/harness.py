"""The harness itself: values, calls, operators and rejections of types that are nobody's API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True)
class Box[T]:
    value: T

    def __rshift__(self, other: Shelf) -> T:
        return self.value

    def __and__[U](self, other: Box[U]) -> Box[tuple[T, U]]:
        return Box((self.value, other.value))


@dataclass(frozen=True)
class Shelf:
    label: str


def later[T](box: Box[T]) -> Future[Box[T]]:
    future: Future[Box[T]] = Future()
    future.set_result(box)
    return future


def apply[**P, R](function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
    yield function(*args, **kwargs)


def half(number: int, *, up: bool = False) -> float:
    return number / 2 + up


shelf = Shelf("top")

reveal_type(Box(1))  # expect: Box[int]
reveal_type(Box("a") >> shelf)  # expect: str
reveal_type((Box(1) & Box("a")) >> shelf)  # expect: tuple[int, str]
reveal_type(later(Box(b"")))  # expect: Future[Box[bytes]]
reveal_type(apply(half, 3, up=True))  # expect: Iterator[float]
reveal_type(shelf.label if shelf.label else None)  # expect: str | None

Box(1) >> 3  # error
apply(half, "3")  # error
apply(half, 3, down=True)  # error
shelf.label = "bottom"  # error
missing = shelf.nothing  # error
