"""The workloads: each takes a system, uses it as a user would, checks the values, and returns its metrics.

A workload runs in a process of its own, which is the client. It imports what it measures and numpy, nothing
else that costs. An empty answer means that the system does not offer this.
"""

from __future__ import annotations

import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tasks
from systems.protocol import Broadcasts, Listens, Streams, System, Task

WORKERS = 4
SLOTS = 8
NAP_SECONDS = 0.01

type Metrics = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each."""

    imports: int
    calls: int
    burst: int
    payload_bytes: int
    transfers: int
    naps: int
    items: int
    lines: int


FULL = Sizes(
    imports=15, calls=2_000, burst=10_000, payload_bytes=100_000_000, transfers=5,
    naps=2_000, items=50_000, lines=50_000,
)  # fmt: skip
QUICK = Sizes(
    imports=5, calls=300, burst=2_000, payload_bytes=100_000_000, transfers=2,
    naps=400, items=5_000, lines=10_000,
)  # fmt: skip
"""Only to see that everything works."""


@contextmanager
def running(system: System, workers: int, *, warm: bool = True) -> Generator[System, None, None]:
    """Start the system and end it. ``warm``: every worker has run something before the clock does."""
    system.start(workers)
    try:
        if warm:
            system.burst(tasks.nap, workers * 4)
            for _ in range(20):
                system.call(tasks.noop)
        yield system
    finally:
        system.stop()


def imports(system: System, sizes: Sizes) -> Metrics:
    """A fresh interpreter for each: seconds inside it, so that starting Python itself is not counted."""
    program = (
        "import time; a = time.perf_counter()\n"
        f"import {system.package} as package; b = time.perf_counter()\n"
        f"package.{system.entrance}; c = time.perf_counter()\n"
        "print(b - a, c - b)"
    )
    package: list[float] = []
    entrance: list[float] = []
    for _ in range(sizes.imports + 1):
        # -I: our own folders are not on its path.
        command = [sys.executable, "-I", "-c", program]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        first, second = map(float, run.stdout.split())
        package.append(first)
        entrance.append(second)
    # The first run may have compiled.
    return {
        "import_ms": statistics.median(package[1:]) * 1e3,
        "first_attribute_ms": statistics.median(entrance[1:]) * 1e3,
        "usable_ms": statistics.median(map(sum, zip(package[1:], entrance[1:], strict=True))) * 1e3,
    }


def start(system: System, sizes: Sizes) -> Metrics:
    """From nothing running, the package imported, to the first value."""
    begin = time.perf_counter()
    with running(system, WORKERS, warm=False):
        system.call(tasks.noop)
        return {"start_s": time.perf_counter() - begin}


def roundtrip(system: System, sizes: Sizes) -> Metrics:
    """One call after the other; the caller waits for each."""
    times: list[float] = []
    with running(system, WORKERS):
        for _ in range(sizes.calls):
            begin = time.perf_counter()
            system.call(tasks.noop)
            times.append(time.perf_counter() - begin)
    cuts = statistics.quantiles(times, n=100)
    return {"roundtrip_p50_ms": cuts[49] * 1e3, "roundtrip_p99_ms": cuts[98] * 1e3}


def throughput(system: System, sizes: Sizes) -> Metrics:
    """Many calls that do nothing, submitted at once."""
    with running(system, WORKERS):
        begin = time.perf_counter()
        values = system.burst(tasks.noop, sizes.burst)
        elapsed = time.perf_counter() - begin
    check(list(values) == [None] * sizes.burst)
    return {"tasks_per_s": sizes.burst / elapsed}


def array(system: System, sizes: Sizes) -> Metrics:
    """A large array there and back, every page of it read; another one each time: nothing is known yet."""
    return {"array_gb_per_s": _transfers(system, sizes, tasks.echo, lambda array: array)}


def array_new(system: System, sizes: Sizes) -> Metrics:
    """The same, but what comes back is an array that the worker made."""
    return {"array_new_gb_per_s": _transfers(system, sizes, tasks.negated, lambda array: -array)}


def _transfers(system: System, sizes: Sizes, task: Task, expected: Callable[[Any], Any]) -> float:
    """Return the gigabytes per second, counted both ways: the median of some transfers."""
    times: list[float] = []
    payload = random_array(sizes)
    with running(system, WORKERS):
        for _ in range(WORKERS * 4):  # importing numpy there is not what is measured
            system.call(task, payload[:1000])
        for number in range(sizes.transfers):
            payload[0] = payload[-1] = number
            begin = time.perf_counter()
            back = system.call(task, payload)
            total = tasks.touch(back)
            times.append(time.perf_counter() - begin)
            wanted = expected(payload)
            check(back.shape == wanted.shape and back[-1] == wanted[-1] and total == tasks.touch(wanted))
            del back, wanted
    return 2 * payload.nbytes / statistics.median(times) / 1e9


def memory(system: System, sizes: Sizes) -> Metrics:
    """What the client grows by at most while such an array goes, comes and is read, as a multiple of it."""
    payload = random_array(sizes)
    with running(system, WORKERS):
        system.call(tasks.echo, payload[:1000])
        before = resident_bytes(reset=True)
        back = system.call(tasks.echo, payload)
        total = tasks.touch(back)  # memory that is mapped counts from the first look at it
        peak = resident_bytes()
        check(back.shape == payload.shape and total == tasks.touch(payload))
    return {"array_client_peak": (peak - before) / payload.nbytes}


def naps(system: System, sizes: Sizes) -> Metrics:
    """Short tasks that only wait: how much of the slots' time is used."""
    with running(system, SLOTS):
        begin = time.perf_counter()
        system.burst(tasks.nap, sizes.naps)
        elapsed = time.perf_counter() - begin
    return {"naps_percent": 100 * sizes.naps * NAP_SECONDS / SLOTS / elapsed}


def stream(system: System, sizes: Sizes) -> Metrics:
    """Items of a remote generator, one number each."""
    if not isinstance(system, Streams):
        return {}
    with running(system, WORKERS):
        begin = time.perf_counter()
        total = sum(system.stream(tasks.count, sizes.items))
        elapsed = time.perf_counter() - begin
    check(total == sizes.items * (sizes.items - 1) // 2)
    return {"items_per_s": sizes.items / elapsed}


def lines(system: System, sizes: Sizes) -> Metrics:
    """Printed lines of all workers together, until the client has heard the last."""
    if not isinstance(system, Listens):
        return {}
    with running(system, WORKERS):
        elapsed = system.lines(tasks.chatter, sizes.lines // WORKERS)
    return {"lines_per_s": sizes.lines / elapsed}


def broadcast(system: System, sizes: Sizes) -> Metrics:
    """A large array to all workers, another one each time."""
    if not isinstance(system, Broadcasts):
        return {}
    times: list[float] = []
    payload = random_array(sizes)
    with running(system, WORKERS):
        system.broadcast(tasks.touch, payload[:1000])
        for number in range(sizes.transfers):
            payload[0] = payload[-1] = number
            begin = time.perf_counter()
            values = system.broadcast(tasks.touch, payload)
            times.append(time.perf_counter() - begin)
            check(list(values) == [tasks.touch(payload)] * WORKERS)
    return {"broadcast_s": statistics.median(times)}


def random_array(sizes: Sizes) -> Any:
    """Noise: compressing it gains nothing. Integers: their sum is exact, in whatever order numpy adds.

    It does that in another order where an array is not aligned, and some systems hand out such arrays.
    """
    limits = np.iinfo(np.int64)
    return np.random.default_rng(7).integers(limits.min, limits.max, sizes.payload_bytes // 8)


def resident_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has held at once; ``reset``: what it holds now, to count anew."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, and never reset
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
    check(kilobytes is not None)
    return int(kilobytes[1]) * 1024 if kilobytes else 0


def check(right: bool) -> None:
    """A wrong value is no measurement. Not an assert: those can be switched off."""
    if not right:
        raise RuntimeError("the system returned something else than the task did")


WORKLOADS: dict[str, Callable[[System, Sizes], Metrics]] = {
    workload.__name__: workload
    for workload in (
        imports, start, roundtrip, throughput, array, array_new, memory, naps, stream, lines, broadcast
    )
}  # fmt: skip
