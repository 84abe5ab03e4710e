"""Faults at random moments, drawn from a seed: the same seed gives the same faults, on any testbed nodes.

    faults = draw(random.Random(7), nodes=3)
    with Storm(nodes, faults) as storm:
        ...  # set up what is to stand it
        storm.begin()
        ...  # use the nodes
        storm.wait()
    assert ..., f"{storm}"

A node is hit by one lasting fault at a time. What ends by itself has ended when ``wait`` returns, and all
that can end has ended after the block; a node whose power was cut stays dead.
"""

from __future__ import annotations

import errno
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Literal, Self, get_args

from skyward_testing.testbed.errors import BedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward_testing.testbed import Node

type Kind = Literal[
    "kill-worker",
    "kill-agent",
    "restart-sshd",
    "freeze",
    "partition",
    "reset",
    "refuse",
    "slow-link",
    "fill-disk",
    "vanish",
    "power-off",
]
KINDS: tuple[Kind, ...] = get_args(Kind.__value__)
"""All there are. ``refuse``: sshd's machine resets connections, and takes only some of the new ones."""

SPANS: dict[Kind, tuple[tuple[float, float], ...]] = {
    "restart-sshd": ((0.05, 1.0),),
    "freeze": ((0.1, 1.0), (2.0, 3.0), (8.0, 9.0)),
    "partition": ((0.1, 1.0), (2.0, 3.0), (8.0, 9.0)),
    "reset": ((0.0, 1.0),),
    "refuse": ((0.5, 1.5),),
    "slow-link": ((0.5, 2.0),),
    "fill-disk": ((0.2, 1.0),),
}
"""How long a fault may last, in seconds: one of the ranges. What is not here is done at once."""

ENDS_NODE: frozenset[Kind] = frozenset({"kill-agent", "vanish", "power-off"})
"""After these there is nothing left of what a pool had there."""
SILENCES: frozenset[Kind] = frozenset({"freeze", "partition", "restart-sshd"})
"""While these last, a node can't be reached."""

AGENT = r"skyward\.node\.agent"
WORKER = r"skyward\.node\.worker"
BREATH = 0.5
"""Seconds between two lasting faults of one node."""
CUT_EVERY = 0.15
"""Seconds between the cuts of ``reset``."""
LINK_MS = 20.0
"""The delay of ``slow-link``, each way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a node, and when. ``at`` and ``seconds`` (0: it is done at once) are planned times."""

    kind: Kind
    node: int
    """The index among the nodes of the storm."""
    at: float
    seconds: float = 0.0
    amount: float = 0.0
    """From 0 to 1: how slow a slow link is, how many connections are refused, which worker is killed."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.2f} s" if self.seconds else ""
        return f"at {self.at:.2f} s: {self.kind} node {self.node}{lasting} ({self.amount:.2f})"


@dataclass(slots=True, kw_only=True)
class Played:
    """A fault as it happened: seconds since the storm began, and the processes that it killed."""

    fault: Fault
    began: float
    ended: float = 0.0
    pids: frozenset[int] = frozenset()

    def __str__(self) -> str:
        killed = f", killed {', '.join(map(str, sorted(self.pids)))}" if self.pids else ""
        return f"{self.fault}: was from {self.began:.2f} to {self.ended:.2f} s{killed}"


def draw(
    random: Random,
    *,
    nodes: int,
    kinds: Sequence[Kind] = KINDS,
    most: int = 4,
    within: float = 2.0,
) -> tuple[Fault, ...]:
    """Draw one to ``most`` faults that begin ``within`` so many seconds, in the order of their beginnings."""
    faults: list[Fault] = []
    for _ in range(random.randint(1, most)):
        kind = random.choice(kinds)
        spans = SPANS.get(kind)
        seconds = random.uniform(*random.choice(spans)) if spans else 0.0
        node, at, amount = random.randrange(nodes), random.uniform(0.0, within), random.random()
        fault = Fault(kind=kind, node=node, at=at, seconds=seconds, amount=amount)
        if not any(_clash(fault, other) for other in faults):
            faults.append(fault)
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _clash(one: Fault, other: Fault) -> bool:
    """Whether they would be on one node at a time, where the end of one may undo the other."""
    first, second = sorted((one, other), key=lambda fault: fault.at)
    lasting = first.node == second.node and bool(first.seconds and second.seconds)
    return lasting and first.at + first.seconds + BREATH > second.at


@dataclass(slots=True)
class Storm:
    """Plays faults on nodes, in a thread of its own. Its text tells what was planned and what was done."""

    nodes: Sequence[Node]
    faults: Sequence[Fault]
    played: list[Played] = field(default_factory=list[Played], init=False)
    """As they began. A dead node is spared."""
    _begun: float = field(default=0.0, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread], init=False)
    _busy: list[threading.Lock] = field(default_factory=list[threading.Lock], init=False)
    """By node: held while a lasting fault of it lasts."""
    _hands: list[threading.Lock] = field(default_factory=list[threading.Lock], init=False)
    """By node: held while something is done to it, so that nothing is done to one that is dying."""
    _problems: list[BaseException] = field(default_factory=list[BaseException], init=False)

    def __enter__(self) -> Self:
        return self

    def begin(self) -> None:
        """From this moment on count the times of the faults. Once; within the block."""
        self._begun = time.monotonic()
        self._busy = [threading.Lock() for _ in self.nodes]
        self._hands = [threading.Lock() for _ in self.nodes]
        for number, fault in enumerate(self.faults):
            name = f"testbed-storm-{number}"
            self._threads.append(threading.Thread(target=self._play, args=(fault,), name=name, daemon=True))
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        """End what lasts, and begin nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def __str__(self) -> str:
        done = {entry.fault for entry in self.played}
        left = [f"{fault}: did not happen" for fault in self.faults if fault not in done]
        return "\n".join(["faults:", *(f"  {line}" for line in (*map(str, self.played), *left))])

    def wait(self, timeout: float = 60.0) -> None:
        """Return when every fault is over. Raises what went wrong with one, and TimeoutError."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"the faults are not over within {timeout:g} s")
        if self._problems:
            raise self._problems[0]

    def of(self, node: Node) -> list[Played]:
        """What a node has gone through so far."""
        return [entry for entry in self.played if self.nodes[entry.fault.node] is node]

    def kinds(self, node: Node) -> set[Kind]:
        """The kinds of that."""
        return {entry.fault.kind for entry in self.of(node)}

    def silence(self, node: Node) -> float:
        """The longest time for which it could not be reached, in seconds."""
        spans = [entry.ended - entry.began for entry in self.of(node) if entry.fault.kind in SILENCES]
        return max(spans, default=0.0)

    def killed(self, node: Node) -> frozenset[int]:
        """The workers of it that were killed, by its own numbers."""
        return frozenset[int]().union(*(entry.pids for entry in self.of(node)))

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _play(self, fault: Fault) -> None:
        """One fault, from the wait for its moment to its end. What takes long holds up no other node."""
        if self._stop.wait(fault.at):
            return
        try:
            with self._busy[fault.node] if fault.seconds else nullcontext():
                self._happen(fault)
        except BaseException as error:
            self._problems.append(error)

    def _happen(self, fault: Fault) -> None:
        node = self.nodes[fault.node]
        entry = Played(fault=fault, began=self._now())
        with self._hands[fault.node]:
            if not node.alive or self._stop.is_set():
                return
            self.played.append(entry)
            entry.began = self._now()
        try:
            with self._hands[fault.node]:
                entry.pids = self._begin(fault, node)
            while (left := entry.began + fault.seconds - self._now()) > 0:
                if self._stop.wait(min(left, CUT_EVERY)):
                    break
                if fault.kind == "reset":
                    with self._hands[fault.node]:
                        self._cut(node)
        finally:
            with self._hands[fault.node]:
                self._end(fault, node)
            entry.ended = self._now()

    def _begin(self, fault: Fault, node: Node) -> frozenset[int]:
        """Have it befall a node that lives; return the workers that it kills."""
        if not node.alive:
            return frozenset()
        match fault.kind:
            case "kill-worker":
                return _kill_one(node, fault.amount)
            case "kill-agent":
                pids = node.pids(WORKER)
                node.pkill(AGENT)
                return frozenset(pids)
            case "restart-sshd":
                node.kill_sshd()
            case "freeze":
                node.freeze()
            case "partition":
                node.partition()
            case "refuse":
                node.drop_connections(one_in=2 + int(fault.amount * 3))
                self._cut(node)
            case "slow-link":
                node.link(rate_mbit=10 + 190 * fault.amount, delay_ms=LINK_MS)
            case "fill-disk":
                _fill(node)
            case "vanish":
                node.vanish()
            case "power-off":
                node.kill()
            case "reset":
                self._cut(node)
        return frozenset()

    def _end(self, fault: Fault, node: Node) -> None:
        if fault.kind == "slow-link":  # the lab's end of it, whatever became of the node
            node.link()
        elif node.alive:
            match fault.kind:
                case "restart-sshd":
                    node.start_sshd()
                case "freeze":
                    node.thaw()
                case "partition":
                    node.heal()
                case "refuse":
                    node.drop_connections(0)
                case "fill-disk":
                    node.free_disk()
                case _:
                    pass

    def _cut(self, node: Node) -> None:
        if node.alive:
            node.reset_connections()


def _fill(node: Node) -> None:
    """Fill a disk, also while others write there too: then there may be less room than there was."""
    for _ in range(5):
        try:
            return node.fill_disk()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    raise BedError(f"{node.name}: others fill the disk")


def _kill_one(node: Node, which: float) -> frozenset[int]:
    """Kill one of a node's workers; return its number, if there was any."""
    pids = node.pids(WORKER)
    if not pids:
        return frozenset()
    pid = pids[int(which * len(pids))]
    node.exec(f"kill -KILL {pid}", check=False)
    return frozenset({pid})
