"""Pools, a short base folder, and real processes that play our node agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from skyward.hooks.values import Claim, Machine, PoolRef, Wanted
from skyward_local import Local

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from skyward_local.provider import LocalProvider

# Writes agent.pid as an agent does, then waits. Its words decide how it behaves.
AGENT = """
import os, pathlib, signal, subprocess, sys, time
from skyward_local.processes import Process, current, start_time
root, words = pathlib.Path(sys.argv[1]), sys.argv[2:]
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "polite" in words:
    def farewell(*_):
        (root.parent / "farewell").write_text("heard it")
        sys.exit(0)
    signal.signal(signal.SIGTERM, farewell)
pids = []
if "worker" in words:
    worker = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pids.append(worker.pid)
if "family" in words:
    family = ["sh", "-c", "sleep 600 & echo $! > child; wait"]
    worker = subprocess.Popen(family, cwd=root, start_new_session=True)
    pids.append(worker.pid)
    while not (root / "child").exists() or not (root / "child").read_text().strip():
        time.sleep(0.01)
(root / "pids").write_text("".join(f"{pid} {start_time(pid)}\\n" for pid in pids))
(root / "agent.new").write_text(str(current()))
os.rename(root / "agent.new", root / "agent.pid")
while True:
    time.sleep(1)
"""


@pytest.fixture
def base(short_folder: Path) -> Path:
    return short_folder / "base"


@pytest.fixture
def provider(base: Path) -> LocalProvider:
    return Local(root=os.fspath(base)).connect()


@pytest.fixture
def pool() -> PoolRef:
    return PoolRef(id=uuid.uuid4().hex, name="test", ttl=600)


@pytest.fixture
def claim(pool: PoolRef) -> Callable[[], Claim]:
    def make() -> Claim:
        deadline = time.time() + 600
        return Claim(
            id=uuid.uuid4().hex, pool=pool.id, rank=0, provider="local", owner="me", deadline=deadline
        )

    return make


@pytest.fixture
def launch(provider: LocalProvider, pool: PoolRef, claim: Callable[[], Claim]) -> Callable[[], Any]:
    """Launch a machine; a coroutine function."""

    async def make() -> Machine:
        (offer,) = await provider.offers(Wanted())
        return await provider.launch(pool, offer, claim())

    return make


@pytest.fixture
def run_agent() -> Generator[Callable[..., subprocess.Popen[bytes]]]:
    """Start an agent in a folder and wait until it has written its pid; whatever is left of it is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(root: Path, *words: str) -> subprocess.Popen[bytes]:
        agent = subprocess.Popen([sys.executable, "-c", AGENT, os.fspath(root), *words])
        started.append(agent)
        while not (root / "agent.pid").exists():
            assert agent.poll() is None, "the agent ended early"
            time.sleep(0.01)
        return agent

    yield start
    for agent in started:
        if agent.poll() is None:
            agent.send_signal(signal.SIGKILL)
        agent.wait()
