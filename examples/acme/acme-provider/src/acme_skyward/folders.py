"""Acme's "API": folders as machines, and the processes in them.

A machine's folder appears whole, by a rename. ``acme.json`` in it says whose it is; ``agent.pid`` holds
``<pid> <start time>`` of Skyward's agent once it runs there, ``pids`` the same of what the agent started, one
a line. A pid alone may be somebody else's tomorrow; with its start time it is not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile

type Record = dict[str, str | float]


def default_home() -> str:
    return os.path.join(tempfile.gettempdir(), f"acme-{os.getuid()}")


def open_home(home: str) -> None:
    """Make the home if it is missing; refuse one that others could reach into."""
    os.makedirs(home, mode=0o700, exist_ok=True)
    info = os.lstat(home)
    if not os.path.isdir(home) or os.path.islink(home) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{home} must be a folder of yours with mode 0700")


def machine_name(claim: str) -> str:
    # Short, because unix sockets live below it and their paths may have 100 bytes or so.
    return base64.b32encode(hashlib.blake2b(claim.encode(), digest_size=5).digest()).decode().lower()


def create(home: str, name: str, record: Record) -> None:
    draft = os.path.join(home, f".new-{secrets.token_hex(4)}")
    os.mkdir(draft, 0o700)
    with open(os.path.join(draft, "acme.json"), "x", encoding="utf-8") as file:
        json.dump(record, file)
    os.rename(draft, os.path.join(home, name))


def read(home: str, name: str) -> Record | None:
    """What is written about a machine, or None if there is none of that name. Names come from callers."""
    if not name.isalnum():
        return None
    try:
        with open(os.path.join(home, name, "acme.json"), encoding="utf-8") as file:
            found: Record = json.load(file)
            return found
    except FileNotFoundError:
        return None


def list_machines(home: str) -> dict[str, Record]:
    names = os.listdir(home) if os.path.isdir(home) else []
    return {name: record for name in sorted(names) if (record := read(home, name)) is not None}


def agent_has_run(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, "agent.pid"))


def agent_runs(folder: str) -> bool:
    return bool(_running(folder, "agent.pid"))


def ask_to_stop(folder: str) -> bool:
    """Ask the agent to end itself and what it started; False if none runs."""
    agents = _running(folder, "agent.pid")
    for pid in agents:
        _signal(pid, signal.SIGTERM)
    return bool(agents)


def kill(folder: str) -> None:
    for pid in _running(folder, "agent.pid") + _running(folder, "pids"):
        _signal(pid, signal.SIGKILL)


def remove(folder: str) -> None:
    """Take the machine off the list at once, then remove it."""
    trash = os.path.join(os.path.dirname(folder), f".old-{secrets.token_hex(4)}")
    try:
        os.rename(folder, trash)
    except FileNotFoundError:
        return  # somebody else ended it
    shutil.rmtree(trash, ignore_errors=True)


def start_time(pid: int) -> str | None:
    """When ``pid`` started, as one word; None if it does not run. A zombie does not."""
    if os.path.isdir("/proc/self"):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name in parentheses may hold anything, so count from the last one.
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    plain = {**os.environ, "LC_ALL": "C"}
    answer = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    return "_".join(answer.stdout.split()) or None


def _running(folder: str, file_name: str) -> list[int]:
    """The processes in a pid file that still run as themselves."""
    try:
        with open(os.path.join(folder, file_name), encoding="utf-8") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    pairs = [(int(words[0]), words[1]) for words in lines if len(words) == 2 and words[0].isdigit()]
    return [pid for pid, start in pairs if pid > 1 and start_time(pid) == start]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
