"""Gives a test its nodes, and takes care that nothing of them outlives it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward_testing.testbed import host as hosts
from skyward_testing.testbed import image
from skyward_testing.testbed.capable import TIERS, capabilities, why_not
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.node import Node, make_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skyward_testing.testbed.relay import Relay
    from skyward_testing.testbed.rootsite import RootSite
    from skyward_testing.testbed.usersite import UserSite

AT_ONCE = 8
"""Nodes made at a time: most of what it takes is the kernel's and waiting, but it takes CPU too."""


class Testbed:
    """Real SSH nodes, of the best kind that can be made here. Give it an empty folder; ``close`` ends all.

    ``tier``: a kind of node, of ``TIERS``, if not the best. That of root ("network") must be made and used in
    threads of the lab (``lab.current``), which the pytest plugin takes care of.
    """

    __test__ = False  # its name begins as those of test classes do

    def __init__(self, folder: Path, *, pythons: Sequence[str] = (), tier: str | None = None) -> None:
        self.tier = tier or capabilities().tier
        """The kind of its nodes."""
        if self.tier not in TIERS:
            raise BedError(capabilities().nodes or f"the tier {self.tier!r} is none of {', '.join(TIERS)}")
        if why := why_not(self.tier):
            raise BedError(f"no nodes of the tier {self.tier!r} can be made: {why}")
        host = hosts.look(tuple(pythons) or hosts.versions_of(Path.cwd()))
        self._folder = folder
        self._nodes: list[Node] = []
        self.home = folder / "home"
        """An empty folder for the client's side: what a test sets as HOME or XDG_STATE_HOME."""
        self.home.mkdir(mode=0o700)
        self.key = folder / "client"
        """The private key that every node knows."""
        public = make_key(self.key, "testbed")
        self._site: RootSite | UserSite
        if self.tier == "network":
            from skyward_testing.testbed.rootsite import RootSite

            self._site = RootSite(folder, host, self.key, public)
        else:
            from skyward_testing.testbed.usersite import UserSite

            self._site = UserSite(self.tier, folder, host, self.key, public)

    @property
    def relay(self) -> Relay:
        """What nodes reach package registries through, with its faults. Their end is the test's."""
        return self._site.relay

    @property
    def all_nodes(self) -> list[Node]:
        """Every node so far, dead ones too."""
        return list(self._nodes)

    def node(
        self,
        *,
        user: str = "root",
        python: bool = True,
        uv: bool = True,
        sudo: bool = True,
        memory_mb: int | None = None,
        cpus: float | None = None,
        disk_mb: int = image.DISK_MB,
        forwarding: bool = True,
        name: str | None = None,
        behind: Node | None = None,
        port: int = 22,
    ) -> Node:
        """Make a node and return when its sshd listens.

        ``user``: the only one whom it lets in; "root", "ubuntu" (may become root without a password) or
        "plain" (may not). ``python``: False for none at all; else the host's own, and as ``python3.12`` each
        that the project's ``.python-version`` names. ``uv``: the host's, if it has one, with its cache.
        ``sudo``: False for no such command. ``memory_mb``: files that it writes count too. ``cpus``: as 0.5.
        ``forwarding``: False if sshd forbids every kind. ``name``: its hostname, which no other node of this
        testbed has. ``behind``: a node through which alone this one is reached. What nodes of this tier can't
        have skips the test. Without root it is sshd's port for which 22 stands, and of the users "root" and
        "plain" a node has the one only; nodes that are processes have the user who runs the tests.
        """
        if user not in image.USERS:
            raise BedError(f"user {user!r} is none of {', '.join(image.USERS)}")
        if name in {node.label for node in self._nodes}:
            raise BedError(f"there is a node named {name!r}")
        number = self._site.number()
        wish = image.Wish(
            name=name or f"node-{number}",
            user=user,
            python=python,
            uv=uv,
            sudo=sudo,
            disk_mb=disk_mb,
            forwarding=forwarding,
            port=port,
        )
        node = self._site.node(wish, number, memory_mb=memory_mb, cpus=cpus, behind=behind)
        self._nodes.append(node)
        return node

    def nodes(self, count: int, **same: Any) -> list[Node]:
        """Make nodes of one kind at a time, with the arguments of ``node``."""
        return _in_parallel([lambda: self.node(**same)] * count)

    def share_address(self, nodes: Sequence[Node]) -> list[Node]:
        """The same nodes behind one address, each at a port of its own, as marketplaces rent them out.

        From other nodes, if made by root, they are reached there as well. Their own addresses stay reachable.
        """
        return self._site.share_address(nodes)

    def close(self) -> list[str]:
        """End every node and every fault of the relay; returns what is left in spite of it, as lines."""
        self.relay.up()
        _in_parallel([node.machine.end for node in self._nodes])
        for node in self._nodes:
            node.machine.wire.remove()
        self._site.close()
        left = [line for node in self._nodes for line in node.machine.left()]
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            left += [f"mount {line.strip()}" for line in mounts if os.fspath(self._folder) in line]
        return left


def _in_parallel[T](jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Do all, a few at a time; raises the first that failed, when the others are done."""
    if not jobs:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(jobs)), "testbed-make") as pool:
        futures = [pool.submit(job) for job in jobs]
    return [future.result() for future in futures]
