"""A pool on the loop: how many nodes it wants, which it has, and what it does about the difference.

One reconciler makes the nodes what ``desired`` says: it rents, sets up, replaces, drains and ends them, each rank in a
task of its own. Whatever the pool started is in ``_tasks`` and is gone after ``stop``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

from skyward.engine.autoscale import Limits, Load, desired_nodes
from skyward.engine.dispatch import Dispatcher
from skyward.engine.market import Candidate, Market
from skyward.engine.node import Node
from skyward.engine.packing import Packer
from skyward.engine.setup import agent_config, bootstrap, check_local_image
from skyward.errors import (
    BootstrapError,
    ConfigError,
    CredentialsError,
    NoOffersError,
    PluginError,
    PoolStateError,
    ProvisioningError,
    SkywardError,
)
from skyward.events import (
    ClusterDestroyed,
    ClusterProvisioned,
    ClusterReady,
    ClusterRequested,
    Error,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRequested,
    Log,
    ScalingChanged,
)
from skyward.hooks.facade import PoolHooks
from skyward.hooks.values import Cluster, Formation, Member, PoolRef
from skyward.link.blobs import BlobStore
from skyward.link.local import LocalLink
from skyward.link.modules import Project
from skyward.snapshot import PoolSnapshot, Progress, ScalingSnapshot, TaskCounts
from skyward.spec import Nodes, PoolState
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from skyward.engine.loop import LoopThread
    from skyward.engine.task import Batch
    from skyward.hooks.ports import ProviderConfig, Topology
    from skyward.hooks.values import Machine
    from skyward.spec import PoolSpec, Spec

PRESSURE_DELAY = 0.05
"""Seconds tasks must have been queued before the pool thinks of growing: a burst that is gone by then needs no node."""
LOG_KEPT = 10_000
"""Lines of output kept for ``pool.logs()``."""
FATAL = (ConfigError, CredentialsError, PluginError, BootstrapError, NoOffersError)
"""What trying again would not change."""


class PoolEngine:
    """See the module. Made on the caller's thread, which checks everything that can be checked; then the loop's."""

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
        self.nodes_wanted = self.spec.nodes
        self.batches: dict[int, Batch] = {}
        self.log: deque[Log] = deque(maxlen=LOG_KEPT)
        self._specs = specs
        self._loop = loop.loop
        self._project = project
        self._market = Market(specs, selection)
        self._chosen: Candidate | None = None
        self._desired = self.nodes_wanted.desired
        self._nodes: dict[int, Node] = {}
        self._bringing: dict[int, asyncio.Task[None]] = {}
        self._phases: dict[int, Node | None] = {}
        self._lost: dict[int, str] = {}
        self._failures: dict[int, list[BaseException]] = {}
        self._ready = asyncio.Event()
        self._failure: BaseException | None = None
        self._provisioned = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: dict[str, LocalLink] = {}
        self._last_change = 0.0
        self._pressure: asyncio.TimerHandle | None = None
        self._spent = 0.0

    @property
    def slots_per_node(self) -> int:
        return self.spec.worker.concurrency

    def cluster(self) -> Cluster:
        """Describe the pool to plugins."""
        return Cluster(
            name=self.name,
            provider=self._specs[0][2].provider_name,
            nodes=self.nodes_wanted,
            accelerator=self.spec.accelerator,
            worker=self.spec.worker,
            topology=self.topology.topology_name,
        )

    # life

    async def start(self) -> None:
        """Provision, and return when the pool is usable. Raises what made that impossible; then call ``stop``."""
        publish(ClusterRequested(pool=self.name, provider=self._specs[0][2].provider_name, spec=self.spec))
        self.state = PoolState.REQUESTING
        await self._market.survey()
        for provider in self._market.connected:
            await provider.prepare(self.ref)
        self.state = PoolState.PROVISIONING
        self._reconcile()
        self._spawn(self._tick())
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
        self.state = PoolState.SHUTTING_DOWN
        self.dispatcher.close(PoolStateError(f"the pool {self.name!r} was closed before the task was done"))
        if self._pressure is not None:
            self._pressure.cancel()
        for task in self._tasks:
            task.cancel()
        for node in self._nodes.values():
            node.shut_down()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        problems = await self._release()
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
                    message=f"tasks were still running {self.spec.shutdown_timeout:g} s after the end of the block; "
                    "they are cancelled (Options(shutdown_timeout=...) waits longer)",
                )
            )

    async def _release(self) -> list[BaseException]:
        problems: list[BaseException] = []
        for provider in self._market.connected:
            for step in (provider.release(self.ref), provider.aclose()):
                try:
                    async with asyncio.timeout(self.spec.shutdown_timeout):
                        await step
                except Exception as error:
                    problems.append(error)
        return problems

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # nodes

    @property
    def ready_nodes(self) -> list[Node]:
        return [node for rank, node in sorted(self._nodes.items()) if node.status == "ready"]

    @property
    def ready_count(self) -> int:
        return sum(node.status == "ready" for node in self._nodes.values())

    def _reconcile(self) -> None:
        """Start what is missing, drain what is too much."""
        if self.state in (PoolState.SHUTTING_DOWN, PoolState.DESTROYED):
            return
        for rank in range(self._desired):
            if rank not in self._nodes and rank not in self._bringing:
                self._bringing[rank] = self._spawn(self._bring_up(rank))
        for rank, task in list(self._bringing.items()):
            if rank >= self._desired:
                task.cancel()
        for rank, node in self._nodes.items():
            if rank >= self._desired and node.status == "ready":
                node.drain()
                self._spawn(self._retire(node))
                self._membership_changed()

    async def _bring_up(self, rank: int) -> None:
        attempts: list[BaseException] = []
        try:
            while True:
                try:
                    await self._raise_node(rank)
                    return
                except SkywardError as error:
                    attempts.append(error)
                    if isinstance(error, FATAL) or len(attempts) >= self.spec.max_provision_attempts:
                        self._give_up(rank, attempts)
                        return
                    publish(Error(pool=self.name, message=f"node {rank}, attempt {len(attempts)}: {error}"))
                await asyncio.sleep(self.spec.provision_retry_delay)
        finally:
            self._bringing.pop(rank, None)
            self._phases.pop(rank, None)

    def _give_up(self, rank: int, attempts: list[BaseException]) -> None:
        """A node can't be had. Before the pool is usable that ends it; later, the next tick tries again."""
        last = attempts[-1]
        if self._ready.is_set():
            publish(Error(pool=self.name, message=f"node {rank} can't be brought up: {last}"))
            return
        if len(attempts) > 1:
            last = ProvisioningError(f"node {rank} could not be brought up in {len(attempts)} attempts: {last}", attempts)
        self._failure = last
        publish(Error(pool=self.name, message=str(last), fatal=True))
        self._ready.set()

    async def _raise_node(self, rank: int) -> None:
        """Rent one machine and turn it into a ready node; a machine that does not become one is ended."""
        old = self._lost.get(rank, "")
        began = time.monotonic()
        publish(
            InstanceRequested(
                pool=self.name, node=rank, provider=self._market.candidates[0].provider_name, replacing=old
            )
        )
        candidate, machine = await self._market.launch(self.ref, rank, owner=f"{os.uname().nodename}:{os.getpid()}")
        node: Node | None = None
        try:
            machine = await self._reachable(candidate, machine)
            node = Node(self.name, rank, machine, candidate.provider_name, self.dispatcher, on_lost=self._on_lost, on_log=self.log.append)
            self._phases[rank] = node
            publish(InstanceProvisioned(pool=self.name, instance=node.instance))
            self._note_provisioned(candidate)
            await self._set_up(node, candidate, machine)
        except BaseException:
            if node is not None:
                node.close()
            await asyncio.shield(candidate.provider.terminate([machine.id]))
            raise
        self._nodes[rank] = node
        self._chosen = candidate
        publish(InstanceBootstrapped(pool=self.name, instance=node.instance, seconds=time.monotonic() - began))
        if self._lost.pop(rank, None):
            publish(InstanceReplaced(pool=self.name, old_id=old, new=node.instance))
        self._membership_changed()
        if self.ready_count >= min(self.nodes_wanted.floor, self._desired):
            self._ready.set()
        if rank >= self._desired:
            self._reconcile()

    def _note_provisioned(self, candidate: Candidate) -> None:
        machines = sum(node is not None for node in self._phases.values()) + len(self._nodes)
        if not self._provisioned and machines >= self.nodes_wanted.floor:
            self._provisioned = True
            publish(ClusterProvisioned(pool=self.name, provider=candidate.provider_name, nodes=machines))

    async def _reachable(self, candidate: Candidate, machine: Machine) -> Machine:
        """Wait until the provider tells where the machine can be reached."""
        async with asyncio.timeout(self.spec.provision_timeout):
            while machine.endpoint is None:
                await asyncio.sleep(1.0)
                listed = {other.id: other for other in await candidate.provider.machines(self.ref)}
                if machine.id not in listed:
                    raise ProvisioningError(f"machine {machine.id} disappeared before it could be reached")
                machine = listed[machine.id]
        return machine

    async def _set_up(self, node: Node, candidate: Candidate, machine: Machine) -> None:
        assert machine.endpoint is not None
        link = LocalLink(machine.endpoint)
        spec = candidate.resolved
        image = self.hooks.image(spec.image, self.cluster())
        node.status = "bootstrapping"
        for remark in check_local_image(image):
            publish(Error(pool=self.name, message=remark))
        env = await bootstrap(node, link, image, self.hooks.bootstrap(self.cluster()))
        config = agent_config(
            spec,
            self.hooks,
            self._project,
            rank=node.rank,
            facts=self._facts(node.rank, machine),
            env=env,
            no_collections=self.topology.collections_error(),
            python=sys.executable,
        )
        try:
            async with asyncio.timeout(spec.bootstrap_timeout):
                await node.start(link, sys.executable, config)
        except TimeoutError:
            raise BootstrapError(
                f"node {node.rank} was not ready {spec.bootstrap_timeout:g} s after its start "
                f"(phase {node.phase or 'agent'}); Options(bootstrap_timeout=...) waits longer",
                phase=node.phase or "agent",
                rank=node.rank,
                machine=machine.id,
            ) from None
        self._spawn(self._watch(node, link))

    async def _watch(self, node: Node, link: LocalLink) -> None:
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
        self._spawn(self._end_machine(node))
        self._reconcile()

    async def _end_machine(self, node: Node) -> None:
        if self._chosen is not None:
            await self._chosen.provider.terminate([node.machine.id])

    async def _retire(self, node: Node) -> None:
        """End a node that takes no more tasks, once it runs none."""
        while node.busy and node.status == "draining":
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
        members = {node.rank: _member(node.rank, node.machine) for node in self.ready_nodes}
        if machine is not None:  # before a node is ready, the facts are those of the pool that is asked for
            members.update({other: Member(rank=other) for other in range(self._desired) if other not in members})
            members[rank] = _member(rank, machine)
        formation = Formation(
            pool=self.name,
            job_id=self.ref.id,
            members=tuple(members[key] for key in sorted(members)),
            accelerator=self.spec.accelerator,
        )
        return dict(self.topology.facts(formation, rank))

    def _membership_changed(self) -> None:
        for node in self.ready_nodes:
            node.set_facts(self._facts(node.rank))

    # scale

    def resize(self, nodes: Nodes) -> None:
        """Want another number of nodes from now on."""
        self.nodes_wanted = nodes
        self._want(nodes.desired, "resize")

    def _want(self, desired: int, reason: str) -> None:
        if desired == self._desired:
            return
        self._desired = desired
        self._last_change = self._loop.time()
        publish(ScalingChanged(pool=self.name, desired=desired, reason=reason))
        self._reconcile()

    def _on_pressure(self) -> None:
        if self.nodes_wanted.auto_scaling and self._pressure is None and self._desired < self.nodes_wanted.ceiling:
            since = self._loop.time() - self._last_change
            wait = max(PRESSURE_DELAY, self.spec.autoscale_cooldown - since if self._last_change else 0.0)
            self._pressure = self._loop.call_later(wait, self._autoscale)

    def _autoscale(self) -> None:
        self._pressure = None
        now, dispatcher = self._loop.time(), self.dispatcher
        load = Load(
            queued=dispatcher.queued,
            running=dispatcher.running,
            nodes=self._desired,
            slots_per_node=self.slots_per_node,
            idle_seconds=self._idle_seconds(now),
            since_change=now - self._last_change if self._last_change else float("inf"),
        )
        limits = Limits(
            floor=self.nodes_wanted.desired,
            ceiling=self.nodes_wanted.ceiling,
            cooldown=self.spec.autoscale_cooldown,
            idle_timeout=self.spec.autoscale_idle_timeout,
        )
        desired = desired_nodes(load, limits)
        self._want(desired, f"{load.queued} tasks queued" if desired > self._desired else "idle")

    def _idle_seconds(self, now: float) -> tuple[float, ...]:
        """How long the highest ranks have been idle: only they can go, from the top, and a busy one keeps the rest."""
        idle: list[float] = []
        for rank in range(self._desired - 1, -1, -1):
            node = self._nodes.get(rank)
            if node is None or node.status != "ready" or node.busy:
                break
            idle.append(now - node.idle_since)
        return tuple(idle)

    async def _tick(self) -> None:
        interval = self.spec.reconcile_tick_interval
        if self.nodes_wanted.auto_scaling:
            interval = min(interval, max(0.1, self.spec.autoscale_idle_timeout / 4))
        while True:
            await asyncio.sleep(interval)
            if self.nodes_wanted.auto_scaling and self._ready.is_set():
                self._autoscale()
            self._reconcile()

    def _drop(self, blobs: list[int], codes: list[int]) -> None:
        self.dispatcher.drop(blobs=blobs, codes=codes)

    # what people see

    def snapshot(self) -> PoolSnapshot:
        """Describe the pool as it is. Safe from any thread: reads only, and a torn read shows a moment's difference."""
        nodes = [*self._nodes.values(), *(node for node in list(self._phases.values()) if node is not None)]
        unique = {node.rank: node for node in nodes}
        now, dispatcher = time.time(), self.dispatcher
        rate = sum(node.machine.usd_per_hour for node in unique.values())
        running = sum((now - node.since) / 3600 * node.machine.usd_per_hour for node in self._nodes.values())
        return PoolSnapshot(
            name=self.name,
            provider=self._specs[0][2].provider_name,
            phase=self.state,
            nodes=tuple(unique[rank].snapshot() for rank in sorted(unique)),
            tasks=TaskCounts(
                queued=dispatcher.queued,
                running=dispatcher.running,
                done=dispatcher.done,
                failed=dispatcher.failed,
            ),
            scaling=ScalingSnapshot(
                desired=self._desired,
                min=self.nodes_wanted.floor,
                max=self.nodes_wanted.ceiling,
                pending=len(self._bringing),
                draining=sum(node.status == "draining" for node in unique.values()),
                is_elastic=self.nodes_wanted.auto_scaling,
            ),
            progress=tuple(
                Progress(name=batch.name, total=batch.total, done=batch.done, started=batch.started)
                for batch in list(self.batches.values())
            ),
            started=self.started,
            usd_per_hour=rate,
            cost_usd=self._spent + running,
        )


def _member(rank: int, machine: Machine) -> Member:
    return Member(rank=rank, private_ip=machine.private_ip, public_ip=machine.public_ip)
