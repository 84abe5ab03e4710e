"""What a pool looks like at one moment, put together from its parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from skyward.errors import NodeError
from skyward.snapshot import PoolSnapshot, Progress, ScalingSnapshot, TaskCounts
from skyward.timing import NodeTiming, Timing, without_gaps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.node import Node
    from skyward.engine.scaling import Scaler
    from skyward.engine.task import Batch
    from skyward.link.doors import Place
    from skyward.spec import PoolState


def picture(
    name: str,
    provider: str,
    state: PoolState,
    nodes: Sequence[Node],
    dispatcher: Dispatcher,
    scaler: Scaler,
    batches: Sequence[Batch],
    *,
    pending: int,
    started: float,
    spent: float,
) -> PoolSnapshot:
    """Return the snapshot. ``spent``: USD of the machines that are gone; those that are not are added."""
    now = time.time()
    running = sum((now - node.since) / 3600 * node.machine.usd_per_hour for node in nodes)
    return PoolSnapshot(
        name=name,
        provider=provider,
        phase=state,
        nodes=tuple(node.snapshot() for node in nodes),
        tasks=TaskCounts(
            queued=dispatcher.queued,
            running=dispatcher.running,
            done=dispatcher.done,
            failed=dispatcher.failed,
        ),
        scaling=ScalingSnapshot(
            desired=scaler.desired,
            min=scaler.bounds.floor,
            max=scaler.bounds.ceiling,
            pending=pending,
            draining=sum(node.status == "draining" for node in nodes),
            is_elastic=scaler.bounds.auto_scaling,
        ),
        progress=tuple(
            Progress(name=batch.name, total=batch.total, done=batch.done, started=batch.started)
            for batch in batches
        ),
        started=started,
        usd_per_hour=sum(node.machine.usd_per_hour for node in nodes),
        cost_usd=spent + running,
    )


def timing(nodes: Iterable[Node], opened: float) -> Timing:
    """Tell how long what took until the nodes were ready. ``opened``: when the pool was, by ``monotonic``."""
    found: list[NodeTiming] = []
    for node in sorted(nodes, key=lambda node: node.rank):
        phases = without_gaps(list(node.phases.done), opened, node.phases.begun)
        found.append(NodeTiming(rank=node.rank, phases=phases))
    return Timing(nodes=tuple(found))


def places(nodes: Iterable[Node], rank: int | None) -> list[Place]:
    """Return where nodes are, or that of one rank. Raises NodeError if it is not among them."""
    found = [node.place for node in nodes if node.place is not None and rank in (None, node.rank)]
    if not found:
        which = "no node is" if rank is None else f"node {rank} is not"
        raise NodeError(f"{which} ready: pool.wait_for_nodes() waits", rank=rank)
    return found
