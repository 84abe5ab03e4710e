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
from skyward_testing.testbed.lacking import FAULTS, skip

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward_testing.testbed.machine import Machine

BALLAST = "var/testbed-ballast"
SSHD_LISTENER = r"^sshd: .*\[listener\]|^/usr/sbin/sshd"
SSHD_ANY = r"^sshd(-session|-auth)?: |^/usr/sbin/sshd"


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
    and what kills does not go by ssh and works whatever has befallen the node. Where nodes are not made by
    root there are things that can't be done (``can``); asking for one skips the test, with what it takes.
    """

    address: str
    port: int
    user: str
    label: str
    """What it is called in messages."""
    key: Path
    """The client's private key, which ``user`` is known by."""
    folder: Path
    """Outside the node: where its keys are made."""
    machine: Machine

    @property
    def name(self) -> str:
        """Its hostname."""
        self.need("name")
        return self.label

    def can(self, fault: str) -> bool:
        """Whether a method, an argument or a property can be used: "partition", "loss", "memory_mb", "name".

        "files": paths outside its user's home. "user": somebody else on it than its own user.
        """
        if fault not in FAULTS and not hasattr(Node, fault):
            raise BedError(f"{fault!r} is nothing that a node can or can't: see {', '.join(sorted(FAULTS))}")
        return fault not in self.machine.lacks

    def need(self, fault: str) -> None:
        """Skip the test, with the reason, unless the node ``can``."""
        if not self.can(fault):
            skip(self.machine.lacks[fault])

    @property
    def url(self) -> str:
        """``user@address:port``."""
        return f"{self.user}@{self.address}:{self.port}"

    @property
    def host_key(self) -> str:
        """The public key its sshd shows, as ``ssh-ed25519 AAAA...``."""
        return " ".join((self.folder / f"{self.label}.key.pub").read_text().split()[:2])

    @property
    def alive(self) -> bool:
        """Whether it runs; a frozen or partitioned one does."""
        return self.machine.is_alive

    @property
    def oom_kills(self) -> int:
        """How many of its processes were killed for want of memory; counts with ``memory_mb`` only."""
        self.need("oom_kills")
        return self.machine.groups.oom_kills()

    @property
    def sshd_log(self) -> str:
        """What its sshd has logged. pytest adds it to the report of a test that fails."""
        return self.machine.sshd_log()

    def ssh_command(self, *options: str) -> list[str]:
        """The words that run the OpenSSH client against it, as it is now: its key known, its host key pinned.

        ``options`` come before the destination. What follows the words is run on the node.
        """
        known = self.folder / f"{self.label}-{self.port}.known_hosts"
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

        ``user``: root if not given, or the only one that it has. ``check``: raise ``BedError`` when it fails;
        else its stderr is lost.
        It is no part of the node: it is not frozen with it, and its memory is not the node's.
        """
        done = self.machine.enter(["/bin/bash", "-c", command], user=user, timeout=timeout)
        if check and done.returncode:
            raise BedError(f"{self.label}: {command!r} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.removesuffix("\n")

    def read(self, path: str) -> str:
        """The text of a file."""
        return self._file(["cat", "--", self.machine.locate(path)])

    def write(self, path: str, text: str, *, user: str | None = None, mode: int = 0o644) -> None:
        """Write a file, and the folders that it lies in. It is ``user``'s (root's, if not given)."""
        self._put(self.machine.locate(path), text, user, mode)

    def exists(self, path: str) -> bool:
        """Whether there is such a path."""
        return self.machine.enter(["test", "-e", self.machine.locate(path)]).returncode == 0

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
        self.machine.wire.answers(False)
        self._signal(pattern, "KILL")

    def start_sshd(self) -> None:
        """Start sshd again."""
        self.machine.start_sshd()
        self.machine.wire.answers(True)

    def change_host_key(self) -> str:
        """Give sshd another key, as if another machine had the address; returns its public line."""
        path = self.folder / f"{self.label}.key"
        public = make_key(path, self.label)
        self._put(self.machine.host_key_file, path.read_text(), None, 0o600)
        path.unlink()
        self.kill_sshd(sessions=False)
        self.start_sshd()
        return public

    def reset_connections(self) -> None:
        """Reset every ssh connection, as a firewall does that has forgotten them."""
        self.machine.reset_connections()

    def drop_connections(self, one_in: int = 5) -> None:
        """Refuse every ``one_in``-th new ssh connection (not made by root: reset it); 0: take all again."""
        self.machine.drop_connections(one_in)

    def fill_disk(self, leave_kb: int = 64) -> None:
        """Fill its disk but for so much. Takes as much memory of this machine as there was room."""
        self.need("fill_disk")
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
        self.need("isolate_from")
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
        if loss:
            self.need("loss")
        self.machine.wire.shape(rate_mbit=rate_mbit, delay_ms=delay_ms, loss=loss)

    def shutdown(self) -> None:
        """Do what ``shutdown now`` in the node does, and wait for its end."""
        self.need("shutdown")
        self.exec("shutdown now", check=False)
        self._until(lambda: not self.alive, "it did not shut down")
        self.kill()

    def _file(self, words: list[str], *, user: str | None = None, text: str = "") -> str:
        done = self.machine.enter(words, user=user, stdin=text)
        if done.returncode:
            raise BedError(f"{self.label}: {done.stderr.strip()}")
        return done.stdout

    def _put(self, path: str, text: str, user: str | None, mode: int) -> None:
        quoted = shlex.quote(path)
        script = f'mkdir -p "$(dirname {quoted})" && cat > {quoted} && chmod {mode:o} {quoted}'
        self._file(["/bin/bash", "-c", script], user=user, text=text)

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
                raise BedError(f"{self.label}: {what} within {seconds} s")
            time.sleep(0.005)
