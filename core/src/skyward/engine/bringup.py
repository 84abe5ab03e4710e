"""One rank from nothing to a ready node: rent a machine, reach it, set it up, start its workers.

What fails on the way ends the machine again, and is tried again where that may help. A machine that another
client had set up, which is gone, is only reached.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from skyward.engine.health import health_config
from skyward.engine.node import Node
from skyward.engine.remote import Prepared, set_up
from skyward.engine.setup import agent_config, bootstrap, check_local_image, remote_recipe
from skyward.errors import (
    BootstrapError,
    ConfigError,
    ConnectError,
    CredentialsError,
    HostKeyError,
    NoOffersError,
    PluginError,
    ProvisioningError,
    SkywardError,
)
from skyward.events import Error, InstanceProvisioned, Log
from skyward.link.links import Link, link_to
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.market import Candidate, Market
    from skyward.engine.recipe import Recipe
    from skyward.hooks.facade import PoolHooks
    from skyward.hooks.ports import ProviderConfig, Topology
    from skyward.hooks.values import Cluster, Machine, Op, PoolRef
    from skyward.image import Image
    from skyward.link.modules import Project
    from skyward.spec import PoolSpec

FATAL = (ConfigError, CredentialsError, PluginError, BootstrapError, HostKeyError, NoOffersError)
"""What trying again would not change."""
LISTING_SECONDS = 1.0
"""Between two looks at whether a new machine has got an address."""


class NodeFactory:
    """Makes the nodes of one pool. The callables are the pool's: what it knows and wants to hear."""

    def __init__(
        self,
        pool: PoolRef,
        market: Market,
        dispatcher: Dispatcher,
        hooks: PoolHooks,
        topology: Topology,
        project: Project,
        *,
        cluster: Callable[[], Cluster],
        facts: Callable[[int, Machine], dict[str, Any]],
        on_lost: Callable[[Node, str], None],
        on_log: Callable[[Log], None],
        on_machine: Callable[[Node, str], None],
        memento: str,
    ) -> None:
        self._pool = pool
        self._market = market
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._topology = topology
        self._project = project
        self._cluster = cluster
        self._facts = facts
        self._on_lost = on_lost
        self._on_log = on_log
        self._on_machine = on_machine
        self._memento = memento
        self._specs: list[PoolSpec] = []
        self._images: dict[int, tuple[Image, tuple[Op, ...]]] = {}
        self._recipes: dict[int, asyncio.Task[Recipe]] = {}
        self._health: dict[str, Any] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def prepare(self, specs: Iterable[tuple[PoolSpec, ProviderConfig]]) -> None:
        """Ask the plugins once for what every node is set up with. Raises ConfigError for what can't be had
        here.
        """
        for spec, config in specs:
            self._specs.append(spec)
            if spec.health_checker is not None and self._health is None:
                self._health = health_config(spec.health_checker, self._project)
            image = self._hooks.image(spec.image, self._cluster())
            self._images[id(spec)] = image, self._hooks.bootstrap(self._cluster())
            if config.here:
                for remark in check_local_image(image):
                    publish(Error(pool=self._pool.name, message=remark))
            else:
                make = asyncio.to_thread(remote_recipe, image, spec.plugins, spec.bootstrap_timeout)
                self._recipes[id(spec)] = recipe = asyncio.create_task(make)
                recipe.add_done_callback(_noticed)  # a pool that needs no new node asks nobody

    async def make(self, rank: int) -> tuple[Node, Link]:
        """Return a ready node, tried as often as the spec allows. Raises the last error when none of that
        helped.
        """
        await asyncio.gather(*self._recipes.values())  # what can't be asked of a node costs no machine
        if not self._market.candidates:  # a pool that was attached to could do without until now
            await self._market.survey()
        spec = self._market.candidates[0].resolved
        attempts: list[BaseException] = []
        while True:
            try:
                return await self._try(rank)
            except FATAL:
                raise
            except SkywardError as error:
                attempts.append(error)
                if len(attempts) >= spec.max_provision_attempts:
                    message = f"node {rank} could not be brought up in {len(attempts)} attempts: {error}"
                    raise ProvisioningError(message, attempts) from error
                publish(Error(pool=self._pool.name, message=f"node {rank}, attempt {len(attempts)}: {error}"))
            await asyncio.sleep(spec.provision_retry_delay)

    async def _try(self, rank: int) -> tuple[Node, Link]:
        """Make a node, or end the machine that did not become one."""
        begun = time.monotonic()
        candidate, machine = await self._market.launch(self._pool, rank)
        node: Node | None = None
        try:
            machine = await self._reachable(candidate, machine)
            node = self._node(rank, machine, candidate.provider_name, begun)
            link = await self._set_up(node, candidate, machine)
        except BaseException:
            if node is not None:
                node.close()
            await asyncio.shield(self.ended(machine))
            raise
        return node, link

    def _node(self, rank: int, machine: Machine, provider: str, begun: float) -> Node:
        node = Node(
            self._pool.name,
            rank,
            machine,
            provider,
            self._dispatcher,
            on_lost=self._on_lost,
            on_log=self._on_log,
            begun=begun,
        )
        publish(InstanceProvisioned(pool=self._pool.name, instance=node.instance))
        self._on_machine(node, provider)
        return node

    async def adopt(self, rank: int, machine: Machine, provider: str, python: str) -> tuple[Node, Link]:
        """Return the node that another client had made of a machine. Ends nothing.

        Raises ConnectError, HostKeyError, BootstrapError or OSError.
        """
        assert machine.endpoint is not None
        node = self._node(rank, machine, provider, time.monotonic())
        link = link_to(machine.endpoint)
        spec = self._specs[0]
        try:
            await node.reach(link, spec.ssh_timeout, spec.ssh_retry_interval)
            async with asyncio.timeout(spec.bootstrap_timeout):
                await node.adopt(python)  # if it is checked, it had passed: it goes on being checked
        except TimeoutError:
            node.close()
            raise _too_slow(node, machine, spec.bootstrap_timeout) from None
        except BaseException:
            node.close()
            raise
        return node, link

    def ended(self, machine: Machine) -> asyncio.Task[None]:
        """Begin to end a machine, whatever becomes of the caller; ``settled`` waits for it. What can't be
        ended now, the pool's release tries again.
        """
        ending = asyncio.ensure_future(self._market.end(machine.id))
        self._ending.add(ending)
        ending.add_done_callback(self._has_ended)
        return ending

    def _has_ended(self, ending: asyncio.Task[None]) -> None:
        self._ending.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            publish(Error(pool=self._pool.name, message=f"a machine is not ended yet: {error}"))

    async def settled(self, seconds: float) -> None:
        """Wait, but not for longer, until the machines that are being ended are."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=seconds)

    async def _reachable(self, candidate: Candidate, machine: Machine) -> Machine:
        """Wait until the provider tells where the machine can be reached."""
        try:
            if machine.endpoint is not None:
                return machine
            async with asyncio.timeout(candidate.resolved.provision_timeout):
                while machine.endpoint is None:
                    await asyncio.sleep(LISTING_SECONDS)
                    listed = {other.id: other for other in await candidate.provider.machines(self._pool)}
                    if machine.id not in listed:
                        raise ProvisioningError(
                            f"machine {machine.id} disappeared before it could be reached"
                        )
                    machine = listed[machine.id]
                self._market.note(candidate.provider, machine)
        except TimeoutError:
            raise ProvisioningError(
                f"machine {machine.id} had no address {candidate.resolved.provision_timeout:g} s "
                "after its launch; "
                "Options(provision_timeout=...) waits longer"
            ) from None
        return machine

    async def _set_up(self, node: Node, candidate: Candidate, machine: Machine) -> Link:
        assert machine.endpoint is not None
        link = link_to(machine.endpoint)
        spec = candidate.resolved
        await node.reach(link, spec.ssh_timeout, spec.ssh_retry_interval)
        node.status = "bootstrapping"
        try:
            prepared = await self._prepared(node, link, spec)
            config = agent_config(
                spec,
                self._hooks,
                self._project,
                rank=node.rank,
                facts=self._facts(node.rank, machine),
                prepared=prepared,
                no_collections=self._topology.collections_error(),
                metrics=self._images[id(spec)][0].metrics,
                health=self._health,
                memento=self._memento,
            )
            self._market.note_python(machine, prepared.python)
            async with asyncio.timeout(spec.bootstrap_timeout):
                await node.start(prepared.python, config)
            await node.admit()
        except TimeoutError:
            raise _too_slow(node, machine, spec.bootstrap_timeout) from None
        except OSError as error:
            raise ConnectError(
                f"node {node.rank}: the connection was lost in phase {node.phases.current or 'agent'}: "
                f"{error}",
                rank=node.rank,
                machine=machine.id,
            ) from error
        return link

    async def _prepared(self, node: Node, link: Link, spec: PoolSpec) -> Prepared:
        """Give a machine its environment. Raises BootstrapError, or ConfigError for what can't be had."""
        image, ops = self._images[id(spec)]
        recipe = self._recipes.get(id(spec))
        if recipe is not None and link.files is not None:
            return await set_up(node, link.files, recipe.result(), ops)
        async with asyncio.timeout(spec.bootstrap_timeout):
            return Prepared(python=sys.executable, env=await bootstrap(node, link, image, ops))


def _noticed(recipe: asyncio.Task[Recipe]) -> None:
    if not recipe.cancelled():
        recipe.exception()


def _too_slow(node: Node, machine: Machine, seconds: float) -> BootstrapError:
    phase = node.phases.current or "agent"
    return BootstrapError(
        f"node {node.rank} was not ready {seconds:g} s after its start (phase {phase}); "
        "Options(bootstrap_timeout=...) waits longer",
        phase=phase,
        rank=node.rank,
        machine=machine.id,
    )
