"""What the kernel says about this machine, or about the part of it that is ours, as numbers.

A *meter* reads one value without starting a process: ``meter(kind, target)`` makes it. Where a control group
(version 1 or 2) allows us less than the machine has, as in a container, that is what the numbers are about.
What can't be read here, such as most of it on macOS, is None.

Units as in ``skyward.metrics``. Nothing here blocks. Imported by ``skyward.node.gauges``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

type Meter = Callable[[], float | None]

MIB = 1 << 20
_NOWHERE = "0" * 32  # the destination of an IPv6 default route


def meter(kind: str, target: str = "", proc: str = "/proc") -> Meter | None:
    """Return what reads ``kind``, or None if that is not for a meter. A rate begins now."""
    match kind:
        case "cpu":
            return _CPU(proc).read
        case "memory" | "memory_used" | "memory_total":
            ours = Memory(proc)
            if kind == "memory":
                return lambda: _percent(*ours.read())
            return (lambda: ours.read()[0] / MIB) if kind == "memory_used" else (lambda: ours.total() / MIB)
        case "network_rx":
            return _Network(target, 0, proc).read
        case "network_tx":
            return _Network(target, 8, proc).read
        case _:
            return None


def measured(read: Meter) -> float | None:
    """Take a reading; what this kernel doesn't tell, or tells otherwise than we know, is None."""
    try:
        return read()
    except (OSError, ValueError, IndexError, KeyError):
        return None


def _text(*path: str) -> str:
    with open(os.path.join(*path), encoding="utf-8", errors="replace") as file:
        return file.read()


def _number(*path: str) -> int | None:
    """Return the one number that a file holds; None if there is none, which means no limit."""
    try:
        return int(_text(*path))
    except (OSError, ValueError):
        return None


def _fields(text: str) -> dict[str, int]:
    """Read lines of a name, perhaps a colon, and a number."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) > 1}


def _percent(part: float, whole: float) -> float | None:
    return min(max(100 * part / whole, 0.0), 100.0) if whole > 0 else None


# ── control groups ───────────────────────────────────────────────────────────────────────────────────────


def groups(controller: str, proc: str = "/proc") -> tuple[int, list[str]]:
    """Return the version of the hierarchy that ``controller`` is in, and the folders of our group and of
    those around it, the innermost first.
    """
    own: dict[str, str] = {}
    if not os.path.exists(os.path.join(proc, "self/cgroup")):
        return 2, []
    for line in _text(proc, "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    version = 1 if controller in own else 2
    path = own.get(controller if version == 1 else "", "/")
    for line in _text(proc, "self/mountinfo").splitlines():
        place, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind != ("cgroup" if version == 1 else "cgroup2"):
            continue
        if version == 1 and controller not in options.split(","):
            continue
        root, mount = place.split()[3:5]
        # In a container, what is mounted may be our group itself, and its path be told from outside.
        above = root.rstrip("/")
        inside = path.removeprefix(above) if f"{path}/".startswith(f"{above}/") else ""
        parts = [part for part in inside.split("/") if part not in ("", "..")]
        return version, ["/".join([mount, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return version, []


class Memory:
    """The memory that is ours: the machine's, or what a control group leaves of it. In bytes."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        version, self._folders = groups("memory", proc)
        self._names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            self._names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")

    def read(self) -> tuple[int, int]:
        """Return how much is in use, and how much there is. What the kernel can give up is not in use."""
        machine = _fields(_text(self._proc, "meminfo"))
        used, total = (machine["MemTotal"] - machine["MemAvailable"]) * 1024, machine["MemTotal"] * 1024
        limit_file, usage_file, unused = self._names
        for folder in self._folders:
            limit, usage = _number(folder, limit_file), _number(folder, usage_file)
            if limit is not None and usage is not None and limit < total:
                used = max(usage - _fields(_text(folder, "memory.stat")).get(unused, 0), 0)
                total = limit
        return used, total

    def total(self) -> int:
        """Return how much there is: also where there is no ``/proc``."""
        if os.path.exists(self._proc):
            return self.read()[1]
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cpu_quota(proc: str = "/proc") -> tuple[float, Callable[[], float]] | None:
    """Return the cores that our control group may use, and what reads the seconds of CPU it has used."""
    version, folders = groups("cpu", proc)
    found: tuple[float, Callable[[], float]] | None = None
    for folder in folders:
        cores = _cores(folder, version)
        if cores is None or (found is not None and cores >= found[0]):
            continue
        if version == 2:
            found = cores, lambda path=folder: _fields(_text(path, "cpu.stat"))["usage_usec"] / 1e6
            continue
        accounts = groups("cpuacct", proc)[1]
        # The two are hierarchies of their own, in which we need not be at the same place.
        same = folder.removeprefix(folders[-1])
        if accounts and same == accounts[0].removeprefix(accounts[-1]):
            found = cores, lambda path=accounts[0]: int(_text(path, "cpuacct.usage")) / 1e9
    return found


def _cores(folder: str, version: int) -> float | None:
    if version == 1:
        quota, period = _number(folder, "cpu.cfs_quota_us"), _number(folder, "cpu.cfs_period_us")
    else:
        try:
            first, _, second = _text(folder, "cpu.max").partition(" ")
            quota, period = (None, None) if first == "max" else (int(first), int(second))
        except (OSError, ValueError):
            return None
    return quota / period if quota and period and quota > 0 else None


# ── rates ────────────────────────────────────────────────────────────────────────────────────────────────


class _CPU:
    """The share of the CPU time we may use that was used since the last reading, percent."""

    def __init__(self, proc: str) -> None:
        self._proc = proc
        self._cores: frozenset[str] = frozenset()
        self._quota: tuple[float, Callable[[], float]] | None = None
        self._before: tuple[float, float] | None = None
        allowed = os.cpu_count() or 1
        if hasattr(os, "sched_getaffinity"):
            mine = os.sched_getaffinity(0)
            if len(mine) < allowed:
                allowed, self._cores = len(mine), frozenset(f"cpu{number}" for number in mine)
        try:
            quota = cpu_quota(proc)
            self._quota = quota if quota is not None and quota[0] < allowed else None
            self._before = self._times()
        except (OSError, ValueError, IndexError, KeyError):
            pass

    def read(self) -> float | None:
        now, before = self._times(), self._before
        self._before = now
        return None if before is None else _percent(now[0] - before[0], now[1] - before[1])

    def _times(self) -> tuple[float, float]:
        """Return what was used and what there was, ever, in one unit or another."""
        if self._quota is not None:
            cores, used = self._quota
            return used(), time.monotonic() * cores
        busy = all_of_it = 0
        for line in _text(self._proc, "stat").splitlines():
            name, *rest = line.split()
            if not name.startswith("cpu"):
                break
            if (name in self._cores) if self._cores else name == "cpu":
                times = [int(part) for part in rest[:8]]  # what guests use is in the first two already
                all_of_it += sum(times)
                busy += sum(times) - times[3] - times[4]  # idle, and idle while a disk works
        return busy, all_of_it


class _Network:
    """Bytes a second through one interface since the last reading."""

    def __init__(self, interface: str, column: int, proc: str) -> None:
        self._interface = interface
        self._column = column
        self._proc = proc
        self._before: tuple[str, int, float] | None = None
        measured(self.read)

    def read(self) -> float | None:
        before, self._before = self._before, None
        interface = self._interface or default_interface(self._proc)
        for line in _text(self._proc, "net/dev").splitlines()[2:]:
            name, _, counts = line.partition(":")
            if name.strip() == interface:
                count, now = int(counts.split()[self._column]), time.monotonic()
                self._before = interface, count, now
                # An interface that went away and came again counts from nothing.
                if before is None or before[0] != interface or count < before[1] or now <= before[2]:
                    return None
                return (count - before[1]) / (now - before[2])
        return None


def default_interface(proc: str = "/proc") -> str:
    """Return the interface of the default route, '' if there is none."""
    routes = [line.split() for line in _text(proc, "net/route").splitlines()[1:]]
    leading_out = [route for route in routes if route[1] == route[7] == "0" * 8]
    if leading_out:
        return min(leading_out, key=lambda route: int(route[6]))[0]
    try:
        routes = [line.split() for line in _text(proc, "net/ipv6_route").splitlines()]
    except OSError:
        return ""
    return next((r[9] for r in routes if r[0] == _NOWHERE and r[1] == "00" and r[9] != "lo"), "")
