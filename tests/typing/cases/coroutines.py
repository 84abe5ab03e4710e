"""Pools for coroutines, as both checkers see them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

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


@sky.function
async def ticks(n: int) -> AsyncIterator[float]:
    yield float(n)


@sky.function
def words(n: int) -> Generator[str]:
    yield "x" * n


@sky.function
def anything(value: Any) -> Any:
    return value


def half(n: int) -> float:
    return n / 2


async def later(n: int) -> str:
    return str(n)


async def main() -> None:
    async with sky.aio.Compute(nodes=2) as pool:
        reveal_type(pool)  # expect: Pool
        reveal_type(await pool.run(add(1)))  # expect: int
        reveal_type(await pool.run(add(1), target="head"))  # expect: int
        reveal_type(await pool.run(fetch("x")))  # expect: bytes
        reveal_type(await pool.run(count(1)))  # expect: Iterator[int]
        reveal_type(pool.stream(count(1)))  # expect: AsyncGenerator[int, None]
        reveal_type(pool.stream(words(1)))  # expect: AsyncGenerator[str, None]
        reveal_type(pool.stream(ticks(1)))  # expect: AsyncGenerator[float, None]
        reveal_type(await pool.run(anything(1)))  # expect: Any
        reveal_type(await pool.broadcast(anything(1)))  # expect: list[Any]
        reveal_type(await pool.run_async(anything(1)))  # expect: Any
        reveal_type(await pool.broadcast(add(1)))  # expect: list[int]
        reveal_type(await pool.broadcast(count(1)))  # expect: list[Iterator[int]]
        reveal_type(await pool.run_parallel(add(1) & fetch("x")))  # expect: tuple[int, bytes]
        reveal_type([pool.run_async(add(1))])  # expect: list[Task[int]]
        reveal_type([pool.submit(half, 1)])  # expect: list[Task[float]]
        reveal_type([pool.submit(add, 1, b=2)])  # expect: list[Task[int]]
        reveal_type([pool.submit(later, 1)])  # expect: list[Task[str]]
        reveal_type(await pool.map(half, [1]))  # expect: list[float]
        reveal_type(await pool.map(add, [1]))  # expect: list[int]
        reveal_type(await pool.map(later, [1]))  # expect: list[str]
        reveal_type(pool.map(half, itertools.count(), stream=True))  # expect: AsyncIterator[float]
        reveal_type(pool.map(add, itertools.count(), stream=True))  # expect: AsyncIterator[int]
        reveal_type(pool.map(later, [1], stream=True))  # expect: AsyncIterator[str]
        reveal_type(pool.sync.run(add(1)))  # expect: int

        wide: int | str = await pool.run(add(1))
        anyway: list[object] = [await pool.run(add(1)), *await pool.map(half, [1])]
        print(await pool.run(add(1)), wide, anyway, await pool.submit(half, 1), await pool.map(add, [1]))
        async for item in pool.stream(count(3)):
            reveal_type(item)  # expect: int
        async for value in pool.map(half, [1, 2], stream=True):
            reveal_type(value)  # expect: float
        async for one in pool.run_stream(sky.gather(add(1), fetch("x"), stream=True)):
            reveal_type(one)  # expect: int | bytes

        await pool.run(add)  # error
        pool.stream(add(1))  # error
        pool.stream(count)  # error
        text: str = await pool.run(add(1))  # error
        await pool.run(add(1), target="tail")  # error
        await pool.run(add(1) & add(2))  # error
        await pool.run_parallel(add(1))  # error
        await pool.map(half, ["a"])  # error
        await pool.map(add, ["a"])  # error
        await pool.submit(half, "x")  # error
        await pool.broadcast(3)  # error
        add(1) >> pool  # error
        add(1) > pool  # error
        add(1) @ pool  # error
        list(pool.map(half, [1], stream=True))  # error

    with sky.aio.Compute(nodes=2):  # error
        pass
    async with sky.aio.Compute(node=2):  # error
        pass
