"""Whatever befalls machines, and whenever: nothing is lost, nothing is doubled, nothing is left running.

A seed makes a schedule: a pool, its tasks, and faults of its nodes at random moments. ``SKYWARD_SCHEDULES``
says which seeds run: a count (``200``), or the first and the last (``17-17``). A failure prints its schedule.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import skyward as sky
from skyward_testing.chores import FUNCTIONS, Chore, draw_chores
from skyward_testing.schedules import ENDS_NODE, Fault, Storm, draw
from skyward_testing.testbed import Node, Testbed, capabilities

type Hosts = Callable[..., sky.SSH]

pytestmark = [
    pytest.mark.local_only("it names its provider"),
    pytest.mark.usefixtures("own_state"),
    pytest.mark.timeout(300),
]

DEFAULT = range(2, 6)
"""Some seconds' worth."""
OPTIONS: dict[str, Any] = {"console": False, "logging": False, "provision_retry_delay": 1}
NOTICED = 2.0
"""A node that was silent for less is never given up: its connections are not even cut yet."""
SECONDS = 40.0
"""The longest that all outcomes of a schedule, or new nodes, may take."""
TTL = 5
"""Seconds after which what could not be told to end ends itself, in schedules that are left early."""
MEMORY_MB = 700
GROWTH_BYTES = 1_000_000
"""What may be held more after each schedule: less than one of its larger values. Some is the allocator's."""

SILENCE = """
table inet silence {
  chain leave {
    type filter hook output priority 0
    tcp dport 3128 drop
  }
}
"""
"""Has a node lose what it sends to the relay, by which alone it reaches registries."""
LEASE = ".skyward/machine"
"""Below the home of a node's user, as all paths here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """All that a seed decides."""

    seed: int
    nodes: int
    spares: int
    worker: sky.Worker
    chores: tuple[Chore, ...]
    pause: float
    """Seconds between two tasks."""
    faults: tuple[Fault, ...]
    leaves: bool
    """Whether the pool is closed as soon as there are all outcomes, whatever happens at that moment."""

    def __str__(self) -> str:
        counts = Counter(chore.kind for chore in self.chores)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        left = ", left early" if self.leaves else ""
        return f"seed {self.seed}: {self.nodes} nodes + {self.spares}, {self.worker}; {kinds}{left}"


def schedule(seed: int) -> Schedule:
    random = Random(seed)
    nodes = random.randint(2, 3)
    faults = draw(random, nodes=nodes + 1)
    chores = draw_chores(random, random.randint(60, 200))
    if random.random() < 0.1 and not capabilities().limits:
        chores.insert(random.randrange(60), Chore(number=len(chores), kind="hog", size=4 * MEMORY_MB))
    return Schedule(
        seed=seed,
        nodes=nodes,
        spares=max(1, sum(fault.kind in ENDS_NODE or fault.seconds > NOTICED for fault in faults)),
        worker=sky.Worker(
            concurrency=random.randint(1, 3),
            buffer=random.randint(0, 4),
            executor=random.choice(["thread", "process"]),
        ),
        chores=tuple(chores),
        pause=random.choice([0.0, 0.004, 0.015]),
        faults=faults,
        leaves=random.random() < 0.25,
    )


def seeds() -> range:
    first, dash, last = os.environ.get("SKYWARD_SCHEDULES", "").partition("-")
    if not first:
        return DEFAULT
    return range(int(first), int(last) + 1) if dash else range(1, int(first) + 1)


@pytest.fixture
def task(functions_of: Callable[[str], Any]) -> Any:
    return functions_of(FUNCTIONS)


@dataclass(slots=True)
class Ground:
    """The nodes that schedules share, and the memory that this process held after each."""

    bed: Testbed
    nodes: list[Node] = field(default_factory=list[Node])
    memory: list[int] = field(default_factory=list[int])

    def living(self, count: int) -> list[Node]:
        """Nodes that are well; new ones for those that died."""
        self.nodes = [node for node in self.nodes if node.alive]
        limit = None if capabilities().limits else MEMORY_MB
        self.nodes += self.bed.nodes(max(0, count - len(self.nodes)), memory_mb=limit, disk_mb=500)
        return self.nodes[:count]


@pytest.fixture(scope="module")
def ground(shared_testbed: Testbed) -> Iterator[Ground]:
    ground = Ground(shared_testbed)
    yield ground
    warm = ground.memory[5:]
    half = len(warm) // 2
    if half >= 10:  # what it needs varies with the schedule; the least of many does not
        grown = min(warm[half:]) - min(warm[:half])
        assert grown < GROWTH_BYTES * half, f"memory after each schedule: {ground.memory}"


def held() -> tuple[int, int]:
    """How many threads and descriptors this process has."""
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def memory() -> int:
    """Bytes that are this process's alone, without those that it could give back."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def oom_kills() -> int:
    with open("/proc/vmstat") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def outcome_of(future: Future[Any], deadline: float) -> object:
    try:
        return future.result(timeout=max(0.01, deadline - time.monotonic()))
    except Exception as error:
        return error


@dataclass(slots=True)
class Trial:
    """A schedule as it went: what tasks and events said, and what is wrong with that."""

    plan: Schedule
    hosts: list[Node]
    storm: Storm
    path: str
    problems: list[str] = field(default_factory=list[str])
    outcomes: dict[int, object] = field(default_factory=dict[int, object])
    lost: list[sky.InstancePreempted] = field(default_factory=list[sky.InstancePreempted])
    died: list[sky.WorkerDied] = field(default_factory=list[sky.WorkerDied])
    errors: list[str] = field(default_factory=list[str])
    times: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    ooms: int = field(default_factory=oom_kills)

    def __str__(self) -> str:
        steps = (f"{what} {end - begin:.1f} s" for (_, begin), (what, end) in pairwise(self.times))
        events = [
            *(f"lost {event.instance.address}: {event.reason}" for event in self.lost),
            *(f"a worker of {event.instance.address} died: {event.cause}" for event in self.died),
            *self.errors,
        ]
        return "\n".join(
            [
                *self.problems,
                str(self.plan),
                f"hosts: {', '.join(f'{node.name} ({node.address})' for node in self.hosts)}",
                str(self.storm),
                f"took: {', '.join(steps)}",
                "events:",
                *(f"  {event}" for event in events),
            ]
        )

    def hear(self, event: sky.Event) -> None:
        match event:
            case sky.InstancePreempted():
                self.lost.append(event)
            case sky.WorkerDied():
                self.died.append(event)
            case sky.Error():
                self.errors.append(event.message)
            case _:
                pass

    def passed(self, what: str) -> None:
        self.times.append((what, time.monotonic()))

    def run(self, task: Any, provider: sky.SSH) -> None:
        options: dict[str, Any] = {"nodes": self.plan.nodes, "worker": self.plan.worker, **OPTIONS}
        options |= {"retry_on_interruption": 6, "reconcile_tick_interval": 1, "shutdown_timeout": 20}
        if self.plan.leaves:
            options["ttl"] = TTL
        self.passed("start")
        with self.storm:
            with sky.Compute(provider=provider, **options) as pool:
                self.passed("open")
                self.storm.begin()
                futures: dict[int, Future[Any]] = {}
                for chore in self.plan.chores:
                    time.sleep(self.plan.pause)
                    futures[chore.number] = chore.submit(task, pool, f"~/{self.path}")
                deadline = time.monotonic() + SECONDS
                for number, future in futures.items():
                    self.outcomes[number] = outcome_of(future, deadline)
                self.passed("outcomes")
                self.see(pool, task)
                self.passed("after")
            self.passed("close")
            self.storm.wait()
        if self.times[-1][1] - self.times[-2][1] > SECONDS:
            self.problems.append("the pool was not closed in time")

    def see(self, pool: sky.Pool, task: Any) -> None:
        """Whether the pool has counted right, and can be used as before."""
        counts = pool.snapshot().tasks
        if (over := counts.done + counts.failed) != len(self.plan.chores):
            self.problems.append(f"{over} outcomes for {len(self.plan.chores)} tasks: {counts}")
        if self.plan.leaves:
            return
        self.storm.wait()
        if not eventually(lambda: pool.current_nodes() == self.plan.nodes, SECONDS):
            self.problems.append(f"only {pool.current_nodes()} nodes: {pool.snapshot()}")
        elif self.reached(pool, task) != self.plan.nodes:
            self.problems.append("a broadcast does not reach every node")

    def reached(self, pool: sky.Pool, task: Any) -> int:
        """How many nodes a broadcast reaches. The kernel counts the victims of memory for all its nodes: a
        worker that was killed while one of another died so is taken for one, and its task not run again.
        """
        try:
            return len(set(task.hostname() @ pool))
        except sky.TaskLostError:
            if oom_kills() == self.ooms:
                raise
            return len(set(task.hostname() @ pool))

    def was_silent(self, node: Node) -> bool:
        """Whether it was, for long enough to be given up."""
        return self.storm.silence(node) > NOTICED

    def was_full(self) -> bool:
        return any(entry.fault.kind == "fill-disk" for entry in self.storm.played)

    def check(self) -> None:
        for node in self.hosts:
            kinds, silent = self.storm.kinds(node), self.was_silent(node)
            may_die = kinds & (ENDS_NODE | {"kill-worker"}) or silent or oom_kills() > self.ooms
            for loss in self.lost:
                if loss.instance.address == node.address and not (kinds & ENDS_NODE or silent):
                    self.problems.append(f"{node.name} was given up without need: {loss.reason}")
            for death in self.died:
                if death.instance.address == node.address and not may_die:
                    self.problems.append(f"a worker of {node.name} died without need: {death.cause}")
        for chore in self.plan.chores:
            outcome = self.outcomes[chore.number]
            if not chore.is_right(outcome) and not self.is_explained(chore, outcome):
                self.problems.append(f"{chore} ended with {type(outcome).__name__}: {str(outcome)[:200]}")
        self.check_runs()
        self.check_left()

    def is_explained(self, chore: Chore, outcome: object) -> bool:
        """Whether a fault explains an error."""
        match outcome:
            case sky.TaskLostError():
                return "out of memory" in str(outcome) and oom_kills() > self.ooms
            case sky.NodeLostError():
                return bool(self.lost or self.died) and chore.streams
            case sky.NodeError() | sky.SerializationError():
                return "no space left" in str(outcome).lower() and chore.kind == "mirror" and self.was_full()
            case _:
                return False

    def check_runs(self) -> None:
        """What ran twice was in a process that is gone, all times but one."""
        runs: dict[int, list[tuple[Node, int]]] = {chore.number: [] for chore in self.plan.chores}
        for node in filter(lambda node: node.alive and node.exists(self.path), self.hosts):
            for line in node.read(self.path).splitlines():
                number, pid = map(int, line.split())
                runs[number].append((node, pid))
        gone = {run for chore in self.plan.chores if chore.kind == "hog" for run in runs[chore.number]}
        gone |= {(node, pid) for node in self.hosts for pid in self.storm.killed(node)}
        all_noted = not self.was_full() and all(node.alive for node in self.hosts)
        for chore in self.plan.chores:
            ran = runs[chore.number]
            if sum(run not in gone and not self.was_silent(run[0]) for run in ran) > 1:
                where = ", ".join(f"{node.name}/{pid}" for node, pid in ran)
                self.problems.append(f"{chore} ran more than once: {where}")
            if all_noted and not ran and chore.is_right(self.outcomes[chore.number]):
                self.problems.append(f"{chore} has an outcome and never ran")

    def check_left(self) -> None:
        seconds = 3.0 * TTL if self.plan.leaves else 2.0
        for node in filter(lambda node: node.alive, self.hosts):
            if not eventually(lambda: not node.pids("skyward") and not node.exists(LEASE), seconds):  # noqa: B023
                told = node.exec(f"ls -d {LEASE}; ps -eo pid,ppid,stat,args | grep [s]kyward", check=False)
                self.problems.append(f"left on {node.name}: {told}")


@pytest.mark.parametrize("seed", seeds())
def test_a_schedule(seed: int, ground: Ground, task: Any, impatient: None, ssh_to: Hosts) -> None:
    plan = schedule(seed)
    hosts = ground.living(plan.nodes + plan.spares)
    trial = Trial(plan, hosts, Storm(hosts, plan.faults), f"runs-{seed}")
    threads, descriptors = held()
    with sky.subscribe(trial.hear, sky.InstancePreempted, sky.WorkerDied, sky.Error):
        trial.run(task, ssh_to(*hosts))
    trial.check()
    if not eventually(lambda: held()[0] <= threads and held()[1] <= descriptors, 2.0):
        trial.problems.append(f"{threads} threads, {descriptors} descriptors before; now {held()}")
    ground.memory.append(memory())
    assert not trial.problems, f"{len(trial.problems)} problems\n{trial}"


@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_a_registry_out_of_reach_is_told_and_every_node_released(
    testbed: Testbed, ssh_to: Hosts, how: str
) -> None:
    nodes = testbed.nodes(2)
    image = sky.Image(pip=["surely-in-nobodys-cache"], env={"UV_HTTP_RETRIES": "0"}, bootstrap_timeout=20)
    if how == "refuses":
        testbed.relay.down()
        why = r"the machine can't reach https://\S+: look at its network"
    else:
        for node in nodes:
            node.write("silence.nft", SILENCE)
            node.exec("nft -f silence.nft")
        image = replace(image, bootstrap_timeout=2)
        why = r"nothing happened for 2 s: Image\(bootstrap_timeout=\.\.\.\) waits longer"
    begun = time.monotonic()
    with pytest.raises(
        sky.BootstrapError, match=rf"node \d, phase packages: `.*uv pip install.*{why}"
    ) as caught:
        with sky.Compute(provider=ssh_to(*nodes), nodes=2, image=image, **OPTIONS):
            pytest.fail("no package can have come")
    assert time.monotonic() - begun < SECONDS
    assert (caught.value.phase, caught.value.rank in (0, 1)) == ("packages", True)
    for node in nodes:
        assert node.pids(r"skyward|\buv\b") == []
        assert not node.exists(LEASE)
