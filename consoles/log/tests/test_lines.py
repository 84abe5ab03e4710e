"""The lines of the log console as a reader of the file gets them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from skyward.events import Error, Log, Metric
from skyward.snapshot import Progress, TaskCounts
from skyward_log import LogConsole
from skyward_log import _console as module
from skyward_testing.console_play import POOL, View, instance, pool_snapshot
from skyward_testing.consoles import run

PLAY = [sys.executable, "-m", "skyward_testing.console_play", "skyward_log:LogConsole", "--seconds", "1"]
LINE = re.compile(r"\d\d:\d\d:\d\d  (train |node \d)  \S.*")


def environment(**more: str) -> dict[str, str]:
    return {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "PYTHONUTF8": "1", **more}


def messages(captured: pytest.CaptureFixture[str]) -> list[str]:
    return [line[10:] for line in captured.readouterr().err.splitlines()]


class Clock:
    """Stands in for the module ``time`` in the console: its monotonic clock stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def log(line: str, *, node: int = 0, overwrite: bool = False) -> Log:
    return Log(pool=POOL, instance=instance(node), line=line, overwrite=overwrite)


def test_every_line_has_the_form() -> None:
    done = subprocess.run(
        PLAY, capture_output=True, text=True, encoding="utf-8", env=environment(), check=True
    )
    ours = [line for line in done.stderr.splitlines() if "user:" not in line]
    assert len(ours) > 60
    assert [line for line in ours if not LINE.fullmatch(line)] == []
    text = "\n".join(line[10:] for line in ours)
    for part in (
        "train   requested 4 nodes from acme",
        "node 3  machine m-0003 in mars-1, $0.53/h spot",
        "train   ready with 4 nodes in 0.",
        "node 2  epoch 2 loss 0.1508",
        "node 0  a worker died and is started again: killed by SIGSEGV",
        "train   all machines released",
    ):
        assert part in text
    assert re.search(r"node 1  packages done in 0(\.\d)? s", text)
    assert re.match(r"train   1000 tasks, 2 failed, [\d.]+ s, \$0.080", ours[-1][10:])


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_shared_file_has_whole_lines(unbuffered: str, tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    with path.open("w", encoding="utf-8") as file:
        subprocess.run(
            PLAY,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            check=True,
        )
    # The one line that the play flushes before it is whole may rightly be torn.
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line != "over" and not line.startswith("user: half way")
    ]
    assert [line for line in lines if "user:" not in line and not LINE.fullmatch(line)] == []
    assert [
        line for line in lines if "user:" in line and not line.startswith(("user:", "WARNING user:"))
    ] == []
    # In order: what the user printed before the fifth step stands before it.
    assert lines.index("user: step 4") < next(n for n, line in enumerate(lines) if "epoch 5 " in line)


def test_a_line_can_be_read_as_soon_as_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "run.log").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        console = LogConsole()
        console.start(View(pool_snapshot()))
        console.handle(log("hello"))
        assert (tmp_path / "run.log").read_text().endswith("node 0  hello\n")
        console.stop()


def test_a_progress_bar_becomes_a_line_now_and_then(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    console = LogConsole()
    console.start(View(pool_snapshot()))
    for step in range(120):
        clock.now += 0.1
        console.handle(log(f"{step}%", overwrite=True))
        if step % 10 == 0:
            console.tick()
    console.handle(log("100%"))
    console.stop()
    shown = [line.split()[-1] for line in messages(capsys) if "%" in line]
    assert shown == ["50%", "100%", "100%"]


def test_a_bar_cut_off_by_the_end_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    run(LogConsole(), [log("7%", overwrite=True)])
    assert "node 0  7%" in messages(capsys)


def test_the_heartbeat_says_how_it_goes(
    capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWARD_LOG_METRICS_INTERVAL", "10")
    view = View(
        replace(
            pool_snapshot(2),
            tasks=TaskCounts(queued=24, running=8, done=310, failed=2),
            progress=(Progress(name="resize", total=1000, done=310, started=time.time() - 31),),
        )
    )
    console = LogConsole()
    console.start(view)
    for node, value in ((0, 40.0), (1, 50.0)):
        console.handle(Metric(pool=POOL, instance=instance(node), name="cpu", value=value))
    for _ in range(35):
        clock.now += 1
        console.tick()
    beats = [line for line in messages(capsys) if "2 ready" in line]
    assert len(beats) == 3
    assert re.fullmatch(
        r"train   2 ready; tasks 310 done, 8 running, 24 queued, 2 failed; "
        r"resize 310/1000 \(31 %\), 10\.0/s, 1 min 09 s left; cpu 45 %",
        beats[0],
    )
    console.stop()


@pytest.mark.parametrize(("value", "beats"), [("0", 0), ("nonsense", 1), ("-5", 0), ("nan", 0)])
def test_the_interval_is_what_the_environment_says(
    value: str, beats: int, capsys: pytest.CaptureFixture[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYWARD_LOG_METRICS_INTERVAL", value)
    console = LogConsole()
    console.start(View(pool_snapshot()))
    clock.now += 31
    console.tick()
    assert sum("4 ready" in line for line in messages(capsys)) == beats
    console.stop()


def test_a_message_of_several_lines_is_labelled_on_each(capsys: pytest.CaptureFixture[str]) -> None:
    run(LogConsole(), [Error(pool=POOL, message="bootstrap failed\nE: no such package", fatal=True)])
    assert messages(capsys)[:2] == ["train   fatal: bootstrap failed", "train   E: no such package"]


def test_long_names_of_pools_leave_room_for_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    run(LogConsole(), [log("hello")], name="a-very-long-name-for-a-pool")
    first, last = messages(capsys)
    assert first == "node 0                hello"
    assert last.startswith("a-very-long-name-fo…  310 tasks")


def test_the_streams_are_as_before_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "run.log").open("w") as out:
        err = os.fdopen(os.dup(out.fileno()), "w")
        with err:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            console = LogConsole()
            console.start(View(pool_snapshot()))
            during = out.line_buffering
            console.stop()
            after = out.line_buffering
            monkeypatch.undo()
    assert (during, after) == (True, False)
