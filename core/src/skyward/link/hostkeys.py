"""Which host keys are trusted: those the endpoint names, else ``~/.ssh/known_hosts`` and our own store.

Our store is ``$XDG_STATE_HOME/skyward/known_hosts``, in OpenSSH's format. A host whose key nobody knows is
pinned there at first contact, where the endpoint allows that; another key at a known host is refused, always.
Used by ``skyward.link.ssh`` only.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncssh import SSHKey

    from skyward.hooks.values import SSHEndpoint


def store() -> Path:
    """Return where keys are pinned."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "skyward" / "known_hosts"


class HostKeys:
    """What is known of one endpoint's host while a connection to it is made.

    ``trusted`` is what asyncssh asks beforehand, ``check`` what it asks about a key that is not among those.
    """

    def __init__(self, endpoint: SSHEndpoint) -> None:
        self._endpoint = endpoint
        self._known: list[SSHKey] = []
        self.pinned: str = ""
        """The fingerprint that was trusted at first contact, in this connection."""
        self.refusal: str = ""
        """Why a key was refused."""

    def trusted(self, host: str, address: str, port: int) -> tuple[list[Any], ...]:
        """Return the keys, and those of authorities, that the host may show; and those it may not."""
        import asyncssh

        if self._endpoint.host_keys:
            self._known = [asyncssh.import_public_key(line) for line in self._endpoint.host_keys]
            return self._known, [], []
        found: tuple[list[Any], ...] = ([], [], [])
        files = [store()]
        if self._endpoint.config:
            files += [Path("~/.ssh/known_hosts").expanduser(), Path("/etc/ssh/ssh_known_hosts")]
        for file in files:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                matches: Any = asyncssh.read_known_hosts(str(file)).match(host, address, port)
                for mine, theirs in zip(found, matches[:3], strict=True):
                    mine.extend(theirs)
        self._known = found[0]
        return found

    def check(self, host: str, port: int, key: SSHKey) -> bool:
        """Decide on a key that is not trusted: pin it, or keep why it is refused."""
        shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
        if self._known:
            known = " or ".join(f"{other.get_algorithm()} {other.get_fingerprint()}" for other in self._known)
            self.refusal = (
                f"its host key has changed: it shows {shown}, known is {known}. Somebody may be in between; "
                f"if the machine was made anew, remove its line: ssh-keygen -R '{_name(host, port)}' "
                f"(and with -f {store()})"
            )
            return False
        if self._endpoint.first_contact == "refuse":
            self.refusal = (
                f"its host key is not known: it shows {shown}; add it to ~/.ssh/known_hosts, or allow it to "
                "be pinned at first contact"
            )
            return False
        _pin(f"{_name(host, port)} {key.export_public_key().decode().strip()}")
        self.pinned = shown
        return True


def _name(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def _pin(line: str) -> None:
    path = store()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        if line in path.read_text().splitlines():  # by a connection that was made at the same time
            return
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())  # one write: two processes at once leave two whole lines
    finally:
        os.close(fd)
