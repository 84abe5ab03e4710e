"""A lease as it is read from a host, and what it means: whose the host is, since when, if it lives."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from skyward.hooks.values import Machine

from skyward_ssh.scripts import STALE_SECONDS, YOUNG_SECONDS

if TYPE_CHECKING:
    from skyward.hooks.values import Claim, PoolRef

    from skyward_ssh.remote import Answer, Remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What ``machine.json`` holds. ``since``: seconds since the epoch. ``host``: the host's own name."""

    claim: str = ""
    pool: str = ""
    pool_name: str = ""
    rank: int = 0
    owner: str = ""
    since: float = 0.0
    ttl: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a host's folder looked like. ``lease``: None without a readable one. ``age``: seconds untouched.

    ``agent``: "alive" (also while it starts), "dead", or "none" before one was started.
    """

    host: str
    address: str
    is_there: bool
    lease: Lease | None
    agent: str
    age: int

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is the lease of another host, which shares its home with this one."""
        return self.lease is not None and self.lease.host not in ("", self.host)

    def holds(self, claim: str) -> bool:
        """Whether the host is leased for this claim."""
        return self.lease is not None and self.lease.claim == claim and not self.is_elsewhere

    @property
    def may_be_free(self) -> bool:
        """Whether trying to lease the host may succeed. What the host itself finds under its lock decides."""
        if not self.is_there:
            return True
        if self.lease is None:
            return True
        return not self.is_elsewhere and self.agent != "alive" and self.age > STALE_SECONDS


def written(pool: PoolRef, claim: Claim) -> dict[str, object]:
    """Return the lease of a claim as it is written down; the host adds its own name."""
    return {
        "claim": claim.id,
        "pool": pool.id,
        "pool_name": pool.name,
        "rank": claim.rank,
        "owner": claim.owner,
        "since": time.time(),
        "ttl": pool.ttl,
    }


def seen(answer: Answer) -> Look:
    """Read what ``report`` printed."""

    def last(key: str, default: str = "") -> str:
        return answer.get(key, [default])[-1]

    age = last("age", "0")
    return Look(
        host=last("host"),
        address=last("address"),
        is_there="folder" in answer,
        lease=_parsed(last("lease")),
        agent=last("agent", "none"),
        age=int(age) if age.lstrip("-").isdigit() else 0,
    )


def _parsed(text: str) -> Lease | None:
    try:
        raw: object = json.loads(text)
        found = Lease(**cast("dict[str, Any]", raw)) if isinstance(raw, dict) else None
    except (ValueError, TypeError):  # a task may have written there
        return None
    return found if found is not None and found.claim else None


def machine(remote: Remote, look: Look) -> Machine:
    """Return the machine that a lease is. Its id names the host, so that any process can end it."""
    assert look.lease is not None
    host = remote.host
    return Machine(
        id=machine_id(remote, look.lease.claim),
        claim=look.lease.claim,
        pool=look.lease.pool,
        endpoint=remote.endpoint,
        public_ip=host.address,
        private_ip=host.internal_ip or look.address,
        usd_per_hour=host.usd_per_hour,
    )


def machine_id(remote: Remote, claim: str) -> str:
    """Return the id of a claim's machine on a host."""
    return f"{remote.label}/{claim}"


def why_busy(remote: Remote, look: Look, pool: PoolRef) -> str:
    """Say in words who has a host."""
    if look.lease is None:
        return (
            f"in {remote.label}, {remote.host.folder} is being made or removed, or was left without a lease: "
            f"it is free {YOUNG_SECONDS} s after its last change"
        )
    if look.is_elsewhere:
        return (
            f"{remote.label} shares its home with {look.lease.host}, which has a machine in it: give each a "
            "folder of its own with Host(..., root=...)"
        )
    if look.lease.pool == pool.id:
        return f"{remote.label} is a machine of this pool already"
    return (
        f"{remote.label} is leased by pool {look.lease.pool_name!r} of {look.lease.owner} since "
        f"{_ago(time.time() - look.lease.since)}"
    )


def _ago(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
