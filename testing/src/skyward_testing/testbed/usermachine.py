"""Running nodes that no root made: in a user namespace of their own, or as processes of this user's.

Both are reached through a front in this process (``front``), stop by signals instead of by control group, and
have one user. Everything else is a ``Machine``.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from skyward_testing.testbed import lacking, procinit
from skyward_testing.testbed.capable import command
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.front import Door, Front, Fronts
from skyward_testing.testbed.image import home_of
from skyward_testing.testbed.machine import END_SECONDS, POLL_SECONDS, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skyward_testing.testbed.userimage import ProcessPlan, UserPlan

HERE = Path(__file__).parent
FREEZE_SECONDS = 5.0


class Stops:
    """Freezes by SIGSTOP, which no process can ignore. ``family`` tells the pids."""

    def __init__(self, family: Callable[[], list[int]]) -> None:
        self.folders: list[str] = []
        self.is_frozen = False
        self._family = family

    def freeze(self, frozen: bool) -> None:
        """Stop every process, those too that are being born, or let them go on."""
        self.is_frozen = frozen
        deadline = time.monotonic() + FREEZE_SECONDS
        while waiting := [pid for pid in self._family() if _is_stopped(pid) is (not frozen)]:
            if time.monotonic() > deadline:
                raise BedError(f"processes {waiting} can't be stopped")
            for pid in waiting:
                _send(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
            time.sleep(0.002)

    def oom_kills(self) -> int:
        """Unknown: nobody counts."""
        return 0

    def remove(self) -> None:
        """Nothing to do."""


class FrontedMachine(Machine):
    """What both kinds have in common. Who makes one calls ``answer_at`` after ``start``."""

    front: Front

    def answer_at(self, door: Door) -> None:
        """Be reached there too."""
        self.front.open(door)

    def way_in(self, user: str) -> list[str]:
        """Only its own user gets in."""
        if user != self.default_user:
            lacking.skip(self.lacks["user"])
        return []

    def end(self) -> None:
        """End it, and with it the connections that its processes had."""
        super().end()
        self.front.hang_up()

    def drop_connections(self, one_in: int) -> None:
        """Reset every ``one_in``-th new connection: only a kernel could refuse it."""
        self.front.drop(one_in)

    def reset_connections(self) -> None:
        """Reset every connection on both sides of the front."""
        self.front.reset()

    def _wait_for_port(self) -> None:
        """A process that a killed sshd was about to start may hold its socket for a moment."""
        deadline = time.monotonic() + END_SECONDS
        while self.listens(self.sshd_port) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _pids(self) -> list[int]:
        return [outer for outer, _ in self.family()]


class UserMachine(FrontedMachine):
    """A node in a user namespace. Its keeper makes sockets in the node's network."""

    script = HERE / "userinit.py"
    lacks = lacking.NAMESPACES

    def __init__(self, plan: UserPlan, fronts: Fronts, *, environment: dict[str, str], log: Path) -> None:
        self.default_user = plan.user
        self.front = Front(fronts, self.dial)
        self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(END_SECONDS)
        self._asking = threading.Lock()
        with inside:
            super().__init__(
                replace(plan, control=inside.fileno()), self.front, Stops(self._pids),
                environment=environment, log=log, inherits=[inside.fileno()],
            )  # fmt: skip

    def dial(self) -> socket.socket:
        """A connection to its sshd, perhaps not made yet."""
        return self.make_socket("connect", "127.0.0.1", self.sshd_port)

    def make_socket(self, what: str, address: str, port: int) -> socket.socket:
        """A socket in its network, that has been told to ``listen`` or to ``connect``."""
        with self._asking:
            self._control.send(json.dumps((what, address, port)).encode())
            said, fds, _, _ = socket.recv_fds(self._control, 64, 1)
        if not fds:
            number = int(said or errno.EPIPE)
            raise OSError(number, f"{self.name}: {what} {address}:{port}: {os.strerror(number)}")
        return socket.socket(fileno=fds[0])

    def way_in(self, user: str) -> list[str]:
        """By nsenter: its user is ours, by another number."""
        super().way_in(user)
        words = [command("nsenter") or "nsenter", "-t", str(self.pid), "-U", "--preserve-credentials"]
        return [*words, "-m", "-u", "-i", "-n", "-p", f"--wdns={home_of(user)}", "--"]

    def start_sshd(self) -> None:
        """Have its pid 1 do it, whom the filter of system calls was given to."""
        self._wait_for_port()
        os.kill(self.pid, signal.SIGUSR1)
        self.wait_listening(self.sshd_port)

    def end(self) -> None:
        """End it; what asks for sockets then gets none."""
        super().end()
        with self._asking:
            self._control.close()


class ProcessMachine(FrontedMachine):
    """A node that is processes: those below its keeper, and those that carry its mark."""

    script = HERE / "procinit.py"
    lacks = lacking.PROCESSES

    def __init__(self, plan: ProcessPlan, fronts: Fronts, *, environment: dict[str, str], log: Path) -> None:
        self.plan = plan
        self.default_user = plan.user
        self.host_key_file = plan.host_key_file
        self.front = Front(fronts, self.dial)
        super().__init__(plan, self.front, Stops(self._pids), environment=environment, log=log)

    def start(self, port: int) -> None:
        """Start sshd and wait until it listens."""
        self.sshd_port = port
        self.start_sshd()

    def dial(self) -> socket.socket:
        """A connection to its sshd."""
        return socket.create_connection(("127.0.0.1", self.sshd_port), timeout=END_SECONDS)

    def way_in(self, user: str) -> list[str]:
        """Nothing to get into but a folder."""
        return [*super().way_in(user), "/usr/bin/env", "-C", self.home_of(user)]

    def family(self) -> Iterator[tuple[int, int]]:
        """All its processes; they have one number only."""
        return ((pid, pid) for pid in procinit.family(self.pid, self.plan.mark))

    def home_of(self, user: str) -> str:
        """The node's folder, whoever asks."""
        return self.plan.home

    def locate(self, path: str) -> str:
        """In its home, also by the name that its user's home has on other nodes; else it has no files."""
        known = (self.plan.home, home_of(self.plan.wished_user))
        for home in known:
            if path == home or path.startswith(f"{home}/"):
                return self.plan.home + path.removeprefix(home)
        if os.path.isabs(path):
            lacking.skip(self.lacks["files"])
        return os.path.join(self.plan.home, path)

    def start_sshd(self) -> None:
        """Have the keeper do it."""
        self._wait_for_port()
        self._tell("sshd")
        self.wait_listening(self.sshd_port)

    def sshd_log(self) -> str:
        """What its sshd has logged."""
        try:
            return Path(self.plan.sshd_log).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def left(self) -> list[str]:
        """The processes that live in spite of everything."""
        os.close(self._network)
        return [f"{self.name}: process {pid}" for pid in procinit.marked(self.plan.mark)]


def _is_stopped(pid: int) -> bool | None:
    """None: it is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return state == "T"


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
