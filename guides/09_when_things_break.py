"""When things break: what you see, and what is still usable. It is the same on machines far away."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import skyward as sky


class Overdrawn(Exception):
    pass


@sky.function
def pay(amount: int) -> int:
    if amount > 100:
        raise Overdrawn(f"{amount} is more than there is")
    return 100 - amount


@sky.function
def leave() -> None:
    os._exit(3)


@sky.function
def pull_the_plug(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getppid(), signal.SIGKILL)  # the agent that holds this node: without it, the node is lost
        time.sleep(60)
    return "done on another try"


sleep = sky.function(time.sleep)  # it takes functions that you didn't write, too

with sky.Compute(nodes=1) as pool:
    # Your function's exception is yours: its own type, the remote traceback, and a note of where it was.
    try:
        print(pay(500) >> pool)
    except Overdrawn as error:
        print(error, error.__notes__)

    # What takes too long is ended. The node goes on.
    try:
        print(sleep(60).with_timeout(0.5) >> pool)
    except sky.TaskTimeoutError as error:
        print(type(error).__name__)

    # What ends its process is lost with it, and not tried again. There is a new process for the next call.
    try:
        print(leave() >> pool)
    except sky.TaskLostError as error:
        print(error)
    print(pay(1) >> pool)

    # A lost node is nobody's fault: its task runs on another, or on the machine that takes its place.
    with tempfile.TemporaryDirectory() as folder:
        print(pull_the_plug(Path(folder, "mark")) >> pool)

# A mistake in the set-up ends the pool before the block begins; where, at which command, and what it printed.
try:
    with sky.Compute(nodes=1, image=sky.Image(shell_vars={"TOKEN": "echo no token; exit 1"})):
        print("never")
except sky.BootstrapError as error:
    print(error)

# Prints:
#
#   500 is more than there is ['raised by pay() on node 0']
#   TaskTimeoutError
#   leave() on node 0 did not end: its worker process exited with status 3
#   99
#   done on another try
#   node 0, phase shell_vars: `echo no token; exit 1` ended with status 1: no token
