"""Starting, naming and ending processes, with nothing but system calls: the agent's start must be quick."""

from __future__ import annotations

import os
import signal
from collections import deque

from skyward.link.agentconfig import MACHINE_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


TAIL_LINES = 40
"""Lines kept of what a process prints before it is ready: they tell why it never was."""


class Child:
    """A worker: a child in a session of its own, so that it and all it starts can be ended together.

    ``generation`` counts the processes that had its index. ``outputs``: its pipes that are open, by
    descriptor. ``why``: our own reason, should we end it. ``connection``: whatever the agent reads its words
    from.
    """

    def __init__(self, pid: int, stdout: int, stderr: int, index: int, generation: int) -> None:
        self.pid = pid
        self.index = index
        self.generation = generation
        self.outputs = {stdout: "stdout", stderr: "stderr"}
        self.reaped = False
        self.ready = False
        self.why = ""
        self.connection: Any = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.identity = process_identity(pid)
        self._partial = {stdout: b"", stderr: b""}

    @classmethod
    def spawn(cls, argv: list[str], env: dict[str, str], index: int, generation: int) -> Child:
        """Start ``argv`` with its output in two pipes, whose reading ends don't block. Raises OSError."""
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
                argv[0],
                argv,
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE,),
            )
        except OSError:
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            for fd in (devnull, out_write, err_write):
                os.close(fd)
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        return cls(pid, out_read, err_read, index, generation)

    def read(self, fd: int) -> tuple[str, list[str], bool]:
        """Return the stream, its new lines, and whether it is over: then the caller closes ``fd``.

        It is over with the process, even if a grandchild holds the pipe open.
        """
        stream, data, is_over = self.outputs[fd], b"", False
        try:
            while more := os.read(fd, 1 << 16):
                data += more
                if not self.reaped:
                    break
            else:
                is_over = True
        except BlockingIOError:
            is_over = self.reaped
        if is_over:
            del self.outputs[fd]
        text = self._partial[fd] + data
        if is_over and text and not text.endswith(b"\n"):
            text += b"\n"
        *lines, self._partial[fd] = text.split(b"\n")
        decoded = [line.decode(errors="replace") for line in lines]
        if not self.ready:
            self.tail += decoded
        return stream, decoded, is_over


def is_over(pid: int) -> bool:
    """Whether a child has ended; takes its status."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def end_group(pid: int, number: int) -> None:
    """Signal the process group that ``pid`` leads; one that is gone is fine."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def start_time(pid: int) -> str:
    """Return when the process started, as the kernel counts it: with the pid it names a process for all
    time.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        pass
    import subprocess

    listing = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip().replace(" ", "_")


def process_identity(pid: int) -> str:
    """Return ``"<pid> <start time>"``."""
    return f"{pid} {start_time(pid)}"


def end_marked(root: str) -> None:
    """Kill what still runs for the machine in ``root``, wherever it hid, but this process. Needs
    ``/proc``.
    """
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
