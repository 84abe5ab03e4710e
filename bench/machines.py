"""Measure pools over SSH: ``uv run bench/machines.py [--work X,Y]``. Linux, as root, an SSH server installed.

The machines are nodes of ``skyward_testing.testbed``: real OpenSSH servers with an address and files of their
own, on this computer. Each measurement is a process of its own, one at a time; what a bare SSH client does in
the same run stands beside it, and execnet where it has the like. A whole run is kept as
``results/<date>-ssh.json``, any other only as ``results/last.tmp``; ``machines.toml`` says what we want.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path.insert(0, str(BENCH))

import report  # noqa: E402
from run import machine, revision  # noqa: E402

WORK = BENCH / "machines_work.py"
PATIENCE = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure pools over SSH.")
    parser.add_argument("--work", help=f"of {', '.join(WORKLOADS)}", metavar="X,Y")
    wanted = parser.parse_args().work
    chosen = wanted.split(",") if wanted else list(WORKLOADS)
    from skyward_testing.testbed import Testbed, lab

    lab.enter()
    medians: dict[str, dict[str, float]] = {}
    try:
        for name in chosen:
            with tempfile.TemporaryDirectory(prefix="sky-bench-") as folder:
                testbed = Testbed(Path(folder))
                try:
                    for system, metrics in WORKLOADS[name](testbed).items():
                        medians.setdefault(system, {}).update(metrics)
                        print(name, system, metrics, file=sys.stderr)
                finally:
                    testbed.close()
    finally:
        lab.leave()
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "revision": revision(),
        "medians": medians,
        "verdicts": {
            name: dataclasses.asdict(verdict)
            for name, verdict in report.verdicts(medians, "machines.toml").items()
        },
    }
    path = BENCH / "results" / (f"{record['date']}-ssh.json" if not wanted else "last.tmp")
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{report.table(medians, 'machines.toml')}\n\n{path.relative_to(BENCH.parent)}")
    return 0


def measured(name: str, nodes: list[Any], home: Path, *more: str) -> dict[str, float]:
    """Run one measurement in a process of its own; return its metrics."""
    hosts = [[node.url, os.fspath(node.key), node.host_key] for node in nodes]
    environment = {**os.environ, "HOME": os.fspath(home), "XDG_STATE_HOME": os.fspath(home / "state")}
    environment.pop("SSH_AUTH_SOCK", None)
    words = [sys.executable, str(WORK), name, json.dumps(hosts), *more]
    done = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def median(name: str, nodes: list[Any], home: Path) -> float:
    """Measure seconds several times."""
    return statistics.median(measured(name, nodes, home)["seconds"] for _ in range(5))


def start(testbed: Any) -> dict[str, dict[str, float]]:
    """From machines that SSH reaches to the first value: warm, cold, bare; eight of them against one."""
    found: dict[str, float] = {}
    one = testbed.nodes(1)
    found["start_cold_s"] = measured("start", one, testbed.home)["seconds"]
    found["start_warm_s"] = median("start", one, testbed.home)
    bare = testbed.nodes(1, python=False, uv=False)
    found["start_bare_s"] = measured("start", bare, testbed.home)["seconds"]
    eight = testbed.nodes(8)
    measured("start", eight, testbed.home)
    found["start_8_over_1"] = median("start", eight, testbed.home) / found["start_warm_s"]
    return {"skyward": found}


def calls(testbed: Any) -> dict[str, dict[str, float]]:
    """No-ops one after the other, and many at once over four machines; then far away."""
    nodes = testbed.nodes(4)
    ours = measured("roundtrip", nodes[:1], testbed.home) | measured("throughput", nodes, testbed.home)
    theirs: dict[str, float] = {}
    if importlib.util.find_spec("execnet"):
        theirs = measured("execnet_roundtrip", nodes[:1], testbed.home)
        theirs |= measured("execnet_throughput", nodes, testbed.home)
    nodes[0].link(delay_ms=100)
    ours["far_over_rtt_ms"] = measured("far", nodes[:1], testbed.home)["p50_ms"] - 200
    return {"skyward": ours, "execnet": theirs}


def values(testbed: Any) -> dict[str, dict[str, float]]:
    """An argument of 100 MB, against what one channel of an SSH client moves; the client's memory at 1 GB."""
    nodes = testbed.nodes(1)
    raw = measured("raw_upload", nodes, testbed.home)
    ours = measured("upload", nodes, testbed.home) | measured("memory", nodes, testbed.home)
    ours["upload_of_raw_percent"] = 100 * ours["upload_mb_s"] / raw["upload_mb_s"]
    return {"skyward": ours, "raw": raw}


def many(testbed: Any) -> dict[str, dict[str, float]]:
    """64 machines: start, a broadcast, and the client's memory, with the usual number of open files."""
    nodes = testbed.nodes(64)
    measured("many", nodes, testbed.home)  # environments are built
    begun = time.monotonic()
    found = measured("many", nodes, testbed.home)
    found["many_whole_s"] = time.monotonic() - begun
    return {"skyward": found}


WORKLOADS: dict[str, Callable[[Any], dict[str, dict[str, float]]]] = {
    "start": start,
    "calls": calls,
    "values": values,
    "many": many,
}

if __name__ == "__main__":
    sys.exit(main())
