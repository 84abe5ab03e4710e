"""Pools for coroutines: cancelling what awaits reaches the task, and nothing is left of what was opened."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import skyward as sky


def pool(nodes: int = 1, **fields: Any) -> sky.aio.Compute:
    return sky.aio.Compute(nodes=nodes, console=False, logging=False, **fields)


def run[T](main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 100))


async def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        await asyncio.sleep(0.005)


@sky.function
def add(a: int, b: int = 1) -> int:
    return a + b


@sky.function
def hold(folder: Path, name: str) -> None:
    (folder / f"{name}.began").touch()
    try:
        time.sleep(60)
    except BaseException as error:
        (folder / f"{name}.ended").write_text(type(error).__name__)
        raise


def plain(n: int) -> int:
    return n + 1


# cancelling


@pytest.mark.parametrize("how", ["run", "run_async", "submit", "run_parallel", "broadcast", "map", "stream"])
def test_cancelling_reaches_the_task(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with pool() as p:
            assert await p.run(add(1)) == 2
            call = hold(tmp_path, "x")
            held = hold.local

            def keep(name: str) -> None:
                held(tmp_path, name)

            async def consume() -> None:
                async for _ in p.map(keep, ["x", "y"], stream=True):
                    pass

            ways: dict[str, Callable[[], Coroutine[Any, Any, Any] | asyncio.Task[Any]]] = {
                "run": lambda: p.run(call),
                "run_async": lambda: p.run_async(call),
                "submit": lambda: p.submit(hold, tmp_path, "x"),
                "run_parallel": lambda: p.run_parallel(call & add(1)),
                "broadcast": lambda: p.broadcast(call),
                "map": lambda: p.map(keep, ["x", "y"]),
                "stream": consume,
            }
            task = asyncio.ensure_future(ways[how]())
            await eventually((tmp_path / "x.began").exists)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually((tmp_path / "x.ended").exists)
            await eventually(lambda: (tmp_path / "x.ended").read_text() == "KeyboardInterrupt")
            assert await p.run(add(1)) == 2
            assert not (tmp_path / "y.began").exists()

    run(main())


class Slow:
    """Takes its time to be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(0.6)
        return Slow, ()


def test_cancelling_while_packing_cancels_what_was_packed(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool() as p:
            begin = sky.function(lambda slow, folder: hold.local(folder, "x"))
            task = asyncio.create_task(p.run(begin(Slow(), tmp_path)))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await p.run(add(1)) == 2
            await eventually(lambda: not p.snapshot().tasks.running and not p.snapshot().tasks.queued)

    run(main())


def test_a_timeout_of_asyncio_reaches_the_task(tmp_path: Path) -> None:
    async def main() -> None:
        async with pool() as p:

            async def expire(limit: asyncio.Timeout) -> None:
                await eventually((tmp_path / "x.began").exists)
                limit.reschedule(asyncio.get_running_loop().time())

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60) as limit:
                    expiry = asyncio.create_task(expire(limit))
                    await p.run(hold(tmp_path, "x"))
            await expiry
            await eventually((tmp_path / "x.ended").exists)
            assert await p.run(add(1)) == 2

    run(main())


def test_cancelled_opening_leaves_nothing() -> None:
    before = set(threading.enumerate())

    async def open_and_wait() -> None:
        async with pool(nodes=4):
            await asyncio.sleep(60)

    async def main(delay: float) -> None:
        task = asyncio.create_task(open_and_wait())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for delay in (0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4):
        run(main(delay))
        assert not [
            thread for thread in set(threading.enumerate()) - before if thread.name.startswith("skyward")
        ]


def test_cancelling_the_end_of_the_block_stops_waiting_for_tasks(tmp_path: Path) -> None:
    async def block() -> None:
        async with pool() as p:
            task = p.run_async(hold(tmp_path, "x"))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            await eventually((tmp_path / "x.began").exists)

    async def main() -> None:
        started = time.monotonic()
        task = asyncio.create_task(block())
        await eventually((tmp_path / "x.began").exists)
        await asyncio.sleep(0.3)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 30

    run(main())


def test_nothing_of_a_pool_is_left() -> None:
    before = set(threading.enumerate())

    async def main() -> list[threading.Thread]:
        async with pool() as p:
            await p.map(plain, range(10))
        return [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("skyward")]

    assert run(main()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["opening", "open"])
def test_signals_end_the_program_cleanly(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, sys
            import skyward as sky

            @sky.function
            def pid():
                import os
                return os.getpid()

            async def main():
                print("opening", flush=True)
                async with sky.aio.Compute(nodes=2, console=False, logging=False) as pool:
                    print("open", *await pool.broadcast(pid()), flush=True)
                    await asyncio.sleep(60)

            asyncio.run(main())
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pids: list[int] = []
    while line := process.stdout.readline():
        pids = [int(word) for word in line.split()[1:]]
        if line.split()[0] == moment:
            break
    if moment == "opening":
        time.sleep(0.15)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "skyward" not in errors or "KeyboardInterrupt" in errors or "SystemExit" in errors, errors
    for pid in pids:
        limit = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < limit
            time.sleep(0.01)
    assert os.getpid() not in pids
