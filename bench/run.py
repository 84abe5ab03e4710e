"""Measure Skyward and its peers side by side: ``uv run bench/run.py [--only A,B] [--work X,Y] [--quick]``.

Every measurement is one process, one at a time. Rounds are interleaved (all systems, then all again) and each
number is the median over the rounds, so a machine that slows down slows everybody. What fails is told, and
left out. A whole run is kept as ``results/<date>.json``; any other only as ``results/last.tmp``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report
from environments import BENCH, BY_REQUEST, PEERS, ROOT, Unavailable, prepare, versions

RESULTS = BENCH / "results"
SYSTEMS = (report.OURS, *PEERS)
WORKLOADS = (
    "imports", "start", "roundtrip", "throughput", "array", "array_new", "memory", "naps", "stream",
    "lines", "broadcast",
)  # fmt: skip
"""In the order of a round. ``workloads.py`` has them too, but needs numpy, which a driver does not."""
ROUNDS = 3
PATIENCE = 300.0
"""Seconds after which a measurement has failed: four times what the slowest takes."""
SETTLE = 0.3
"""Seconds between two measurements, in which the last one's processes finish dying."""

type Samples = dict[str, dict[str, list[float]]]


def main() -> int:
    options = arguments()
    pythons = environments(options.only)
    samples, failures = measure(pythons, options)
    medians = {
        system: {metric: statistics.median(values) for metric, values in metrics.items()}
        for system, metrics in samples.items()
    }
    record = {
        "date": datetime.date.today().isoformat(),
        "quick": options.quick,
        "rounds": options.rounds,
        "machine": machine(),
        "revision": revision(),
        "versions": {system: versions(system, python) for system, python in pythons.items()},
        "medians": medians,
        "samples": samples,
        "failures": failures,
        "verdicts": {name: dataclasses.asdict(verdict) for name, verdict in report.verdicts(medians).items()},
    }
    path = keep(record, whole=options.whole)
    print(f"\n{report.table(medians)}\n\n{path.relative_to(ROOT)}")
    return 1 if report.OURS in failures else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Skyward and its peers side by side.")
    parser.add_argument("--only", help=f"systems, of {', '.join(SYSTEMS)}", metavar="A,B")
    parser.add_argument("--work", help=f"workloads, of {', '.join(WORKLOADS)}", metavar="X,Y")
    parser.add_argument("--quick", action="store_true", help="one small round: does everything work?")
    parser.add_argument("--rounds", type=int, help=f"how many; {ROUNDS} if not said")
    options = parser.parse_args()
    options.whole = not (options.only or options.work or options.quick)
    default = [system for system in SYSTEMS if system not in BY_REQUEST]
    options.only = chosen(parser, options.only, SYSTEMS) or default
    options.work = chosen(parser, options.work, WORKLOADS) or list(WORKLOADS)
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    return options


def chosen(parser: argparse.ArgumentParser, text: str | None, of: tuple[str, ...]) -> list[str]:
    """The names in a comma-separated option."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in of:
            parser.error(f"{name!r} is none of {', '.join(of)}")
    return names


def environments(systems: list[str]) -> dict[str, Path]:
    """The Python of each system that can be installed here."""
    found: dict[str, Path] = {}
    for system in systems:
        tell(f"environment of {system}")
        try:
            found[system] = prepare(system)
        except Unavailable as error:
            tell(f"{system} is left out: {error}\n")
    return found


def measure(pythons: dict[str, Path], options: argparse.Namespace) -> tuple[Samples, dict[str, list[str]]]:
    """All rounds. Returns the samples, and by system the workloads that failed."""
    samples: Samples = {system: {} for system in pythons}
    failures: dict[str, list[str]] = {}
    for number in range(1, options.rounds + 1):
        for workload in options.work:
            for system, python in pythons.items():
                if workload in failures.get(system, ()):
                    continue
                tell(f"round {number} of {options.rounds}: {workload}, {system}")
                try:
                    metrics = one(python, system, workload, quick=options.quick)
                except Unavailable as error:
                    failures.setdefault(system, []).append(workload)
                    tell(f"{workload} failed on {system}: {error}\n")
                    continue
                for metric, value in metrics.items():
                    samples[system].setdefault(metric, []).append(value)
                time.sleep(SETTLE)
    tell("")
    return samples, failures


def one(python: Path, system: str, workload: str, *, quick: bool) -> dict[str, float]:
    """One measurement in a process of its own. Raises Unavailable if it fails."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        answer, printed = Path(folder) / "answer.json", Path(folder) / "printed.txt"
        size = "quick" if quick else "full"
        command = [str(python), str(BENCH / "measure.py"), system, workload, size, str(answer)]
        with printed.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=surroundings(python), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it left behind must not disturb the next
                process.wait()
        if code is None:
            raise Unavailable(f"it did not end within {PATIENCE:g} s")
        if code or not answer.exists():
            lines = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise Unavailable(lines[-1] if lines else f"it ended with {code}")
        metrics: dict[str, float] = json.loads(answer.read_text(encoding="utf-8"))
        return metrics


def surroundings(python: Path) -> dict[str, str]:
    """The environment variables of a measurement: the user's, without what `uv run` added, activated."""
    added = ("UV", "VIRTUAL_ENV", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(added)} | {
        "PATH": os.pathsep.join((str(python.parent), os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": str(BENCH),  # workers of every system find `tasks`
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # or Ray rebuilds its workers' environment from ours
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def machine() -> dict[str, Any]:
    """What a reader needs to judge the numbers, and nothing that tells whose machine it is."""
    load = os.getloadavg()[1]
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_of_5_minutes": round(load, 1),
    }


def revision() -> str:
    """The commit that was measured, with a + if files were changed since."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def keep(record: dict[str, Any], *, whole: bool) -> Path:
    """Write the record down. Only a whole run is worth a name in the history."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (f"{record['date']}.json" if whole else "last.tmp")
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path


def tell(line: str) -> None:
    """Say where we are, on stderr: in place on a terminal, on a line of its own elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line.rstrip(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
