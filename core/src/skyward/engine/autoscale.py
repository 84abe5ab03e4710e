"""How many nodes a pool should have, from its load: a pure function, so that it can be tested for every load.

Growing follows queued tasks, shrinking follows idleness. The pool decides which nodes come and go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the policy looks at. ``nodes``: ready and on their way; ``slots_per_node``: tasks a node runs at
    once.

    ``idle_seconds``: how long the longest idle nodes that could go have been without a task, longest first.
    ``since_change``: seconds since the last decision that changed anything.
    """

    queued: int
    running: int
    nodes: int
    slots_per_node: int
    idle_seconds: tuple[float, ...]
    since_change: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds and rhythm. ``floor <= ceiling``; seconds otherwise."""

    floor: int
    ceiling: int
    cooldown: float
    idle_timeout: float


def desired_nodes(load: Load, limits: Limits) -> int:
    """Return how many nodes there should be: within the limits, and unchanged during the cooldown.

    Grows at once to what queued and running tasks could fill; shrinks by as many nodes as have been idle long
    enough, and only when nothing is queued.
    """
    current = min(max(load.nodes, limits.floor), limits.ceiling)
    if current != load.nodes or load.since_change < limits.cooldown:
        return current
    if load.queued:
        useful = math.ceil((load.queued + load.running) / load.slots_per_node)
        return min(max(current, useful), limits.ceiling)
    spare = sum(seconds >= limits.idle_timeout for seconds in load.idle_seconds)
    return max(current - spare, limits.floor)
