"""Shells on nodes, in a terminal: keys, sizes, status, and what else is drawn meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shlex
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward_testing.tmux import Terminal, require_tmux


@pytest.fixture(scope="module")
def one(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, console=False, logging=False) as opened:
        yield opened


class Person:
    """Sits at a terminal, which is this process's own standard input and output."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(100, 30)
        self.seen = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(self._master, 1 << 16):
                self.seen += data.decode(errors="replace")

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str, then: str) -> None:
        """Type, and wait for what is to be shown then."""
        seen = len(self.seen)
        os.write(self._master, text.encode())
        until = time.monotonic() + 20
        while then not in self.seen[seen:]:
            assert time.monotonic() < until, f"{then!r} is not in {self.seen!r}"
            time.sleep(0.01)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    @contextlib.contextmanager
    def seated(self) -> Iterator[None]:
        """Make the terminal this process's own."""
        saved = [os.dup(0), os.dup(1)]
        for fd in (0, 1):
            os.dup2(self._slave, fd)
        try:
            yield
        finally:
            for fd, old in enumerate(saved):
                os.dup2(old, fd)
                os.close(old)

    def leave(self) -> None:
        os.close(self._slave)
        self._reader.join()
        os.close(self._master)


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("TERM", "xterm")
    someone = Person()
    yield someone
    someone.leave()


def attended(pool: sky.Pool, person: Person, script: Callable[[], None]) -> int:
    """Run a shell on this thread, while somebody types on another."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            script()
        except BaseException as problem:
            problems.append(problem)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with person.seated():
        status = pool.shell()
    thread.join(10)
    assert not problems
    return status


@sky.function
def twice(n: int) -> int:
    return 2 * n


def test_a_shell_and_its_status(one: sky.Pool, machines: str, person: Person) -> None:
    before = person.modes()

    def script() -> None:
        person.type("echo $((6*7))-is-it\n", "42-is-it")
        assert twice(4) >> one == 8
        if machines == "ssh":  # the other case, in which this process would need a session, is below
            person.type("sleep 100\n", "sleep")
            person.type("\x03", "^C")
        person.type("echo af''ter\n", "after")
        os.write(person._master, b"exit 7\n")

    assert attended(one, person, script) == 7
    assert person.modes() == before


def test_a_terminal_that_changes_its_size(one: sky.Pool, person: Person) -> None:
    def script() -> None:
        person.type("stty size; echo o''ne\n", "one")
        assert "30 100" in person.seen
        person.resize(77, 20)
        until = time.monotonic() + 10
        while "20 77" not in person.seen:
            assert time.monotonic() < until
            person.type("stty size; echo t''wo\n", "two")
        os.write(person._master, b"exit\n")

    attended(one, person, script)


def test_much_is_pasted_and_much_is_shown(one: sky.Pool, person: Person) -> None:
    def script() -> None:
        person.type("stty -echo; echo rea''dy\n", "ready")
        person.type("seq 200000; echo en''d\n", "end")
        assert "\n199999\r\n200000\r\n" in person.seen
        person.type("wc -c <<'X'\n" + ("y" * 999 + "\n") * 300 + "X\n", "300000")
        os.write(person._master, b"exit\n")

    assert attended(one, person, script) == 0


def test_without_a_terminal_it_is_told(one: sky.Pool) -> None:
    with open(os.devnull, "rb") as null:
        saved = os.dup(0)
        os.dup2(null.fileno(), 0)
        try:
            with pytest.raises(sky.UsageError, match="needs a terminal"):
                one.shell()
        finally:
            os.dup2(saved, 0)
            os.close(saved)


def test_a_connection_that_is_cut(machines: str, person: Person) -> None:
    if machines != "ssh":
        pytest.skip("nothing can be cut between two processes of this computer")
    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        engine: Any = pool._engine
        (link,) = (node._link for node in engine.ready_nodes)
        before = person.modes()

        def script() -> None:
            person.type("echo he''re\n", "here")
            engine._loop.call_soon_threadsafe(link._connection._conn.abort)

        with pytest.raises(sky.ConnectError, match="the connection of the shell was cut"):
            attended(pool, person, script)
        assert person.modes() == before
        assert attended(pool, person, lambda: person.type("echo ag''ain; exit\n", "again")) == 0


SCRIPT = """\
import skyward as sky
with sky.Compute(nodes=1, logging=False) as pool:
    print("status", pool.shell())
    print("still", pool.current_nodes())
"""


@pytest.mark.local_only("a script in a terminal of its own")
def test_the_panel_leaves_the_terminal_to_the_shell(tmp_path: Path) -> None:
    require_tmux()
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    with Terminal(env={"SHELL": "/bin/sh"}) as terminal:
        terminal.type(shlex.join([sys.executable, str(path)]))
        terminal.wait_for(lambda rows: rows[-1].strip() in ("#", "$") and len(rows) > 2)
        terminal.type("clear; echo on''ly")
        time.sleep(1)
        assert terminal.screen()[0] == "only"
        assert len(terminal.screen()) == 2
        terminal.type('sh -c \'echo st""arted; sleep 100; echo sl""ept\'')
        terminal.wait_for(lambda rows: "started" in rows)
        terminal.key("C-c")
        terminal.type("echo interr''upted")
        rows = terminal.wait_for(lambda rows: "interrupted" in rows)
        assert "slept" not in rows
        terminal.type("exit 5")
        terminal.wait_for(lambda rows: "status 5" in rows and "still 1" in rows)
