"""What happens to a pool, as a stream of frozen values that anyone can subscribe to.

Every event names its pool and the time it happened. Events are made on the engine's loop and handed
to subscribers on a thread of their own, in order: a slow subscriber delays nobody. ``TaskStarted`` and
``TaskCompleted`` are only made while somebody subscribes to them. Used by consoles, logs and users.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from skyward.spec import PoolSpec

    type Stream = Literal["stdout", "stderr"]
    type PhaseState = Literal["started", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A node as events name it: the provider's machine id and our rank."""

    id: str
    node: int
    provider: str = ""
    region: str = ""
    address: str = ""
    usd_per_hour: float = 0.0
    spot: bool = False

    @property
    def label(self) -> str:
        return f"node {self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The root of all events. ``pool``: the pool's name; ``at``: seconds since the epoch."""

    pool: str
    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRequested(Event):
    """A pool was asked for; nothing has been rented yet."""

    provider: str
    spec: PoolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterProvisioned(Event):
    """Enough machines exist for the pool to become usable; they may still be setting up."""

    provider: str
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReady(Event):
    """The pool is usable. ``nodes`` are ready now, ``seconds`` passed since the request."""

    nodes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDestroyed(Event):
    """Every machine of the pool was released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRequested(Event):
    """A machine is about to be rented for ``node``. ``replacing``: the id of a lost one, or ''."""

    node: int
    provider: str
    replacing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceProvisioned(Event):
    """The provider gave a machine; it may not be reachable yet."""

    instance: Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePhase(Event):
    """One phase of setting a node up. ``seconds`` is set when it is over; ``detail`` says why it failed."""

    instance: Instance
    phase: str
    state: PhaseState
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceBootstrapped(Event):
    """The node's workers answered: it takes tasks from now on. ``seconds`` since it was requested."""

    instance: Instance
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePreempted(Event):
    """The node was lost: reclaimed, died, or cut off."""

    instance: Instance
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReplaced(Event):
    """Another machine took over the rank of a lost one."""

    old_id: str
    new: Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDestroyed(Event):
    """The machine was ended by us."""

    instance: Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied(Event):
    """A process that runs tasks died and is started again. ``cause`` in words."""

    instance: Instance
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingChanged(Event):
    """The number of nodes that the pool wants changed. ``reason`` in words."""

    desired: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(Event):
    """A task began on a node."""

    task_id: int
    instance: Instance
    function_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted(Event):
    """A task ended. ``duration``: seconds on the node; ``error`` is '' on success."""

    task_id: int
    instance: Instance
    function_name: str
    duration: float
    success: bool
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Event):
    """One reading of a metric on a node. ``name`` ends in the device where there may be several: ``gpu:0``.

    Units: see the functions of ``sky.metrics``.
    """

    instance: Instance
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Event):
    """One line that a task or its process wrote, without its newline.

    ``overwrite``: the line ended in a carriage return and will be overwritten (a progress bar).
    """

    instance: Instance
    line: str
    stream: Stream = "stdout"
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(Event):
    """Something went wrong that no caller is told of by an exception, or that ended the pool (``fatal``)."""

    message: str
    fatal: bool = False
