"""One running node: its keeper, its processes, and the observer's way in.

Commands get in by nsenter, not by ssh, and stand outside the node's control groups: they work while it is
frozen, partitioned or out of memory. Processes are read and signalled from outside for the same reason.
Everything may be called from any thread of the lab; nothing here is shared between nodes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from skyward_testing.testbed.capable import PATH, command
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.image import HOST_KEY, SSHD_LOG, USERS, home_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skyward_testing.testbed.image import Plan
    from skyward_testing.testbed.lacking import Lack
    from skyward_testing.testbed.userimage import ProcessPlan

NODEINIT = Path(__file__).with_name("nodeinit.py")
START_SECONDS = 30.0
END_SECONDS = 10.0
POLL_SECONDS = 0.005
LISTENING = "0A"

SHY = """
table inet testbed {{
  chain arrive {{
    type filter hook input priority 0
    tcp dport {port} tcp flags & (syn | ack) == syn numgen inc mod {one_in} {last} reject with tcp reset
  }}
}}
"""


class Cable(Protocol):
    """What connects a node with everybody else, and can fail."""

    def plug(self, pid: int) -> None:
        """Connect the node, whose pid 1 this is, before it starts."""
        ...

    def is_plugged(self) -> bool:
        """Whether anything of it is there."""
        ...

    def cut(self) -> None:
        """Lose everything."""
        ...

    def mend(self) -> None:
        """End ``cut`` and ``part``."""
        ...

    def part(self, other: Any) -> None:
        """Lose everything between two of a kind."""
        ...

    def shape(self, *, rate_mbit: float | None, delay_ms: float | None, loss: float | None) -> None:
        """Make it slow, late or lossy."""
        ...

    def answers(self, listening: bool) -> None:
        """Know that sshd was killed, or listens again."""
        ...

    def remove(self) -> None:
        """Take it away."""
        ...


class Brake(Protocol):
    """What stops a node's processes. ``folders``: its control groups, if it has any."""

    folders: list[str]
    is_frozen: bool

    def freeze(self, frozen: bool) -> None:
        """Stop every process, or let them go on."""
        ...

    def oom_kills(self) -> int:
        """How many the kernel has killed for want of memory."""
        ...

    def remove(self) -> None:
        """Remove the groups."""
        ...


class Machine:
    """A node from its start until nothing of it is left. ``pid`` is the host's number of its pid 1."""

    script = NODEINIT
    lacks: Mapping[str, Lack] = {}
    """What can't be done to nodes of this kind, by the name of the fault, each with the reason."""
    default_user = "root"
    host_key_file = HOST_KEY

    def __init__(
        self,
        plan: Plan | ProcessPlan,
        wire: Cable,
        groups: Brake,
        *,
        environment: dict[str, str],
        log: Path,
        inherits: Sequence[int] = (),
    ) -> None:
        self.name = plan.hostname
        self.wire = wire
        self.groups = groups
        self._environment = environment
        self._log = log
        self._sshd_log = ""
        self._ending = threading.Lock()
        with log.open("w") as errors:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", os.fspath(self.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=inherits,
                start_new_session=True,  # Ctrl-C is not for it
            )
        self._tell(json.dumps(asdict(plan)))
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline()
        if not said:
            raise self._failure("was not made")
        self.pid = int(said)
        # Held until ``left`` has been asked: numbers of namespaces that are gone are used again.
        self._network = os.open(f"/proc/{self._keeper.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def start(self, port: int) -> None:
        """Plug it in, let it start and wait until its sshd listens."""
        self.sshd_port = port
        self.wire.plug(self.pid)
        self._tell("go")
        self.wait_listening(port)

    @property
    def is_alive(self) -> bool:
        """Whether it runs (frozen counts)."""
        return self._keeper.poll() is None

    @property
    def root(self) -> Path:
        """Its file system, seen from outside. Absolute links in it lead astray."""
        return Path(f"/proc/{self.pid}/root")

    def enter(
        self,
        words: list[str],
        *,
        user: str | None = None,
        timeout: float = 30,
        stdin: str = "",
        joined: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, in the home folder of ``user`` (root, where it has one).

        ``joined``: in its control groups, for what outlives the command.
        """
        user = user or self.default_user
        inside = [*self.way_in(user), *words]
        if joined:
            enrol = (
                'for group do [ "$group" = -- ] && break; echo 0 > "$group/cgroup.procs"; shift; done; shift'
            )
            inside = ["/bin/sh", "-c", f'{enrol}; exec "$@"', "sh", *self.groups.folders, "--", *inside]
        home = self.home_of(user)
        environment = {"PATH": PATH, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
        with subprocess.Popen(
            inside,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            env=environment | self._environment,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # nsenter and what it started
                raise BedError(f"{self.name}: {words[-1]!r} did not end within {timeout} s") from None
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def way_in(self, user: str) -> list[str]:
        """The words before those of a command that make it run inside, as ``user``, at home."""
        uid = str(USERS[user])
        return [
            *(command("nsenter") or "nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p"),
            *("-S", uid, "-G", uid, f"--wdns={self.home_of(user)}", "--"),
        ]

    def home_of(self, user: str) -> str:
        """Where a user's home folder is."""
        return home_of(user)

    def locate(self, path: str) -> str:
        """Where a path of the node's is for the commands that are run in it."""
        return path

    def start_sshd(self) -> None:
        """Start sshd again, and wait until it listens."""
        done = self.enter(["/usr/sbin/sshd", "-E", SSHD_LOG], joined=True)
        if done.returncode:
            raise BedError(f"{self.name}: sshd did not start: {done.stderr.strip()}")
        self.wait_listening(self.sshd_port)

    def drop_connections(self, one_in: int) -> None:
        """Refuse every ``one_in``-th new connection to sshd; 0: none."""
        self.enter(["nft", "delete", "table", "inet", "testbed"])
        if one_in:
            rules = SHY.format(port=self.sshd_port, one_in=one_in, last=one_in - 1)
            self._demand(["nft", "-f", "-"], rules)

    def reset_connections(self) -> None:
        """Reset every connection to sshd."""
        self._demand(["ss", "-K", "-t", "state", "established", f"sport = :{self.sshd_port}"])

    def processes(self, pattern: str = "") -> dict[int, int]:
        """Those whose command line matches, but for pid 1: number in the node -> number on the host."""
        found: dict[int, int] = {}
        for outer, inner in self.family():
            try:
                line = Path(f"/proc/{outer}/cmdline").read_bytes()
            except OSError:
                continue  # it ended while we looked
            if inner != 1 and line and re.search(pattern, line.replace(b"\0", b" ").decode(errors="replace")):
                found[inner] = outer
        return found

    def wait_listening(self, port: int) -> None:
        """Wait until something accepts connections to ``port`` inside, without making one."""
        deadline = time.monotonic() + START_SECONDS
        while not self.listens(port):
            if not self.is_alive or time.monotonic() > deadline:
                raise self._failure(f"does not listen on port {port}")
            time.sleep(POLL_SECONDS)

    def listens(self, port: int) -> bool:
        """Whether something in it has a socket that takes connections to ``port``."""
        wanted = f":{port:04X} "
        try:
            table = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        except OSError:
            return False
        return any(wanted in line and line.split()[3] == LISTENING for line in table)

    def end(self) -> None:
        """Take it off the earth: every process, mount and card. Harmless if that has happened."""
        with self._ending:
            if self._keeper.stdin is None or self._keeper.stdin.closed:
                return
            self._sshd_log = self.sshd_log()
            self._keeper.stdin.close()  # which the keeper takes for its cue
            self._keeper.wait(END_SECONDS)
            assert self._keeper.stdout is not None
            self._keeper.stdout.close()
            self.groups.remove()

    def sshd_log(self) -> str:
        """What its sshd has logged, as far as that could be read while it lived."""
        try:
            return (self.root / SSHD_LOG.lstrip("/")).read_text(errors="replace")
        except OSError:
            return self._sshd_log

    def left(self) -> list[str]:
        """What is still there of a node that has ended, as lines. To be asked once."""
        found = [
            f"{self.name}: control group {folder}" for folder in self.groups.folders if os.path.exists(folder)
        ]
        if self.wire.is_plugged():
            found.append(f"{self.name}: its network card")
        found += _inhabitants(self._network)
        os.close(self._network)
        return found

    def family(self) -> Iterator[tuple[int, int]]:
        """Host's and own number of every process in its pid namespace."""
        try:
            own = os.readlink(f"/proc/{self.pid}/ns/pid")
        except OSError:
            return
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/pid") != own:
                    continue
                status = Path(f"/proc/{name}/status").read_text()
            except OSError:
                continue
            numbers = re.search(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)
            if numbers and "\nState:\tZ" not in status:
                yield int(name), int(numbers[1])

    def _demand(self, words: list[str], stdin: str = "") -> None:
        done = self.enter(words, stdin=stdin)
        if done.returncode:
            raise BedError(f"{self.name}: {done.stderr.strip()}")

    def _tell(self, line: str) -> None:
        assert self._keeper.stdin is not None
        try:
            self._keeper.stdin.write(line + "\n")
            self._keeper.stdin.flush()
        except BrokenPipeError:
            raise self._failure("ended") from None

    def _failure(self, what: str) -> BedError:
        told = self._log.read_text() if self._log.exists() else ""
        if hasattr(self, "pid"):
            init = self.root / "var/log/init.log"
            told += init.read_text() if init.is_file() else ""
        return BedError(f"node {self.name} {what}: {told.strip() or 'it said nothing'}")


def _inhabitants(network: int) -> list[str]:
    """The processes that are in a network namespace, given as a file descriptor."""
    found: list[str] = []
    wanted = os.fstat(network).st_ino
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}/ns/net").st_ino == wanted:
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"process {name}: {line.decode(errors='replace')}")
        except OSError:
            continue  # it ended while we looked
    return found
