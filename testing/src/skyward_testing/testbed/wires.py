"""A node's cable: a pair of network cards, the lab's routes to it, and what can be wrong with them.

All of it is routing in the lab, so a fault hits established connections as well as new ones, and the node
can't see it: a cut link loses packets in both directions and answers nothing, as a real one does. Shaping is
done by a relay for packets (``shaper``), which is put between the lab and the node's card while they run.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from skyward_testing.testbed.lab import CLIENT, GATEWAY, RELAY, VOID, ip

if TYPE_CHECKING:
    from skyward_testing.testbed.shaper import Shaper

# Numbers of routing tables: how to reach a node that is hidden; the last step to its card; the way from it.
REACH, DELIVER, LEAVE = 1_000, 100_000, 200_000
# Order of rules: what is lost goes first, then shaping, then doors to hidden nodes.
# Each kind has a number to itself: the kernel confuses a rule with one that says the same and more.
LOSE, LOSE_ONE, SHAPE, DOOR = 10, 11, 100, 150


class Wire:
    """The cable of node ``index``, reached directly or (``behind``) through another node only."""

    def __init__(self, index: int, behind: Wire | None) -> None:
        self.index = index
        self.address = f"10.77.{index // 250}.{index % 250 + 1}"
        self.card = f"tb{index}"
        self.tunnel = f"tu{index}"
        self._behind = behind
        self._rules: set[str] = set()
        self._apart: set[Wire] = set()
        self._is_cut = False
        self._shaper: Shaper | None = None

    def plug(self, pid: int) -> None:
        """Put one end into the network namespace of ``pid``, as eth0, and lay the routes."""
        lines = [
            f"link add {self.card} type veth peer name eth0 netns {pid}",
            f"addr add {GATEWAY}/32 dev {self.card}",
            f"link set {self.card} up",
            self._route(),
        ]
        if self._behind is not None:
            lines.append(f"route replace unreachable {self.address}/32")
            table = REACH + self.index
            for where in (f"iif {self._behind.card}", f"iif {self._behind.tunnel}", f"from {RELAY}"):
                lines += self._rule(f"pref {DOOR} {where} to {self.address} lookup {table}")
        ip(*lines)

    def inside(self) -> list[str]:
        """What ip(8) has to do in the node."""
        return [
            "link set lo up",
            f"addr add {self.address}/32 dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY} dev eth0 onlink src {self.address}",
        ]

    def is_plugged(self) -> bool:
        """Whether the lab's end is there. (/sys would tell of the host's network.)"""
        try:
            socket.if_nametoindex(self.card)
        except OSError:
            return False
        return True

    def cut(self) -> None:
        """Lose everything to and from the node; it need not exist any more."""
        self._is_cut = True
        ip(*self._rule(f"pref {LOSE} iif {self.card} blackhole"), self._route())

    def mend(self) -> None:
        """End ``cut`` and every ``part``."""
        self._is_cut = False
        lines = self._no_rule(f"pref {LOSE} iif {self.card} blackhole")
        for other in self._apart:
            other._apart.discard(self)
            lines += self._no_rule(self._lost(other)) + other._no_rule(other._lost(self))
        self._apart.clear()
        ip(*lines, self._route())

    def part(self, other: Wire) -> None:
        """Lose everything between two nodes."""
        self._apart.add(other)
        other._apart.add(self)
        ip(*self._rule(self._lost(other)), *other._rule(other._lost(self)))

    def shape(self, *, rate_mbit: float | None, delay_ms: float | None, loss: float | None) -> None:
        """Make the link slow, late or lossy, each way; all None: as it was."""
        if not (rate_mbit or delay_ms or loss):
            return self._unshape()
        if self._shaper is None:
            from skyward_testing.testbed.shaper import Shaper

            self._shaper = Shaper(self.tunnel, self.address)
            ip(
                f"link set {self.tunnel} up",
                f"route replace {self.address}/32 dev {self.card} table {DELIVER + self.index}",
                f"route replace default dev {self.tunnel} table {LEAVE + self.index}",
                *(line for rule in self._shaping() for line in self._rule(rule)),
                self._route(),
            )
        self._shaper.set(rate_mbit=rate_mbit, delay_ms=delay_ms, loss=loss)

    def answers(self, listening: bool) -> None:
        """Nothing to do: that nobody listens, the node's kernel says itself."""

    def remove(self) -> None:
        """Take the cable away, and all that was said about it."""
        shaper, self._shaper = self._shaper, None
        rules = [line for rule in list(self._rules) for line in self._no_rule(rule)]
        routes = [f"route del {self.address}/32", f"route flush table {REACH + self.index}"]
        ip(f"link del {self.card}", *rules, *routes, force=True)
        if shaper is not None:
            shaper.stop()

    def _route(self) -> str:
        to = VOID if self._is_cut else self.tunnel if self._shaper else self.card
        table = f"table {REACH + self.index}" if self._behind is not None else ""
        return f"route replace {self.address}/32 dev {to} src {CLIENT} {table}"

    def _lost(self, other: Wire) -> str:
        return f"pref {LOSE_ONE} iif {self.card} to {other.address} blackhole"

    def _shaping(self) -> list[str]:
        return [
            f"pref {SHAPE} iif {self.tunnel} to {self.address} lookup {DELIVER + self.index}",
            f"pref {SHAPE + 1} iif {self.card} lookup {LEAVE + self.index}",
        ]

    def _unshape(self) -> None:
        if self._shaper is None:
            return
        shaper, self._shaper = self._shaper, None
        ip(*(line for rule in self._shaping() for line in self._no_rule(rule)), self._route())
        shaper.stop()

    def _rule(self, rule: str) -> list[str]:
        """What adds a rule; nothing if it is there, for the kernel would add it twice."""
        if rule in self._rules:
            return []
        self._rules.add(rule)
        return [f"rule add {rule}"]

    def _no_rule(self, rule: str) -> list[str]:
        """What takes a rule away; nothing if it is not there."""
        if rule not in self._rules:
            return []
        self._rules.remove(rule)
        return [f"rule del {rule}"]
