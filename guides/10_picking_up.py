"""A pool outlives its script: when that is killed, another picks it up, with its tasks and their results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import skyward as sky


@sky.function
def train(fold: int) -> tuple[int, float]:
    time.sleep(fold)
    return fold, 0.9 + fold / 100


def script() -> None:
    """What you had started: it is killed in the middle, as by a laptop whose battery is empty."""
    with sky.Compute(nodes=4, console=False, ttl=120) as pool:
        print(pool.name, flush=True)
        futures = [train(fold) > pool for fold in range(4)]
        futures[0].result()
        os.kill(os.getpid(), signal.SIGKILL)


def another(name: str) -> None:
    """What you start then. The machines live for ``ttl`` seconds after the first, and work on meanwhile."""
    with sky.Compute.attach(name) as pool:
        for future in pool.inherited():
            print(future.name, future.result())
        print(train(0) >> pool)  # a pool like any other, torn down at the end of the block


if __name__ == "__main__":
    if sys.argv[1:] == ["first"]:
        script()
    else:
        first = subprocess.run(
            [sys.executable, __file__, "first"], stdout=subprocess.PIPE, text=True, check=False
        )
        another(first.stdout.strip())

# Prints:
#
#   train (0, 0.9)
#   train (1, 0.91)
#   train (2, 0.92)
#   train (3, 0.93)
#   (0, 0.9)
