"""A pool on the loop: from the first offer, or from what a client left that is gone, to the last machine.

How many nodes it wants is here; the reconciler makes it so. Whatever the pool started is in ``_scope`` and is
gone after ``stop``.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from skyward.engine import adoption, reachability
from skyward.engine.bringup import NodeFactory
from skyward.engine.dispatch import Dispatcher
from skyward.engine.ledger import ALIVE_SECONDS, Ledger
from skyward.engine.market import Market
from skyward.engine.membership import form
from skyward.engine.memento import digest
from skyward.engine.nameplate import Nameplate
from skyward.engine.packing import Packer
from skyward.engine.picture import picture, places, timing
from skyward.engine.reconcile import Reconciler
from skyward.engine.scaling import Scaler
from skyward.engine.scope import Scope
from skyward.errors import ConnectError, PoolStateError
from skyward.events import ClusterDestroyed, ClusterReady, ClusterRequested, Error, Log, ScalingChanged
from skyward.hooks.facade import PoolHooks
from skyward.hooks.values import Cluster, PoolRef
from skyward.link.blobs import BlobStore
from skyward.spec import PoolState
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from skyward.engine.ledger import Estate
    from skyward.engine.loop import LoopThread
    from skyward.engine.node import Node
    from skyward.engine.task import Batch
    from skyward.hooks.ports import ProviderConfig, Topology
    from skyward.hooks.values import Machine
    from skyward.link.doors import Place
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
        memento: str,
        inheritance: tuple[Estate, Ledger] | None = None,
    ) -> None:
        self.name = name
        self.spec = specs[0][1]
        self.state = PoolState.INIT
        self.hooks = PoolHooks(self.spec.plugins)
        self.topology = topology
        self._estate = inheritance[0] if inheritance else None
        self._ledger = inheritance[1] if inheritance else None
        fresh = PoolRef(id=uuid.uuid4().hex[:12], name=name, ttl=self.spec.ttl)
        self.ref = self._estate.pool if self._estate else fresh
        here = any(config.here for _, _, config in specs)
        self.blobs = BlobStore(lambda blob: loop.call(self._drop, [blob], []), passes_fds=here)
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
        self._memento = memento
        self._starting: asyncio.Task[Any] | None = None
        self._scope = Scope(name, loop.loop)
        self._nameplate = Nameplate(name)
        self._reconciler = Reconciler(
            name, self._market, self.dispatcher, self._scope, self._membership_changed
        )
        self._scaler = self._reconciler.scaler = Scaler(
            loop.loop, self.spec, self._reconciler.nodes, self._want
        )
        self._factory = self._reconciler.factory = self._make_factory(project)

    def _make_factory(self, project: Project) -> NodeFactory:
        return NodeFactory(
            self.ref,
            self._market,
            self.dispatcher,
            self.hooks,
            self.topology,
            project,
            cluster=self.cluster,
            facts=self._facts,
            on_lost=self._reconciler.on_lost,
            on_log=self.log.append,
            on_machine=self._reconciler.on_machine,
            memento=self._memento,
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
        self._market.connect()
        if self._estate is None:
            await self._market.survey()
        for provider in self._market.connected:
            await provider.prepare(self.ref)
        self._open_ledger()
        self.state = PoolState.PROVISIONING
        if self._estate is not None:
            await adoption.adopt(self._estate, self.ref, self._market, self._factory, self._reconciler)
        self._reconciler.run()
        self._scope.run(self._tick())
        self._scope.run(self._market.sweep())
        await self._reconciler.ready.wait()
        if self._reconciler.failure is not None:
            raise self._reconciler.failure
        if self.topology.connected:
            await reachability.check(self.ready_nodes)
            self._reconciler.on_new = self._check_new
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
        self._reconciler.close()
        await self._scope.end()
        await self._nameplate.close()
        seconds = max(self.spec.shutdown_timeout, RELEASE_SECONDS)
        await self._factory.settled(seconds)
        problems = await self._market.release(self.ref, seconds)
        self._reconciler.clear()
        self.blobs.close()
        if self._market.ledger is not None:
            self._market.ledger.close(ended=not problems)
        self.state = PoolState.DESTROYED
        for problem in problems:
            publish(Error(pool=self.name, message=f"while ending machines: {problem}"))
        publish(ClusterDestroyed(pool=self.name))

    async def _check_new(self) -> None:
        """A node has joined: one that others can't reach is told of, and stays."""
        try:
            await reachability.check(self.ready_nodes)
        except ConnectError as error:
            publish(Error(pool=self.name, message=str(error)))

    def _open_ledger(self) -> None:
        """Have the pool in the ledger, from before it costs anything."""
        try:
            given = self._ledger or Ledger.begin(self.ref, digest(self._memento))
            self._market.ledger = given
            self._scope.run(self._be_alive(given))
        except OSError as error:
            lost = "should this process be killed, nobody can attach to the pool"
            publish(Error(pool=self.name, message=f"the ledger can't be written ({error}): {lost}"))

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
        return self._reconciler.ready_nodes

    def places(self, rank: int | None = None) -> list[Place]:
        """Return where the ready nodes are, or that of one rank. Raises PoolStateError or NodeError."""
        if self.state is not PoolState.READY:
            raise PoolStateError(f"the pool {self.name!r} is not open")
        return places(self.ready_nodes, rank)

    @property
    def ready_count(self) -> int:
        return self._reconciler.ready_count

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
        self._reconciler.run()

    def _on_pressure(self) -> None:
        self._scaler.on_pressure(self.dispatcher)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._scaler.tick_seconds())
            if self._reconciler.ready.is_set():
                self._scaler.ask(self.dispatcher)
            self._reconciler.run()

    async def _be_alive(self, file: Ledger) -> None:
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            file.alive()

    def _drop(self, blobs: list[int], codes: list[int]) -> None:
        self.dispatcher.drop(blobs=blobs, codes=codes)

    def timing(self) -> Timing:
        """Tell how long what took until the nodes were ready. Safe from any thread."""
        return timing(self.ready_nodes, self._opened)

    def snapshot(self) -> PoolSnapshot:
        """Describe the pool as it is. Safe from any thread: reads only, and a torn read shows a moment's
        difference.
        """
        having = self._reconciler
        nodes = {node.rank: node for node in (*having.nodes.values(), *having.phases.values())}
        return picture(
            self.name,
            self._provider_name,
            self.state,
            [nodes[rank] for rank in sorted(nodes)],
            self.dispatcher,
            self._scaler,
            list(self.batches.values()),
            pending=len(having.bringing),
            started=self.started,
            spent=having.spent,
        )
