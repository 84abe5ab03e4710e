"""SSH connections: made, verified, shared by whoever has the same endpoint, and made again when cut.

asyncssh is imported with the first, off the loop: it takes half a second. Its exceptions don't leave
``skyward.link``: what may go away by itself is an OSError, what does not is a ConnectError, a HostKeyError or
a ConfigError. All on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import weakref
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skyward.errors import ConfigError, ConnectError, HostKeyError
from skyward.link.hostkeys import HostKeys

if TYPE_CHECKING:
    from asyncssh import SSHClientConnection

    from skyward.hooks.values import SSHEndpoint

CONNECT_SECONDS = 10.0
LOGIN_SECONDS = 20.0
KEEPALIVE_SECONDS = 5.0
KEEPALIVES_MISSED = 3
"""A machine that vanished is noticed after as many keepalives without an answer."""

_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # ChaCha20 costs twice the processor time
_EXCHANGES = "^curve25519-sha256,curve25519-sha256@libssh.org"  # the quickest to connect


async def _load() -> None:
    await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "asyncssh")


_shared: weakref.WeakValueDictionary[tuple[object, SSHEndpoint], SSHConnection] = (
    weakref.WeakValueDictionary()
)


class SSHConnection:
    """A connection to one host that is there when it is asked for. ``SSHConnection.to`` shares it."""

    def __init__(self, endpoint: SSHEndpoint) -> None:
        self.endpoint = endpoint
        self.forwards_sockets: bool | None = None
        """Whether the server does; None while that is not known."""
        self.pinned = ""
        """The fingerprint of a host key that was trusted because nobody knew another."""
        self._attempt: asyncio.Task[SSHClientConnection] | None = None
        self._conn: SSHClientConnection | None = None
        self._hops: list[SSHClientConnection] = []
        self._users = 0

    @classmethod
    def to(cls, endpoint: SSHEndpoint) -> SSHConnection:
        """Return the connection to this host as this user; give it back by ``release``."""
        key = asyncio.get_running_loop(), replace(endpoint, folder="", starting=True)
        connection = _shared.get(key)
        if connection is None:
            connection = _shared[key] = cls(endpoint)
        connection._users += 1
        return connection

    def release(self) -> None:
        """Close it, if nobody else uses it."""
        self._users -= 1
        if not self._users:
            self._close()

    def _close(self) -> None:
        """Close every hop, the last first: the others carry it."""
        while self._hops:
            self._hops.pop().close()
        self._conn = None

    async def get(self) -> SSHClientConnection:
        """Return the live connection, made now if there is none; whoever asks meanwhile gets the same.

        Raises HostKeyError, ConnectError when the login is refused, ConfigError, and OSError.
        """
        if self._conn is None or self._conn.is_closed():
            if self._attempt is None:
                self._attempt = asyncio.create_task(self._connect())
                self._attempt.add_done_callback(self._attempted)
            return await asyncio.shield(self._attempt)
        return self._conn

    def _attempted(self, attempt: asyncio.Task[SSHClientConnection]) -> None:
        self._attempt = None
        if attempt.cancelled() or attempt.exception() is not None:
            return
        self._conn = attempt.result()
        if not self._users:  # nobody waits for it any more
            self._close()

    async def _connect(self) -> SSHClientConnection:
        await _load()
        self._close()
        try:
            for hop in (*self.endpoint.jump, self.endpoint):
                keys = HostKeys(hop)
                self._hops.append(await _open(hop, keys, self._hops[-1] if self._hops else None))
                if keys.pinned:
                    self.pinned = keys.pinned
                    logging.getLogger("skyward").info("%s: host key %s pinned", hop.address, keys.pinned)
        except BaseException:
            self._close()
            raise
        return self._hops[-1]

    async def reach(self, timeout: float, interval: float) -> None:
        """Connect, trying again every ``interval`` seconds while the machine may still be starting.

        Raises HostKeyError, ConfigError, or ConnectError with the last cause.
        """
        begun = asyncio.get_running_loop().time()
        while True:
            try:
                await self.get()
            except (OSError, ConnectError) as error:
                left = timeout - (asyncio.get_running_loop().time() - begun)
                if left < interval or (not self.endpoint.starting and isinstance(error, ConnectError)):
                    if isinstance(error, ConnectError):
                        raise
                    raise ConnectError(
                        f"{self.endpoint.address} can't be reached: {said(error)}; is it up, and is its SSH "
                        "port open to this machine?"
                    ) from error
                await asyncio.sleep(interval)
            else:
                return


async def _open(hop: SSHEndpoint, keys: HostKeys, tunnel: SSHClientConnection | None) -> SSHClientConnection:
    """Make one connection, through another if there is one."""
    import asyncssh

    class Client(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            return keys.check(host, port, key)

    options: dict[str, Any] = {
        "username": hop.user or (),
        "known_hosts": keys.trusted,
        "config": () if hop.config else [],
        "client_factory": Client,
        "encryption_algs": _CIPHERS,
        "kex_algs": _EXCHANGES,
        "compression_algs": ["none"],
        "connect_timeout": CONNECT_SECONDS,
        "login_timeout": LOGIN_SECONDS,
        "keepalive_interval": KEEPALIVE_SECONDS,
        "keepalive_count_max": KEEPALIVES_MISSED,
    }
    try:
        if hop.key_data:
            options["client_keys"] = [asyncssh.import_private_key(hop.key_data)]
        elif hop.keys:
            options["client_keys"] = list(hop.keys)
        if hop.keys or hop.key_data:
            options["agent_path"] = None
        if tunnel is not None:
            options["tunnel"] = tunnel
        return await asyncssh.connect(hop.host, hop.port or (), **options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyError(f"{hop.address} is refused: {keys.refusal or error.reason}") from None
    except asyncssh.PermissionDenied as error:
        used = f" with {', '.join(hop.keys)}" if hop.keys else ""
        raise ConnectError(
            f"{hop.address} refuses the login{used} ({error.reason}): is it the right user, and is the "
            f"public key in its ~/.ssh/authorized_keys? `{hop.command}` tells more"
        ) from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, FileNotFoundError) as error:
        raise ConfigError(f"{hop.address}: the private key can't be used: {said(error)}") from None
    except asyncssh.ConfigParseError as error:
        raise ConfigError(f"~/.ssh/config: {error}") from None
    except asyncssh.Error as error:
        raise ConnectionResetError(said(error)) from error


@contextlib.contextmanager
def as_os_error() -> Generator[None]:
    """Turn what asyncssh raises about a connection into an OSError."""
    import asyncssh

    try:
        yield
    except asyncssh.Error as error:
        raise ConnectionResetError(said(error)) from error


def said(error: BaseException) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__
