"""The rows at the bottom of the terminal, judged by a real terminal, and the streams around them."""

from __future__ import annotations

import io
import logging
import os
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from skyward.terminal import FRAME, Area, is_capable, open_area, write_line
from skyward_testing.consoles import terminal
from skyward_testing.tmux import Terminal, require_tmux

type Show = Callable[..., list[str]]


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Run a script in a real terminal until it is back at the prompt; return everything that is shown."""
    require_tmux()

    def run(script: str, columns: int = 60, lines: int = 20) -> list[str]:
        path = tmp_path / "script.py"
        path.write_text(
            "import sys, time\nfrom skyward.terminal import open_area\n" + textwrap.dedent(script)
        )
        command = tmp_path / "command"  # what is typed must fit into a row, whatever the paths
        command.write_text(f"clear; {shlex.join([sys.executable, str(path)])}; echo status $?")
        env = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "COMMAND": str(command)}
        with Terminal(columns, lines, env) as screen:
            screen.type('. "$COMMAND"')
            # The prompt that the command was typed at is cleared; `status` comes last.
            return screen.wait_for(lambda rows: any("status " in row for row in rows), history=True)

    return run


def without_prompt(rows: list[str]) -> list[str]:
    return [row for row in rows if row != "$"]


def test_the_rows_are_replaced_by_the_last_lines(show: Show) -> None:
    rows = show("""
        area = open_area()
        area.draw(["row 1", "row 2"]); time.sleep(0.2)
        area.above(["a line"]); time.sleep(0.2)
        area.draw(["row 3"]); time.sleep(0.2)
        area.close(["the end"])
    """)
    assert without_prompt(rows) == ["a line", "the end", "status 0"]


def test_an_area_that_is_never_closed_is_gone_at_exit(show: Show) -> None:
    rows = show("""
        area = open_area()
        area.draw(["row 1", "row 2"])
        print("printed", end="")
    """)
    assert without_prompt(rows) == ["printedstatus 0"]


def test_two_areas_share_the_terminal(show: Show) -> None:
    rows = show("""
        one, two = open_area(), open_area()
        for n in range(3):
            one.draw([f"one {n}"]); two.draw([f"two {n}"]); time.sleep(0.1)
            print("line", n)
        one.close(["one is done"])
        two.draw(["two again"]); time.sleep(0.1)
        print("between")
        two.close(["two is done"])
        print(type(sys.stdout).__name__)
    """)
    assert without_prompt(rows) == [
        "line 0", "line 1", "line 2", "one is done", "between", "two is done", "TextIOWrapper", "status 0"
    ]  # fmt: skip


def test_a_progress_bar_of_the_user_is_a_row_until_its_newline(show: Show) -> None:
    rows = show("""
        area = open_area()
        for n in range(5):
            print(f"\\r{n * 25}%", end="", file=sys.stderr, flush=True)
            area.draw(["the row"]); area.above([f"remote {n}"]); time.sleep(0.1)
        print(file=sys.stderr)
        area.close()
    """)
    assert without_prompt(rows) == [*(f"remote {n}" for n in range(5)), "100%", "status 0"]


def test_a_flood_comes_out_complete_and_in_order(show: Show) -> None:
    rows = show("""
        area = open_area()
        for n in range(800):
            print("out", n, "x" * 70, file=sys.stderr if n % 2 else sys.stdout)
            if n % 50 == 0: area.draw([f"row {n}"])
        area.close()
    """)
    numbers = [int(match[1]) for row in rows if (match := re.match(r"out (\d+) x", row))]
    assert numbers == list(range(800))  # in twice as many rows, which tmux still remembers
    assert not any(row.startswith("row") for row in rows)


def test_a_forked_child_that_prints_does_not_wait_for_our_lock(show: Show) -> None:
    rows = show("""
        import os, warnings
        from skyward import terminal
        warnings.simplefilter("ignore")
        area = open_area()
        area.draw(["the row"])
        with terminal._lock:  # as a thread may hold it at that moment
            child = os.fork()
            if child == 0:
                import threading
                child_thread = threading.Thread(target=print, args=("from the child",))
                child_thread.start(); child_thread.join(2)
                sys.stdout.flush()
                os._exit(3 if child_thread.is_alive() else 0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        area.close()
        print("child ended with", code)
    """)
    assert "child ended with 0" in rows


def test_more_rows_than_the_terminal_has_are_cut(show: Show) -> None:
    rows = show(
        """
        area = open_area()
        for n in range(5):
            area.draw([f"row {n}" for n in range(50)]); time.sleep(0.1)
            print("line", n)
        area.close(["the end"])
        """,
        lines=8,
    )
    assert without_prompt(rows) == [*(f"line {n}" for n in range(5)), "the end", "status 0"]


def test_frames_are_rare_however_much_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, stdout=True) as written:
        area = open_area()
        assert area is not None
        begun = time.monotonic()
        for n in range(3000):
            area.draw([f"row {n}"])
            print("line", n)
        frames = (time.monotonic() - begun) / FRAME + 2
        area.close()
    assert written().count("row ") <= frames
    assert written().count("line ") == 3000


def test_nothing_is_written_when_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as written:
        area = open_area()
        assert area is not None
        for _ in range(5):
            area.draw(["the row"])
            time.sleep(FRAME)
        area.close()
    assert written().count("the row") == 1


def test_a_closed_area_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as written:
        area = open_area()
        assert area is not None
        area.close(["the end"])
        area.draw(["late row"])
        area.above(["late line"])
        area.close(["late end"])
    assert written() == "the end\r\n"


def test_logging_handlers_follow_the_stream_and_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("test.terminal")
    with terminal(monkeypatch) as written:
        original = sys.stderr
        handler = logging.StreamHandler(original)
        monkeypatch.setattr(logger, "handlers", [handler])
        area = open_area()
        assert area is not None
        area.draw(["the row"])
        assert handler.stream is sys.stderr is not original
        logger.warning("through logging")
        area.close()
        assert handler.stream is sys.stderr is original
    assert "\x1b[1A\x1b[2K\n\x1b[1Athrough logging\n".replace("\n", "\r\n") in written()


def test_a_stream_that_the_user_replaced_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, stdout=True):
        area = open_area()
        mine = io.StringIO()
        sys.stdout = mine
        assert area is not None
        area.close()
        assert sys.stdout is mine


def test_the_stand_in_looks_like_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, stdout=True):
        original = sys.stdout
        area = open_area()
        assert area is not None
        assert sys.stdout is not original
        for name in ("encoding", "errors", "name", "mode", "buffer"):
            assert getattr(sys.stdout, name) == getattr(original, name)
        assert sys.stdout.isatty()
        assert sys.stdout.writable()
        assert sys.stdout.fileno() == original.fileno()
        assert sys.stdout.write("four\n") == 5
        kept = sys.stdout
        area.close()
        kept.write("later\n")  # whoever kept it may go on writing


def test_what_is_no_terminal_gets_no_area(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, io.StringIO(), closed):
        monkeypatch.setattr(sys, "stderr", stream)
        assert open_area() is None
    with (tmp_path / "file").open("w") as file:
        assert not is_capable(file)
    for term in ("dumb", "", "unknown"):
        with terminal(monkeypatch, term=term):
            assert open_area() is None


def test_an_area_knows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, columns=70, lines=12):
        area = open_area()
        assert isinstance(area, Area)
        assert (area.width, area.height, area.unicode) == (69, 12, True)
        area.close()


def test_write_line_says_whether_anybody_reads() -> None:
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii")
    assert write_line(ascii_only, "漢")
    assert raw.getvalue() == b"\\u6f22\n"
    ascii_only.close()
    assert not write_line(ascii_only, "x")
    read, write = os.pipe()
    os.close(read)
    pipe = os.fdopen(write, "w", buffering=1)
    assert not write_line(pipe, "x")
    with suppress(BrokenPipeError):
        pipe.close()
