"""Append-only lines to stderr: ``HH:MM:SS  label  message``.

Every line is whole and flushed when it is written, so that a reader who polls the file by offset misses
nothing. No escape sequence is ever written and nothing is rewritten. A remote progress bar becomes a line
every few seconds; counts come in a heartbeat instead of a line a task. Where stdout goes to the same file
(``> run.log 2>&1``), what the user prints is kept in whole lines and in order with ours.
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

from skyward.console import (
    LIFECYCLE,
    Bars,
    Metrics,
    cell_width,
    clean,
    describe,
    fit,
    heartbeat_text,
    summary_text,
)
from skyward.events import Event, Log, Metric
from skyward.terminal import write_line

if TYPE_CHECKING:
    from typing import TextIO

    from skyward.hooks import PoolView

INTERVAL_VARIABLE = "SKYWARD_LOG_METRICS_INTERVAL"
BAR_SECONDS = 5.0
"""Seconds between two lines of the same remote progress bar."""
LABEL_LIMIT = 20
"""Columns a label may take before it is cut: names of pools can be long, and messages must stay readable."""


class LogConsole:
    """Lines for files, pipes and CI. Writes to what ``sys.stderr`` is when the pool starts."""

    tick_interval: ClassVar[float | None] = 1.0
    handles: ClassVar[tuple[type[Event], ...]] = (*LIFECYCLE, Log, Metric)

    def __init__(self) -> None:
        self._view: PoolView | None = None
        self._stream: TextIO | None = None
        self._bars = Bars()
        self._metrics = Metrics()
        self._interval = _interval()
        self._beat_at = 0.0
        self._width = 0
        self._stdout: _LineBuffered | None = None

    def start(self, view: PoolView) -> None:
        self._view, self._stream = view, sys.stderr
        if _same_file(sys.stdout, sys.stderr):
            self._stdout = _LineBuffered(sys.stdout)
        snapshot = view.snapshot()
        widest = max(cell_width(clean(view.name)), len(f"node {max(snapshot.scaling.max - 1, 0)}"))
        self._width = min(widest, LABEL_LIMIT)
        self._beat_at = time.monotonic() + self._interval

    def handle(self, event: Event) -> None:
        if self._view is None:
            return
        if isinstance(event, Log):
            for log in self._bars.feed(event, time.monotonic()):
                self._event(log)
        elif isinstance(event, Metric):
            self._metrics.feed(event)
        else:
            self._event(event)

    def tick(self) -> None:
        if self._view is None:
            return
        now = time.monotonic()
        for log in self._bars.due(now, BAR_SECONDS):
            self._event(log)
        if self._interval > 0 and now >= self._beat_at:
            self._beat_at = now + self._interval
            self._heartbeat(self._view)

    def stop(self) -> None:
        if self._view is None:
            return
        for log in self._bars.settle(time.monotonic(), 0):
            self._event(log)
        self._line(self._view.name, summary_text(self._view.snapshot(), time.time()))
        if self._stdout is not None:
            self._stdout.undo()
        self._view = None

    def _heartbeat(self, view: PoolView) -> None:
        text = heartbeat_text(view.snapshot(), time.time())
        metrics = self._metrics.text()
        self._line(view.name, f"{text}; {metrics}" if metrics else text)

    def _event(self, event: Event) -> None:
        described = describe(event)
        if described is not None:
            label, message = described
            for line in message.split("\n"):
                self._line(label, line, at=event.at)

    def _line(self, label: str, message: str, at: float | None = None) -> None:
        if self._stream is None:
            return
        name = fit(clean(label), self._width)
        pad = " " * (self._width - cell_width(name))
        clock = time.strftime("%H:%M:%S", time.localtime(at))
        if not write_line(self._stream, f"{clock}  {name}{pad}  {message}".rstrip()):
            self._stream = None


class _LineBuffered:
    """Makes a stream write whole lines at once, until ``undo``.

    In ``python -u`` a ``print`` writes its text and its newline apart, and our lines would land in between;
    without ``-u`` it would be kept back by the block and appear long after the lines around it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream if isinstance(stream, io.TextIOWrapper) else None
        if self._stream is not None:
            self._before = (self._stream.line_buffering, self._stream.write_through)
            self._set(True, False)

    def undo(self) -> None:
        if self._stream is not None:
            self._set(*self._before)

    def _set(self, line_buffering: bool, write_through: bool) -> None:
        try:
            if self._stream is not None:
                self._stream.reconfigure(line_buffering=line_buffering, write_through=write_through)
        except (OSError, ValueError):
            pass  # the user closed it, or its reader left: theirs to be told, by their own print


def _same_file(one: TextIO | None, other: TextIO | None) -> bool:
    try:
        return one is not None and other is not None and os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):
        return False  # closed, or a stand-in without a file descriptor


def _interval() -> float:
    """Return the seconds between two heartbeats: 30, or what the environment says; 0 turns them off."""
    try:
        return max(float(os.environ.get(INTERVAL_VARIABLE, "30")), 0.0)
    except ValueError:
        return 30.0
