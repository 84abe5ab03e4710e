"""Starting, naming and ending processes, with nothing but system calls: the agent's start must be quick."""

from __future__ import annotations

import os
import signal

from skyward.link.agentconfig import MACHINE_MARK

class ChildProcess:
    """A child in a session of its own, so that it and all it starts can be ended together."""

    __slots__ = ("_open", "pid", "reaped", "stderr", "stdout")

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.reaped = False
        self._open = {stdout, stderr}

    @classmethod
    def spawn(cls, argv: list[str], env: dict[str, str]) -> ChildProcess:
        """Start ``argv`` with its output in two pipes, whose reading ends don't block."""
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        devnull = os.open(os.devnull, os.O_RDONLY)
        actions = [
            (os.POSIX_SPAWN_DUP2, devnull, 0),
            (os.POSIX_SPAWN_DUP2, out_write, 1),
            (os.POSIX_SPAWN_DUP2, err_write, 2),
        ]
        try:
            pid = os.posix_spawnp(
                argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=(signal.SIGPIPE,)
            )
        finally:
            for fd in (devnull, out_write, err_write):
                os.close(fd)
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        return cls(pid, out_read, err_read)

    def holds(self, fd: int) -> bool:
        return fd in self._open

    def forget(self, fd: int) -> None:
        self._open.discard(fd)


def end_group(pid: int, number: int) -> None:
    """Signal the process group that ``pid`` leads; one that is gone is fine."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def start_time(pid: int) -> str:
    """Return when the process started, as the kernel counts it: with the pid it names a process for all time."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        pass
    import subprocess

    listing = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout.strip().replace(" ", "_")


def process_identity(pid: int) -> str:
    """Return ``"<pid> <start time>"``."""
    return f"{pid} {start_time(pid)}"


def end_marked(root: str) -> None:
    """Kill what still runs for the machine in ``root``, wherever it hid, but this process. Needs ``/proc``."""
    mark = f"{MACHINE_MARK}={root}".encode()
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return
    for pid in pids:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in file.read().split(b"\0") and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
        except OSError:  # gone, or another user's
            continue
