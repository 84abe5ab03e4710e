"""Makes nodes without root, in user namespaces or as processes, and gives them addresses on loopback.

Each has an address of 127.0.0.0/8 to itself, behind which a front stands. Package registries are reached by
the relay of the testbed, which nodes find on their own loopback.
"""

from __future__ import annotations

import os
import random
import socket
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from skyward_testing.testbed import image, lacking, userimage
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.front import BACKLOG, Door, Fronts
from skyward_testing.testbed.node import Node, make_key
from skyward_testing.testbed.relay import Relay, variables
from skyward_testing.testbed.usermachine import FrontedMachine, ProcessMachine, UserMachine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skyward_testing.testbed.host import Host

RELAY_PORT = 3128
USUAL_PORT, PORT = 22, 2222
"""Where a user may not listen where sshd usually does, nodes that were to be there are here."""
FIRST_SHARED_PORT = 41_001
"""The same as root's."""
TRIES = 100


class UserSite:
    """Where the nodes of one testbed stand. ``tier``: "namespaces" or "processes"."""

    def __init__(self, tier: str, folder: Path, host: Host, client_key: Path, public_key: str) -> None:
        self._kind = UserMachine if tier == "namespaces" else ProcessMachine
        self._folder = folder
        self._host = host
        self._client_key = client_key
        self._public_key = public_key
        self._mount_point = folder / "mnt"
        self._mount_point.mkdir()
        self._numbers = count(1)
        self._addresses = f"127.{random.randrange(64, 128)}.{random.randrange(256)}"
        self._fronts = Fronts()
        self.relay = Relay()
        self._relay_port = RELAY_PORT
        if self._kind is ProcessMachine:
            listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
            self._relay_port = listener.getsockname()[1]
            self.relay.serve(listener)

    def number(self) -> int:
        """The next node's."""
        return next(self._numbers)

    def node(
        self, wish: image.Wish, number: int, *, memory_mb: int | None, cpus: float | None, behind: Node | None
    ) -> Node:
        """Make a node; skips the test if it can't be made as wished."""
        asked = {
            "sudo": wish.user == "ubuntu",
            "memory_mb": memory_mb is not None,
            "cpus": cpus is not None,
            "behind": behind is not None,
            "python": not wish.python,
            "uv": not wish.uv,
            "disk_mb": wish.disk_mb != image.DISK_MB,
        }
        for fault, lack in self._kind.lacks.items():
            if asked.get(fault):
                lacking.skip(lack)
        if self._kind is ProcessMachine and wish.user != "root" and os.geteuid() == 0:
            lacking.skip(self._kind.lacks["user"])
        private = self._folder / f"{wish.name}.key"
        make_key(private, wish.name)
        make = self._namespaced if self._kind is UserMachine else self._process
        machine = make(wish, private)
        private.unlink(missing_ok=True)
        try:
            self._start(machine)
            address, port = self._admit(machine, wish, number, behind)
        except BaseException:
            machine.end()
            machine.front.remove()
            machine.left()
            raise
        return Node(
            address=address, port=port, user=machine.default_user, label=wish.name, key=self._client_key,
            folder=self._folder, machine=machine,
        )  # fmt: skip

    def share_address(self, nodes: Sequence[Node]) -> list[Node]:
        """Open another door to each, at one address."""
        shared: list[Node] = []
        address = ""
        for port, node in enumerate(nodes, FIRST_SHARED_PORT):
            if not address:
                address, _ = _open_anywhere(_front_of(node), port, _some_address())
            else:
                _front_of(node).answer_at(_door(address, port))
            shared.append(replace(node, address=address, port=port))
        return shared

    def close(self) -> None:
        """End the threads. All nodes must have ended."""
        self.relay.stop()
        self._fronts.stop()

    def _namespaced(self, wish: image.Wish, private: Path) -> UserMachine:
        environment = self._environment(wish)
        plan = image.plan(
            userimage.inside(wish), self._host, variables=environment, groups=(), network=(),
            mount_point=os.fspath(self._mount_point), address="127.0.0.1", host_key=private.read_text(),
            client_key=f"{self._public_key}\n",
        )  # fmt: skip
        log = self._folder / f"{wish.name}.log"
        return UserMachine(userimage.user_plan(plan, wish), self._fronts, environment=environment, log=log)

    def _process(self, wish: image.Wish, private: Path) -> ProcessMachine:
        folder = self._folder / wish.name
        folder.mkdir(mode=0o700)
        private.rename(folder / "host_key")
        environment = self._environment(wish)
        plan = userimage.process_plan(
            wish, self._host, folder=folder, port=_free_port(), variables=environment,
            client_key=f"{self._public_key}\n",
        )  # fmt: skip
        log = self._folder / f"{wish.name}.log"
        return ProcessMachine(plan, self._fronts, environment=environment | plan.variables, log=log)

    def _environment(self, wish: image.Wish) -> dict[str, str]:
        proxies = variables(f"127.0.0.1:{self._relay_port}", "localhost,127.0.0.1,::1")
        return image.environment(self._host, wish, proxies)

    def _start(self, machine: UserMachine | ProcessMachine) -> None:
        if isinstance(machine, UserMachine):
            machine.start(userimage.SSHD_PORT)
            self.relay.serve(machine.make_socket("listen", "127.0.0.1", RELAY_PORT))
        else:
            machine.start(machine.plan.port)

    def _admit(
        self, machine: FrontedMachine, wish: image.Wish, number: int, behind: Node | None
    ) -> tuple[str, int]:
        address = f"{self._addresses}.{100 + number % 150}"  # ascending, unless somebody has it
        if behind is None:
            return _open_anywhere(machine, wish.port, address)
        port = PORT if wish.port == USUAL_PORT else wish.port
        outer = behind.machine
        assert isinstance(outer, UserMachine)
        machine.answer_at(
            Door(
                listen=lambda: outer.make_socket("listen", address, port),
                knock=lambda: outer.make_socket("connect", address, port),
            )
        )
        return address, port


def _front_of(node: Node) -> FrontedMachine:
    assert isinstance(node.machine, FrontedMachine)
    return node.machine


def _open_anywhere(machine: FrontedMachine, port: int, address: str) -> tuple[str, int]:
    """Open a door there, or at another address: other tests may run on this host."""
    for _ in range(TRIES):
        try:
            machine.answer_at(_door(address, port))
        except PermissionError:
            if port != USUAL_PORT:
                raise
            port = PORT
        except OSError:
            address = _some_address()
        else:
            return address, port
    raise BedError(f"no address of 127.0.0.0/8 lets this user listen on port {port}")


def _some_address() -> str:
    return f"127.{random.randrange(64, 128)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def _door(address: str, port: int) -> Door:
    def knock() -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.connect_ex((address, port))
        return made

    return Door(listen=lambda: socket.create_server((address, port), backlog=BACKLOG), knock=knock)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
