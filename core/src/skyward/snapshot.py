"""A pool at one moment, as plain values: what ``pool.snapshot()`` returns and consoles draw."""

from __future__ import annotations

from dataclasses import dataclass

from skyward.spec import PoolState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    type NodeStatus = Literal[
        "requested",
        "launching",
        "connecting",
        "bootstrapping",
        "starting",
        "ready",
        "draining",
        "lost",
        "ended",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """One node. ``phase``: what it is doing while it is set up, '' when it is not; ``since``: when it was
    rented, seconds since the epoch.
    """

    rank: int
    machine: str
    status: NodeStatus
    phase: str
    slots: int
    running: int
    done: int
    address: str
    usd_per_hour: float
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """Tasks of the pool since it was opened. ``failed`` ones are not among the ``done``."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A ``map`` or a group under way; gone when it ends. ``started``: seconds since the epoch."""

    name: str
    total: int
    done: int
    started: float

    def rate(self, now: float) -> float:
        """Items per second since it started."""
        return self.done / max(now - self.started, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """Estimated seconds to the end at the rate so far; None before the first item is done."""
        return (self.total - self.done) / self.rate(now) if self.done else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingSnapshot:
    """What the pool wants: ``desired`` nodes within ``min``..``max``; ``pending`` are being set up."""

    desired: int
    min: int
    max: int
    pending: int
    draining: int
    is_elastic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """The whole pool. ``cost_usd``: what the machines have cost so far, by their listed price."""

    name: str
    provider: str
    phase: PoolState
    nodes: tuple[NodeSnapshot, ...]
    tasks: TaskCounts
    scaling: ScalingSnapshot
    progress: tuple[Progress, ...]
    started: float
    usd_per_hour: float
    cost_usd: float
