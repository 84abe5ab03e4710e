"""Executors: how many tasks a node runs at once, in threads or in processes, and what happens when one dies.

A node has `concurrency` slots. Tasks that wait (for a network, a disk, a subprocess) do well in threads.
Tasks that compute in Python need processes, because the threads of one process take turns at it. Processes
also keep tasks apart: one that crashes takes no other with it.
"""

from __future__ import annotations

import os
import time

import skyward as sky


@sky.function
def fetch(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@sky.function
def process_id() -> int:
    time.sleep(0.2)  # long enough that no process gets two of them
    return os.getpid()


@sky.function
def crash() -> None:
    os.abort()  # what a bug in a C library looks like


@sky.function
def fine() -> str:
    return "fine"


# Four waits of half a second in four threads of one process: half a second in all.
with sky.Compute(nodes=1, worker=sky.Worker(concurrency=4, executor="thread")) as pool:
    started = time.monotonic()
    print(pool.map(fetch, [0.5] * 4), "at once:", time.monotonic() - started < 1.5)
    print("processes:", len(set(sky.gather(*[process_id()] * 4) >> pool)))

with sky.Compute(nodes=1, worker=sky.Worker(concurrency=2, executor="process")) as pool:
    print("processes:", len(set(sky.gather(*[process_id()] * 2) >> pool)))

    # A task that runs too long is ended, and its caller told. Without a limit of its own it has the pool's,
    # `default_compute_timeout`, which is five minutes.
    try:
        print(fetch(60.0).with_timeout(0.5) >> pool)
    except TimeoutError as error:
        print(type(error).__name__, "|", str(error).partition(";")[0])

    # A task that crashes its process is not run again: it would most likely crash again.
    try:
        print(crash() >> pool)
    except sky.TaskLostError as error:
        print(type(error).__name__, "|", error)

    # The node is none the worse for it.
    print(fine() >> pool)

# Prints:
#
#   [0.5, 0.5, 0.5, 0.5] at once: True
#   processes: 1
#   processes: 2
#   TaskTimeoutError | fetch() on node 0 ran longer than 0.5 s
#   TaskLostError | crash() on node 0 did not end: its worker process was killed by SIGABRT (abort)
#   fine
