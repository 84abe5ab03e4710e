"""One node, from a machine to slots that take tasks: a small state machine, and nothing about other nodes.

connecting → bootstrapping → starting → ready → (draining) → ended, or lost from anywhere; a node that another
client had skips what is done already. Its lanes come and go with its worker processes; the dispatcher decides
what becomes of their tasks. All on the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skyward.engine.agentline import AgentLine
from skyward.engine.depot import Depot
from skyward.engine.health import Health
from skyward.engine.lane import Lane
from skyward.engine.lanes import Lanes
from skyward.engine.phases import Phases
from skyward.engine.reachability import Probe
from skyward.errors import BootstrapError, ConnectError
from skyward.events import Error, Instance, Log, Metric, WorkerDied
from skyward.link import numbers
from skyward.link.agentconfig import AgentConfig
from skyward.link.doors import Place
from skyward.snapshot import NodeSnapshot
from skyward.subscriptions import publish, wanted

if TYPE_CHECKING:
    from skyward.engine.dispatch import Dispatcher
    from skyward.hooks.values import Machine
    from skyward.link.links import Link
    from skyward.snapshot import NodeStatus


class Node:
    """See the module."""

    def __init__(
        self,
        pool: str,
        rank: int,
        machine: Machine,
        provider: str,
        dispatcher: Dispatcher,
        *,
        on_lost: Callable[[Node, str], None],
        on_log: Callable[[Log], None],
        begun: float,
    ) -> None:
        self.rank = rank
        self.machine = machine
        self.status: NodeStatus = "connecting"
        self.since = time.time()
        self.instance = Instance(
            id=machine.id,
            node=rank,
            provider=provider,
            region=machine.region,
            address=machine.public_ip or machine.private_ip,
            usd_per_hour=machine.usd_per_hour,
            spot=machine.spot,
        )
        self.done = 0
        self.phases = Phases(pool, self.instance, begun)
        self.timed_phase = self.phases.timed
        self._pool = pool
        self._dispatcher = dispatcher
        self._on_lost = on_lost
        self._on_log = on_log
        self.lanes = Lanes(self, dispatcher, self._spawn, self._lane_ready)
        self._agent = AgentLine(self._on_notice, self._on_agent_cut)
        self.command = self._agent.command
        self.probe = Probe(self.command)
        self._config: AgentConfig | None = None
        self._link: Link | None = None
        self.place: Place | None = None
        """Where it is, for what is not a task; None before its agent is started."""
        self.depot: Depot | None = None
        """Where large values go, on a machine that descriptors don't reach."""
        self._up: asyncio.Future[None] | None = None
        self._adopted: asyncio.Future[None] | None = None
        """Done when an agent that is taken over has said what it is."""
        self._health: Health | None = None
        self._is_open = True
        """Whether tasks may come: with a health check, once it has passed."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def reach(self, link: Link, timeout: float, interval: float) -> None:
        """Connect to the machine. Raises ConnectError, HostKeyError or ConfigError; ends nothing."""
        self._link = self.lanes.link = link
        if link.files is not None:
            self.depot = Depot(link.files, self.command, link.reconnect_delays)
        with self.timed_phase("connect") as remarks:
            await link.reach(timeout, interval)
            remarks += link.remarks

    async def start(self, python: str, config: AgentConfig) -> None:
        """Start the agent and wait for every worker. Raises ConnectError or BootstrapError; ends nothing."""
        assert self._link is not None
        self._configure(python, config)
        self._is_open = self._health is None
        self.status = "starting"
        with self.timed_phase("agent"):
            await self._link.start_agent(python, config)
            await self._agent.open(self._link)
        await self._come_up()

    async def adopt(self, python: str) -> None:
        """Take over an agent that another client had started, which is gone, and wait for its workers.

        Raises ConnectError, BootstrapError or OSError; ends nothing.
        """
        assert self._link is not None
        self._link.python = python
        self.lanes.inherits = True
        self._adopted = asyncio.get_running_loop().create_future()
        self.status = "starting"
        with self.timed_phase("agent"):
            await self._agent.open(self._link, inherit=True)
            await self._adopted
        await self._come_up()

    def _on_first_hello(self, hello: dict[str, Any], adopted: asyncio.Future[None]) -> None:
        """The agent that is taken over says what it is."""
        assert self._link is not None
        self._configure(self._link.python, AgentConfig.from_json(hello["config"]))
        for message in hello["answers"]:
            self.lanes.on_late(message)
        adopted.set_result(None)

    def _configure(self, python: str, config: AgentConfig) -> None:
        assert self._link is not None
        assert self.machine.endpoint is not None
        self._config = self.lanes.config = config
        self.place = Place(
            rank=self.rank,
            machine=self.machine.id,
            endpoint=self.machine.endpoint,
            root=self._link.root,
            cwd=config.cwd or self._link.root,
            python=python,
            delays=self._link.reconnect_delays,
        )
        self._up = asyncio.get_running_loop().create_future()
        if config.health is not None:
            self._health = Health(self, self._pool, config.health["failures"])

    async def _come_up(self) -> None:
        assert self._up is not None
        self._spawn(self._agent.keep_alive())
        with self.timed_phase("worker"):
            await self._up
        if self.status != "starting":  # lost in the moment in which it was ready
            raise ConnectError(
                f"node {self.rank} was lost while it started", rank=self.rank, machine=self.machine.id
            )
        if self._is_open:
            self.status = "ready"

    async def admit(self) -> None:
        """Wait until a node that is checked is healthy, and let tasks come. Raises ConnectError or
        BootstrapError; ends nothing.
        """
        if self._health is None:
            return
        with self.timed_phase("health"):
            await self._health.passed()
        if self.status != "starting":
            raise ConnectError(
                f"node {self.rank} was lost while it started", rank=self.rank, machine=self.machine.id
            )
        self.status, self._is_open = "ready", True
        for lane in self.lanes.ready:
            self._dispatcher.add_lane(lane)

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def set_facts(self, facts: dict[str, Any]) -> None:
        """Tell the agent and the workers where they stand; tasks sent later see it."""
        if self._config is None or self._config.facts == facts:
            return
        self._config.facts = facts
        self.command({"do": "facts", "facts": facts})
        self.lanes.tell(facts)

    # the agent

    def _on_notice(self, message: dict[str, Any]) -> None:
        match message["event"]:
            case "hello":
                if self._adopted is not None and not self._adopted.done():
                    self._on_first_hello(message, self._adopted)
                for index, generation in message["workers"]:
                    self.lanes.open(index, generation)
            case "worker-ready":
                self.lanes.open(message["index"], message["generation"])
            case "listening" | "called":
                self.probe.on_notice(message)
            case "late":
                self.lanes.on_late(message)
            case "worker-died":
                self._on_death(message)
            case "failed":
                self._on_failed(message["what"])
            case "output":
                for line in message["lines"]:
                    self.on_output(message["stream"], line, False)
            case "metrics" if wanted(Metric):
                for name, value in message["values"]:
                    publish(Metric(pool=self._pool, instance=self.instance, name=name, value=value))
            case "remark":
                publish(Error(pool=self._pool, message=f"node {self.rank}: {message['what']}"))
            case "health" if self._health is not None:
                self._health.on_answer(message["what"])
            case "health-broken" if self._health is not None:
                self._health.on_broken(message["what"])
            case _:
                pass

    def _on_agent_cut(self) -> None:
        if self.status not in ("lost", "ended"):
            self._spawn(self._find_agent())

    async def _find_agent(self) -> None:
        """The connection to the agent closed: it died, or only the connection did."""
        assert self._link is not None
        why = await self._agent.open_again(self._link)
        if why is not None:
            self.lose(why)

    def _on_failed(self, what: str) -> None:
        last = what.strip().splitlines()[-1] if what.strip() else "no reason given"
        if self._up is not None and not self._up.done():
            self._up.set_exception(
                BootstrapError(
                    f"node {self.rank}: starting the worker failed: {last}",
                    phase="worker",
                    tail=what,
                    rank=self.rank,
                    machine=self.machine.id,
                )
            )
        else:
            self.lose(f"its worker could not be started again: {last}")

    def _on_death(self, message: dict[str, Any]) -> None:
        if message["was_ready"]:
            publish(WorkerDied(pool=self._pool, instance=self.instance, cause=message["cause"]))
        self.lanes.on_death(message)

    # lanes

    def _lane_ready(self, lane: Lane) -> None:
        assert self._config is not None
        if self._up is not None and not self._up.done() and len(self.lanes.ready) == self._config.processes:
            self._up.set_result(None)
        if self._is_open and self.status != "draining":
            self._dispatcher.add_lane(lane)

    def drop_predecessors(self) -> None:
        """Have files removed that a client had sent which is gone."""
        self.command({"do": "remove", "below": numbers.first()})

    def end_worker(self, lane: Lane, why: str) -> None:
        """Have the agent end a worker's process; it starts another."""
        self.command({"do": "kill", "index": lane.index, "generation": lane.generation, "why": why})

    # the end

    def drain(self) -> None:
        """Take no more tasks; those that run go on."""
        self.status = "draining"
        for lane in self.lanes:
            self._dispatcher.remove_lane(lane)
            lane.recall()

    @property
    def idle_since(self) -> float:
        """When it last answered a task, by the loop's clock."""
        return max((lane.last_answer for lane in self.lanes), default=0.0)

    @property
    def busy(self) -> bool:
        return any(lane.load for lane in self.lanes)

    def lose(self, reason: str) -> None:
        """The machine is gone, or as good as gone. Its tasks go back; the pool may replace it."""
        if self.status in ("lost", "ended"):
            return
        self.status = "lost"
        self._release("killed", f"was lost with its node: {reason}")
        if self._up is not None and not self._up.done():
            self._up.set_exception(
                ConnectError(f"node {self.rank}: {reason}", rank=self.rank, machine=self.machine.id)
            )
        if self._health is not None:
            self._health.on_lost(reason)
        self._on_lost(self, reason)

    def shut_down(self) -> None:
        """Have the agent end the machine's processes. The provider ends the machine."""
        if self.status in ("lost", "ended"):
            return
        self.command({"do": "shutdown"})
        self.status = "ended"

    def close(self) -> None:
        """Let go of every connection."""
        if self.status != "lost":
            self.status = "ended"
        self._release("killed", "was ended with its node")

    def _release(self, kind: str, cause: str) -> None:
        for task in self._tasks:
            task.cancel()
        self.lanes.bury_all(kind, cause)
        self._agent.close()
        if self.depot is not None:
            self.depot.close()
        if self._link is not None:
            self._link.close()

    # what people see

    def on_output(self, stream: str, line: str, overwrite: bool) -> None:
        event = Log(
            pool=self._pool,
            instance=self.instance,
            line=line,
            stream="stderr" if stream == "stderr" else "stdout",
            overwrite=overwrite,
        )
        if not overwrite:
            self._on_log(event)
        publish(event)

    def snapshot(self) -> NodeSnapshot:
        lanes = list(self.lanes)
        return NodeSnapshot(
            rank=self.rank,
            machine=self.machine.id,
            status=self.status,
            phase=self.phases.current,
            slots=sum(lane.slots for lane in lanes),
            running=sum(lane.running for lane in lanes),
            done=self.done,
            address=self.instance.address,
            usd_per_hour=self.machine.usd_per_hour,
            since=self.since,
        )
