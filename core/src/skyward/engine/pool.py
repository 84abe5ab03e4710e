"""A pool on the loop: how many nodes it wants, which it has, and what it does about the difference.

One reconciler makes the nodes what ``desired`` says: it rents, sets up, replaces, drains and ends them,
each rank in a task of its own. Whatever the pool started is in ``_scope`` and is gone after ``stop``.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from skyward.engine.bringup import NodeFactory
from skyward.engine.dispatch import Dispatcher
from skyward.engine.market import Market
from skyward.engine.membership import form
from skyward.engine.nameplate import Nameplate
from skyward.engine.packing import Packer
from skyward.engine.picture import picture, places, timing
from skyward.engine.scaling import Scaler
from skyward.engine.scope import Scope
from skyward.errors import PoolStateError, SkywardError, unexpected
from skyward.events import (
    ClusterDestroyed,
    ClusterProvisioned,
    ClusterReady,
    ClusterRequested,
    Error,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstancePreempted,
    InstanceReplaced,
    InstanceRequested,
    Log,
    ScalingChanged,
)
from skyward.hooks.facade import PoolHooks
from skyward.hooks.values import Cluster, PoolRef
from skyward.link.blobs import BlobStore
from skyward.spec import PoolState
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from skyward.engine.loop import LoopThread
    from skyward.engine.market import Candidate
    from skyward.engine.node import Node
    from skyward.engine.task import Batch
    from skyward.hooks.ports import Provider, ProviderConfig, Topology
    from skyward.hooks.values import Machine
    from skyward.link.doors import Place
    from skyward.link.links import Link
    from skyward.link.modules import Project
    from skyward.snapshot import PoolSnapshot
    from skyward.spec import Nodes, PoolSpec, Spec
    from skyward.timing import Timing

RELEASE_SECONDS = 60.0
"""What ending machines may take at least: ``shutdown_timeout`` is about tasks, and what is rented must go."""
LOG_KEPT = 10_000
"""Lines of output kept for ``pool.logs()``."""


class PoolEngine:
    """See the module. Made on the caller's thread, which checks everything that can be checked; then the
    loop's.
    """

    def __init__(
        self,
        name: str,
        specs: Sequence[tuple[Spec, PoolSpec, ProviderConfig]],
        selection: str,
        topology: Topology,
        loop: LoopThread,
        project: Project,
    ) -> None:
        self.name = name
        self.spec = specs[0][1]
        self.state = PoolState.INIT
        self.hooks = PoolHooks(self.spec.plugins)
        self.topology = topology
        self.ref = PoolRef(id=uuid.uuid4().hex[:12], name=name, ttl=self.spec.ttl)
        self.blobs = BlobStore(lambda blob: loop.call(self._drop, [blob], []))
        self.packer = Packer(self.blobs, project, lambda code: loop.call(self._drop, [], [code]))
        self.dispatcher = Dispatcher(
            name,
            loop,
            self.blobs,
            self.packer,
            buffer=self.spec.worker.buffer,
            retries=self.spec.retry_on_interruption,
            on_pressure=self._on_pressure,
        )
        self.started = time.time()
        self._opened = time.monotonic()
        self.batches: dict[int, Batch] = {}
        self.log: deque[Log] = deque(maxlen=LOG_KEPT)
        self._given = specs
        self._provider_name = specs[0][2].provider_name
        self._loop = loop.loop
        self._market = Market(specs, selection)
        self._providers: dict[str, Provider] = {}
        self._nodes: dict[int, Node] = {}
        self._bringing: dict[int, asyncio.Task[None]] = {}
        self._phases: dict[int, Node] = {}
        self._lost: dict[int, str] = {}
        self._ready = asyncio.Event()
        self._failure: BaseException | None = None
        self._provisioned = False
        self._starting: asyncio.Task[Any] | None = None
        self._scope = Scope(name, loop.loop)
        self._nameplate = Nameplate(name)
        self._spent = 0.0
        self._scaler = Scaler(loop.loop, self.spec, self._nodes, self._want)
        self._factory = NodeFactory(
            self.ref,
            self._market,
            self.dispatcher,
            self.hooks,
            topology,
            project,
            cluster=self.cluster,
            facts=self._facts,
            on_lost=self._on_lost,
            on_log=self.log.append,
            on_machine=self._on_machine,
        )

    @property
    def _desired(self) -> int:
        return self._scaler.desired

    @property
    def slots_per_node(self) -> int:
        return self.spec.worker.concurrency

    def cluster(self) -> Cluster:
        """Describe the pool to plugins."""
        return Cluster(
            name=self.name,
            provider=self._provider_name,
            nodes=self._scaler.bounds,
            accelerator=self.spec.accelerator,
            worker=self.spec.worker,
            topology=self.topology.topology_name,
        )

    # life

    async def start(self) -> None:
        """Provision, and return when the pool is usable. Raises what made that impossible; then call
        ``stop``.
        """
        self._starting = asyncio.current_task()
        publish(ClusterRequested(pool=self.name, provider=self._provider_name, spec=self.spec))
        self._factory.prepare((resolved, config) for _, resolved, config in self._given)
        self.state = PoolState.REQUESTING
        await self._market.survey()
        for provider in self._market.connected:
            await provider.prepare(self.ref)
        self.state = PoolState.PROVISIONING
        self._reconcile()
        self._scope.run(self._tick())
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure
        self.state = PoolState.READY
        publish(ClusterReady(pool=self.name, nodes=self.ready_count, seconds=time.time() - self.started))

    async def stop(self, *, drain: bool) -> None:
        """End everything; with ``drain``, once the tasks under way are done. Idempotent."""
        if self.state is PoolState.DESTROYED:
            return
        if drain and self.state is PoolState.READY:
            await self._drain()
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        self.state = PoolState.SHUTTING_DOWN
        self.dispatcher.close(PoolStateError(f"the pool {self.name!r} was closed before the task was done"))
        self._scaler.close()
        for node in self._nodes.values():
            node.shut_down()
        await self._scope.end()
        await self._nameplate.close()
        seconds = max(self.spec.shutdown_timeout, RELEASE_SECONDS)
        await self._factory.settled(seconds)
        problems = await self._market.release(self.ref, seconds)
        for node in self._nodes.values():
            node.close()
            self._account(node)
            publish(InstanceDestroyed(pool=self.name, instance=node.instance))
        self._nodes.clear()
        self.blobs.close()
        self.state = PoolState.DESTROYED
        for problem in problems:
            publish(Error(pool=self.name, message=f"while ending machines: {problem}"))
        publish(ClusterDestroyed(pool=self.name))

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self.spec.shutdown_timeout):
                await self.dispatcher.idle()
        except TimeoutError:
            publish(
                Error(
                    pool=self.name,
                    message=f"tasks were still running {self.spec.shutdown_timeout:g} s after the block; "
                    "they are cancelled (Options(shutdown_timeout=...) waits longer)",
                )
            )

    async def hold[T](self, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run something that ends with the pool at the latest. Raises PoolStateError then."""
        return await self._scope.hold(begin)

    # nodes

    @property
    def ready_nodes(self) -> list[Node]:
        return [node for _, node in sorted(self._nodes.items()) if node.status == "ready"]

    def places(self, rank: int | None = None) -> list[Place]:
        """Return where the ready nodes are, or that of one rank. Raises PoolStateError or NodeError."""
        if self.state is not PoolState.READY:
            raise PoolStateError(f"the pool {self.name!r} is not open")
        return places(self.ready_nodes, rank)

    @property
    def ready_count(self) -> int:
        return sum(node.status == "ready" for node in self._nodes.values())

    def _reconcile(self) -> None:
        """Start what is missing, drain what is too much."""
        if self.state in (PoolState.SHUTTING_DOWN, PoolState.DESTROYED):
            return
        for rank in range(self._desired):
            if rank not in self._nodes and rank not in self._bringing:
                self._bringing[rank] = self._scope.spawn(self._bring_up(rank))
        for rank, task in list(self._bringing.items()):
            if rank >= self._desired:
                task.cancel()
        for rank, node in list(self._nodes.items()):
            if rank >= self._desired and node.status == "ready":
                node.drain()
                self._scope.run(self._retire(node))
                self._membership_changed()

    async def _bring_up(self, rank: int) -> None:
        old = self._lost.get(rank, "")
        began = time.monotonic()
        provider = self._market.candidates[0].provider_name
        publish(InstanceRequested(pool=self.name, node=rank, provider=provider, replacing=old))
        try:
            node, link, candidate = await self._factory.make(rank)
        except Exception as error:
            self._give_up(rank, error if isinstance(error, SkywardError) else unexpected(error))
            return
        finally:
            self._bringing.pop(rank, None)
            self._phases.pop(rank, None)
        self._nodes[rank] = node
        self._providers[node.machine.id] = candidate.provider
        self._scope.run(self._watch(node, link))
        publish(
            InstanceBootstrapped(pool=self.name, instance=node.instance, seconds=time.monotonic() - began)
        )
        if self._lost.pop(rank, None):
            publish(InstanceReplaced(pool=self.name, old_id=old, new=node.instance))
        self._membership_changed()
        if self.ready_count >= min(self._scaler.bounds.floor, self._desired):
            self._ready.set()
        if rank >= self._desired:
            self._reconcile()

    def _give_up(self, rank: int, error: SkywardError) -> None:
        """A node can't be had. Before the pool is usable that ends it; later, the next tick tries again."""
        if self._ready.is_set():
            publish(Error(pool=self.name, message=f"node {rank} can't be brought up: {error}"))
            return
        self._failure = error
        publish(Error(pool=self.name, message=str(error), fatal=True))
        self._ready.set()

    def _on_machine(self, node: Node, candidate: Candidate) -> None:
        self._phases[node.rank] = node
        machines = len(self._phases) + len(self._nodes)
        if not self._provisioned and machines >= self._scaler.bounds.floor:
            self._provisioned = True
            publish(ClusterProvisioned(pool=self.name, provider=candidate.provider_name, nodes=machines))

    async def _watch(self, node: Node, link: Link) -> None:
        await link.ended()
        node.lose("its agent is gone")

    def _on_lost(self, node: Node, reason: str) -> None:
        if self.state in (PoolState.SHUTTING_DOWN, PoolState.DESTROYED):
            return
        publish(InstancePreempted(pool=self.name, instance=node.instance, reason=reason))
        if self._nodes.get(node.rank) is not node:
            return
        del self._nodes[node.rank]
        self._lost[node.rank] = node.machine.id
        self._account(node)
        self._membership_changed()
        self._scope.run(self._end_machine(node))
        self._reconcile()

    async def _end_machine(self, node: Node) -> None:
        provider = self._providers.pop(node.machine.id, None)
        if provider is not None:
            await provider.terminate([node.machine.id])

    async def _retire(self, node: Node) -> None:
        """End a node that takes no more tasks, once it runs none."""
        while node.busy and node.status == "draining":  # noqa: ASYNC110  (rare; needs no event of its own)
            await asyncio.sleep(0.05)
        node.shut_down()
        node.close()
        await self._end_machine(node)
        if self._nodes.get(node.rank) is node:
            del self._nodes[node.rank]
            self._account(node)
            publish(InstanceDestroyed(pool=self.name, instance=node.instance))
        self.dispatcher.abandon_rank(node.rank, "the pool shrank")
        self._reconcile()

    def _account(self, node: Node) -> None:
        self._spent += (time.time() - node.since) / 3600 * node.machine.usd_per_hour

    # membership

    def _facts(self, rank: int, machine: Machine | None = None) -> dict[str, Any]:
        members = {node.rank: node.machine for node in self.ready_nodes}
        formation = form(self.ref, self.spec, members, self._desired, rank, machine)
        return dict(self.topology.facts(formation, rank))

    def _membership_changed(self) -> None:
        for node in self.ready_nodes:
            node.set_facts(self._facts(node.rank))
        self._nameplate.show(self.ready_nodes)

    # scale

    def resize(self, nodes: Nodes) -> None:
        """Want another number of nodes from now on."""
        self._scaler.bounds = nodes
        self._want(nodes.desired, "resize")

    def _want(self, desired: int, reason: str) -> None:
        if desired == self._desired:
            return
        self._scaler.changed(desired)
        publish(ScalingChanged(pool=self.name, desired=desired, reason=reason))
        self._reconcile()

    def _on_pressure(self) -> None:
        self._scaler.on_pressure(self.dispatcher)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._scaler.tick_seconds())
            if self._ready.is_set():
                self._scaler.ask(self.dispatcher)
            self._reconcile()

    def _drop(self, blobs: list[int], codes: list[int]) -> None:
        self.dispatcher.drop(blobs=blobs, codes=codes)

    def timing(self) -> Timing:
        """Tell how long what took until the nodes were ready. Safe from any thread."""
        return timing(self.ready_nodes, self._opened)

    def snapshot(self) -> PoolSnapshot:
        """Describe the pool as it is. Safe from any thread: reads only, and a torn read shows a moment's
        difference.
        """
        nodes = {node.rank: node for node in (*self._nodes.values(), *self._phases.values())}
        return picture(
            self.name,
            self._provider_name,
            self.state,
            [nodes[rank] for rank in sorted(nodes)],
            self.dispatcher,
            self._scaler,
            list(self.batches.values()),
            pending=len(self._bringing),
            started=self.started,
            spent=self._spent,
        )
