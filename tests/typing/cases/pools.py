"""A pool's methods and the context managers that open pools, as both checkers see them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import skyward as sky


@sky.function
def add(a: int, b: int = 1) -> int:
    return a + b


@sky.function
async def fetch(url: str) -> bytes:
    return url.encode()


@sky.function
def count(n: int) -> Iterator[int]:
    yield from range(n)


def half(n: int) -> float:
    return n / 2


async def later(n: int) -> str:
    return str(n)


def pair(a: int, b: str, *, c: bool = False) -> tuple[int, str]:
    return a, b


with sky.Compute(nodes=2) as pool:
    reveal_type(pool)  # expect: Pool

session = sky.Session()
reveal_type(session.compute(nodes=(1, 4)))  # expect: Pool
reveal_type(session.pools)  # expect: tuple[Pool, ...]

reveal_type(pool.run(add(1)))  # expect: int
reveal_type(pool.run(add(1), target="head"))  # expect: int
reveal_type(pool.run(count(1), target=1))  # expect: Iterator[int]
reveal_type(pool.run_async(fetch("x")))  # expect: Future[bytes]
reveal_type(pool.broadcast(add(1)))  # expect: list[int]
reveal_type(pool.run_parallel(add(1) & fetch("x")))  # expect: tuple[int, bytes]
reveal_type(pool.run_stream(sky.gather(add(1), add(2), stream=True)))  # expect: Iterator[int]
reveal_type(pool.run_stream(sky.gather(add(1), fetch("x"), stream=True)))  # expect: Iterator[int | bytes]

reveal_type(pool.map(half, [1, 2]))  # expect: list[float]
reveal_type(pool.map(add, range(3)))  # expect: list[int]
reveal_type(pool.map(fetch, ["a"]))  # expect: list[bytes]
reveal_type(pool.map(later, [1]))  # expect: list[str]
reveal_type(pool.map(lambda n: n * 2.0, [1, 2]))  # expect: list[float]
reveal_type(pool.map(half, itertools.count(), stream=True))  # expect: Iterator[float]
reveal_type(pool.map(add, itertools.count(), stream=True))  # expect: Iterator[int]
reveal_type(pool.map(fetch, ["a"], stream=True))  # expect: Iterator[bytes]
reveal_type(pool.map(later, [1], stream=True))  # expect: Iterator[str]

reveal_type(pool.submit(pair, 1, "x", c=True))  # expect: Future[tuple[int, str]]
reveal_type(pool.submit(add, 1))  # expect: Future[int]
reveal_type(pool.submit(fetch, "x"))  # expect: Future[bytes]
reveal_type(pool.submit(later, 1))  # expect: Future[str]
reveal_type(pool.executor().submit(half, 1))  # expect: Future[float]

reveal_type(pool.concurrency)  # expect: int
reveal_type(pool.is_active)  # expect: bool
reveal_type(pool.current_nodes())  # expect: int
reveal_type(pool.cost())  # expect: float
reveal_type(pool.snapshot())  # expect: PoolSnapshot

wide: int | str = pool.run(add(1))
anyway: list[object] = [*pool.map(half, [1]), pool.submit(half, 1).result(), *pool.broadcast(add(1))]
print(
    wide, anyway, pool.map(half, [1]), pool.submit(add, 1).result(), add(1) >> pool, (add(1) & add(2)) >> pool
)
print(sky.gather(add(1), fetch("x")) >> pool, *sky.gather(add(1), fetch("x"), stream=True) >> pool)

pool.run(add)  # error
pool.run(3)  # error
pool.run(add(1), target="tail")  # error
pool.run(add(1), target=1.5)  # error
pool.run(add(1) & add(2))  # error
pool.run_async(add(1), head=True)  # error
pool.broadcast(add(1) & add(2))  # error
pool.run_parallel(add(1))  # error
pool.run_parallel(sky.gather(add(1), stream=True))  # error
pool.run_stream(add(1) & add(2))  # error
pool.map(half, ["a"])  # error
pool.map(add, ["a"])  # error
pool.map(fetch, [1])  # error
pool.map(half)  # error
pool.map(half, 3)  # error
pool.submit(pair, "x", 1)  # error
pool.submit(add, "x")  # error
pool.submit(add(1))  # error
pool.resize("3")  # error
text: str = pool.run(add(1))  # error
names: list[str] = pool.broadcast(add(1))  # error
sky.Compute(node=1)  # error
sky.Compute(nodes="two")  # error
