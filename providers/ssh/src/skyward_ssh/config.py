"""What the user writes: ``sky.SSH(hosts=[...])``. A frozen value, checked when it is built, without I/O."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from skyward.errors import ConfigError, UsageError
from skyward.hooks.values import SSHEndpoint

from skyward_ssh.host import Host, Jump, as_hosts, checked_jump, checked_key

if TYPE_CHECKING:
    from skyward_ssh.provider import SSHProvider


@dataclass(frozen=True, slots=True)
class SSH:
    """Hosts that you have, reached by SSH; each is one machine, leased by one pool at a time.

    ``hosts``: each ``"user@host:port"``, an alias of ``~/.ssh/config``, or a ``Host(...)``; pools take them
    in this order. ``key`` (the path of a private key) and ``jump`` (hosts to go through) hold for all hosts
    that don't say otherwise; left out, the key agent, the configuration and the default key files decide.
    ``config=False`` reads nothing of ``~/.ssh``. ``first_contact``: a host whose key nobody knows is trusted
    from then on (``"pin"``) or refused (``"refuse"``); one whose key has changed is always refused.
    """

    provider_name: ClassVar[str] = "ssh"
    here: ClassVar[bool] = False
    cluster: ClassVar[bool] = False  # whether such hosts reach each other is not known, and nothing asks yet

    hosts: Sequence[str | Host]
    _: KW_ONLY
    key: str | os.PathLike[str] | None = None
    jump: Jump = None
    config: bool = True
    first_contact: Literal["pin", "refuse"] = "pin"

    def __post_init__(self) -> None:
        hosts = as_hosts("hosts", self.hosts)
        if not hosts:
            raise ConfigError('hosts must name at least one host, such as ["user@host:port"]')
        seen: set[tuple[str | None, str, int]] = set()
        for host in hosts:
            same = (host.user, host.address.lower(), host.port or 22)
            if same in seen:
                raise ConfigError(f"hosts names {host.label} twice: a host is one machine")
            seen.add(same)
        if not isinstance(self.config, bool):  # pyright: ignore[reportUnnecessaryIsInstance]  users aren't type-checked
            raise UsageError(f"config must be True or False, not {self.config!r}")
        if self.first_contact not in ("pin", "refuse"):
            raise ConfigError(f"first_contact must be 'pin' or 'refuse', not {self.first_contact!r}")
        values = {"hosts": hosts, "key": checked_key(self.key), "jump": checked_jump(self.jump)}
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def connect(self) -> SSHProvider:
        from skyward_ssh.provider import SSHProvider

        return SSHProvider(self)

    def endpoints(self) -> list[tuple[Host, SSHEndpoint]]:
        """Return every host, with how its machine is reached."""
        shared = cast("tuple[Host, ...] | None", self.jump) or ()
        return [
            (host, self._endpoint(host, shared if host.hops is None else host.hops))
            for host in cast("tuple[Host, ...]", self.hosts)
        ]

    def _endpoint(self, host: Host, hops: tuple[Host, ...]) -> SSHEndpoint:
        key = host.key_path or (os.path.expanduser(self.key) if isinstance(self.key, str) else None)
        return SSHEndpoint(
            host=host.address,
            port=host.port,
            user=host.user,
            keys=(key,) if key else (),
            host_keys=host.host_keys,
            first_contact=self.first_contact,
            jump=tuple(self._endpoint(hop, ()) for hop in hops),
            config=self.config,
            starting=False,  # they are up: a refused login will not be accepted a minute later
            folder=host.folder,
        )
