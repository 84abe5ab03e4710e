"""One host as the user writes it: ``"user@host:port"``, or ``Host(...)`` with fields of its own.

A frozen value, checked when it is built, without I/O: whether a name has an address or a key file exists
shows when the host is reached. Messages begin with the field's name, as those about configuration files
need it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, cast

from skyward.errors import ConfigError, UnknownNameError, UsageError

HIGHEST_PORT = 65535

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_USER = re.compile(r"[^\s:/]+")
_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")

type Jump = str | Host | Sequence[str | Host] | None


@dataclass(frozen=True, slots=True)
class Host:
    """One host. ``address``: ``[user@]host[:port]``, where ``host`` may be an alias of ``~/.ssh/config``.

    ``user`` and ``port`` may stand in the address or by themselves. ``key`` (the path of a private key) and
    ``jump`` (hosts to go through, in this order; ``()`` for none) say it for this host where it differs from
    the others. ``host_key`` is its public key, ``"ssh-ed25519 AAAA..."``: no other is accepted then.
    ``internal_ip`` is the address at which the other hosts reach it, ``usd_per_hour`` what it is said to
    cost. ``root``: the folder in which ``.skyward`` is made, absolute or below the home, where the home will
    not do: it is shared between hosts, or too small.
    """

    address: str
    _: KW_ONLY
    user: str | None = None
    port: int | None = None
    key: str | os.PathLike[str] | None = None
    jump: Jump = None
    host_key: str | Sequence[str] | None = None
    internal_ip: str | None = None
    usd_per_hour: float = 0.0
    root: str = ""

    def __post_init__(self) -> None:
        user, name, port = _parsed(self.address)
        given_user, given_port = checked_user(self.user), checked_port(self.port)
        if user and given_user and user != given_user:
            raise ConfigError(f"user is {given_user!r}, but the address {self.address!r} says {user!r}")
        if port and given_port and port != given_port:
            raise ConfigError(f"port is {given_port}, but the address {self.address!r} says {port}")
        values = {
            "address": name,
            "user": user or given_user,
            "port": port or given_port,
            "key": checked_key(self.key),
            "jump": checked_jump(self.jump),
            "host_key": _checked_host_keys(self.host_key),
            "internal_ip": _checked_ip(self.internal_ip),
            "usd_per_hour": _checked_price(self.usd_per_hour),
            "root": _checked_root(self.root),
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @property
    def label(self) -> str:
        """``[user@]host[:port]``: what it is called in messages and in the ids of its machines."""
        user = f"{self.user}@" if self.user else ""
        name = f"[{self.address}]" if ":" in self.address else self.address
        return f"{user}{name}" + (f":{self.port}" if self.port else "")

    @property
    def hops(self) -> tuple[Host, ...] | None:
        """The hosts to go through; None where this host says nothing about it."""
        return cast("tuple[Host, ...] | None", self.jump)

    @property
    def key_path(self) -> str | None:
        """The path of its private key, with ``~`` spelt out."""
        return os.path.expanduser(self.key) if isinstance(self.key, str) else None

    @property
    def host_keys(self) -> tuple[str, ...]:
        """Its public keys, as far as they were given."""
        return cast("tuple[str, ...]", self.host_key)

    @property
    def folder(self) -> str:
        """The folder of its one machine, absolute or below the home. Ours by its name alone."""
        return os.path.join(self.root, ".skyward", "machine")


def as_host(field: str, value: object) -> Host:
    """Return a string, a table of a configuration file or a ``Host`` as a ``Host``."""
    if isinstance(value, Host):
        return value
    if isinstance(value, str):
        return Host(value)
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        known = [setting.name for setting in fields(Host)]
        for key in table:
            if key not in known:
                raise UnknownNameError("key", str(key), known, where=field)
        if "address" not in table:
            raise ConfigError(f'{field} lacks its address: {{ address = "user@host:port", ... }}')
        return Host(**table)
    raise UsageError(f'{field} must be "user@host:port", an alias or a Host(...), not {value!r}')


def as_hosts(field: str, value: object) -> tuple[Host, ...]:
    """Return a list or tuple of such as a tuple of ``Host``."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f'{field} must be a list such as ["user@host:port", "alias"], not {value!r}')
    entries = cast("Sequence[object]", value)
    return tuple(as_host(f"{field}[{index}]", entry) for index, entry in enumerate(entries))


def checked_jump(value: object) -> tuple[Host, ...] | None:
    """Return the hosts to go through; ``"a,b"`` is two of them, as in OpenSSH."""
    if value is None:
        return None
    if isinstance(value, str):
        entries: object = [part.strip() for part in value.split(",")]
    else:
        entries = [cast("object", value)] if isinstance(value, Host | Mapping) else value
    hops = as_hosts("jump", entries)
    for hop in hops:
        if hop.hops:
            raise ConfigError(f"jump: {hop.label} has a jump of its own: list all of them, in their order")
    return hops


def checked_key(value: object) -> str | None:
    """Return the path of a private key as a string. No message shows what else it may be."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"key must be the path of a private key, not of type {type(value).__name__}")
    path = os.fspath(cast("str | os.PathLike[str]", value))
    if "PRIVATE KEY" in path or "\n" in path:
        raise ConfigError("key must be the path of a private key's file, not the key itself")
    if not path.strip():
        raise ConfigError("key must not be empty: leave it out to use the agent and the default key files")
    if path.endswith(".pub"):
        raise ConfigError(f"key must be the private key, {path.removesuffix('.pub')!r}, not its public half")
    return path


def checked_user(value: object) -> str | None:
    """Return a user's name, if there is one."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise UsageError(f"user must be a string, not {value!r}")
    if not _USER.fullmatch(value):
        raise ConfigError(f"user must be a user's name without blanks, ':' or '/', not {value!r}")
    return value


def checked_port(value: object) -> int | None:
    """Return a port, if there is one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"port must be a whole number from 1 to {HIGHEST_PORT}, not {value!r}")
    if not 1 <= value <= HIGHEST_PORT:
        raise ConfigError(f"port must be a number from 1 to {HIGHEST_PORT}, not {value}")
    return value


def _parsed(text: object) -> tuple[str | None, str, int | None]:
    """Take ``[user@]host[:port]`` apart."""
    if not isinstance(text, str):
        raise UsageError(f'address must be a string such as "user@host:port", not {text!r}')
    user, at, place = text.removeprefix("ssh://").rpartition("@")
    if at and ":" in user:
        # The text after the colon may be a password.
        raise ConfigError("address must not hold a password: logins are by key; write user@host:port")
    if at:
        checked_user(user)
    if place.startswith("["):
        name, bracket, rest = place[1:].partition("]")
        if not bracket or not is_ip(name) or (rest and not rest.startswith(":")):
            raise ConfigError(f"address {text!r}: an IPv6 address is written [::1] or [::1]:22")
        return user or None, name, _port_of(text, rest[1:]) if rest else None
    if place.count(":") > 1:
        hint = f"[{place}]" if is_ip(place) else "user@host:port"
        raise ConfigError(f"address {text!r} has too many colons: write {user + at}{hint}")
    name, colon, port = place.partition(":")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"address {text!r} names no host: write user@host:port, or an alias")
    return user or None, name, _port_of(text, port) if colon else None


def _port_of(text: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits) <= HIGHEST_PORT):
        raise ConfigError(
            f"address {text!r}: the port must be a number from 1 to {HIGHEST_PORT}, not {digits!r}"
        )
    return int(digits)


def is_ip(text: str) -> bool:
    """Whether ``text`` is an IP address."""
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _checked_ip(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not is_ip(value):
        raise ConfigError(f"internal_ip must be an IP address such as '10.0.0.7', not {value!r}")
    return value


def _checked_price(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"usd_per_hour must be a number of 0 or more, not {value!r}")
    if not (value >= 0 and math.isfinite(value)):
        raise ConfigError(f"usd_per_hour must be a number of 0 or more, not {value}")
    return float(value)


def _checked_root(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"root must be the path of a folder, not {value!r}")
    path = value.removeprefix("~/").rstrip("/") if value != "~" else ""
    if path.startswith("~") or "\n" in path or ".." in path.split("/"):
        raise ConfigError(f"root must be a plain path, absolute or below the home, not {value!r}")
    return path or ("/" if value.startswith("/") else "")


def _checked_host_keys(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, Sequence):
        raise UsageError(f'host_key must be a public key, "ssh-ed25519 AAAA...", not {value!r}')
    return tuple(_checked_host_key(line) for line in cast("Sequence[object]", lines))


def _checked_host_key(line: object) -> str:
    words = line.split() if isinstance(line, str) else []
    if len(words) > 1 and not _KEY_TYPE.fullmatch(words[0]):
        words = words[1:]  # a line of known_hosts, or of ssh-keyscan, begins with the host
    if len(words) < 2 or not _KEY_TYPE.fullmatch(words[0]) or not _BASE64.fullmatch(words[1]):
        hint = ", which is only the fingerprint of one" if "SHA256:" in str(line) else ""
        raise ConfigError(f'host_key must be a public key, "ssh-ed25519 AAAA...", not {line!r}{hint}')
    return f"{words[0]} {words[1]}"
