"""Counts what a test may leave behind: processes, threads, sockets and files of ours.

A process is the test's if it carries the test's mark in its environment, or descends from this process; so
one that was orphaned on purpose is found too. Threads count when their name says ``skyward``. Where there is
no ``/proc``, descendants come from ``ps`` and sockets are not counted. Used by the fixture ``no_leftovers``.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass

MARK = "SKYWARD_TEST_MARK"
POLL_SECONDS = 0.02

_HAS_PROC = os.path.isdir("/proc/self/fd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What is there at one moment, each thing with words that help to find where it came from."""

    processes: dict[str, str]
    threads: dict[str, str]
    sockets: dict[str, str]
    files: dict[str, str]

    def since(self, earlier: Census) -> list[str]:
        """What is here and was not in ``earlier``, as lines."""
        pairs = (
            ("process", self.processes, earlier.processes),
            ("thread", self.threads, earlier.threads),
            ("socket", self.sockets, earlier.sockets),
            ("file", self.files, earlier.files),
        )
        return [f"{kind} {now[key]}" for kind, now, then in pairs for key in now if key not in then]


def take(mark: str, folder: str) -> Census:
    """Count now. ``mark``: the value of ``MARK`` in the test's environment; ``folder``: of its files."""
    return Census(
        processes=_processes(mark),
        threads={
            str(thread.ident): thread.name
            for thread in threading.enumerate()
            if "skyward" in thread.name.lower()
        },
        sockets=_sockets(),
        files=_files(folder),
    )


def wait_for_none(before: Census, mark: str, folder: str, seconds: float) -> list[str]:
    """What is left over ``seconds`` from now at the latest; [] as soon as nothing is."""
    deadline = time.monotonic() + seconds
    while (left := take(mark, folder).since(before)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


def _processes(mark: str) -> dict[str, str]:
    table = _proc_table() if _HAS_PROC else _ps_table()
    mine, grown = {os.getpid()}, True
    while grown:
        more = {pid for pid, (parent, _, _) in table.items() if parent in mine} - mine
        mine |= more
        grown = bool(more)
    found: dict[str, str] = {}
    for pid, (_, start, command) in table.items():
        if pid != os.getpid() and (pid in mine or (mark and _carries(pid, mark))):
            found[f"{pid} {start}"] = f"{pid}: {command}"
    return found


def _proc_table() -> dict[int, tuple[int, str, str]]:
    """Parent, start time and command line of every process that is no zombie."""
    table: dict[int, tuple[int, str, str]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent, *fields = file.read().rpartition(b")")[2].split()
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended while we looked
        if state not in (b"Z", b"X"):
            table[int(name)] = (int(parent), fields[17].decode(), command)
    return table


def _ps_table() -> dict[int, tuple[int, str, str]]:
    table: dict[int, tuple[int, str, str]] = {}
    with subprocess.Popen(
        ["ps", "-Ao", "pid=,ppid=,state=,lstart=,command="],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    ) as listing:
        output = listing.communicate()[0]
    for line in output.splitlines():
        pid, parent, state, *rest = line.split(None, 8)
        if not state.startswith("Z") and int(pid) != listing.pid:
            table[int(pid)] = (int(parent), " ".join(rest[:5]), rest[-1])
    return table


def _carries(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={mark}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def _sockets() -> dict[str, str]:
    found: dict[str, str] = {}
    if not _HAS_PROC:
        return found
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found[target] = f"{target} (file descriptor {name})"
    return found


def _files(folder: str) -> dict[str, str]:
    """All below ``folder`` but empty folders: a user's base folder may stay, a machine in it may not.

    And but what is written down of a pool: a client that is killed leaves that for the next.
    """
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        if place.endswith("/skyward/pools"):
            continue
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*files, *links):
            path = os.path.join(place, name)
            found[path] = path
    return found
