"""What a killed client leaves is found by everyone and swept by the next one; what is in use is not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from skyward.hooks.values import Machine, PoolRef, Wanted
from skyward_local import folders, processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skyward.hooks.values import Claim
    from skyward_local.provider import LocalProvider

# A client that launches a machine and is then killed: no handler and no exit hook of it runs.
CLIENT = """
import asyncio, os, signal, sys
from skyward.hooks.values import Claim, PoolRef, Wanted
from skyward_local import Local
root, claim, step = sys.argv[1:]
pool = PoolRef(id="killed-pool", name="killed", ttl=600)
if step == "while making":
    os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
async def main():
    provider = Local(root=root).connect()
    (offer,) = await provider.offers(Wanted())
    claim_ = Claim(id=claim, pool=pool.id, rank=0, provider="local", owner="killed", deadline=0)
    await provider.launch(pool, offer, claim_)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""

KILLED_POOL = PoolRef(id="killed-pool", name="killed", ttl=600)


@pytest.fixture
def killed_client(base: Path) -> Callable[..., None]:
    def run(claim: str = "claim", step: str = "after launch") -> None:
        command = [sys.executable, "-c", CLIENT, os.fspath(base), claim, step]
        client = subprocess.run(command, capture_output=True, text=True, check=False)
        assert client.returncode == -9, client.stderr

    return run


def owned(provider: LocalProvider) -> list[Machine]:
    async def look() -> list[Machine]:
        return list(await provider.owned())

    return asyncio.run(look())


def test_the_machine_of_a_killed_client_is_owned(
    provider: LocalProvider, killed_client: Callable[..., None]
) -> None:
    killed_client("the-claim")
    (machine,) = owned(provider)
    assert (machine.pool, machine.claim) == ("killed-pool", "the-claim")


def test_the_next_client_sweeps_it(
    provider: LocalProvider, pool: PoolRef, base: Path, killed_client: Callable[..., None]
) -> None:
    killed_client()
    asyncio.run(provider.prepare(pool))
    assert list(base.iterdir()) == []


def test_sweeping_ends_what_the_dead_agent_left(
    provider: LocalProvider,
    pool: PoolRef,
    base: Path,
    killed_client: Callable[..., None],
    run_agent: Callable[..., Any],
) -> None:
    killed_client()
    (machine,) = owned(provider)
    agent = run_agent(base / machine.id, "worker")
    (worker,) = folders.listed(os.fspath(base / machine.id))
    agent.kill()
    agent.wait()
    asyncio.run(provider.prepare(pool))
    assert not worker.lives
    assert list(base.iterdir()) == []


def test_a_machine_that_lingers_is_not_garbage(
    provider: LocalProvider,
    pool: PoolRef,
    base: Path,
    killed_client: Callable[..., None],
    run_agent: Callable[..., Any],
) -> None:
    """Its client is dead, but its agent runs and will end it when its ttl is over."""
    killed_client()
    (machine,) = owned(provider)
    agent = run_agent(base / machine.id)
    asyncio.run(provider.prepare(pool))
    assert [found.id for found in owned(provider)] == [machine.id]
    assert agent.poll() is None


def test_a_machine_of_a_living_client_is_not_garbage(
    provider: LocalProvider, pool: PoolRef, launch: Callable[[], Any], run_agent: Callable[..., Any]
) -> None:
    fresh = asyncio.run(launch())
    broken = asyncio.run(launch())
    agent = run_agent(folders_path(broken))
    agent.kill()
    agent.wait()
    asyncio.run(provider.prepare(pool))
    assert {found.id for found in owned(provider)} == {fresh.id, broken.id}


def test_a_machine_taken_over_is_not_garbage(
    provider: LocalProvider, pool: PoolRef, claim: Callable[[], Claim], killed_client: Callable[..., None]
) -> None:
    """The ledger launches a lost claim again: the machine is found, and is ours from now on."""
    mine = claim()
    killed_client(mine.id)
    (left,) = owned(provider)

    async def take_over() -> Machine:
        (offer,) = await provider.offers(Wanted())
        machine = await provider.launch(KILLED_POOL, offer, mine)
        await provider.prepare(pool)
        return machine

    assert asyncio.run(take_over()).id == left.id
    assert [found.id for found in owned(provider)] == [left.id]


def test_a_half_made_machine_is_seen_by_nobody_and_swept(
    provider: LocalProvider, pool: PoolRef, base: Path, killed_client: Callable[..., None]
) -> None:
    killed_client(step="while making")
    (draft,) = base.iterdir()
    assert owned(provider) == []
    asyncio.run(provider.prepare(pool))
    assert draft.exists(), "a young draft may be somebody's in another container"
    long_ago = time.time() - folders.YOUNG_DRAFT_SECONDS - 1
    os.utime(draft, (long_ago, long_ago))
    asyncio.run(provider.prepare(pool))
    assert list(base.iterdir()) == []


def test_a_draft_in_the_making_is_spared(provider: LocalProvider, pool: PoolRef, base: Path) -> None:
    me = processes.current()
    draft = base / f".new.{me.pid}.{me.start}.00"
    asyncio.run(provider.prepare(pool))
    draft.mkdir()
    os.utime(draft, (0, 0))
    asyncio.run(provider.prepare(pool))
    assert draft.exists()


def test_a_half_removed_machine_is_swept(provider: LocalProvider, pool: PoolRef, base: Path) -> None:
    asyncio.run(provider.prepare(pool))
    (base / ".old.abcdefgh.00" / "deep").mkdir(parents=True)
    asyncio.run(provider.prepare(pool))
    assert list(base.iterdir()) == []


def test_a_machine_of_another_container_is_left_to_it(
    provider: LocalProvider, pool: PoolRef, base: Path, killed_client: Callable[..., None]
) -> None:
    if not processes.pid_space():
        pytest.skip("no pid namespaces here")
    killed_client()
    (machine,) = owned(provider)
    record = base / machine.id / "machine.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "space": "pid:[1]"}))
    asyncio.run(provider.prepare(pool))
    assert [found.id for found in owned(provider)] == [machine.id]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": "zzzzzzzz"}', None])
def test_a_machine_whose_record_is_broken_is_owned_and_swept(
    provider: LocalProvider, pool: PoolRef, base: Path, launch: Callable[[], Any], content: str | None
) -> None:
    machine = asyncio.run(launch())
    record = base / machine.id / "machine.json"
    record.unlink() if content is None else record.write_text(content)
    assert [(found.id, found.pool) for found in owned(provider)] == [(machine.id, "")]
    asyncio.run(provider.prepare(pool))
    assert owned(provider) == []


def test_many_clients_may_launch_one_claim_at_once(provider: LocalProvider, base: Path) -> None:
    """Real processes, so that nothing but the file system keeps them apart."""
    command = [sys.executable, "-c", CLIENT, os.fspath(base), "contested", "after launch"]
    clients = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(6)]
    assert [client.wait() for client in clients] == [-9] * 6
    (machine,) = owned(provider)
    assert machine.claim == "contested"


def folders_path(machine: Machine) -> Path:
    from pathlib import Path

    assert machine.endpoint is not None
    return Path(machine.endpoint.root)
