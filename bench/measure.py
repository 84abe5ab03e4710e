"""The process that is measured: ``python measure.py SYSTEM WORKLOAD SIZES ANSWER``, run in a system's environment.

SIZES is JSON; the metrics go, as JSON, into the file ANSWER: systems print what they like on stdout.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from workloads import WORKLOADS, Sizes


def main() -> None:
    system, workload, sizes, answer = sys.argv[1:]
    adapter = importlib.import_module(f"systems.{system}").Adapter()
    metrics = WORKLOADS[workload](adapter, Sizes(**json.loads(sizes)))
    Path(answer).write_text(json.dumps(metrics), encoding="utf-8")


if __name__ == "__main__":  # workers that are spawned import this file
    main()
