"""What a pool looks like at one moment, put together from its parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from skyward.snapshot import PoolSnapshot, Progress, ScalingSnapshot, TaskCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.node import Node
    from skyward.engine.scaling import Scaler
    from skyward.engine.task import Batch
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
