"""A pool that isn't there, for looking at a console: events, snapshots, and a thread as the engine has it.

    python -m skyward_testing.console_play your_package:YourConsole --nodes 4 --seconds 5

plays a pool's life into a console while a user's script prints beside it. Used by the conformance suite and
by the tests of our own consoles, which wait at a marked point (``--wait``) to look at the screen.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.events import (
    ClusterDestroyed,
    ClusterProvisioned,
    ClusterReady,
    ClusterRequested,
    Error,
    Event,
    Instance,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstancePhase,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRequested,
    Log,
    Metric,
    ScalingChanged,
    TaskCompleted,
    TaskStarted,
    WorkerDied,
)
from skyward.snapshot import NodeSnapshot, PoolSnapshot, Progress, ScalingSnapshot, TaskCounts
from skyward.spec import Nodes, PoolSpec, PoolState

if TYPE_CHECKING:
    from skyward.hooks import Console
    from skyward.snapshot import NodeStatus

POOL = "train"
PROVIDER = "acme"
PHASES = ("connect", "apt", "python", "packages", "worker")
STATUSES: tuple[NodeStatus, ...] = (
    "ready", "requested", "launching", "connecting", "bootstrapping", "starting", "draining", "lost", "ended",
)  # fmt: skip


class View:
    """A ``PoolView`` that says what it was last told."""

    def __init__(self, snapshot: PoolSnapshot) -> None:
        self.current = snapshot

    @property
    def name(self) -> str:
        return self.current.name

    def snapshot(self) -> PoolSnapshot:
        return self.current


def instance(rank: int, generation: int = 0) -> Instance:
    """Return the machine of a node; ``generation`` counts its replacements."""
    return Instance(
        id=f"m-{generation}{rank:03}",
        node=rank,
        provider=PROVIDER,
        region="mars-1",
        usd_per_hour=0.53,
        spot=True,
    )


def node_snapshot(
    rank: int, status: NodeStatus = "ready", phase: str = "", since: float = 0.0
) -> NodeSnapshot:
    """Return one node of the play."""
    return NodeSnapshot(
        rank=rank,
        machine=instance(rank).id,
        status=status,
        phase=phase,
        slots=2,
        running=2 if status == "ready" else 0,
        done=17 * rank,
        address=f"10.0.0.{rank}",
        usd_per_hour=0.53,
        since=since or time.time(),
    )


def pool_snapshot(
    nodes: int = 4,
    phase: PoolState = PoolState.READY,
    *,
    name: str = POOL,
    started: float = 0.0,
    done: int = 0,
    total: int = 0,
) -> PoolSnapshot:
    """Return a pool whose nodes are ready, or not yet, as ``phase`` says; ``total``: a ``map`` under way."""
    started = started or time.time()
    ready = phase is PoolState.READY
    each = [
        node_snapshot(rank, "ready" if ready else "bootstrapping", "" if ready else "packages", started)
        for rank in range(nodes)
    ]
    progress = (Progress(name="train", total=total, done=done, started=started),) if total else ()
    return PoolSnapshot(
        name=name,
        provider=PROVIDER,
        phase=phase,
        nodes=tuple(each),
        tasks=TaskCounts(queued=max(total - done - 8, 0), running=min(8, total - done), done=done),
        scaling=ScalingSnapshot(
            desired=nodes, min=nodes, max=nodes, pending=0 if ready else nodes, draining=0, is_elastic=False
        ),
        progress=progress,
        started=started,
        usd_per_hour=0.53 * nodes,
        cost_usd=0.02 * nodes,
    )


def any_status_snapshot(nodes: int, name: str = POOL) -> PoolSnapshot:
    """Return a pool that holds nodes of every status."""
    each = [
        node_snapshot(rank, status, "packages" if status == "bootstrapping" else "")
        for rank in range(nodes)
        for status in (STATUSES[rank % len(STATUSES)],)
    ]
    return replace(pool_snapshot(nodes, name=name, done=310, total=1000), nodes=tuple(each))


def every_event(text: str = "text", nodes: int = 2) -> Iterator[Event]:
    """Yield events of every type, each about every node, with ``text`` wherever a text may stand."""
    yield ClusterRequested(
        pool=POOL, provider=text, spec=PoolSpec(nodes=Nodes(nodes), accelerator=None, region="")
    )
    yield ClusterProvisioned(pool=POOL, provider=text, nodes=nodes)
    for rank in range(nodes):
        one = replace(instance(rank), id=text, region=text)
        yield InstanceRequested(pool=POOL, node=rank, provider=text, replacing=text)
        yield InstanceProvisioned(pool=POOL, instance=one)
        yield InstancePhase(pool=POOL, instance=one, phase=text, state="started")
        yield InstancePhase(pool=POOL, instance=one, phase=text, state="done", seconds=1.5)
        yield InstancePhase(pool=POOL, instance=one, phase=text, state="failed", seconds=1.5, detail=text)
        yield InstanceBootstrapped(pool=POOL, instance=one, seconds=41.0)
        yield TaskStarted(pool=POOL, task_id=1, instance=one, function_name=text)
        yield TaskCompleted(
            pool=POOL, task_id=1, instance=one, function_name=text, duration=0.1, success=False, error=text
        )
        yield Metric(pool=POOL, instance=one, name=text, value=0.5)
        yield Log(pool=POOL, instance=one, line=text)
        yield Log(pool=POOL, instance=one, line=text, stream="stderr", overwrite=True)
        yield Log(pool=POOL, instance=one, line="", stream="stderr")
        yield WorkerDied(pool=POOL, instance=one, cause=text)
        yield InstancePreempted(pool=POOL, instance=one, reason=text)
        yield InstanceReplaced(pool=POOL, old_id=text, new=one)
        yield InstanceDestroyed(pool=POOL, instance=one)
    yield ClusterReady(pool=POOL, nodes=nodes, seconds=41.0)
    yield ScalingChanged(pool=POOL, desired=nodes + 1, reason=text)
    yield Error(pool=POOL, message=text)
    yield Error(pool=POOL, message=text, fatal=True)
    yield ClusterDestroyed(pool=POOL)
    yield Event(pool=POOL)


class ConsoleThread:
    """Runs a console as the engine does: on one thread, events in order, ticks in between, ``stop`` last."""

    def __init__(self, console: Console, view: View) -> None:
        self._console = console
        self._view = view
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> ConsoleThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.put(None)
        self._thread.join()

    def emit(self, event: Event) -> None:
        self._events.put(event)

    def _run(self) -> None:
        try:
            self._console.start(self._view)
            self._loop()
        except Exception as error:
            self.error = error
        finally:
            self._console.stop()

    def _loop(self) -> None:
        interval = self._console.tick_interval
        next_tick = time.monotonic() + (interval or 0)
        while True:
            timeout = None if interval is None else max(next_tick - time.monotonic(), 0)
            try:
                event = self._events.get(timeout=timeout)
                if event is None:
                    return
                if isinstance(event, self._console.handles):
                    self._console.handle(event)
            except queue.Empty:
                pass
            if interval is not None and time.monotonic() >= next_tick:
                self._console.tick()
                next_tick = time.monotonic() + interval


# ── the play ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What happens: ``wait`` is a file; when the play is half over it goes on once that file exists."""

    nodes: int = 4
    seconds: float = 5.0
    total: int = 1000
    name: str = POOL
    wait: str = ""
    end: str = ""


def play(console: Console, script: Play) -> None:
    """Play the life of a pool into ``console``; print beside it, as the user's script would."""
    begun = time.time()
    view = View(pool_snapshot(script.nodes, PoolState.PROVISIONING, name=script.name, started=begun))
    thread = ConsoleThread(console, view)
    try:
        with thread:
            _open(thread, view, script, begun)
            _work(thread, view, script, begun)
            _close(thread, view, script, begun)
    finally:
        if thread.error is not None:
            raise thread.error


def _open(thread: ConsoleThread, view: View, script: Play, begun: float) -> None:
    pool, nodes = script.name, range(script.nodes)
    thread.emit(
        ClusterRequested(
            pool=pool,
            provider=PROVIDER,
            spec=PoolSpec(nodes=Nodes(script.nodes), accelerator=None, region=""),
        )
    )
    for rank in nodes:
        thread.emit(InstanceRequested(pool=pool, node=rank, provider=PROVIDER))
        thread.emit(InstanceProvisioned(pool=pool, instance=instance(rank)))
    thread.emit(ClusterProvisioned(pool=pool, provider=PROVIDER, nodes=script.nodes))
    pause = script.seconds * 0.25 / len(PHASES)
    for phase in PHASES:
        view.current = replace(
            view.current,
            nodes=tuple(node_snapshot(rank, "bootstrapping", phase, begun) for rank in nodes),
        )
        for rank in nodes:
            thread.emit(InstancePhase(pool=pool, instance=instance(rank), phase=phase, state="started"))
        time.sleep(pause)
        for rank in nodes:
            thread.emit(
                InstancePhase(pool=pool, instance=instance(rank), phase=phase, state="done", seconds=pause)
            )
    for rank in nodes:
        thread.emit(InstanceBootstrapped(pool=pool, instance=instance(rank), seconds=time.time() - begun))
    thread.emit(ClusterReady(pool=pool, nodes=script.nodes, seconds=time.time() - begun))


def _work(thread: ConsoleThread, view: View, script: Play, begun: float) -> None:
    log, steps = logging.getLogger("play"), 20
    chance = random.Random(7)
    for step in range(1, steps + 1):
        done = script.total * step // steps
        view.current = pool_snapshot(
            script.nodes, name=script.name, started=begun, done=done, total=script.total
        )
        _remote_output(thread, script, step, chance.random())
        if step == steps // 4:
            print("user: loading", end="")
        elif step == steps // 4 + 1:
            print(" done")
            print("user: to stderr", file=sys.stderr)
            log.warning("user: through logging")
        elif step == steps // 2:
            print("user: half way ", end="", flush=True)
            _half_way(script)
            print("over")
        elif step % 4 == 0:
            print(f"user: step {step}")
        time.sleep(script.seconds * 0.75 / steps)


def _remote_output(thread: ConsoleThread, script: Play, step: int, loss: float) -> None:
    for rank in range(min(script.nodes, 64)):
        bar = f"{step * 5:3}%|{'█' * (step // 2):<10}| {step * 50}/1000 [00:0{step % 10}<00:01]"
        thread.emit(
            Log(pool=script.name, instance=instance(rank), line=bar, stream="stderr", overwrite=step < 20)
        )
        thread.emit(Metric(pool=script.name, instance=instance(rank), name="cpu", value=40 + rank % 9))
    rank = step % script.nodes
    thread.emit(
        Log(pool=script.name, instance=instance(rank), line=f"epoch {step} \x1b[32mloss\x1b[0m {loss:.4f}")
    )
    if step == 8:
        thread.emit(WorkerDied(pool=script.name, instance=instance(rank), cause="killed by SIGSEGV"))


def _half_way(script: Play) -> None:
    if script.end == "error":
        raise RuntimeError("the user's script failed")
    if script.wait:
        Path(script.wait + ".reached").touch()
        while not Path(script.wait).exists():
            time.sleep(0.05)


def _close(thread: ConsoleThread, view: View, script: Play, begun: float) -> None:
    view.current = replace(
        pool_snapshot(script.nodes, PoolState.DESTROYED, name=script.name, started=begun),
        tasks=TaskCounts(done=script.total - 2, failed=2),
        progress=(),
        nodes=(),
        usd_per_hour=0.0,
    )
    for rank in range(script.nodes):
        thread.emit(InstanceDestroyed(pool=script.name, instance=instance(rank)))
    thread.emit(ClusterDestroyed(pool=script.name))


def main() -> None:
    """Play to the console that the command line names."""
    parser = argparse.ArgumentParser(description="Play the life of a pool into a console.")
    parser.add_argument("console", help="package:Class, as in the entry point")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--name", default=POOL, help="the pool's name")
    parser.add_argument("--wait", default="", help="half way, touch FILE.reached and wait for FILE")
    parser.add_argument("--end", choices=["", "error"], default="", help="fail half way")
    given = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s")
    module, _, attribute = given.console.partition(":")
    console: Console = getattr(importlib.import_module(module), attribute)()
    play(
        console,
        Play(nodes=given.nodes, seconds=given.seconds, name=given.name, wait=given.wait, end=given.end),
    )
    print("user: after the pool")


if __name__ == "__main__":
    main()
