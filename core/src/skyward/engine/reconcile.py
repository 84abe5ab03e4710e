"""Makes the nodes of a pool what is wanted: rents, sets up, adopts, replaces, drains and ends them.

Each rank is brought up in a task of its own. All on the loop; nothing here outlives the pool's scope.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from skyward.errors import SkywardError, unexpected
from skyward.events import (
    ClusterProvisioned,
    Error,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstancePreempted,
    InstanceReplaced,
    InstanceRequested,
)
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from skyward.engine.bringup import NodeFactory
    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.market import Market
    from skyward.engine.node import Node
    from skyward.engine.scaling import Scaler
    from skyward.engine.scope import Scope
    from skyward.link.links import Link


class Reconciler:
    """See the module. ``on_change``: called whenever another set of nodes is ready."""

    def __init__(
        self,
        pool: str,
        market: Market,
        dispatcher: Dispatcher,
        scope: Scope,
        on_change: Callable[[], None],
    ) -> None:
        self.nodes: dict[int, Node] = {}
        self.bringing: dict[int, asyncio.Task[None]] = {}
        self.phases: dict[int, Node] = {}
        """Nodes on their way."""
        self.ready = asyncio.Event()
        """Set when the pool is usable, or will never be."""
        self.failure: BaseException | None = None
        """Why it will never be."""
        self.spent = 0.0
        """What machines that are gone have cost, in USD."""
        self.on_new: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What is run when a node has joined a pool that is in use."""
        self.factory: NodeFactory
        self.scaler: Scaler
        self._pool = pool
        self._market = market
        self._dispatcher = dispatcher
        self._scope = scope
        self._on_change = on_change
        self._lost: dict[int, str] = {}
        self._provisioned = False
        self._is_closing = False

    @property
    def ready_nodes(self) -> list[Node]:
        return [node for _, node in sorted(self.nodes.items()) if node.status == "ready"]

    @property
    def ready_count(self) -> int:
        return sum(node.status == "ready" for node in self.nodes.values())

    def run(self) -> None:
        """Start what is missing, drain what is too much."""
        if self._is_closing:
            return
        desired = self.scaler.desired
        for rank in range(desired):
            if rank not in self.nodes and rank not in self.bringing:
                self.bringing[rank] = self._scope.spawn(self._bring_up(rank))
        for rank, task in list(self.bringing.items()):
            if rank >= desired:
                task.cancel()
        for rank, node in list(self.nodes.items()):
            if rank >= desired and node.status == "ready":
                node.drain()
                self._scope.run(self._retire(node))
                self._on_change()

    def close(self) -> None:
        """Bring nothing up any more, and have what is there end."""
        self._is_closing = True
        for node in self.nodes.values():
            node.shut_down()

    def clear(self) -> None:
        """Let go of the nodes, whose machines have ended."""
        for node in self.nodes.values():
            node.close()
            self._account(node)
            publish(InstanceDestroyed(pool=self._pool, instance=node.instance))
        self.nodes.clear()

    # coming

    async def _bring_up(self, rank: int) -> None:
        old = self._lost.get(rank, "")
        began = time.monotonic()
        provider = self._market.provider_name
        publish(InstanceRequested(pool=self._pool, node=rank, provider=provider, replacing=old))
        try:
            node, link = await self.factory.make(rank)
        except Exception as error:
            self._give_up(rank, error if isinstance(error, SkywardError) else unexpected(error))
            return
        finally:
            self.bringing.pop(rank, None)
            self.phases.pop(rank, None)
        self.take(node, link, began)
        if self._lost.pop(rank, None):
            publish(InstanceReplaced(pool=self._pool, old_id=old, new=node.instance))
        if self.ready_count >= min(self.scaler.bounds.floor, self.scaler.desired):
            self.ready.set()
        if rank >= self.scaler.desired:
            self.run()

    def take(self, node: Node, link: Link, began: float) -> None:
        """Have a node that is ready. ``began``: when it was wanted, by ``time.monotonic``."""
        self.nodes[node.rank] = node
        self._scope.run(self._watch(node, link))
        seconds = time.monotonic() - began
        publish(InstanceBootstrapped(pool=self._pool, instance=node.instance, seconds=seconds))
        self._on_change()
        if self.on_new is not None:
            self._scope.run(self.on_new())

    def _give_up(self, rank: int, error: SkywardError) -> None:
        """A node can't be had. Before the pool is usable that ends it; later, the next tick tries again."""
        if self.ready.is_set():
            publish(Error(pool=self._pool, message=f"node {rank} can't be brought up: {error}"))
            return
        self.failure = error
        publish(Error(pool=self._pool, message=str(error), fatal=True))
        self.ready.set()

    def on_machine(self, node: Node, provider: str) -> None:
        """Note that there is a machine, which may become a node."""
        self.phases[node.rank] = node
        machines = len(self.phases) + len(self.nodes)
        if not self._provisioned and machines >= self.scaler.bounds.floor:
            self._provisioned = True
            publish(ClusterProvisioned(pool=self._pool, provider=provider, nodes=machines))

    # going

    async def _watch(self, node: Node, link: Link) -> None:
        await link.ended()
        node.lose("its agent is gone")

    def on_lost(self, node: Node, reason: str) -> None:
        """A node is lost: replace it, and end what may be left of its machine."""
        if self._is_closing:
            return
        publish(InstancePreempted(pool=self._pool, instance=node.instance, reason=reason))
        if self.nodes.get(node.rank) is not node:
            return
        del self.nodes[node.rank]
        self._lost[node.rank] = node.machine.id
        self._account(node)
        self._on_change()
        _ = self.factory.ended(node.machine)
        self.run()

    async def _retire(self, node: Node) -> None:
        """End a node that takes no more tasks, once it runs none."""
        while node.busy and node.status == "draining":  # noqa: ASYNC110  (rare; needs no event of its own)
            await asyncio.sleep(0.05)
        node.shut_down()
        node.close()
        await asyncio.shield(self.factory.ended(node.machine))
        if self.nodes.get(node.rank) is node:
            del self.nodes[node.rank]
            self._account(node)
            publish(InstanceDestroyed(pool=self._pool, instance=node.instance))
        self._dispatcher.abandon_rank(node.rank, "the pool shrank")
        self.run()

    def _account(self, node: Node) -> None:
        self.spent += (time.time() - node.since) / 3600 * node.machine.usd_per_hour
