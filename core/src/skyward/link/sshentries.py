"""Host entries for OpenSSH's client, so that ``ssh <pool>`` leads to a pool's head while the pool lives.

In ``$XDG_STATE_HOME/skyward/ssh``: a file a pool, ``<pool>.conf``, with ``<pool>`` and ``<pool>-worker1`` and
so on; and ``config``, which includes them all: for ``ssh -F``, or for an ``Include`` at the top of
``~/.ssh/config``, which is the user's to write. All of it is for the user only (0600).

- A pool holds a lock on its file as long as its process lives. Another one of the same name gets
  ``<pool>-2``; what a killed process left is removed when the next pool starts.
- Host keys are checked as by the pool: against those of the endpoint, or those we pinned and the user's.
- A key that exists only for the pool is written beside its file, and removed with it.
- A value that can't stand in such a file (a line break, a quote) is an entry less, never one more.

Blocking; for threads. Used by ``skyward.engine.nameplate``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.link.hostkeys import store

if TYPE_CHECKING:
    from skyward.hooks.values import SSHEndpoint

RESOLVE_SECONDS = 5.0
"""For ``ssh -G``, which reads files; a ``Match exec`` of the user's could hang."""
RESOLVED = (
    "hostname",
    "port",
    "user",
    "identityfile",
    "identitiesonly",
    "identityagent",
    "certificatefile",
    "hostkeyalias",
    "proxycommand",
    "proxyjump",
    "userknownhostsfile",
)
"""What an entry takes over of the user's own configuration of an alias."""


class BadValueError(ValueError):
    """A value that can't stand in a configuration file of OpenSSH."""


def folder() -> Path:
    """Return where the files are."""
    return store().parent / "ssh"


@contextlib.contextmanager
def _locked(place: Path) -> Generator[None]:
    """Have the folder for ourselves; made if need be, and removed again when nothing is left in it."""
    while True:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # removed meanwhile
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(place)):
                break
        os.close(fd)
    try:
        yield
        with contextlib.suppress(OSError):
            place.rmdir()
    finally:
        os.close(fd)


def _private(path: Path, text: str) -> None:
    """Write a file that is whole at any moment."""
    draft = path.with_name(f".{path.name}~")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        os.fchmod(fd, 0o600)
        file.write(text)
    os.replace(draft, path)


class Entries:
    """The file of one pool, from the first ``write`` until ``remove``."""

    def __init__(self, pool: str) -> None:
        self.name = re.sub(r"[^A-Za-z0-9_-]+", "-", pool).strip("-") or "pool"
        """The head's name, once it is written."""
        self._folder = folder()
        self._lock = -1
        self._resolved: dict[SSHEndpoint, dict[str, list[str]]] = {}

    def write(self, nodes: Mapping[int, SSHEndpoint]) -> None:
        """Write the entries of these nodes, by rank. Raises OSError."""
        with _locked(self._folder):
            if self._lock < 0:
                sweep(self._folder)
                self._claim()
            _private(self._path(".conf"), self._text(nodes))
            _private(self._folder / "config", f'Include "{self._folder}/*.conf"\n')

    def remove(self) -> None:
        """Remove the file and all that belongs to it. Idempotent."""
        if self._lock < 0:
            return
        with _locked(self._folder):
            _remove(self._folder, self.name)
            os.close(self._lock)
            self._lock = -1
            if not any(self._folder.glob("*.lock")):
                (self._folder / "config").unlink(missing_ok=True)

    def _path(self, suffix: str) -> Path:
        return self._folder / f"{self.name}{suffix}"

    def _claim(self) -> None:
        wish, number = self.name, 1
        while True:
            fd = os.open(self._path(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                number += 1
                self.name = f"{wish}-{number}"
                continue
            self._lock = fd
            return

    # what stands in it

    def _text(self, nodes: Mapping[int, SSHEndpoint]) -> str:
        lines = [f"# The pool {self.name!r} of process {os.getpid()}; goes with it. Made by Skyward."]
        known: list[str] = []
        for rank, endpoint in sorted(nodes.items()):
            host = f"{self.name}-worker{rank}" if rank else self.name
            with contextlib.suppress(BadValueError):
                jumps: list[str] = []
                entries: list[str] = []
                for number, hop in enumerate(endpoint.jump, 1):
                    jumps.append(f"{host}-jump{number}")
                    entries += self._entry(jumps[-1], hop, [], known)
                lines += [*entries, *self._entry(host, endpoint, jumps, known)]
        if known:
            _private(self._path(".known_hosts"), "".join(f"{line}\n" for line in known))
        return "\n".join(lines) + "\n"

    def _entry(self, host: str, endpoint: SSHEndpoint, jumps: list[str], known: list[str]) -> list[str]:
        """Return the lines of one entry; put the host keys that it needs into ``known``."""
        found = self._of_user(endpoint)
        options: dict[str, list[str]] = {
            "HostName": [name.replace("%", "%%") for name in found.get("hostname") or [endpoint.host]],
            "Port": found.get("port") or ([str(endpoint.port)] if endpoint.port else []),
            "User": found.get("user") or ([endpoint.user] if endpoint.user else []),
        }
        keys = self._keys(host, endpoint)
        if keys:
            options["IdentityFile"] = [_quoted(key) for key in keys]
            options["IdentitiesOnly"] = ["yes"]
        else:
            own = [_quoted(path) for path in found.get("identityfile", []) if _exists(path)]
            options["IdentityFile"] = own
            for name in ("identitiesonly", "identityagent", "certificatefile"):
                options[name] = found.get(name, [])
        if endpoint.host_keys:
            known += [_line(f"{host} {key}") for key in endpoint.host_keys]
            options["HostKeyAlias"] = [host]
            options["UserKnownHostsFile"] = [_quoted(os.fspath(self._path(".known_hosts")))]
        else:
            options["HostKeyAlias"] = found.get("hostkeyalias", [])
            theirs = found.get("userknownhostsfile") or (["~/.ssh/known_hosts"] if endpoint.config else [])
            options["UserKnownHostsFile"] = [" ".join([_quoted(os.fspath(store())), *theirs])]
        options["StrictHostKeyChecking"] = ["yes"]
        options["ProxyJump"] = [",".join(jumps)] if jumps else found.get("proxyjump", [])
        options["ProxyCommand"] = found.get("proxycommand", []) if not options["ProxyJump"] else []
        return [
            f"Host {host}",
            *(_line(f"  {name} {value}") for name, values in options.items() for value in values),
        ]

    def _keys(self, host: str, endpoint: SSHEndpoint) -> list[str]:
        if not endpoint.key_data:
            return [os.path.abspath(os.path.expanduser(key)) for key in endpoint.keys]
        path = self._folder / f"{self.name}.{host.removeprefix(self.name).strip('-') or 'head'}.key"
        _private(path, endpoint.key_data.rstrip("\n") + "\n")
        return [os.fspath(path)]

    def _of_user(self, endpoint: SSHEndpoint) -> dict[str, list[str]]:
        """Return what the user's own configuration says of this host: it may be an alias there."""
        if not endpoint.config or not os.path.exists(os.path.expanduser("~/.ssh/config")):
            return {}
        key = replace(endpoint, folder="", jump=())
        if key not in self._resolved:
            self._resolved[key] = _resolve(endpoint)
        return self._resolved[key]


def _resolve(endpoint: SSHEndpoint) -> dict[str, list[str]]:
    """Ask OpenSSH's own client, for whom all this is. Without one, nobody needs to know."""
    port = ["-p", str(endpoint.port)] if endpoint.port else []
    user = ["-l", endpoint.user] if endpoint.user else []
    command = ["ssh", "-F", os.path.expanduser("~/.ssh/config"), "-G", *port, *user, "--", endpoint.host]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=RESOLVE_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        name, _, value = line.partition(" ")
        if name in RESOLVED and value not in ("", "none"):
            found.setdefault(name, []).append(value)
    return found


def sweep(place: Path) -> None:
    """Remove what pools of dead processes left. The folder is ours while this runs."""
    for lock in place.glob("*.lock"):
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(place, lock.name.removesuffix(".lock"))
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def _remove(place: Path, name: str) -> None:
    files: Iterable[Path] = [place / f"{name}{suffix}" for suffix in (".conf", ".known_hosts", ".lock")]
    for path in (*files, *place.glob(f"{name}.*.key")):
        path.unlink(missing_ok=True)


def _exists(path: str) -> bool:
    return os.path.exists(os.path.expanduser(path))


def _line(text: str) -> str:
    if not text.isprintable():
        raise BadValueError(text)
    return text


def _quoted(path: str) -> str:
    """Return a path as one word; ``%`` begins a token there."""
    if '"' in path or "\\" in path:
        raise BadValueError(path)
    return f'"{path.replace("%", "%%")}"'
