"""How an event, a count or a duration reads to a person: the words that every console shares.

Pure: nothing here prints, waits or looks at the clock. Text made from what a machine sent (remote output, a
provider's reason) never carries a control character, except colours where they are asked for. Imported by
consoles, ours and others'.
"""

from __future__ import annotations

import math
import re
import unicodedata

from skyward.events import (
    ClusterDestroyed,
    ClusterProvisioned,
    ClusterReady,
    ClusterRequested,
    Error,
    Event,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstancePhase,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRequested,
    Log,
    ScalingChanged,
    TaskCompleted,
    WorkerDied,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from skyward.events import Instance, Metric
    from skyward.snapshot import NodeSnapshot, PoolSnapshot, Progress, TaskCounts

LINE_LIMIT = 65_536
"""Characters of one remote line that are shown: enough for any JSON record, too few to flood a terminal."""

# Every escape sequence: CSI, then the string kinds (OSC, DCS, SOS, PM, APC), then what is left of two bytes.
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|\x9b[0-?]*[@-~]?"
)
_COLOUR = re.compile(r"\x1b\[[\d;:]*m")
# Without ESC, which _ESCAPE takes; with the two separators at which some readers end a line.
_CONTROL = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
LIFECYCLE: tuple[type[Event], ...] = (
    ClusterRequested,
    ClusterProvisioned,
    ClusterReady,
    ClusterDestroyed,
    InstanceRequested,
    InstanceProvisioned,
    InstancePhase,
    InstanceBootstrapped,
    InstancePreempted,
    InstanceReplaced,
    InstanceDestroyed,
    WorkerDied,
    ScalingChanged,
    Error,
)
"""What becomes of a pool and its nodes: for ``Console.handles``. Tasks are counted in snapshots instead."""

_UNITS = {
    **dict.fromkeys(("cpu", "memory", "gpu", "disk"), (1, " %")),
    **dict.fromkeys(("memory_used", "gpu_memory"), (1024, " GiB")),
    **dict.fromkeys(("network_rx", "network_tx"), (1e6, " MB/s")),
    "gpu_temp": (1, " °C"),
}
"""How a metric is shown: what its value is divided by, and the unit then."""


# ── durations, rates, money ──────────────────────────────────────────────────────────────────────────────


def duration_text(seconds: float) -> str:
    """Return ``4.2 s``, ``41 s``, ``3 min 05 s``, ``2 h 14 min`` or ``3 d 04 h``; ``?`` if it isn't known."""
    if not math.isfinite(seconds):
        return "?"
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h" if days else f"{hours} h {minutes:02} min"


def rate_text(per_second: float) -> str:
    """Return ``12.3/s``, or per minute or hour when that is the unit with a number of 1 or more."""
    if not math.isfinite(per_second):
        return "?/s"
    value, unit = per_second, "s"
    for factor, longer in ((60, "min"), (3600, "h")):
        if value >= 0.95 or not value:
            break
        value, unit = per_second * factor, longer
    return f"{value:.0f}/{unit}" if value >= 99.95 else f"{value:.1f}/{unit}"


def money_text(usd: float) -> str:
    """Return ``$1.32``; a sum below ten cents keeps a third digit."""
    return f"${usd:.2f}" if usd >= 0.1 else f"${usd:.3f}"


def count_text(n: int, noun: str) -> str:
    """Return ``1 node`` or ``4 nodes``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


# ── text from elsewhere ──────────────────────────────────────────────────────────────────────────────────


def clean(text: str, *, colours: bool = False, limit: int = LINE_LIMIT) -> str:
    """Return ``text`` as it may go to a terminal or a file: one line, no controls, no lone surrogates.

    Tabs become blanks up to the next multiple of eight. With ``colours`` the SGR sequences stay. What is
    beyond ``limit`` characters is cut and counted.
    """
    if text.isprintable() and len(text) <= limit:
        return text
    cut = len(text) - limit
    if cut > 0:
        text = text[:limit]
    text = _ESCAPE.sub(_keep_colour if colours else "", text).expandtabs(8)
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))
    if not colours:
        text = text.replace("\x1b", "")
    return f"{text}… (+{cut} characters)" if cut > 0 else text


def _keep_colour(match: re.Match[str]) -> str:
    return match[0] if _COLOUR.fullmatch(match[0]) else ""


def cell_width(text: str) -> int:
    """Return how many terminal columns ``text`` takes; escape sequences take none."""
    if text.isascii() and text.isprintable():
        return len(text)
    return sum(_char_width(char) for char in _ESCAPE.sub("", text))


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def fit(text: str, width: int) -> str:
    """Return ``text``, which holds no escape sequences, cut with an ellipsis to ``width`` columns."""
    if cell_width(text) <= width:
        return text
    kept, used = "", 0
    for char in text:
        used += _char_width(char)
        if used > width - 1:
            break
        kept += char
    return kept + "…" if width > 0 else ""


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────


def describe(event: Event) -> tuple[str, str] | None:
    """Return who an event is about (``node 2`` or the pool's name) and what happened, in words.

    The message of an ``Error`` or a reason may hold several lines. None for what is not worth a line: a
    phase or a task that starts, a task that succeeded, a metric, and event types this version doesn't know.
    """
    if isinstance(event, Log):
        return event.instance.label, clean(event.line).rstrip()
    message = _message(event)
    if message is None:
        return None
    instance: Instance | None = getattr(event, "instance", None) or getattr(event, "new", None)
    node: int | None = getattr(event, "node", None)
    label = instance.label if instance else f"node {node}" if node is not None else clean(event.pool)
    return label, "\n".join(clean(line).rstrip() for line in message.splitlines())


def _message(event: Event) -> str | None:
    match event:
        case ClusterRequested():
            text = f"requested {count_text(event.spec.nodes.desired, 'node')} from {event.provider}"
            if event.spec.accelerator:
                text += f", {event.spec.accelerator.count:g} × {event.spec.accelerator.name} each"
        case ClusterProvisioned():
            text = f"{count_text(event.nodes, 'machine')} from {event.provider}"
        case ClusterReady():
            text = f"ready with {count_text(event.nodes, 'node')} in {duration_text(event.seconds)}"
        case ClusterDestroyed():
            text = "all machines released"
        case InstanceRequested():
            instead = f", instead of {event.replacing}" if event.replacing else ""
            text = f"requesting a machine from {event.provider}{instead}"
        case InstanceProvisioned():
            text = _machine_text(event.instance)
        case InstancePhase(state="done"):
            text = f"{event.phase} done in {duration_text(event.seconds)}"
        case InstancePhase(state="failed"):
            why = f": {event.detail}" if event.detail else ""
            text = f"{event.phase} failed after {duration_text(event.seconds)}{why}"
        case InstanceBootstrapped():
            text = f"ready in {duration_text(event.seconds)}"
        case InstancePreempted():
            text = f"lost: {event.reason}"
        case InstanceReplaced():
            text = f"{event.new.id} replaces {event.old_id}"
        case InstanceDestroyed():
            text = f"machine {event.instance.id} released"
        case WorkerDied():
            text = f"a worker died and is started again: {event.cause}"
        case ScalingChanged():
            text = f"scaling to {count_text(event.desired, 'node')}: {event.reason}"
        case TaskCompleted(success=False):
            text = f"{event.function_name} failed after {duration_text(event.duration)}: {event.error}"
        case Error():
            text = f"fatal: {event.message}" if event.fatal else f"error: {event.message}"
        case _:
            return None
    return text


def _machine_text(instance: Instance) -> str:
    place = f" in {instance.region}" if instance.region else ""
    price = f", {money_text(instance.usd_per_hour)}/h" if instance.usd_per_hour > 0 else ""
    return f"machine {instance.id}{place}{price}{' spot' if instance.spot else ''}"


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────────────

_STATUS_ORDER = (
    "lost", "ready", "starting", "bootstrapping", "connecting", "launching", "requested", "draining", "ended"
)  # fmt: skip


def nodes_text(nodes: Iterable[NodeSnapshot]) -> str:
    """Return ``3 ready, 1 bootstrapping``; nodes that ended are not counted."""
    seen = [node.status for node in nodes if node.status != "ended"]
    counts = [(seen.count(status), status) for status in _STATUS_ORDER if status in seen]
    return ", ".join(f"{n} {status}" for n, status in counts) or "no nodes"


def tasks_text(tasks: TaskCounts) -> str:
    """Return ``310 done, 8 running, 24 queued, 2 failed``; failures only when there are any."""
    failed = f", {tasks.failed} failed" if tasks.failed else ""
    return f"{tasks.done} done, {tasks.running} running, {tasks.queued} queued{failed}"


def progress_text(progress: Progress, now: float) -> str:
    """Return ``train 310/1000 (31 %), 12.3/s, 56 s left``, without what isn't known yet."""
    share = f" ({100 * progress.done // progress.total} %)" if progress.total else ""
    left = progress.seconds_left(now)
    pace = f", {rate_text(progress.rate(now))}, {duration_text(round(left))} left" if left is not None else ""
    return f"{clean(progress.name)} {progress.done}/{progress.total}{share}{pace}"


def heartbeat_text(snapshot: PoolSnapshot, now: float) -> str:
    """Return one line with the state of the nodes, the tasks and every ``map`` under way."""
    parts = [nodes_text(snapshot.nodes), "tasks " + tasks_text(snapshot.tasks)]
    parts += [progress_text(progress, now) for progress in snapshot.progress]
    return "; ".join(parts)


def summary_text(snapshot: PoolSnapshot, now: float) -> str:
    """Return the last line about a pool: tasks, failures, duration, and what it cost if it did."""
    failed = snapshot.tasks.failed
    ended = count_text(snapshot.tasks.done + failed, "task")
    text = f"{ended}, {failed} failed, {duration_text(now - snapshot.started)}"
    return f"{text}, {money_text(snapshot.cost_usd)}" if snapshot.cost_usd > 0 else text


class Metrics:
    """The last reading of every metric of every node, and their means over the nodes."""

    def __init__(self) -> None:
        self._last: dict[str, dict[tuple[int, str], float]] = {}

    def feed(self, metric: Metric) -> None:
        """Take a reading; the last of each node counts, or of each of its devices."""
        name, _, device = metric.name.partition(":")
        if not device.isdigit():  # such as a path
            name, device = metric.name, ""
        self._last.setdefault(name, {})[metric.instance.node, device] = metric.value

    def text(self) -> str:
        """Return ``cpu 43 %, gpu 88 %``; totals are left out because they don't change."""
        shown = [(name, nodes) for name, nodes in self._last.items() if not name.endswith("_total")]
        return ", ".join(_mean_text(name, nodes.values()) for name, nodes in shown[:8])


def _mean_text(name: str, values: Collection[float]) -> str:
    scale, unit = _UNITS.get(name.partition(":")[0], (1, ""))
    return f"{clean(name)} {sum(values) / len(values) / scale:.3g}{unit}"


# ── progress bars in remote output ───────────────────────────────────────────────────────────────────────


class Bars:
    """Holds back the lines that remote progress bars overwrite, one per node and stream.

    A bar that redraws itself fifty times a second on each of many nodes must not become fifty lines. Every
    ``Log`` goes through ``feed``; what it yields is to be shown. ``current`` is what a live display may draw.
    Times are seconds of any one clock.
    """

    def __init__(self) -> None:
        self._bars: dict[tuple[int, str], _Bar] = {}

    def feed(self, log: Log, now: float) -> Iterator[Log]:
        """Take a line; yield the ones to show because of it, which is none for a bar under way."""
        key = (log.instance.node, log.stream)
        blank = not log.line.strip()
        if log.overwrite:
            if blank:  # tqdm's leave=False wipes its bar like this
                self._bars.pop(key, None)
            elif bar := self._bars.get(key):
                bar.update(log, now)
            else:
                self._bars[key] = _Bar(log, now)
            return
        bar = self._bars.pop(key, None)
        # A lone newline commits the bar before it; any other line is the bar's last state, or replaces it.
        yield bar.log if bar and blank else log

    def due(self, now: float, every: float) -> Iterator[Log]:
        """Yield the state of each bar that moved and was last yielded, or began, ``every`` seconds ago."""
        for bar in self._bars.values():
            if bar.unseen and now - bar.shown >= every:
                bar.unseen, bar.shown = False, now
                yield bar.log

    def settle(self, now: float, quiet: float) -> Iterator[Log]:
        """Drop the bars that have not moved for ``quiet`` seconds and yield those not yet yielded."""
        for key in [key for key, bar in self._bars.items() if now - bar.moved >= quiet]:
            bar = self._bars.pop(key)
            if bar.unseen:
                yield bar.log

    def current(self) -> tuple[Log, ...]:
        """Return the last state of every bar under way, by node."""
        return tuple(self._bars[key].log for key in sorted(self._bars))


class _Bar:
    __slots__ = ("log", "moved", "shown", "unseen")

    def __init__(self, log: Log, now: float) -> None:
        self.shown = now
        self.update(log, now)

    def update(self, log: Log, now: float) -> None:
        self.log, self.moved, self.unseen = log, now, True
