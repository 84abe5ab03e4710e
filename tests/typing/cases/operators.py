"""Functions, pending calls, operators and groups, as both checkers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from typing import Any

import skyward as sky

with sky.Compute() as pool:
    ...  # only checked, never run


@sky.function
def add(a: int, b: int = 1, *, scale: float = 1.0) -> int:
    return int((a + b) * scale)


@sky.function(timeout=60)
def name(of: bytes) -> str:
    return of.decode()


@sky.function
def nothing() -> None: ...


@sky.function
def anything(value: Any) -> Any:
    return value


@sky.function
async def fetch(url: str) -> bytes:
    return url.encode()


@sky.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


@sky.function
def echo(texts: Iterable[str]) -> Generator[str, None, None]:
    yield from texts


@sky.function
async def ticks(n: int) -> AsyncIterator[float]:
    yield float(n)


@sky.function
def same[T](value: T) -> list[T]:
    return [value]


class Model:
    @sky.function
    def score(self, text: str, *, top: int = 1) -> list[float]:
        return [0.0] * top

    @staticmethod
    @sky.function
    def size(text: str) -> int:
        return len(text)

    @sky.function
    async def load(self, path: str) -> bytes:
        return path.encode()


# calls

reveal_type(add(1, b=2))  # expect: PendingFunction[int]
reveal_type(name(b"x"))  # expect: PendingFunction[str]
reveal_type(nothing())  # expect: PendingFunction[None]
reveal_type(anything(1))  # expect: PendingFunction[Any]
reveal_type(fetch("x"))  # expect: PendingFunction[bytes]
reveal_type(count(3))  # expect: PendingFunction[Iterator[int]]
reveal_type(echo(["a"]))  # expect: PendingFunction[Generator[str, None, None]]
reveal_type(ticks(1))  # expect: PendingFunction[Iterator[float]]
reveal_type(Model().score("x", top=2))  # expect: PendingFunction[list[float]]
reveal_type(Model().load("x"))  # expect: PendingFunction[bytes]
reveal_type(Model.size("x"))  # expect: PendingFunction[int]
reveal_type(add(1).with_timeout(5))  # expect: PendingFunction[int]
reveal_type(add.local(1))  # expect: int
reveal_type(add.__name__)  # expect: str
reveal_type(count.local(1))  # expect: Iterator[int]
reveal_type(Model().score.local("x"))  # expect: list[float]


async def here() -> None:
    reveal_type(await fetch.local("x"))  # expect: bytes


# operators

reveal_type(add(1) >> pool)  # expect: int
reveal_type(add(1) >> sky)  # expect: int
reveal_type(add(1) >> sky.sky)  # expect: int
reveal_type(add(1) > pool)  # expect: Future[int]
reveal_type(add(1) > sky)  # expect: Future[int]
reveal_type(add(1) @ pool)  # expect: list[int]
reveal_type(name(b"x") @ sky)  # expect: list[str]
reveal_type(fetch("x") >> pool)  # expect: bytes
reveal_type(count(3) >> pool)  # expect: Iterator[int]
reveal_type(count(3) > pool)  # expect: Future[Iterator[int]]
reveal_type(count(3) @ pool)  # expect: list[Iterator[int]]
reveal_type(echo(iter("ab")) >> pool)  # expect: Generator[str, None, None]
reveal_type(ticks(1) >> pool)  # expect: Iterator[float]
reveal_type(same(1) >> pool)  # expect: list[int]
reveal_type(Model().score("x") >> pool)  # expect: list[float]
reveal_type((add(1) > pool).result())  # expect: int

for item in count(3) >> pool:
    reveal_type(item)  # expect: int

# groups

reveal_type(add(1) & name(b"x"))  # expect: PendingFunctionGroup[int, str]
reveal_type((add(1) & name(b"x")) >> pool)  # expect: tuple[int, str]
reveal_type((add(1) & name(b"x") & fetch("y")) >> pool)  # expect: tuple[int, str, bytes]
reveal_type((add(1) & (name(b"x") & fetch("y"))) >> sky)  # expect: tuple[int, str, bytes]
reveal_type((add(1) & count(2)) >> pool)  # expect: tuple[int, Iterator[int]]
reveal_type(((add(1) & add(2)) & (add(3) & add(4))) >> pool)  # expect: tuple[Any, ...]
reveal_type((add(1) & name(b"x")).with_timeout(3) >> pool)  # expect: tuple[int, str]

# gather

reveal_type(sky.gather(add(1)) >> pool)  # expect: tuple[int]
reveal_type(sky.gather(add(1), name(b"x")) >> pool)  # expect: tuple[int, str]
reveal_type(sky.gather(add(1), name(b"x"), fetch("y")) >> pool)  # expect: tuple[int, str, bytes]
reveal_type(sky.gather(add(1), name(b"x"), fetch("y"), add(2)) >> pool)  # expect: tuple[int, str, bytes, int]
i, s, b = add(1), name(b"x"), fetch("y")
reveal_type(sky.gather(i, s, b, i, nothing()) >> pool)  # expect: tuple[int, str, bytes, int, None]
reveal_type(sky.gather(i, i, i, i, i, s) >> pool)  # expect: tuple[int, int, int, int, int, str]
reveal_type(sky.gather(s, i, i, i, i, i, i) >> pool)  # expect: tuple[str, int, int, int, int, int, int]
eight = sky.gather(i, i, i, i, i, i, b, s) >> pool
reveal_type(eight)  # expect: tuple[int, int, int, int, int, int, bytes, str]
reveal_type(sky.gather(*(add(i) for i in range(9))) >> pool)  # expect: tuple[int, ...]
reveal_type(sky.gather(add(1), name(b"x"), stream=False, ordered=False) >> pool)  # expect: tuple[int, str]
reveal_type(sky.gather(add(1), stream=True) >> pool)  # expect: Iterator[int]
reveal_type(sky.gather(add(1), add(2), stream=True, ordered=False) >> pool)  # expect: Iterator[int]
reveal_type(sky.gather(add(1), name(b"x"), stream=True) >> pool)  # expect: Iterator[int | str]
reveal_type(sky.gather(*[add(1)], stream=True) >> sky)  # expect: Iterator[int]
reveal_type(sky.gather(add(1), stream=True).with_timeout(3) >> pool)  # expect: Iterator[int]

# wrong arguments

add("1")  # error
add(1, c=2)  # error
add(1, 2, 3.0)  # error
add()  # error
add.local("1")  # error
name("text")  # error
fetch(b"x")  # error
count("3")  # error
Model().score(b"x")  # error
Model().score("x", bottom=1)  # error
Model.size(3)  # error
sky.function(3)  # error
sky.function(timeout="60")  # error
add(1).with_timeout("60")  # error
add(1).timeout = 3  # error

# wrong targets

add(1) >> 3  # error
add(1) > "pool"  # error
add(1) @ None  # error
add(1) >> sky.Compute(nodes=1)  # error
add(1) >> sky.Compute  # error
pool >> add(1)  # error
add(1) < pool  # error
add(1) > add(2) > pool  # error
add >> pool  # error
add > pool  # error
add @ pool  # error

# misused groups

(add(1) & add(2)) > pool  # error
(add(1) & add(2)) @ pool  # error
(add(1) & add(2)) >> 3  # error
add(1) & add(2) >> pool  # error
add(1) & add  # error
add & add(1)  # error
add(1) & 3  # error
sky.gather(add(1), stream=True) > pool  # error
sky.gather(add(1), stream=True) @ pool  # error
sky.gather(1, 2)  # error
sky.gather(add, add)  # error
sky.gather(add(1), add(2), sorted=True)  # error

# wrong use of values

wider: sky.PendingFunction[int | str] = add(1)
narrower: sky.PendingFunction[bool] = add(1)  # error
length: str = add(1) >> pool  # error
both: tuple[str, int] = (add(1) & name(b"x")) >> pool  # error
first, second = (add(1) & name(b"x") & add(2)) >> pool  # error
