"""Keeps a node that is only processes: run as ``python -I -S procinit.py``, a plan as JSON on stdin.

The last resort, where neither root nor user namespaces are to be had: sshd and what it starts, as the user
who runs the tests, on the host's own files and network. Orphans of the node become children of this process,
so what descends from it belongs to the node, whatever became of sshd; so does what carries the node's mark in
its environment, which is how a test's own commands are known. A line on stdin starts sshd. When stdin closes
or the owner dies, all of the node is killed. If this process itself is killed, sshd dies with it, and
sessions do when their connections end; what made itself independent of them stays.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILL_SECONDS = 5.0


def main() -> None:
    """Become the keeper."""
    plan = json.loads(sys.stdin.readline())
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    owner = os.pidfd_open(plan["owner"])
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    print(os.getpid(), flush=True)
    poll = select.poll()
    for fd in (owner, sys.stdin.fileno(), read):
        poll.register(fd, select.POLLIN | select.POLLHUP)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if read in ready:
            os.read(read, 512)
            bury()
        if sys.stdin.fileno() in ready:
            line = os.read(sys.stdin.fileno(), 512)
            if not line:
                break
            # In the foreground it stays a child, and in the same place of the tree when it is started again.
            subprocess.Popen(
                plan["sshd"], env=plan["environment"], cwd=plan["home"], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL)),
            )  # fmt: skip
        if owner in ready:
            break
    kill_all(plan["mark"])


def bury() -> None:
    """Let ended children go."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def kill_all(mark: str) -> None:
    """Kill the whole family, and what it starts meanwhile."""
    deadline = time.monotonic() + KILL_SECONDS
    while (members := family(os.getpid(), mark)) and time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):  # first all stand still, so that none has children
            for pid in members:
                try:
                    os.kill(pid, number)
                except (ProcessLookupError, PermissionError):
                    pass
        time.sleep(0.002)
        bury()


def family(keeper: int, mark: str) -> list[int]:
    """The processes of a node: who descends from its keeper, or has its mark in the environment."""
    return list(dict.fromkeys([*descendants(keeper), *marked(mark)]))


def marked(mark: str) -> list[int]:
    """The living processes of this user with a variable of this name."""
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if f"{mark}=".encode() in file.read():
                    found.append(int(name))
        except OSError:
            continue  # another's, or it ended while we looked
    return found


def descendants(ancestor: int) -> list[int]:
    """The living processes below a process."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        children.setdefault(int(parent), []).append(int(name) if state != b"Z" else -int(name))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        born = children.get(waiting.pop(), [])
        found += [pid for pid in born if pid > 0]
        waiting += [pid for pid in born if pid > 0]
    return found


if __name__ == "__main__":
    main()
