"""A script that is interrupted, terminated, killed, or just ends: as Python does, and nothing stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import skyward as sky

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("no_leftovers")

SECONDS = 60.0
"""More than anything here may take on a loaded machine."""


@sky.function
def double(x: int) -> int:
    return 2 * x


SCRIPT = """
import itertools, os, signal, subprocess, sys, threading, time
import skyward as sky

@sky.function
def hang(how):
    print("task", flush=True)
    while True:
        try:
            if how == "locked":
                any(itertools.repeat(0))
            time.sleep(1000)
        except BaseException:
            if how == "polite":
                raise

@sky.function
def nap(seconds):
    time.sleep(seconds)

def call(pool):
    try:
        hang("polite") >> pool
    except sky.PoolStateError:
        pass

def say(word):
    os.write(1, word.encode() + b"\\n")

def main():
    say("imported")
    with sky.Compute(nodes=2, logging=False, console=False, {options}) as pool:
        say("ready")
        {body}

if __name__ == "__main__":
    main()
"""


class Script:
    """A user's script, run for real. ``words``: what it has said so far."""

    def __init__(self, folder: Path, body: str, options: str = "") -> None:
        path = folder / "script.py"
        path.write_text(
            SCRIPT.format(body=textwrap.indent(textwrap.dedent(body), " " * 8).strip(), options=options)
        )
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"it did not say {word!r}: {self.process.communicate()[1]}")

    def end(self, seconds: float = SECONDS) -> tuple[int, str]:
        """Wait for its end; return its status and what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


@pytest.fixture
def script(tmp_path: Path, machines: str) -> Iterator[Callable[..., Script]]:
    if machines != "local":
        pytest.skip("a script of its own, which knows nothing of the test's machines")
    started: list[Script] = []

    def run(body: str, options: str = "") -> Script:
        started.append(Script(tmp_path, body, options))
        return started[-1]

    yield run
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def assert_interrupted(status: int, errors: str, *, starting: bool = False) -> None:
    """Ended by Ctrl-C as Python ends: the shell says 130, and stderr has one traceback.

    One that strikes Python's own imports names them, and may come with the AttributeError that it was just
    dealing with.
    """
    assert status == -signal.SIGINT, errors
    assert "KeyboardInterrupt" in errors.splitlines()[-3:], errors
    assert starting or errors.count("Traceback") == 1, errors
    importing = starting and "<frozen importlib._bootstrap>" in errors
    for word in (
        "ignored",
        "atexit",
        *([] if importing else ["asyncio"]),
        *([] if starting else ["During handling"]),
    ):
        assert word not in errors, errors


BUSY = {
    "task": 'hang("polite") >> pool',
    "deaf task": 'hang("deaf") >> pool',
    "idle": "time.sleep(1000)",
    "futures": "futures = [nap(1000) > pool for _ in range(100)]; time.sleep(1000)",
    "broadcast": 'hang("polite") @ pool',
    "map": "pool.map(nap, [0.01] * 10_000)",
}


@pytest.mark.parametrize("body", BUSY.values(), ids=list(BUSY))
@pytest.mark.parametrize("interrupts", [1, 2])
def test_interrupted_in_the_block(body: str, interrupts: int, script: Callable[..., Script]) -> None:
    run = script(body)
    run.wait_for("ready")
    time.sleep(0.2)
    for _ in range(interrupts):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    status, errors = run.end()
    if interrupts == 1:
        assert_interrupted(status, errors)
    assert status == -signal.SIGINT


def test_interrupted_in_the_moment_in_which_it_closes(script: Callable[..., Script]) -> None:
    body = """
        close = pool._lifetime.calls.close
        pool._lifetime.calls.close = lambda: (close(), signal.raise_signal(signal.SIGINT))
        sys.exit(0)
        """
    run = script(body, "ttl=1")
    run.wait_for("ready")
    status, _ = run.end()
    assert status == -signal.SIGINT
    assert not list(Path(os.environ["XDG_RUNTIME_DIR"], "skyward").iterdir())


def test_interrupted_while_a_future_is_locked(script: Callable[..., Script]) -> None:
    """Ctrl-C can come after a condition took its lock, and before the block that would give it back."""
    body = "future = nap(1000) > pool; future._condition.acquire(); say('locked'); time.sleep(1000)"
    run = script(body, "ttl=0")
    run.wait_for("locked")
    run.process.send_signal(signal.SIGINT)
    try:
        status = run.process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        status = None
    assert status == -signal.SIGINT


@pytest.mark.parametrize("interrupts", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_interrupted_while_it_starts(seed: int, interrupts: int, script: Callable[..., Script]) -> None:
    chance = random.Random(10 * seed + interrupts)
    for _ in range(4):
        run = script("time.sleep(1000)")
        run.wait_for("imported")
        time.sleep(chance.uniform(0.0, 0.6))
        for _ in range(interrupts):
            run.process.send_signal(signal.SIGINT)
            time.sleep(chance.uniform(0.0, 0.05))
        try:
            status, errors = run.end(10)
        except (
            subprocess.TimeoutExpired
        ):  # Python loses one that strikes a weak reference's callback in an import
            run.process.send_signal(signal.SIGINT)
            status, errors = run.end()
            assert "Exception ignored in" in errors
            continue
        if interrupts == 1:
            assert_interrupted(status, errors, starting=True)
        assert status == -signal.SIGINT


@pytest.mark.parametrize("body", BUSY.values(), ids=list(BUSY))
def test_terminated_in_the_block(body: str, script: Callable[..., Script]) -> None:
    run = script(body)
    run.wait_for("ready")
    time.sleep(0.2)
    run.process.send_signal(signal.SIGTERM)
    status, errors = run.end()
    assert (status, errors) == (128 + signal.SIGTERM, "")


def test_terminated_while_it_starts(script: Callable[..., Script]) -> None:
    chance = random.Random(7)
    for _ in range(6):
        run = script("time.sleep(1000)")
        run.wait_for("imported")
        time.sleep(chance.uniform(0.05, 0.6))
        run.process.send_signal(signal.SIGTERM)
        status, errors = run.end()
        assert status in (128 + signal.SIGTERM, -signal.SIGTERM)  # before there was a pool, Python ends it
        assert errors == ""


def test_the_terminal_is_closed(script: Callable[..., Script]) -> None:
    run = script('hang("polite") >> pool')
    run.wait_for("ready")
    run.process.send_signal(signal.SIGHUP)
    status, errors = run.end()
    assert (status, errors) == (128 + signal.SIGHUP, "")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("sys.exit(7)", 7),
        ("raise SystemExit", 0),
        ("threading.Thread(target=call, args=(pool,)).start(); time.sleep(0.3); sys.exit(3)", 3),
        ("futures = [nap(1000) > pool for _ in range(10)]\nsys.exit(4)", 4),
        ("futures = [nap(0.01) > pool for _ in range(10)]", 0),
        ("raise ValueError('mine')", 1),
    ],
    ids=["exit", "exit 0", "exit with a caller", "exit with futures", "end with futures", "error"],
)
def test_ends_with_its_own_status(body: str, status: int, script: Callable[..., Script]) -> None:
    got, errors = script(body).end()
    assert got == status
    assert errors.count("Traceback") == (status == 1), errors


def test_a_pool_that_is_never_closed_is_closed_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "session.py"
    path.write_text(
        "import skyward as sky\n"
        "session = sky.Session(console=False, logging=False)\n"
        "pool = session.compute(nodes=2)\n"
        "print(pool.current_nodes())\n"
    )
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_a_short_shutdown_timeout_leaves_nothing(script: Callable[..., Script]) -> None:
    """The worker takes a second to end; whoever gives up before leaves the rest to the agent."""
    status, errors = script('hang("locked") > pool\ntime.sleep(0.3)', "shutdown_timeout=0.1").end()
    assert (status, errors) == (0, "")


# a client that is killed


@pytest.mark.parametrize("ttl", [0, 2])
@pytest.mark.parametrize("executor", ["thread", "process"])
def test_killed_in_the_block_nothing_lives_longer_than_its_ttl(
    ttl: int, executor: str, script: Callable[..., Script]
) -> None:
    options = f"ttl={ttl}, worker=sky.Worker(concurrency=2, executor={executor!r})"
    run = script('[hang("deaf") > pool for _ in range(3)]\ntime.sleep(1000)', options)
    run.wait_for("ready")
    time.sleep(0.3)
    run.process.kill()
    run.end()
    time.sleep(max(0.0, ttl - 1.5))  # what is there 3 s later is left over


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_it_starts(seed: int, script: Callable[..., Script]) -> None:
    """What can't end by itself, as its agent had not begun yet, is swept by the next pool."""
    chance = random.Random(seed)
    for _ in range(4):
        run = script("time.sleep(1000)", "ttl=1")
        run.wait_for("imported")
        time.sleep(chance.uniform(0.0, 0.5))
        run.process.kill()
        run.end()
    time.sleep(1.5)
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        assert (double(1) >> pool) == 2
    # An agent that was just starting notices its client's death when it has started.
    base, until = Path(os.environ["XDG_RUNTIME_DIR"], "skyward"), time.monotonic() + SECONDS
    while any(base.iterdir()):
        assert time.monotonic() < until, list(base.iterdir())
        time.sleep(0.05)
