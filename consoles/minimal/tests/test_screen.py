"""What a person sees: the one line in a real terminal, beside a script that prints; and in a pipe."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from skyward_testing.console_stage import LAST_LINE, stage

CONSOLE = "skyward_minimal:MinimalConsole"


def status_is_there(rows: list[str]) -> bool:
    return rows[-1].startswith("train · train 500/1000") and rows[-2] == "user: half way"


def test_the_line_stands_below_what_scrolls(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path, columns=120) as run:
        rows = run.half_way(status_is_there)
        progress, tasks, nodes = rows[-1].removeprefix("train · ").split(" · ")[:3]
        assert re.fullmatch(r"train 500/1000 \(50 %\), [\d.]+/s, [\d.]+ s left", progress)
        assert (tasks, nodes) == ("8 running, 492 queued, 500 done", "4 nodes")
        assert len([row for row in rows if row.startswith("train ·")]) == 1
        rows = run.end()
    printed = [row for row in rows if row.startswith(("user:", "WARNING"))]
    assert printed == [
        "user: step 4",
        "user: loading done",
        "user: to stderr",
        "WARNING user: through logging",
        "user: step 8",
        "user: half way over",
        "user: step 12",
        "user: step 16",
        "user: step 20",
        LAST_LINE,
    ]
    for step in range(1, 21):
        assert sum(bool(re.fullmatch(rf"node \d  epoch {step} loss 0\.\d{{4}}", row)) for row in rows) == 1
    assert not any(row.startswith("train ·") for row in rows)
    assert re.fullmatch(r"train  1000 tasks, 2 failed, [\d.]+ s, \$0.080", rows[-3])


def test_the_line_never_wraps(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path, columns=40) as run:
        rows = run.half_way(status_is_there)
        assert len(rows[-1]) == 39
        assert rows[-1].endswith("…")
        rows = run.end()
    assert not any(row.startswith("train ·") for row in rows)


def test_ctrl_c_leaves_the_summary(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path) as run:
        run.half_way(status_is_there)
        run.terminal.key("C-c")
        rows = run.back("KeyboardInterrupt")
    assert any(re.match(r"train  500 tasks, 0 failed", row) for row in rows)
    assert not any(row.startswith("train ·") for row in rows)


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_pipe_gets_a_few_plain_lines(term: str) -> None:
    play = [sys.executable, "-m", "skyward_testing.console_play", CONSOLE, "--seconds", "1"]
    env = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "TERM": term}
    done = subprocess.run(play, capture_output=True, text=True, encoding="utf-8", env=env, check=True)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("train  ready with 4 nodes in ")
    assert lines[-1].startswith("train  1000 tasks, 2 failed, ")
    ours = [line for line in lines if "user:" not in line]
    assert len(ours) == 3, "ready, the worker that died, done"
    assert not any("\x1b" in line or "\r" in line for line in lines)
    assert "train" not in done.stdout
