"""What the agent measures about its node while a client listens: each metric at its own interval.

- Nothing is read for nobody: with the client's connection the readings end, and what runs for them.
- The agent's loop never waits: the kernel is read directly (``skyward.node.readings``), and what needs a
  process, such as a custom command, ``df`` or ``nvidia-smi``, is a child whose pipes are in the agent's
  selector. One child for a metric at a time, one ``nvidia-smi`` for all GPU metrics.
- What this machine doesn't have is silently absent. A command that gives no number is told of once.

A sample of several devices is a value of each, named ``gpu:0``, ``gpu:1`` and so on.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import selectors
import time
from collections.abc import Callable

from skyward.node.process import Child
from skyward.node.reader import Reader, ignore
from skyward.node.readings import Meter, measured, meter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SETTLE = 0.5
"""Seconds from the client's arrival to the first reading: workers that start come first."""
LEAST_INTERVAL = 0.1
COMMAND_SECONDS = 10.0
"""What a command may take, if its interval is not longer."""
RETRY = 30.0
"""Seconds between two starts of an ``nvidia-smi`` that had worked."""
GPU_FIELDS = {"gpu": 1, "gpu_memory": 2, "gpu_memory_total": 3, "gpu_temp": 4}
"""The column of what ``nvidia-smi`` is asked for, after the GPU's index."""
_GPU_QUERY = "--query-gpu=index,utilization.gpu,memory.used,memory.total,temperature.gpu"
_DF_LINE = re.compile(rb"\s\d+\s+(\d+)\s+(-?\d+)\s+(?:\d+%|-)\s")

type Values = list[tuple[str, float]]


class Gauges:
    """All metrics of one node. ``metrics``: the fields of each ``Metric``; ``env``: what commands get.

    ``tell`` takes what the client is to hear; ``note`` is called when there is another child, or one less.
    """

    def __init__(
        self,
        metrics: list[dict[str, Any]],
        env: dict[str, str],
        selector: selectors.BaseSelector,
        tell: Callable[[dict[str, Any]], None],
        note: Callable[[], None],
    ) -> None:
        self.env = env
        self._selector = selector
        self._tell = tell
        self._note = note
        self._children: dict[int, Reader] = {}
        self._watched = False
        self._smi = _Smi(self, metrics)
        self._series = [
            _Gpu(metric, self._smi)
            if metric["kind"] in GPU_FIELDS
            else _Command(metric, self)
            if metric["kind"] in ("", "disk")
            else _Kernel(metric)
            for metric in metrics
        ]

    @property
    def identities(self) -> list[str]:
        """The processes that run for metrics, as ``process_identity`` names them."""
        return [reader.child.identity for reader in self._children.values()]

    def runs(self, reader: Reader | None) -> bool:
        """Whether that child is still there."""
        return reader is not None and self._children.get(reader.child.pid) is reader

    def turn(self, watched: bool) -> float:
        """Read what is due, if anybody is there to hear it; return the seconds until there is more to do."""
        now = time.monotonic()
        if watched and not self._watched:
            self._begin(now)
        elif self._watched and not watched:
            self.end()
        self._watched = watched
        if not watched or not self._series:
            return math.inf
        for reader in list(self._children.values()):
            if now > reader.deadline:
                reader.kill(f"took longer than {reader.limit:g} s")
        values: Values = []
        for series in self._series:
            if series.due <= now:
                values += series.sample(now)
                series.plan(now)
        self.report(values)
        return max(min(series.due for series in self._series) - now, 0.0)

    def _begin(self, now: float) -> None:
        for series in self._series:
            series.begin()
            series.due = now + SETTLE

    def end(self) -> None:
        """End what runs for the metrics."""
        for reader in list(self._children.values()):
            reader.on_result = ignore
            reader.kill("")
            self._forget(reader)
        self._smi.rest()

    def on_exit(self, pid: int, status: int) -> None:
        """Take the word that a child has ended; of one that is not ours nothing happens."""
        reader = self._children.get(pid)
        if reader is not None:
            self._forget(reader)
            reader.finish(status)

    def start(self, argv: list[str], limit: float, on_lines: Callable[[bytes], bytes] | None) -> Reader:
        """Start a child. ``on_lines`` takes what it prints, piece by piece, and returns what is left over.

        Raises OSError.
        """
        reader = Reader(Child.spawn(argv, self.env, 0, 0), limit, on_lines, self._selector)
        self._children[reader.child.pid] = reader
        self._note()
        return reader

    def _forget(self, reader: Reader) -> None:
        self._children.pop(reader.child.pid, None)
        reader.close()
        self._note()

    def remark(self, what: str) -> None:
        """Have the client told of something that is wrong with a metric."""
        self._tell({"event": "remark", "what": what})

    def report(self, values: Values) -> None:
        """Tell the client these values, if there are any."""
        if values:
            self._tell({"event": "metrics", "values": [[name, round(value, 3)] for name, value in values]})


class _Series:
    """One metric: when it is due, and what it gives then."""

    def __init__(self, metric: dict[str, Any]) -> None:
        self.name: str = metric["name"]
        self.kind: str = metric["kind"]
        self.target: str = metric["target"]
        self.interval = max(float(metric["interval"]), LEAST_INTERVAL)
        self.due = math.inf

    def begin(self) -> None:
        """A client has come."""

    def sample(self, now: float) -> Values:
        raise NotImplementedError

    def plan(self, now: float) -> None:
        """Set when it is due again: metrics with one interval in the same moment, and none twice in a row
        because the last was late.
        """
        self.due = (now // self.interval + 1) * self.interval


class _Kernel(_Series):
    """A number from the kernel."""

    def __init__(self, metric: dict[str, Any]) -> None:
        super().__init__(metric)
        self._meter: Meter | None = None

    def begin(self) -> None:
        self._meter = meter(self.kind, self.target)  # anew: a rate is not one over the client's absence

    def sample(self, now: float) -> Values:
        value = None if self._meter is None else measured(self._meter)
        return [] if value is None else [(self.name, value)]


class _Command(_Series):
    """A number from a command: the user's, or ``df``, because asking a network's file system may take for
    ever.
    """

    def __init__(self, metric: dict[str, Any], gauges: Gauges) -> None:
        super().__init__(metric)
        self._gauges = gauges
        self._multi: bool = metric["multi"]
        self._line: str = metric["command"]
        self._argv = ["/bin/sh", "-c", self._line]
        if self.kind == "disk":
            self._argv = ["df", "-P", "-k", "--", self.target]
            self._line = f"df {self.target}"
        self._runs = self._warned = False

    def begin(self) -> None:
        self._runs = False

    def sample(self, now: float) -> Values:
        if self._runs:
            return []
        try:
            reader = self._gauges.start(self._argv, max(COMMAND_SECONDS, self.interval), None)
        except OSError as error:
            self._warn(f"can't be run: {error.strerror}")
            return []
        self._runs, reader.on_result = True, self._on_result
        return []

    def _on_result(self, status: int, output: bytes, errors: bytes, why: str) -> None:
        self._runs = False
        if why or status:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            code = os.waitstatus_to_exitcode(status)
            self._warn(why or f"ended with status {code}" + (f": {last:.200}" if last else ""))
            return
        try:
            values = disk_share(output) if self.kind == "disk" else numbers(output, self._multi)
        except ValueError:
            first = output.decode(errors="replace").strip().partition("\n")[0]
            self._warn(f"printed {first:.60}, which is not a number" if first else "printed nothing")
            return
        names = (f"{self.name}:{place}" if self._multi else self.name for place in itertools.count())
        self._gauges.report(list(zip(names, values, strict=False)))

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            again = "it is run again, but this is not said again"
            self._gauges.remark(f"metric {self.name!r}: `{self._line:.200}` {what}; {again}")


def numbers(output: bytes, multi: bool) -> list[float]:
    """Read what a command printed: a number, or with ``multi`` several. Raises ValueError."""
    values = [float(part) for part in (output.split() if multi else [output])]
    if not all(map(math.isfinite, values)):
        raise ValueError("not finite")
    return values


def disk_share(output: bytes) -> list[float]:
    """Read the percentage in use from what ``df -P`` printed. Raises ValueError."""
    found = _DF_LINE.search(output.rstrip().rpartition(b"\n")[2])
    if found is None:
        raise ValueError("not df's output")
    used, free = int(found[1]), max(int(found[2]), 0)
    return [100 * used / (used + free)] if used + free else []


class _Gpu(_Series):
    """A column of what ``nvidia-smi`` says, of one GPU or of each."""

    def __init__(self, metric: dict[str, Any], smi: _Smi) -> None:
        super().__init__(metric)
        self._smi = smi
        self._column = GPU_FIELDS[self.kind]
        self._pending = True

    def begin(self) -> None:
        self._pending = True

    def sample(self, now: float) -> Values:
        rows = self._smi.rows(now)
        self._pending = self._pending and not rows
        if self.target:
            rows = {index: row for index, row in rows.items() if str(index) == self.target}
        found = ((index, row[self._column - 1]) for index, row in sorted(rows.items()))
        return [
            (self.name if self.target else f"{self.name}:{index}", value)
            for index, value in found
            if value is not None
        ]

    def plan(self, now: float) -> None:
        super().plan(now)
        if self._pending and not self._smi.absent:  # the first values come as soon as they are there
            self.due = min(self.due, now + SETTLE)


class _Smi:
    """The one ``nvidia-smi`` that prints all GPUs again and again, and its last word on each."""

    def __init__(self, gauges: Gauges, metrics: list[dict[str, Any]]) -> None:
        intervals = [float(metric["interval"]) for metric in metrics if metric["kind"] in GPU_FIELDS]
        self._gauges = gauges
        self._period = max(min(intervals, default=1.0), LEAST_INTERVAL)
        self._rows: dict[int, tuple[float | None, ...]] = {}
        self._at = 0.0
        self._reader: Reader | None = None
        self._started = -math.inf
        self.absent = False
        """Whether there is no GPU that can be asked. For good: a driver is not installed meanwhile."""

    def rows(self, now: float) -> dict[int, tuple[float | None, ...]]:
        """Return the values of each GPU, by index; of one that was not heard of lately, nothing."""
        if not self._gauges.runs(self._reader):
            self._start(now)
        return self._rows if now - self._at < 3 * self._period + COMMAND_SECONDS else {}

    def _start(self, now: float) -> None:
        if self.absent or now - self._started < RETRY:
            return
        import shutil  # most nodes are not asked for graphics cards

        program = shutil.which("nvidia-smi", path=self._gauges.env.get("PATH"))
        self.absent = program is None
        if program is None:
            return
        loop = f"--loop-ms={int(self._period * 1000)}"
        argv = [program, _GPU_QUERY, "--format=csv,noheader,nounits", loop]
        try:
            self._reader = self._gauges.start(argv, math.inf, self._on_lines)
        except OSError:
            self.absent = True
            return
        self._started, self._rows = now, {}
        self._reader.on_result = self._on_result

    def _on_lines(self, data: bytes) -> bytes:
        *lines, rest = data.split(b"\n")
        for line in lines:
            row = gpu_row(line)
            if row is not None:
                self._rows[row[0]], self._at = row[1], time.monotonic()
        return rest

    def _on_result(self, status: int, output: bytes, errors: bytes, why: str) -> None:
        self.absent = not self._rows

    def rest(self) -> None:
        """Be ready to start again at once."""
        self._started = -math.inf


def gpu_row(line: bytes) -> tuple[int, tuple[float | None, ...]] | None:
    """Read a line of ``nvidia-smi``: the GPU's index and its values, None for what this GPU doesn't tell."""
    index, *cells = (cell.strip() for cell in line.split(b","))
    if not index.isdigit() or len(cells) != len(GPU_FIELDS):
        return None
    return int(index), tuple(float(cell) if cell.replace(b".", b"", 1).isdigit() else None for cell in cells)
