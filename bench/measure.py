"""The process that is measured, in a system's environment: ``measure.py SYSTEM WORKLOAD full|quick ANSWER``.

The metrics go, as JSON, into the file ANSWER: systems print what they like on stdout.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from workloads import FULL, QUICK, WORKLOADS


def main() -> None:
    system, workload, size, answer = sys.argv[1:]
    adapter = importlib.import_module(f"systems.{system}").Adapter()
    metrics = WORKLOADS[workload](adapter, QUICK if size == "quick" else FULL)
    Path(answer).write_text(json.dumps(metrics), encoding="utf-8")


if __name__ == "__main__":  # workers that are spawned import this file
    main()
