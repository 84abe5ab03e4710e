"""A node as a test sees it: where to reach it, what happens inside, and everything that can befall it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skyward_testing.testbed.capable import command
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.image import HOST_KEY, SSHD_LOG

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward_testing.testbed.machine import Machine

BALLAST = "var/testbed-ballast"
SSHD_LISTENER = r"^sshd: .*\[listener\]|^/usr/sbin/sshd"
SSHD_ANY = r"^sshd(-session|-auth)?: |^/usr/sbin/sshd"

SHY = """
table inet testbed {{
  chain arrive {{
    type filter hook input priority 0
    tcp dport {port} tcp flags & (syn | ack) == syn numgen inc mod {one_in} {last} reject with tcp reset
  }}
}}
"""


def make_key(path: Path, comment: str) -> str:
    """Make a key pair and return its public line, without the comment. Replaces what is there."""
    path.unlink(missing_ok=True)
    words = ["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", os.fspath(path)]
    subprocess.run([command("ssh-keygen") or "ssh-keygen", *words], check=True, stdin=subprocess.DEVNULL)
    return " ".join(path.with_name(f"{path.name}.pub").read_text().split()[:2])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """A machine with a real OpenSSH server, which knows the test's key and no password.

    Faults last until they are ended or the test is over. What only observes (``exec``, ``read``, ``pids``)
    and what kills does not go by ssh and works whatever has befallen the node.
    """

    address: str
    port: int
    user: str
    name: str
    """Its hostname."""
    key: Path
    """The client's private key, which ``user`` is known by."""
    folder: Path
    """Outside the node: where its keys are made."""
    machine: Machine

    @property
    def url(self) -> str:
        """``user@address:port``."""
        return f"{self.user}@{self.address}:{self.port}"

    @property
    def host_key(self) -> str:
        """The public key its sshd shows, as ``ssh-ed25519 AAAA...``."""
        return " ".join((self.folder / f"{self.name}.key.pub").read_text().split()[:2])

    @property
    def alive(self) -> bool:
        """Whether it runs; a frozen or partitioned one does."""
        return self.machine.is_alive

    @property
    def oom_kills(self) -> int:
        """How many of its processes were killed for want of memory; counts with ``memory_mb`` only."""
        return self.machine.groups.oom_kills()

    @property
    def sshd_log(self) -> str:
        """What its sshd has logged. pytest adds it to the report of a test that fails."""
        return self.machine.sshd_log()

    def ssh_command(self, *options: str) -> list[str]:
        """The words that run the OpenSSH client against it, as it is now: its key known, its host key pinned.

        ``options`` come before the destination. What follows the words is run on the node.
        """
        known = self.folder / f"{self.name}-{self.port}.known_hosts"
        known.write_text(f"[{self.address}]:{self.port} {self.host_key}\n{self.address} {self.host_key}\n")
        fixed = ["BatchMode=yes", "LogLevel=ERROR", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
        fixed.append(f"UserKnownHostsFile={known}")
        words = [command("ssh") or "ssh", "-F", "none", "-i", os.fspath(self.key), "-p", str(self.port)]
        return [
            *words,
            *(word for option in fixed for word in ("-o", option)),
            *options,
            f"{self.user}@{self.address}",
        ]

    def exec(self, command: str, *, user: str | None = None, check: bool = True, timeout: float = 30) -> str:
        """Run a line of bash in its home folder and return what it printed, without the last line's end.

        ``user``: root if not given. ``check``: raise ``BedError`` when it fails; else its stderr is lost.
        It is no part of the node: it is not frozen with it, and its memory is not the node's.
        """
        done = self.machine.enter(["/bin/bash", "-c", command], user=user or "root", timeout=timeout)
        if check and done.returncode:
            raise BedError(f"{self.name}: {command!r} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.removesuffix("\n")

    def read(self, path: str) -> str:
        """The text of a file."""
        return self._file(["cat", "--", path])

    def write(self, path: str, text: str, *, user: str | None = None, mode: int = 0o644) -> None:
        """Write a file, and the folders that it lies in. It is ``user``'s (root's, if not given)."""
        quoted = shlex.quote(path)
        script = f'mkdir -p "$(dirname {quoted})" && cat > {quoted} && chmod {mode:o} {quoted}'
        self._file(["/bin/bash", "-c", script], user=user or "root", text=text)

    def exists(self, path: str) -> bool:
        """Whether there is such a path."""
        return self.machine.enter(["test", "-e", path]).returncode == 0

    def pids(self, pattern: str = "") -> list[int]:
        """The processes whose command line matches a regular expression, by the node's own numbers."""
        return sorted(self.machine.processes(pattern))

    def pkill(self, pattern: str, signal: str = "KILL") -> int:
        """Send a signal to those processes; returns how many there were. With KILL they are gone then."""
        return self._signal(pattern, signal)

    def kill(self) -> None:
        """Cut its power, as seen by those who see its connections close. Its address answers nobody then."""
        self.machine.end()
        self.machine.wire.cut()

    def vanish(self) -> None:
        """As a machine that its owner takes back: connections are not closed, nothing is ever heard again."""
        self.machine.wire.cut()
        self.machine.end()

    def freeze(self) -> None:
        """Stop all that runs on it. The kernel still takes connections and packets; nobody reads them."""
        self.machine.groups.freeze(True)

    def thaw(self) -> None:
        """Let it go on as if nothing had been."""
        self.machine.groups.freeze(False)

    def kill_sshd(self, *, sessions: bool = True) -> None:
        """Kill sshd; new connections are refused. ``sessions``: those that exist die as well."""
        pattern = SSHD_ANY if sessions else SSHD_LISTENER
        self._signal(pattern, "KILL")

    def start_sshd(self) -> None:
        """Start sshd again."""
        done = self.machine.enter(["/usr/sbin/sshd", "-E", SSHD_LOG], joined=True)
        if done.returncode:
            raise BedError(f"{self.name}: sshd did not start: {done.stderr.strip()}")
        self.machine.wait_listening(self._sshd_port())

    def change_host_key(self) -> str:
        """Give sshd another key, as if another machine had the address; returns its public line."""
        path = self.folder / f"{self.name}.key"
        public = make_key(path, self.name)
        self.write(HOST_KEY, path.read_text(), mode=0o600)
        path.unlink()
        self.kill_sshd(sessions=False)
        self.start_sshd()
        return public

    def reset_connections(self) -> None:
        """Reset every ssh connection, as a firewall does that has forgotten them."""
        self._inside(["ss", "-K", "-t", "state", "established", f"sport = :{self._sshd_port()}"])

    def drop_connections(self, one_in: int = 5) -> None:
        """Refuse every ``one_in``-th new ssh connection; 0: take them all again."""
        self.machine.enter(["nft", "delete", "table", "inet", "testbed"])
        if one_in:
            rules = SHY.format(port=self._sshd_port(), one_in=one_in, last=one_in - 1)
            self._inside(["nft", "-f", "-"], text=rules)

    def fill_disk(self, leave_kb: int = 64) -> None:
        """Fill its disk but for so much. Takes as much memory of this machine as there was room."""
        root = self.machine.root
        self.free_disk()
        with open(root / BALLAST, "wb") as file:
            room = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize - leave_kb * 1024
            if room > 0:
                os.posix_fallocate(file.fileno(), 0, room)

    def free_disk(self) -> None:
        """Take away what ``fill_disk`` put there."""
        (self.machine.root / BALLAST).unlink(missing_ok=True)

    def partition(self) -> None:
        """Lose every packet to and from it, without a word to anybody."""
        self.machine.wire.cut()

    def isolate_from(self, other: Node) -> None:
        """Lose every packet between two nodes; others, the client among them, reach both."""
        self.machine.wire.part(other.machine.wire)

    def heal(self) -> None:
        """End ``partition`` and every ``isolate_from`` that it has a part in."""
        self.machine.wire.mend()

    def link(
        self, *, rate_mbit: float | None = None, delay_ms: float | None = None, loss: float | None = None
    ) -> None:
        """Make its link slow, late or lossy; without arguments: as it was. Connections stay.

        Each applies each way: ``delay_ms=100`` adds 200 ms to a round trip; ``loss`` is a share of packets,
        from 0 to 1. Replaces what was said before.
        """
        self.machine.wire.shape(rate_mbit=rate_mbit, delay_ms=delay_ms, loss=loss)

    def shutdown(self) -> None:
        """Do what ``shutdown now`` in the node does, and wait for its end."""
        self.exec("shutdown now", check=False)
        self._until(lambda: not self.alive, "it did not shut down")
        self.kill()

    def _sshd_port(self) -> int:
        return int(self._file(["sed", "-n", "s/^Port //p", "/etc/ssh/sshd_config"]))

    def _file(self, words: list[str], *, user: str = "root", text: str = "") -> str:
        done = self.machine.enter(words, user=user, stdin=text)
        if done.returncode:
            raise BedError(f"{self.name}: {done.stderr.strip()}")
        return done.stdout

    def _inside(self, words: list[str], text: str = "") -> None:
        self._file(words, text=text)

    def _signal(self, pattern: str, name: str) -> int:
        number = signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        found = self.machine.processes(pattern)
        for pid in found.values():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        if number == signal.SIGKILL and not self.machine.groups.is_frozen:
            hit = set(found.values())
            self._until(lambda: not hit & set(self.machine.processes(pattern).values()), "they did not die")
        return len(found)

    def _until(self, holds: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise BedError(f"{self.name}: {what} within {seconds} s")
            time.sleep(0.005)
