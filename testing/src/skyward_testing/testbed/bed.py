"""Gives a test its nodes, and takes care that nothing of them outlives it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward_testing.testbed import host as hosts
from skyward_testing.testbed import image, lab
from skyward_testing.testbed.capable import capabilities
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.groups import Groups
from skyward_testing.testbed.machine import Machine
from skyward_testing.testbed.node import Node, make_key
from skyward_testing.testbed.wires import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skyward_testing.testbed.relay import Relay

AT_ONCE = 8
"""Nodes made at a time: most of what it takes is the kernel's and waiting, but it takes CPU too."""
FIRST_SHARED_PORT = 41_001


class Testbed:
    """Real SSH nodes in a private network. Give it an empty folder; ``close`` ends every node.

    Must be made and used in threads of the lab (``lab.current``), which the pytest plugin takes care of.
    """

    __test__ = False  # its name begins as those of test classes do

    def __init__(self, folder: Path, *, pythons: Sequence[str] = ()) -> None:
        self._lab = lab.current()
        self._host = hosts.look(tuple(pythons) or hosts.versions_of(Path.cwd()))
        self._folder = folder
        self._nodes: list[Node] = []
        self._mount_point = folder / "mnt"
        self._mount_point.mkdir()
        self.home = folder / "home"
        """An empty folder for the client's side: what a test sets as HOME or XDG_STATE_HOME."""
        self.home.mkdir(mode=0o700)
        self.key = folder / "client"
        """The private key that every node knows."""
        self._public = make_key(self.key, "testbed")

    @property
    def relay(self) -> Relay:
        """What nodes reach package registries through, with its faults. Their end is the test's."""
        return self._lab.relay

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
        disk_mb: int = 2048,
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
        testbed has. ``behind``: a node through which alone this one is reached.
        """
        if user not in image.USERS:
            raise BedError(f"user {user!r} is none of {', '.join(image.USERS)}")
        if sudo and user == "ubuntu" and (why := capabilities().sudo):
            raise BedError(why)
        if name in {node.name for node in self._nodes}:
            raise BedError(f"there is a node named {name!r}")
        number = self._lab.number()
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
        wire = Wire(number, behind.machine.wire if behind else None)
        groups = Groups(number, memory_mb=memory_mb, cpus=cpus)
        try:
            return self._make(wish, wire, groups)
        except BaseException:
            wire.remove()
            groups.remove()
            raise

    def nodes(self, count: int, **same: Any) -> list[Node]:
        """Make nodes of one kind at a time, with the arguments of ``node``."""
        return _in_parallel([lambda: self.node(**same)] * count)

    def share_address(self, nodes: Sequence[Node]) -> list[Node]:
        """The same nodes behind one address, each at a port of its own, as marketplaces rent them out.

        From other nodes they are reached there as well. Their own addresses stay reachable.
        """
        address = self._lab.shared_address()
        rules: list[str] = []
        shared: list[Node] = []
        for port, node in enumerate(nodes, FIRST_SHARED_PORT):
            where = f"ip daddr {address} tcp dport {port} dnat to {node.address}:{node.port}"
            rules += [f"add rule ip bed {chain} {where}" for chain in ("arrive", "leave")]
            shared.append(replace(node, address=address, port=port))
        lab.nft("\n".join(rules))
        return shared

    def close(self) -> list[str]:
        """End every node and every fault of the relay; returns what is left in spite of it, as lines."""
        self.relay.up()
        _in_parallel([node.machine.end for node in self._nodes])
        self.relay.forget(node.address for node in self._nodes)
        for node in self._nodes:
            node.machine.wire.remove()
        left = [line for node in self._nodes for line in node.machine.left()]
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            left += [f"mount {line.strip()}" for line in mounts if os.fspath(self._folder) in line]
        return left

    def _make(self, wish: image.Wish, wire: Wire, groups: Groups) -> Node:
        private = self._folder / f"{wish.name}.key"
        make_key(private, wish.name)
        plan = image.plan(
            wish,
            self._host,
            mount_point=os.fspath(self._mount_point),
            groups=groups.folders,
            network=wire.inside(),
            address=wire.address,
            host_key=private.read_text(),
            client_key=f"{self._public}\n",
        )
        private.unlink()
        machine = Machine(
            plan,
            wire,
            groups,
            environment=image.environment(self._host, wish),
            log=self._folder / f"{wish.name}.log",
        )
        node = Node(
            address=wire.address,
            port=wish.port,
            user=wish.user,
            name=wish.name,
            key=self.key,
            folder=self._folder,
            machine=machine,
        )
        try:
            machine.start(wish.port)
        except BaseException:
            machine.end()
            machine.left()
            raise
        self._nodes.append(node)
        return node


def _in_parallel[T](jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Do all, a few at a time; raises the first that failed, when the others are done."""
    if not jobs:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(jobs)), "testbed-make") as pool:
        futures = [pool.submit(job) for job in jobs]
    return [future.result() for future in futures]
