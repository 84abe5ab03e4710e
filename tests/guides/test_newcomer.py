"""What somebody does on the first day beside reading: keep the output, look at the panel."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import skyward as sky
from skyward_testing.tmux import Terminal, require_tmux

SCRIPT = """\
import skyward as sky

@sky.function
def double(n: int) -> int:
    print("doubling", n)
    return 2 * n

with sky.Compute(nodes=2, logging=False) as pool:
    for n in range(3):
        print("answer", double(n) >> pool)
"""
ANSWERS = ["answer 0", "answer 2", "answer 4"]


def test_standard_output_is_what_the_script_printed(
    tmp_path: Path, run_script: Callable[[Path], str]
) -> None:
    """Neither the pool's reports nor what tasks print are in ``python script.py > result.txt``."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    assert run_script(script).splitlines() == ANSWERS


def test_tee_shows_on_the_terminal_what_it_writes_to_the_file(tmp_path: Path) -> None:
    require_tmux()
    script, kept = tmp_path / "script.py", tmp_path / "kept.log"
    script.write_text(SCRIPT, encoding="utf-8")
    python = shlex.join(
        ["env", "-u", "PYTHONUNBUFFERED", sys.executable, str(script)]
    )  # with it, print tears lines
    run = f"{python} | tee {shlex.quote(str(kept))}; echo over"
    with Terminal() as terminal:
        terminal.type(run)
        rows = terminal.wait_for(lambda rows: "over" in rows, history=True)
    assert kept.read_text(encoding="utf-8").splitlines() == ANSWERS
    assert [row for row in rows if row.startswith("answer")] == ANSWERS


def test_nodes_count_what_they_did() -> None:
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        pool.map(abs, range(50))
        snapshot = pool.snapshot()
    assert snapshot.tasks.done == 50
    assert sum(node.done for node in snapshot.nodes) == 50
