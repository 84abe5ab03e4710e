"""One line, updated in place; what the nodes print scrolls by above it.

At the end the line becomes the summary. Where stderr is no terminal there is nothing to update: then only
a few plain lines are written (ready, what went wrong, done), and no remote output.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, ClassVar

from skyward.console import (
    LIFECYCLE,
    Bars,
    clean,
    count_text,
    describe,
    duration_text,
    fit,
    money_text,
    nodes_text,
    progress_text,
    summary_text,
)
from skyward.events import (
    ClusterReady,
    Error,
    Event,
    InstancePhase,
    InstancePreempted,
    Log,
    WorkerDied,
)
from skyward.spec import PoolState
from skyward.terminal import Area, open_area, write_line

if TYPE_CHECKING:
    from typing import TextIO

    from skyward.hooks import PoolView
    from skyward.snapshot import PoolSnapshot

BAR_SECONDS = 5.0
"""Seconds between two lines of the same remote progress bar."""


class MinimalConsole:
    """One line at the bottom of the terminal."""

    tick_interval: ClassVar[float | None] = 0.2
    handles: ClassVar[tuple[type[Event], ...]] = (*LIFECYCLE, Log)

    def __init__(self) -> None:
        self._view: PoolView | None = None
        self._area: Area | None = None
        self._plain: TextIO | None = None
        self._bars = Bars()

    def start(self, view: PoolView) -> None:
        self._view, self._area = view, open_area()
        if self._area is None:
            self._plain = sys.stderr
        self.tick()

    def handle(self, event: Event) -> None:
        if self._view is None:
            return
        if isinstance(event, Log):
            if self._area is not None:
                for log in self._bars.feed(event, time.monotonic()):
                    self._show(log)
        elif _matters(event) or (self._area is None and isinstance(event, ClusterReady)):
            self._show(event)

    def tick(self) -> None:
        if self._view is None or self._area is None:
            return
        for log in self._bars.due(time.monotonic(), BAR_SECONDS):
            self._show(log)
        self._area.draw([fit(status_line(self._view.snapshot(), time.time()), self._area.width)])

    def stop(self) -> None:
        if self._view is None:
            return
        for log in self._bars.settle(time.monotonic(), 0):
            self._show(log)
        summary = f"{clean(self._view.name)}  {summary_text(self._view.snapshot(), time.time())}"
        if self._area is not None:
            self._area.close([summary])
        else:
            self._write(summary)
        self._view = None

    def _show(self, event: Event) -> None:
        described = describe(event)
        if described is None:
            return
        label, message = described
        lines = [f"{label}  {line}".rstrip() for line in message.split("\n")]
        if self._area is not None:
            self._area.above(lines)
        else:
            for line in lines:
                self._write(line)

    def _write(self, line: str) -> None:
        if self._plain is not None and not write_line(self._plain, line):
            self._plain = None


def _matters(event: Event) -> bool:
    if isinstance(event, InstancePhase):
        return event.state == "failed"
    return isinstance(event, Error | InstancePreempted | WorkerDied)


def status_line(snapshot: PoolSnapshot, now: float) -> str:
    """Return the pool in one line, the most telling first: what doesn't fit is cut at the end."""
    parts = [clean(snapshot.name)]
    if snapshot.phase is PoolState.READY:
        nodes, tasks = [n for n in snapshot.nodes if n.status != "ended"], snapshot.tasks
        parts += [progress_text(progress, now) for progress in snapshot.progress[:2]]
        parts.append(f"{tasks.running} running, {tasks.queued} queued, {tasks.done} done")
        parts += [f"{tasks.failed} failed"] if tasks.failed else []
        all_ready = all(node.status == "ready" for node in nodes)
        parts.append(count_text(len(nodes), "node") if all_ready else nodes_text(nodes))
    else:
        parts += [snapshot.phase.value.replace("_", " "), nodes_text(snapshot.nodes)]
        # The slowest node is what everybody waits for.
        waiting = [node for node in snapshot.nodes if node.phase]
        if waiting:
            slowest = min(waiting, key=lambda node: node.since)
            parts.append(f"{clean(slowest.phase)} on node {slowest.rank}")
    parts.append(duration_text(int(max(now - snapshot.started, 0))))
    if snapshot.usd_per_hour > 0:
        parts.append(f"{money_text(snapshot.usd_per_hour)}/h")
    return " · ".join(parts)
