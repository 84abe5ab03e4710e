"""What every console must do, as a suite to inherit.

    from skyward_testing.consoles import ConsoleContract

    class TestMine(ConsoleContract):
        def console(self):
            return MyConsole()

The suite calls a console as the engine does, and as the engine does at the worst moment: with text that is
no Unicode, with a stderr that is closed, after the end. It checks that a console is in nobody's way, not
what it shows. Tests that need a terminal open a pseudo-terminal and skip where there is none.
"""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress

import pytest
from skyward.errors import PluginError
from skyward.events import Event, Log
from skyward.hooks import Console, registry
from skyward.spec import PoolState

from skyward_testing.console_play import (
    POOL,
    View,
    any_status_snapshot,
    every_event,
    instance,
    pool_snapshot,
)

_COLOUR = re.compile(r"\x1b\[(?:[\d;:]*[;:])?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:[;:][\d;:]*)?m")
_SGR = re.compile(r"\x1b\[([\d;:]*)m")
_HOSTILE = (
    "lone \udce9\ud800 surrogates",
    "nul \x00 bell \x07 backspaces \x08\x08 delete \x7f c1 \x9b2J",
    "clear \x1b[2J\x1b[H home, title \x1b]0;owned\x07, colour \x1b[31mred, cut short \x1b[",
    "\u202eright to left\u202c, combining e\u0301\u0301\u0301, wide 漢字, emoji 👩\u200d🔬",
    "first line\nsecond line\r\nthird\rfourth\x0bfifth\u2028sixth",
    "percent %s {brace} [bold]markup[/bold] [/] :smile:",
    "",
)


class ConsoleContract:
    """Subclass it with a ``console`` method; every test method is one sentence of the contract."""

    def console(self) -> Console:
        """Return a new console, as the entry point's class does when called without arguments."""
        raise NotImplementedError("a subclass of ConsoleContract must say which console it tests")

    # ── shape ──

    def test_has_the_members_of_the_port(self) -> None:
        console = self.console()
        for method in ("start", "handle", "tick", "stop"):
            assert callable(getattr(console, method))
        interval = console.tick_interval
        # More than ten redraws a second show nothing more, and cost the user's own program.
        assert interval is None or interval >= 0.1
        assert isinstance(console.handles, tuple)
        assert all(issubclass(kind, Event) for kind in console.handles)

    def test_an_entry_point_gives_the_class(self) -> None:
        found = set[object]()
        for name in registry.names(registry.CONSOLES):
            with suppress(PluginError):  # another's, that is broken: not what is tested here
                found.add(registry.find(registry.CONSOLES, name))
        kind = type(self.console())
        if kind not in found:
            pytest.skip(f"no installed distribution offers {kind.__name__}: install yours to check it")
        assert isinstance(kind(), Console)

    def test_a_class_can_be_used_for_one_pool_after_another(self) -> None:
        for _ in range(2):
            console = self.console()
            run(console, every_event())

    # ── survival ──

    def test_survives_every_event(self) -> None:
        run(self.console(), every_event(), unfiltered=True)

    @pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
    def test_survives_any_text(self, text: str) -> None:
        run(self.console(), every_event(text), name=text or "empty")

    def test_survives_any_text_at_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal(monkeypatch) as written:
            for text in _HOSTILE:
                run(self.console(), every_event(text), name=text or "empty")
        shown = written()
        assert "\x1b[2J" not in shown, "remote text cleared the screen"
        assert "\x1b]0;owned" not in shown, "remote text changed the terminal's title"
        assert "\x07" not in shown, "remote text rang the bell"

    def test_survives_huge_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        huge = "x" * 2_000_000
        run(self.console(), every_event(huge, nodes=1))
        with terminal(monkeypatch):
            run(self.console(), every_event(huge, nodes=1))

    def test_survives_64_nodes_in_any_status(self, monkeypatch: pytest.MonkeyPatch) -> None:
        view = View(any_status_snapshot(64))
        run(self.console(), every_event(nodes=64), view=view)
        with terminal(monkeypatch):
            run(self.console(), every_event(nodes=64), view=view)

    @pytest.mark.parametrize("phase", list(PoolState), ids=[phase.value for phase in PoolState])
    def test_survives_a_pool_without_nodes_in_any_phase(
        self, phase: PoolState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        view = View(pool_snapshot(0, phase))
        run(self.console(), [], view=view)
        with terminal(monkeypatch):
            run(self.console(), [], view=view)

    @pytest.mark.parametrize(("columns", "lines"), [(1, 1), (8, 3), (40, 10), (300, 100)])
    def test_survives_any_size(self, columns: int, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal(monkeypatch, columns=columns, lines=lines):
            run(self.console(), every_event(), view=View(any_status_snapshot(20)))

    def test_survives_a_dumb_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal(monkeypatch, term="dumb") as written:
            run(self.console(), every_event("\x1b[31mred"))
        assert "\x1b" not in written()

    # ── order ──

    def test_stop_is_idempotent_and_works_before_start(self) -> None:
        self.console().stop()
        console = self.console()
        run(console, every_event())
        console.stop()

    def test_is_silent_after_stop(self, capfd: pytest.CaptureFixture[str]) -> None:
        console = self.console()
        run(console, every_event())
        capfd.readouterr()
        for event in every_event():
            console.handle(event)
        console.tick()
        console.stop()
        assert capfd.readouterr().err == ""

    # ── streams ──

    def test_writes_nothing_to_stdout(self, capfd: pytest.CaptureFixture[str]) -> None:
        run(self.console(), every_event())
        assert capfd.readouterr().out == ""

    def test_writes_nothing_to_stdout_beside_a_terminal(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with terminal(monkeypatch):
            run(self.console(), every_event())
            print("the user's own")
        assert capfd.readouterr().out == "the user's own\n"

    def test_needs_no_terminal_and_writes_no_escapes_without_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        run(self.console(), every_event("\x1b[31mred"))
        assert "\x1b" not in stream.getvalue()

    def test_survives_a_stderr_that_is_missing_closed_or_ascii(self, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = io.StringIO()
        closed.close()
        ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
        for stream in (None, closed, ascii_only):
            monkeypatch.setattr(sys, "stderr", stream)
            run(self.console(), every_event("漢字 \udce9"))

    def test_survives_a_reader_that_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, write = os.pipe()
        os.close(read)
        # Line-buffered, as stderr is.
        stream = open(write, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            run(self.console(), every_event())
        with suppress(BrokenPipeError):
            stream.close()

    def test_honours_no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        with terminal(monkeypatch) as written:
            run(self.console(), every_event("\x1b[31mred"))
        assert not _COLOUR.search(written())

    def test_puts_back_what_it_replaced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal(monkeypatch, stdout=True):
            before = sys.stdout, sys.stderr, sys.excepthook, threading.excepthook
            run(self.console(), every_event())
            assert (sys.stdout, sys.stderr, sys.excepthook, threading.excepthook) == before

    def test_what_the_user_prints_comes_out_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        console = self.console()
        with terminal(monkeypatch, stdout=True) as written:
            console.start(View(pool_snapshot()))
            for n in range(50):
                print(f"user {n}", end="")
                print(f" line {n}")
                console.handle(Log(pool=POOL, instance=instance(0), line=f"remote {n}"))
                console.tick()
            print("no newline", end="")
            console.stop()
            print(" until now")
        shown = written()
        for n in range(50):
            assert shown.count(f"user {n} line {n}\r\n") == 1, f"line {n} is torn, missing or doubled"
        assert "no newline until now\r\n" in shown

    # ── what is left ──

    def test_leaves_no_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal(monkeypatch):
            before = set(threading.enumerate())
            run(self.console(), every_event())
            assert set(threading.enumerate()) <= before

    def test_leaves_the_terminal_usable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with terminal(monkeypatch) as written:
            run(self.console(), every_event("\x1b[31mred"))
        shown = written()
        assert shown.rfind("\x1b[?25l") <= shown.rfind("\x1b[?25h"), "the cursor stays hidden"
        assert shown.rfind("\x1b[?1049h") <= shown.rfind("\x1b[?1049l"), "the other screen stays on"
        assert (_SGR.findall(shown) or ["0"])[-1] in ("", "0"), "a colour stays on"


def run(
    console: Console,
    events: Iterable[Event],
    *,
    view: View | None = None,
    name: str = POOL,
    unfiltered: bool = False,
) -> None:
    """Call ``console`` as the engine does, with a tick now and then; ``unfiltered``: ignore ``handles``."""
    console.start(view or View(pool_snapshot(name=name, done=310, total=1000)))
    try:
        for n, event in enumerate(events):
            if unfiltered or isinstance(event, console.handles):
                console.handle(event)
            if n % 16 == 0:
                console.tick()
        console.tick()
    finally:
        console.stop()


@contextmanager
def terminal(
    monkeypatch: pytest.MonkeyPatch,
    *,
    columns: int = 100,
    lines: int = 30,
    term: str = "xterm-256color",
    stdout: bool = False,
) -> Generator[Callable[[], str]]:
    """Make stderr a pseudo-terminal, and ``stdout`` too; yield what returns what was written, afterwards."""
    pty, fcntl = pytest.importorskip("pty"), pytest.importorskip("fcntl")
    termios = pytest.importorskip("termios")
    controller, device = pty.openpty()
    fcntl.ioctl(device, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    chunks: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(controller, chunks), daemon=True)
    reader.start()
    streams = [os.fdopen(os.dup(device), "w", encoding="utf-8", errors="backslashreplace") for _ in "12"]
    os.close(device)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TERM", term)
            patch.setattr(sys, "stderr", streams[0])
            if stdout:
                patch.setattr(sys, "stdout", streams[1])
            yield lambda: b"".join(chunks).decode("utf-8", "replace")
    finally:
        for stream in streams:
            stream.close()
        reader.join()
        os.close(controller)


def _drain(controller: int, chunks: list[bytes]) -> None:
    while True:
        try:
            data = os.read(controller, 65536)
        except OSError:  # Linux says so when the other side is closed and everything was read
            return
        if not data:
            return
        chunks.append(data)
