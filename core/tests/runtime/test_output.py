from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import pytest
import skyward.runtime as runtime
from skyward.errors import ConfigError, UsageError
from skyward.output import redirect_output, silent, stderr, stdout


def say(text: str = "hi") -> str:
    print(text)
    print(text, file=sys.stderr)
    return text


def test_only_head_prints(node: Any) -> None:
    node.install()
    loud = stdout(only="head")(say)
    assert loud("one") == "one"
    runtime.set_facts({"node": 0, "worker": 1, "total_nodes": 2, "workers_per_node": 2})
    loud("two")
    runtime.set_facts({"node": 0, "total_nodes": 2})
    loud("three")
    assert node.lines() == ["three"]
    assert [line for line, _ in node.err] == ["one", "two", "three"]


def test_a_predicate_sees_the_worker(node: Any) -> None:
    node.install()
    seen: list[int] = []

    def odd(info: runtime.InstanceInfo) -> bool:
        seen.append(info.node)
        return info.node % 2 == 1

    quiet = stderr(only=odd)(say)
    for rank in range(2):
        runtime.set_facts({"node": rank, "total_nodes": 2})
        quiet(str(rank))
    assert seen == [0, 1]
    assert [line for line, _ in node.err] == ["1"]
    assert node.lines() == ["0", "1"]


def test_filters_add_up(node: Any) -> None:
    node.install()
    stdout(only=lambda i: i.node == 1)(stderr(only="head")(say))()
    stdout(only="head")(stdout(only=lambda i: True)(say))()
    assert node.lines() == ["hi"]
    assert [line for line, _ in node.err] == ["hi"]


def test_silent_covers_text_bytes_and_both_streams(node: Any) -> None:
    node.install()

    @silent
    def noisy() -> int:
        say()
        sys.stdout.buffer.write(b"bytes\n")
        print("partial", end="", flush=True)
        return 3

    assert noisy() == 3
    print("after")
    assert (node.out, node.err) == ([("after", False)], [])


def test_flushing_in_silence_shows_nothing_of_what_was_begun_before(node: Any) -> None:
    node.install()

    @silent
    def quiet() -> None:
        print("quiet", end="", flush=True)

    print("begun", end="")
    quiet()
    assert node.out == []
    print(" and done")
    assert node.out == [("begun and done", False)]


def test_the_filter_ends_with_an_exception(node: Any) -> None:
    node.install()

    @silent
    def fails() -> None:
        print("quiet")
        raise KeyError("x")

    with pytest.raises(KeyError):
        fails()
    print("loud")
    assert node.lines() == ["loud"]


def test_a_filter_is_for_one_task_not_for_the_process(node: Any) -> None:
    node.install()
    inside, printed = threading.Event(), threading.Event()

    @silent
    def quiet() -> None:
        inside.set()
        print("quiet")
        assert printed.wait(10)
        print("quiet")

    def loud() -> None:
        assert inside.wait(10)
        print("loud")
        printed.set()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(node.run, "q", quiet), pool.submit(node.run, "l", loud)]:
            future.result()
    assert node.lines() == ["loud"]


def test_coroutines_are_quiet_while_others_are_not(node: Any) -> None:
    node.install()

    @silent
    async def quiet() -> int:
        print("quiet")
        await asyncio.sleep(0.01)
        print("quiet")
        await asyncio.to_thread(print, "quiet")
        return 1

    async def loud() -> int:
        await asyncio.sleep(0.005)
        print("loud")
        return 2

    async def both() -> tuple[int, int]:
        return await asyncio.gather(quiet(), loud())

    assert [*asyncio.run(both())] == [1, 2]
    assert node.lines() == ["loud"]


def test_generators_are_quiet_and_their_consumer_is_not(node: Any) -> None:
    node.install()

    @silent
    def echo() -> Generator[Any, Any, str]:
        print("start")
        got: Any = "first"
        try:
            while got is not None:
                print("got", got)
                try:
                    got = yield got
                except LookupError as error:
                    got = repr(error)
        finally:
            print("end")
        return "done"

    running = echo()
    print(next(running))
    print(running.send("second"))
    print(running.throw(KeyError("k")))
    with pytest.raises(StopIteration) as stop:
        running.send(None)
    assert stop.value.value == "done"
    dropped = echo()
    print(next(dropped))
    dropped.close()
    assert node.lines() == ["first", "second", "KeyError('k')", "first"]


def test_async_generators_are_quiet_and_their_consumer_is_not(node: Any) -> None:
    node.install()
    ended: list[str] = []

    @silent
    async def echo() -> AsyncGenerator[Any, Any]:
        got: Any = "first"
        try:
            while got is not None:
                print("got", got)
                await asyncio.sleep(0)
                try:
                    got = yield got
                except LookupError as error:
                    got = repr(error)
        finally:
            print("end")
            ended.append("end")

    async def consume() -> None:
        running = echo()
        print(await anext(running))
        print(await running.asend("second"))
        print(await running.athrow(KeyError("k")))
        with pytest.raises(StopAsyncIteration):
            await running.asend(None)
        dropped = echo()
        print(await anext(dropped))
        await dropped.aclose()

    asyncio.run(consume())
    assert node.lines() == ["first", "second", "KeyError('k')", "first"]
    assert ended == ["end", "end"]


def test_wrappers_keep_the_functions_kind_and_signature() -> None:
    import inspect

    async def coroutine(x: int) -> int:
        return x

    def generator(x: int) -> Iterator[int]:
        yield x

    async def async_generator(x: int) -> AsyncIterator[int]:
        yield x

    assert inspect.iscoroutinefunction(silent(coroutine))
    assert inspect.isgeneratorfunction(silent(generator))
    assert inspect.isasyncgenfunction(silent(async_generator))
    for fn in (say, coroutine, generator, async_generator):
        wrapped: Any = silent(fn)
        assert inspect.signature(wrapped) == inspect.signature(fn)
        assert (wrapped.__name__, wrapped.__wrapped__) == (fn.__name__, fn)


def test_above_a_function_the_body_is_wrapped() -> None:
    class Function:
        def __init__(self, fn: Callable[..., Any]) -> None:
            self.fn = fn

        def __call__(self) -> str:
            return "pending"

        def wrap_body(self, decorator: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Function:
            return Function(decorator(self.fn))

    original = Function(say)
    filtered = stdout(only="head")(silent(original))
    assert isinstance(filtered, Function)
    assert filtered() == "pending"
    assert original.fn is say
    lines: list[str] = []
    with redirect_output(lines.append):
        assert filtered.fn("x") == "x"
    assert lines == []


def test_what_only_may_be() -> None:
    for wrong in (3, None, "tail", ["head"]):
        value: Any = wrong
        with pytest.raises(ConfigError, match="takes 'head' or a function of InstanceInfo"):
            stdout(only=value)
        with pytest.raises(ConfigError, match=r"sky\.stderr"):
            stderr(only=value)


def test_forgotten_parentheses_are_named() -> None:
    bare: Any = stdout(say)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(UsageError, match=r"@sky\.stdout\(only='head'\)"):
        bare("an argument meant for say")


def run_elsewhere(fn: Callable[[], object], rank: int) -> str:
    """Send ``fn`` by value to another process, as a task is, and give back what it printed there."""
    script = (
        "import pickle, sys, skyward.runtime as runtime\n"
        "from skyward.output import TaskStream\n"
        "fn = pickle.loads(sys.stdin.buffer.read())\n"
        "write = sys.stdout.write\n"
        "sys.stdout = TaskStream('stdout', lambda line, overwrite: write(line + '|'), 1)\n"
        f"runtime.set_facts({{'node': {rank}, 'total_nodes': 2}})\n"
        "fn()\n"
    )
    pickler: Any = cloudpickle
    sent: bytes = pickler.dumps(fn)
    done = subprocess.run(
        [sys.executable, "-c", script], input=sent, capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode()


def test_decorated_functions_travel_by_value() -> None:
    def plain() -> None:
        print("plain")

    def generator() -> Iterator[int]:
        print("generator")
        yield 1

    async def coroutine() -> None:
        print("coroutine")

    async def async_generator() -> AsyncIterator[int]:
        print("async generator")
        yield 1

    for_all = stdout(only=lambda info: info.node == 1)
    a, b, c, d = for_all(plain), for_all(generator), for_all(coroutine), for_all(async_generator)

    def everything() -> None:
        async def drain() -> None:
            await c()
            async for _ in d():
                pass

        a()
        list(b())
        asyncio.run(drain())

    assert run_elsewhere(everything, rank=1) == "plain|generator|coroutine|async generator|"
    assert run_elsewhere(everything, rank=0) == ""
