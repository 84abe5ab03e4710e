"""When the autoscaler is asked, and what it is told. What it answers is ``skyward.engine.autoscale``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyward.engine.autoscale import Limits, Load, desired_nodes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.node import Node
    from skyward.spec import Nodes, PoolSpec

PRESSURE_DELAY = 0.05
"""Seconds tasks must have been queued before the pool thinks of growing: a burst that is gone by then needs
no node.
"""


class Scaler:
    """Asks under pressure and at every tick; ``want`` is called when the answer is another number."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spec: PoolSpec,
        nodes: Mapping[int, Node],
        want: Callable[[int, str], None],
    ) -> None:
        self.bounds: Nodes = spec.nodes
        self.desired = spec.nodes.desired
        self._loop = loop
        self._spec = spec
        self._nodes = nodes
        self._want = want
        self._last_change: float | None = None
        self._pressure: asyncio.TimerHandle | None = None

    def changed(self, desired: int) -> None:
        """Note that the number of nodes was changed, by whomever: the cooldown starts."""
        self.desired = desired
        self._last_change = self._loop.time()

    def tick_seconds(self) -> float:
        """How often to ask, besides under pressure."""
        interval = self._spec.reconcile_tick_interval
        if not self.bounds.auto_scaling:
            return interval
        return min(interval, max(0.1, self._spec.autoscale_idle_timeout / 4))

    def on_pressure(self, dispatcher: Dispatcher) -> None:
        """Tasks are queued: think of growing, as soon as the cooldown allows."""
        if not self.bounds.auto_scaling or self._pressure is not None or self.desired >= self.bounds.ceiling:
            return
        wait = max(PRESSURE_DELAY, self._spec.autoscale_cooldown - self._since_change())
        self._pressure = self._loop.call_later(wait, self._ask_under_pressure, dispatcher)

    def _ask_under_pressure(self, dispatcher: Dispatcher) -> None:
        self._pressure = None
        self.ask(dispatcher)

    def close(self) -> None:
        if self._pressure is not None:
            self._pressure.cancel()

    def _since_change(self) -> float:
        return float("inf") if self._last_change is None else self._loop.time() - self._last_change

    def ask(self, dispatcher: Dispatcher) -> None:
        """Tell the policy the load, and do as it says."""
        if not self.bounds.auto_scaling:
            return
        load = Load(
            queued=dispatcher.queued,
            running=dispatcher.running,
            nodes=self.desired,
            slots_per_node=self._spec.worker.concurrency,
            idle_seconds=self._idle_seconds(),
            since_change=self._since_change(),
        )
        limits = Limits(
            floor=self.bounds.desired,
            ceiling=self.bounds.ceiling,
            cooldown=self._spec.autoscale_cooldown,
            idle_timeout=self._spec.autoscale_idle_timeout,
        )
        desired = desired_nodes(load, limits)
        if desired != self.desired:
            self._want(desired, f"{load.queued} tasks queued" if desired > self.desired else "idle")

    def _idle_seconds(self) -> tuple[float, ...]:
        """How long the highest ranks have been idle: only they can go, from the top, and a busy one keeps
        the rest.
        """
        now, idle = self._loop.time(), list[float]()
        for rank in range(self.desired - 1, -1, -1):
            node = self._nodes.get(rank)
            if node is None or node.status != "ready" or node.busy:
                break
            idle.append(now - node.idle_since)
        return tuple(idle)
