"""Which process is meant: a pid alone may be somebody else's tomorrow, a pid with its start time is not.

A zombie counts as gone: it runs nothing, and only its parent can remove it. The start time is field 22 of
``/proc/<pid>/stat`` (clock ticks since boot); without ``/proc`` it is what ``ps -o lstart`` prints, in the C
locale, its words joined by ``_``. Whoever writes a pid file for us writes ``<pid> <start time>``.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Process:
    """One process for all time (on this computer, until it boots)."""

    pid: int
    start: str

    def __str__(self) -> str:
        return f"{self.pid} {self.start}"

    @classmethod
    def parse(cls, line: str) -> Process | None:
        """Read ``<pid> <start time>``; None for anything else."""
        pid, _, start = line.strip().partition(" ")
        if not pid.isascii() or not pid.isdigit() or not start or " " in start:
            return None
        return cls(int(pid), _joined(start.split("_")))

    @property
    def lives(self) -> bool:
        return start_time(self.pid) == self.start


def current() -> Process:
    """This process."""
    pid = os.getpid()
    return Process(pid, start_time(pid) or "unknown")


def start_time(pid: int) -> str | None:
    """When ``pid`` started, as a word to compare; None if no such process runs."""
    if not os.path.isdir("/proc/self"):
        return _start_time_by_ps(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field is the program's name in parentheses, and may hold both blanks and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _start_time_by_ps(pid: int) -> str | None:
    import subprocess

    command = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    answer = subprocess.run(
        command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    words = answer.stdout.split()
    return None if not words or words[0].startswith("Z") else _joined(words[1:])


def _joined(words: Iterable[str]) -> str:
    # However often a blank before a one-digit day was turned into an underscore.
    return "_".join(filter(None, words))


def pid_space() -> str:
    """What makes pids comparable: two containers may share a folder, but not the meaning of a pid."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False if it is gone or must be spared (see ``_is_spared``)."""
    if _is_spared(process):
        return False
    if sys.platform == "linux":
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            # Gone, or a sandbox without pidfd: the check below settles which.
            return _send_by_pid(process, number)
        try:
            # The handle keeps meaning the process it was opened for, so checking after opening is no race.
            if not process.lives:
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
    return _send_by_pid(process, number)


def _is_spared(process: Process) -> bool:
    """Pid files lie where tasks can write: they must not talk us into ending init or ourselves."""
    return process.pid <= 1 or process.pid == os.getpid()


def _send_by_pid(process: Process, number: signal.Signals) -> bool:
    if not process.lives:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def kill(process: Process) -> bool:
    """End a process at once, and with it the group that it leads; False if it is gone or must be spared."""
    if _is_spared(process) or not process.lives:
        return False
    try:
        # Not our own group: an agent started without a session of its own leads none.
        if os.getpgid(process.pid) == process.pid != os.getpgrp():
            os.killpg(process.pid, signal.SIGKILL)
            return True
    except ProcessLookupError:
        return False
    return send(process, signal.SIGKILL)
