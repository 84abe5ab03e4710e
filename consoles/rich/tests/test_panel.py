"""What the panel shows, and that it always fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyward.console import cell_width
from skyward.events import Log
from skyward.snapshot import Progress, TaskCounts
from skyward.spec import PoolState
from skyward_rich import RichConsole
from skyward_rich._panel import ATTENTION_ROWS, BAR_ROWS, NODE_ROWS, Frame, Row, panel
from skyward_testing.console_play import (
    POOL,
    View,
    any_status_snapshot,
    instance,
    node_snapshot,
    pool_snapshot,
)
from skyward_testing.consoles import terminal

NOW = 1_000_000.0


def text(row: Row) -> str:
    return "".join(span for span, _ in row)


def shown(rows: list[Row]) -> list[str]:
    return [text(row).rstrip() for row in rows]


def frame(width: int = 100, height: int = 40, **more: object) -> Frame:
    return Frame(width=width, height=height, now=NOW, **more)  # type: ignore[arg-type]  # the tests' own fields


def bar(rank: int) -> Log:
    return Log(pool=POOL, instance=instance(rank), line=f"  {rank}%|##  |", overwrite=True)


@given(
    nodes=st.integers(0, 70),
    width=st.integers(1, 160),
    height=st.integers(1, 60),
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    bars=st.integers(0, 70),
    unicode=st.booleans(),
)
def test_no_row_is_wider_than_the_terminal(
    nodes: int, width: int, height: int, name: str, bars: int, unicode: bool
) -> None:
    pool = replace(
        any_status_snapshot(nodes, name),
        progress=tuple(Progress(name=name * n, total=9, done=n, started=NOW - 5) for n in range(9)),
    )
    rows = panel(
        pool, frame(width, height, bars=[bar(n) for n in range(bars)], unicode=unicode, metrics=name)
    )
    assert max(cell_width(text(row)) for row in rows) <= width
    # Whatever the pool's size: header, tasks, metrics, progress and the rest, nodes, bars and the rest.
    assert len(rows) <= 3 + 6 + NODE_ROWS + BAR_ROWS + 1


def test_a_small_pool_names_every_node() -> None:
    pool = replace(
        pool_snapshot(2, started=NOW - 185),
        nodes=(
            node_snapshot(0, since=NOW - 60),
            node_snapshot(1, "bootstrapping", "packages", since=NOW - 12),
            node_snapshot(2, "ended"),
        ),
        tasks=TaskCounts(running=2, queued=5, done=31, failed=1),
        progress=(Progress(name="resize", total=100, done=25, started=NOW - 10),),
        usd_per_hour=0.0,
    )
    assert shown(panel(pool, frame(72))) == [
        "── train · acme · ready · 3 min 05 s " + "─" * 35,
        "tasks   1 failed  2 running  5 queued  31 done",
        "resize  " + "━" * 9 + "─" * 29 + "  25/100  2.5/s  30 s left",
        "node 0  ready           1 min 00 s  2/2 running  0 done",
        "node 1  bootstrapping         12 s  packages",
    ]


def test_a_large_pool_is_counted_and_what_needs_attention_is_named() -> None:
    nodes = [node_snapshot(rank, since=NOW) for rank in range(60)]
    for rank, age in ((7, 50), (9, 40), (11, 90), (12, 10)):
        nodes[rank] = node_snapshot(rank, "bootstrapping", "apt", since=NOW - age)
    nodes[30] = node_snapshot(30, "lost", since=NOW)
    rows = shown(panel(replace(pool_snapshot(0), nodes=tuple(nodes)), frame()))
    assert rows[2] == "nodes    1 lost, 55 ready, 4 bootstrapping"
    assert [row.split()[1] for row in rows[3:]] == ["30", "11", "7", "9"]
    assert len(rows[3:]) == ATTENTION_ROWS


def test_a_low_terminal_counts_a_small_pool_too() -> None:
    rows = shown(panel(pool_snapshot(8), frame(height=9)))
    assert rows[2:] == ["nodes   8 ready"]


def test_many_bars_become_a_few_and_a_count() -> None:
    assert len(shown(panel(pool_snapshot(0), frame(bars=[bar(n) for n in range(BAR_ROWS)])))) == 2 + BAR_ROWS
    rows = shown(panel(pool_snapshot(0), frame(bars=[bar(n) for n in range(64)])))
    assert rows[2:] == [
        *(f"node {n}     {n}%|##  |" for n in range(4)),
        "and 60 more progress bars".rjust(34),
    ]


def test_a_narrow_terminal_keeps_the_numbers_that_matter() -> None:
    pool = replace(
        pool_snapshot(1, PoolState.PROVISIONING, started=NOW),
        progress=(Progress(name="resize", total=1000, done=250, started=NOW - 10),),
        tasks=TaskCounts(failed=3),
    )
    rows = shown(panel(pool, frame(39)))
    assert rows[0].startswith("── train · provisioning · 0 s · $0.53/h")
    assert rows[1].startswith("tasks   3 failed")
    assert rows[2] == "resize  ━━────────  250/1000  30 s left"


def test_ascii_terminals_get_ascii() -> None:
    pool = pool_snapshot(1, done=5, total=10, started=NOW - 1)
    assert "\n".join(shown(panel(pool, frame(unicode=False)))).isascii()


class Counting(RichConsole):
    def __init__(self) -> None:
        super().__init__()
        self.rendered: list[Row] = []

    def _render(self, row: Row) -> str:
        self.rendered.append(row)
        return super()._render(row)


def test_a_row_that_did_not_change_is_not_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch):
        console = Counting()
        view = View(pool_snapshot(10))
        console.start(view)
        console.rendered.clear()
        for done in range(5):
            view.current = replace(view.current, tasks=TaskCounts(done=done + 1))
            console.tick()
        console.stop()
    # The summary, and the row of the tasks each time; the clock may have moved on once in the others.
    assert len([row for row in console.rendered if text(row).startswith("tasks")]) == 5
    assert len(console.rendered) <= 5 + 1 + 11


def test_a_bar_that_stopped_moving_leaves_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyward_rich._console.BAR_QUIET", 0.0)
    with terminal(monkeypatch) as written:
        console = RichConsole()
        console.start(View(pool_snapshot(1)))
        console.handle(bar(0))
        console.tick()
        console.stop()
    assert written().count("0%|##  |") == 1
