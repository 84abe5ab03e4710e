"""What a person sees: the console in a real terminal, beside a script that prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from skyward_testing.console_stage import LAST_LINE, stage

CONSOLE = "skyward_rich:RichConsole"
USER_LINES = [
    "user: step 4",
    "user: loading done",
    "user: to stderr",
    "WARNING user: through logging",
    "user: step 8",
    "user: half way over",
    "user: step 12",
    "user: step 16",
    "user: step 20",
]


def panel_is_there(rows: list[str]) -> bool:
    counted = any(row.startswith("tasks") and "500 do" in row for row in rows)
    return counted and any("50%" in row for row in rows)


def header_rows(rows: list[str]) -> list[str]:
    return [row for row in rows if row.startswith(("──", "--"))]


def test_the_panel_stands_below_what_scrolls(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path) as run:
        rows = run.half_way(panel_is_there)
        header = rows.index(header_rows(rows)[0])
        assert len(header_rows(rows)) == 1
        assert re.match(r"── train · acme · ready · \d+ s · \$2.12/h ─+$", rows[header])
        assert rows[header + 1].split() == ["tasks", "8", "running", "492", "queued", "500", "done"]
        assert re.match(r"train   ━+─+  500/1000  [\d.]+/s  [\d.]+ s left$", rows[header + 3])
        for rank in range(4):
            assert re.match(
                rf"node {rank}  ready +\d+ s  2/2 running  {17 * rank} done$", rows[header + 4 + rank]
            )
            assert rows[header + 8 + rank] == f"node {rank}   50%|█████     | 500/1000 [00:00<00:01]"
        # The unfinished line of the user is the last thing above the panel; nothing comes after it.
        assert rows[header - 1] == "user: half way"
        assert rows[header + 12 :] == []


def test_only_output_and_a_summary_are_left_at_the_end(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path) as run:
        run.half_way(panel_is_there)
        rows = run.end()
    assert [row for row in rows if row in USER_LINES] == USER_LINES
    for step in range(1, 21):
        assert sum(bool(re.fullmatch(rf"node \d  epoch {step} loss 0\.\d{{4}}", row)) for row in rows) == 1
    assert [row for row in rows if "100%" in row] == [
        f"node {rank}  100%|██████████| 1000/1000 [00:00<00:01]" for rank in range(4)
    ]
    assert "node 0  a worker died and is started again: killed by SIGSEGV" in rows
    assert header_rows(rows) == []
    assert re.fullmatch(r"train  1000 tasks, 2 failed, [\d.]+ s, \$0.080", rows[-3])
    assert rows[-2:] == [LAST_LINE, "$"]


def test_forty_columns_and_sixty_four_nodes_fit(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path, "--nodes", "64", columns=40, lines=20) as run:
        rows = run.half_way(panel_is_there)
        header = rows.index(header_rows(rows)[0])
        assert len(rows) - header <= 14
        assert max(len(row) for row in rows[header:]) <= 39
        assert "nodes    64 ready" in rows
        assert rows[-1].strip() == "and 60 more progress bars"
        rows = run.end()
    assert header_rows(rows) == []


def test_a_resized_terminal_shows_one_panel(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path, columns=120) as run:
        run.half_way(panel_is_there)
        run.terminal.resize(60, 30)
        rows = run.terminal.wait_for(lambda rows: [len(row) for row in header_rows(rows)] == [59])
        assert len([row for row in rows if row.startswith("tasks")]) == 1
        header = rows.index(header_rows(rows)[0])
        assert [row.split()[0] for row in rows[header + 1 :]] == ["tasks", "load", "train"] + ["node"] * 8
        run.end()


@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_the_terminal_is_itself_again_after_a_failure(how: str, tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path, *(["--end", "error"] if how == "error" else [])) as run:
        if how == "interrupt":
            run.half_way(panel_is_there)
            run.terminal.key("C-c")
            rows = run.back("KeyboardInterrupt")
        else:
            rows = run.back("RuntimeError: the user's script failed")
        assert header_rows(rows) == []
        assert any(row.startswith("train  ") and "tasks" in row for row in rows)
        run.terminal.type("printf 'a\\nb\\n'; echo typed $((6*7))")
        rows = run.back("typed 42")
        assert rows[-4:-1] == ["a", "b", "typed 42"]


def test_no_color_keeps_the_layout(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path, env={"NO_COLOR": "1"}) as run:
        run.half_way(panel_is_there)
        coloured = run.terminal.screen(colours=True)
        assert not re.search(r"\x1b\[[\d;]*(3[0-8]|9[0-7])[\d;]*m", "\n".join(coloured))
        assert any("━" in row and "─" in row for row in coloured)
        run.end()


def test_nodes_have_colours_of_their_own(tmp_path: Path) -> None:
    with stage(CONSOLE, tmp_path) as run:
        run.half_way(panel_is_there)
        rows = run.terminal.screen(colours=True)
        colours = {
            match[2]: match[1]
            for row in rows
            if (match := re.search(r"\x1b\[([\d;]*)m(node \d)  .*epoch", row))
        }
        assert len(colours) == 4
        assert len(set(colours.values())) == 4
        run.end()


def test_stdout_in_a_file_gets_what_the_user_printed_and_nothing_else(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    with stage(CONSOLE, tmp_path, redirect=f"> {output}") as run:
        rows = run.half_way(panel_is_there)
        assert not any("step" in row for row in rows)
        rows = run.end("1000 tasks, 2 failed")
        assert "user: to stderr" in rows
    printed = [line for line in USER_LINES if "stderr" not in line and "logging" not in line]
    assert output.read_text().splitlines() == [*printed, LAST_LINE]
