"""What the panel shows: a snapshot as rows of styled text. Pure, no terminal.

A row is never wider than asked for. Rows come with the important ones first, because a low terminal cuts
off the last: header, tasks, progress, nodes, then the nodes' own progress bars.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skyward.console import (
    cell_width,
    clean,
    duration_text,
    fit,
    money_text,
    nodes_text,
    rate_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skyward.events import Log
    from skyward.snapshot import NodeSnapshot, PoolSnapshot, Progress

type Span = tuple[str, str]
"""Text and a style of rich, '' for none."""
type Row = tuple[Span, ...]

NODE_ROWS = 12
"""Nodes that get a row each; a larger pool is counted, and only what needs attention is named."""
ATTENTION_ROWS = 4
PROGRESS_ROWS = 5
BAR_ROWS = 8
BAR_CELLS = 40
"""A progress bar is no wider than this: more says nothing more and pulls the numbers away from the name."""

_PALETTE = ("cyan", "magenta", "blue", "yellow", "green", "bright_cyan", "bright_magenta", "bright_blue")
_STATUS_STYLE = {"ready": "green", "lost": "bold red", "draining": "magenta", "requested": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """How much room there is, and what may be drawn in it."""

    width: int
    height: int
    now: float
    unicode: bool = True
    bars: Sequence[Log] = field(default=())
    metrics: str = ""


def node_style(rank: int) -> str:
    """Return the colour of a node, in the panel and in front of its output."""
    return _PALETTE[rank % len(_PALETTE)]


def panel(snapshot: PoolSnapshot, frame: Frame) -> list[Row]:
    """Return the rows of the panel, each at most ``frame.width`` columns wide."""
    nodes = [node for node in snapshot.nodes if node.status != "ended"]
    ranks = [node.rank for node in nodes] + [log.instance.node for log in frame.bars]
    labels = ["tasks", f"node {max(ranks, default=0)}", *(progress.name for progress in snapshot.progress)]
    label = min(max(cell_width(clean(text)) for text in labels), max(frame.width // 4, 7))
    rows: list[Row] = [_header(snapshot, frame), _tasks(snapshot, label)]
    if frame.metrics:
        rows.append((_label("load", label, "bold"), (frame.metrics, "")))
    rows += [_progress(progress, frame, label) for progress in snapshot.progress[:PROGRESS_ROWS]]
    if len(snapshot.progress) > PROGRESS_ROWS:
        rows.append((_label("", label), (f"and {len(snapshot.progress) - PROGRESS_ROWS} more", "dim")))
    # Two rows of a terminal are never ours, and the nodes' own bars should not be pushed out entirely.
    room = frame.height - 2 - len(rows) - min(len(frame.bars), 2)
    rows += _nodes(nodes, frame, label, min(NODE_ROWS, max(room, 1)))
    rows += _bars(frame, label)
    return [crop(row, frame.width) for row in rows]


def _header(snapshot: PoolSnapshot, frame: Frame) -> Row:
    dash, dot = ("─", "·") if frame.unicode else ("-", "-")
    state = snapshot.phase.value.replace("_", " ")
    elapsed = duration_text(int(max(frame.now - snapshot.started, 0)))
    price = f"{money_text(snapshot.usd_per_hour)}/h" if snapshot.usd_per_hour > 0 else ""
    name = fit(clean(snapshot.name), max(frame.width // 3, 8))
    text = "".join(f" {dot} {fact}" for fact in (clean(snapshot.provider), state, elapsed, price) if fact)
    if cell_width(name) + cell_width(text) + 3 > frame.width:
        text = "".join(f" {dot} {fact}" for fact in (state, elapsed, price) if fact)
    rest = frame.width - 4 - cell_width(name) - cell_width(text)
    return (dash * 2 + " ", "dim"), (name, "bold"), (text, ""), (" " + dash * max(rest, 0), "dim")


def _tasks(snapshot: PoolSnapshot, label: int) -> Row:
    tasks = snapshot.tasks
    # First, so that a narrow terminal doesn't cut off the one number that must be seen.
    failed = f"{tasks.failed} failed  " if tasks.failed else ""
    counts = f"{tasks.running} running  {tasks.queued} queued  {tasks.done} done"
    return _label("tasks", label, "bold"), (failed, "bold red"), (counts, "")


def _progress(progress: Progress, frame: Frame, label: int) -> Row:
    left = progress.seconds_left(frame.now)
    count = f"{progress.done}/{progress.total}"
    rate = f"  {rate_text(progress.rate(frame.now))}" if left is not None else ""
    time_left = f"  {duration_text(round(left))} left" if left is not None else ""
    for text in (count + rate + time_left, count + time_left, count):
        cells = min(frame.width - label - 4 - cell_width(text), BAR_CELLS)
        if cells >= 8:
            break
    name = _label(progress.name, label, "bold")
    if cells < 8:
        return name, (text, "")
    filled = min(cells * progress.done // progress.total, cells) if progress.total else 0
    on, off = ("━", "─") if frame.unicode else ("#", ".")
    return name, (on * filled, "green"), (off * (cells - filled), "bright_black"), (f"  {text}", "")


def _nodes(nodes: Sequence[NodeSnapshot], frame: Frame, label: int, room: int) -> Iterable[Row]:
    if len(nodes) <= room:
        return [_node(node, frame, label) for node in nodes]
    attention = sorted(
        (node for node in nodes if node.status != "ready"),
        key=lambda node: (node.status != "lost", node.since),
    )
    rows: list[Row] = [(_label("nodes", label, "bold"), (nodes_text(nodes), ""))]
    return rows + [_node(node, frame, label) for node in attention[: min(ATTENTION_ROWS, room - 1)]]


def _node(node: NodeSnapshot, frame: Frame, label: int) -> Row:
    elapsed = duration_text(int(max(frame.now - node.since, 0)))
    if node.status == "ready":
        detail = f"{node.running}/{node.slots} running  {node.done} done"
        elapsed = elapsed if frame.width >= 60 else ""
    else:
        detail = clean(node.phase)
    return (
        _label(f"node {node.rank}", label, node_style(node.rank)),
        (f"{node.status:<13}  ", _STATUS_STYLE.get(node.status, "yellow")),
        (f"{elapsed:>11}  " if elapsed else "", "dim"),
        (detail, ""),
    )


def _bars(frame: Frame, label: int) -> Iterable[Row]:
    shown = frame.bars if len(frame.bars) <= BAR_ROWS else frame.bars[: BAR_ROWS // 2]
    for log in shown:
        name = _label(log.instance.label, label, node_style(log.instance.node))
        yield name, (clean(log.line).rstrip(), "")
    if len(shown) < len(frame.bars):
        yield _label("", label), (f"and {len(frame.bars) - len(shown)} more progress bars", "dim")


def _label(text: str, width: int, style: str = "") -> Span:
    text = fit(clean(text), width)
    return text + " " * (width - cell_width(text) + 2), style


def crop(row: Row, width: int) -> Row:
    """Return the part of ``row`` that fits into ``width`` columns; a cut is marked by an ellipsis."""
    kept: list[Span] = []
    for text, style in row:
        cells = cell_width(text)
        if cells > width:
            kept.append((fit(text, width), style))
            break
        if text:
            kept.append((text, style))
        width -= cells
    return tuple(kept)
