"""What can't be done where nodes are not made by root, each with what it would take.

Keys are faults, named as the methods and arguments that ask for them (``Node.can``).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from skyward_testing.testbed.capable import why_not

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A fault, what nodes would need for it, and the first tier that has that."""

    fault: str
    needs: str
    tier: str

    def __str__(self) -> str:
        how = why_not(self.tier) or f"let the testbed be of the tier {self.tier!r}"
        return f"{self.fault} needs nodes with {self.needs}: {how}"


def _all(tier: str, needs: str, *faults: str) -> dict[str, Lack]:
    return {fault: Lack(fault=fault, needs=needs, tier=tier) for fault in faults}


NAMESPACES: Mapping[str, Lack] = MappingProxyType(
    _all("network", "a network in common", "isolate_from")
    | _all("network", "network cards of their own", "loss")
    | _all("network", "control groups of their own", "memory_mb", "cpus", "oom_kills")
    | _all("network", "several users", "sudo", "user")
)
"""Nodes in user namespaces."""

PROCESSES: Mapping[str, Lack] = MappingProxyType(
    dict(NAMESPACES)
    | _all("namespaces", "a hostname of their own", "name")
    | _all("namespaces", "a network of their own", "behind")
    | _all("namespaces", "a file system of their own", "files", "python", "uv", "disk_mb", "fill_disk")
    | _all("namespaces", "processes of their own", "shutdown")
)
"""Nodes that are an sshd and a folder."""

LACKS: Mapping[str, Mapping[str, Lack]] = {
    "network": {},
    "namespaces": NAMESPACES,
    "processes": PROCESSES,
}
"""By tier."""

FAULTS = frozenset(PROCESSES)
"""Every fault that some kind of node lacks; all the others can befall each."""


def skip(lack: Lack) -> NoReturn:
    """Skip the test that asked for what can't be done."""
    import pytest

    pytest.skip(str(lack))
