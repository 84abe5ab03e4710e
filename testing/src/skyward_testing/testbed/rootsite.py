"""Makes nodes as root, with namespaces, network cards and control groups, in the lab of this process."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from skyward_testing.testbed import image, lab
from skyward_testing.testbed.capable import capabilities
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.groups import Groups
from skyward_testing.testbed.machine import Machine
from skyward_testing.testbed.node import Node, make_key
from skyward_testing.testbed.wires import Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skyward_testing.testbed.host import Host

FIRST_SHARED_PORT = 41_001


class RootSite:
    """Where the nodes of one testbed stand. Must be made and used in threads of the lab (``lab.current``)."""

    def __init__(self, folder: Path, host: Host, client_key: Path, public_key: str) -> None:
        self._lab = lab.current()
        self._folder = folder
        self._host = host
        self._client_key = client_key
        self._public_key = public_key
        self._mount_point = folder / "mnt"
        self._mount_point.mkdir()
        self._made: list[Node] = []
        self.relay = self._lab.relay

    def number(self) -> int:
        """The next node's, in all testbeds of this process."""
        return self._lab.number()

    def node(
        self, wish: image.Wish, number: int, *, memory_mb: int | None, cpus: float | None, behind: Node | None
    ) -> Node:
        """Make a node and return when its sshd listens."""
        if wish.sudo and wish.user == "ubuntu" and (why := capabilities().sudo):
            raise BedError(why)
        door = behind.machine.wire if behind else None
        assert door is None or isinstance(door, Wire)
        wire = Wire(number, door)
        groups = Groups(number, memory_mb=memory_mb, cpus=cpus)
        try:
            node = self._make(wish, wire, groups)
        except BaseException:
            wire.remove()
            groups.remove()
            raise
        self._made.append(node)
        return node

    def share_address(self, nodes: Sequence[Node]) -> list[Node]:
        """Map ports of one address to them."""
        address = self._lab.shared_address()
        rules: list[str] = []
        shared: list[Node] = []
        for port, node in enumerate(nodes, FIRST_SHARED_PORT):
            where = f"ip daddr {address} tcp dport {port} dnat to {node.address}:{node.port}"
            rules += [f"add rule ip bed {chain} {where}" for chain in ("arrive", "leave")]
            shared.append(replace(node, address=address, port=port))
        lab.nft("\n".join(rules))
        return shared

    def close(self) -> None:
        """Forget the nodes, which have ended."""
        self.relay.forget(node.address for node in self._made)

    def _make(self, wish: image.Wish, wire: Wire, groups: Groups) -> Node:
        private = self._folder / f"{wish.name}.key"
        make_key(private, wish.name)
        variables = image.environment(self._host, wish, lab.proxies())
        plan = image.plan(
            wish,
            self._host,
            variables=variables,
            mount_point=os.fspath(self._mount_point),
            groups=groups.folders,
            network=wire.inside(),
            address=wire.address,
            host_key=private.read_text(),
            client_key=f"{self._public_key}\n",
        )
        private.unlink()
        log = self._folder / f"{wish.name}.log"
        machine = Machine(plan, wire, groups, environment=variables, log=log)
        try:
            machine.start(wish.port)
        except BaseException:
            machine.end()
            machine.left()
            raise
        return Node(
            address=wire.address,
            port=wish.port,
            user=wish.user,
            label=wish.name,
            key=self._client_key,
            folder=self._folder,
            machine=machine,
        )
