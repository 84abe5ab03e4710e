"""A live panel at the bottom of the terminal; everything that is printed scrolls by above it.

rich decides which colours the terminal has and draws the rows; ``skyward.terminal`` owns the screen. A row
is rendered again only when it changed, so that a large pool costs no more than a small one. Where stderr is
no terminal, or a dumb one, there is no panel but plain lines.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console as Rich
from rich.text import Text
from skyward.console import (
    LIFECYCLE,
    Bars,
    Metrics,
    clean,
    describe,
    heartbeat_text,
    summary_text,
)
from skyward.events import (
    ClusterReady,
    Error,
    Event,
    InstancePhase,
    InstancePreempted,
    InstanceReplaced,
    Log,
    Metric,
    ScalingChanged,
    WorkerDied,
)
from skyward.terminal import Area, open_area, write_line

from skyward_rich._panel import Frame, Row, node_style, panel

if TYPE_CHECKING:
    from typing import TextIO

    from skyward.hooks import PoolView

BAR_QUIET = 30.0
"""Seconds after which a remote progress bar that doesn't move any more leaves the panel."""
PLAIN_BAR_SECONDS = 5.0
PLAIN_BEAT_SECONDS = 30.0


class RichConsole:
    """The panel. What it shows of the nodes is coloured by node, like their output above it."""

    tick_interval: ClassVar[float | None] = 0.1
    handles: ClassVar[tuple[type[Event], ...]] = (*LIFECYCLE, Log, Metric)

    def __init__(self) -> None:
        self._view: PoolView | None = None
        self._area: Area | None = None
        self._plain: TextIO | None = None
        self._rich: Rich | None = None
        self._colours = False
        self._bars = Bars()
        self._metrics = Metrics()
        self._rendered: dict[Row, str] = {}
        self._prefixes: dict[tuple[str, str], str] = {}
        self._beat_at = 0.0

    def start(self, view: PoolView) -> None:
        # The area replaces sys.stderr, and rich is to look at the terminal itself.
        stream = sys.stderr
        self._view, self._area = view, open_area()
        if self._area is None:
            self._plain, self._beat_at = stream, time.monotonic() + PLAIN_BEAT_SECONDS
            return
        self._rich = Rich(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._colours = self._rich.color_system is not None and not self._rich.no_color
        self.tick()

    def handle(self, event: Event) -> None:
        if self._view is None:
            return
        if isinstance(event, Log):
            for log in self._bars.feed(event, time.monotonic()):
                self._show_log(log)
        elif isinstance(event, Metric):
            self._metrics.feed(event)
        elif self._area is None or _scrolls(event):
            self._show(event)

    def tick(self) -> None:
        if self._view is None:
            return
        if self._area is None:
            self._tick_plain(self._view)
            return
        for log in self._bars.settle(time.monotonic(), BAR_QUIET):
            self._show_log(log)
        frame = Frame(
            width=self._area.width,
            height=self._area.height,
            now=time.time(),
            unicode=self._area.unicode,
            bars=self._bars.current(),
            metrics=self._metrics.text(),
        )
        rows = panel(self._view.snapshot(), frame)
        self._rendered = {row: self._rendered.get(row) or self._render(row) for row in rows}
        self._area.draw([self._rendered[row] for row in rows])

    def stop(self) -> None:
        if self._view is None:
            return
        for log in self._bars.settle(time.monotonic(), 0):
            self._show_log(log)
        name, summary = clean(self._view.name), summary_text(self._view.snapshot(), time.time())
        if self._area is not None:
            self._area.close([self._render(((f"{name}  ", "bold"), (summary, "")))])
        else:
            self._write(f"{name}  {summary}")
        self._view = None

    # ── what scrolls by ──

    def _show_log(self, log: Log) -> None:
        label, style = log.instance.label, node_style(log.instance.node)
        line = clean(log.line, colours=self._colours).rstrip()
        if "\x1b" in line:
            line += "\x1b[0m"
        self._above(label, style, line)

    def _show(self, event: Event) -> None:
        described = describe(event)
        if described is None:
            return
        label, message = described
        instance = getattr(event, "instance", None) or getattr(event, "new", None)
        style = node_style(instance.node) if instance else "bold"
        for line in message.split("\n"):
            self._above(label, style, self._render(((line, _message_style(event)),)))

    def _above(self, label: str, style: str, line: str) -> None:
        if self._area is None:
            self._write(f"{label}  {line}".rstrip())
            return
        prefix = self._prefixes.get((label, style))
        if prefix is None:
            prefix = self._prefixes[label, style] = self._render(((f"{label}  ", style),))
        self._area.above([prefix + line])

    def _render(self, row: Row) -> str:
        if self._rich is None:
            return "".join(text for text, _ in row)
        with self._rich.capture() as captured:
            self._rich.print(Text.assemble(*row), end="", soft_wrap=True)
        return captured.get()

    # ── without a panel ──

    def _tick_plain(self, view: PoolView) -> None:
        now = time.monotonic()
        for log in self._bars.due(now, PLAIN_BAR_SECONDS):
            self._show_log(log)
        if now >= self._beat_at:
            self._beat_at = now + PLAIN_BEAT_SECONDS
            self._write(f"{clean(view.name)}  {heartbeat_text(view.snapshot(), time.time())}")

    def _write(self, line: str) -> None:
        if self._plain is not None and not write_line(self._plain, line):
            self._plain = None


def _scrolls(event: Event) -> bool:
    """Return whether an event is worth a line although the panel shows the state it leads to."""
    if isinstance(event, InstancePhase):
        return event.state == "failed"
    return isinstance(
        event, ClusterReady | Error | InstancePreempted | InstanceReplaced | ScalingChanged | WorkerDied
    )


def _message_style(event: Event) -> str:
    if isinstance(event, Error | InstancePhase):
        return "bold red"
    return "yellow" if isinstance(event, InstancePreempted | WorkerDied) else ""
