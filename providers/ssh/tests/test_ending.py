"""Ending a machine ends all that runs in it and nothing else; the host needs no python for it."""

from __future__ import annotations

import logging
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest
from skyward.errors import ProviderError
from skyward.hooks.values import Claim, Machine, Offer, PoolRef, Wanted
from skyward_ssh import SSH, scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skyward_ssh.provider import SSHProvider
    from skyward_testing.testbed import Node

WARNINGS = "skyward"


async def offered(provider: SSHProvider) -> Offer:
    (offer,) = await provider.offers(Wanted())
    return offer


@pytest.fixture
def machine(config: SSH, pool: PoolRef, claim: Callable[..., Claim], drive: Any) -> Machine:
    """A machine on the first host."""

    async def scenario(provider: SSHProvider) -> Machine:
        return await provider.launch(pool, await offered(provider), claim(pool))

    found: Machine = drive(config, scenario)
    return found


@pytest.fixture
def end(config: SSH, drive: Any) -> Callable[[str], float]:
    """End a machine through a provider of its own; return how many seconds that took."""

    def terminate(name: str) -> float:
        async def scenario(provider: SSHProvider) -> float:
            begun = time.monotonic()
            await provider.terminate([name])
            return time.monotonic() - begun

        seconds: float = drive(config, scenario)
        return seconds

    return terminate


@pytest.mark.parametrize("words", [(), ("worker",), ("family",), ("stray",), ("stubborn", "family", "stray")])
def test_nothing_of_a_machine_is_left(
    nodes: list[Node],
    machine: Machine,
    run_agent: Callable[..., str],
    end: Callable[[str], float],
    folders: Callable[[Sequence[Node]], list[bool]],
    words: tuple[str, ...],
) -> None:
    run_agent(nodes[0], *words)
    end(machine.id)
    assert nodes[0].pids("/tmp/agent|^sleep 100") == []
    assert folders(nodes) == [False] * 3
    assert nodes[0].exec("ls -A ~/.skyward", user=nodes[0].user) == "machine.lock"


def test_an_agent_may_say_farewell(
    nodes: list[Node], machine: Machine, run_agent: Callable[..., str], end: Callable[[str], float]
) -> None:
    run_agent(nodes[0], "polite")
    end(machine.id)
    assert nodes[0].exec("cat ~/.skyward/farewell", user=nodes[0].user) == "heard"


def test_a_stubborn_agent_is_killed_soon(
    nodes: list[Node], machine: Machine, run_agent: Callable[..., str], end: Callable[[str], float]
) -> None:
    run_agent(nodes[0], "stubborn")
    assert 1.5 < end(machine.id) < 6


def test_what_is_not_of_the_machine_is_spared(
    nodes: list[Node], machine: Machine, run_agent: Callable[..., str], end: Callable[[str], float]
) -> None:
    node = nodes[0]
    run_agent(node)
    root = node.exec("cd ~/.skyward/machine && pwd -P", user=node.user)
    neighbours = {
        "mark of another": f"SKYWARD_MACHINE={root}2",
        "mark within a value": f"NOTE=SKYWARD_MACHINE={root}",
        "no mark": "NOTE=none",
    }
    for number, mark in enumerate(neighbours.values()):
        command = f"env {shlex.quote(mark)} setsid sleep 10{number}7 > /dev/null 2>&1 < /dev/null &"
        node.exec(command, user=node.user)
    # A pid that is somebody else's by now: only the start time tells.
    pid = node.pids("^sleep 1007")[0]
    node.exec(f"echo '{pid} 1' >> ~/.skyward/machine/pids", user=node.user)
    end(machine.id)
    assert len(node.pids("^sleep 10.7")) == 3
    node.pkill("^sleep 10.7")


@pytest.mark.parametrize("planted", ["1 1", "0 0", "-1 1", "x y", "", "\n\n", "99999999 1", "* *"])
def test_a_planted_pid_harms_nobody(
    nodes: list[Node],
    machine: Machine,
    end: Callable[[str], float],
    folders: Callable[[Sequence[Node]], list[bool]],
    planted: str,
) -> None:
    for name in ("pids", "agent.pid"):
        nodes[0].write(f"/home/{nodes[0].user}/.skyward/machine/{name}", planted, user=nodes[0].user)
    end(machine.id)
    assert folders(nodes[:1]) == [False]
    assert nodes[0].alive


def test_a_folder_that_a_task_made_read_only_goes_too(
    nodes: list[Node],
    machine: Machine,
    end: Callable[[str], float],
    folders: Callable[[Sequence[Node]], list[bool]],
) -> None:
    command = "cd ~/.skyward/machine && mkdir -p a/b && touch a/b/c 'a/with blank' && chmod -R a-w a"
    nodes[0].exec(command, user=nodes[0].user)
    end(machine.id)
    assert folders(nodes[:1]) == [False]
    assert nodes[0].exec("ls -A ~/.skyward", user=nodes[0].user) == "machine.lock"


def test_only_the_machine_with_that_claim_is_ended(
    nodes: list[Node],
    machine: Machine,
    run_agent: Callable[..., str],
    end: Callable[[str], float],
    folders: Callable[[Sequence[Node]], list[bool]],
) -> None:
    run_agent(nodes[0])
    host, _, claim = machine.id.rpartition("/")
    for name in (f"{host}/{claim}0", f"{host}/{claim[:-1]}", f"{host}/", host, f"nowhere/{claim}", "", "/"):
        end(name)
    assert folders(nodes[:1]) == [True]
    assert nodes[0].pids("/tmp/agent")
    end(machine.id)


def test_a_machine_that_removes_itself_meanwhile_is_gone(
    nodes: list[Node],
    machine: Machine,
    end: Callable[[str], float],
    folders: Callable[[Sequence[Node]], list[bool]],
) -> None:
    """The engine tells the agent to shut down just before; its folder goes file by file."""
    node = nodes[0]
    node.exec(
        "rm ~/.skyward/machine/machine.json; (sleep 0.5; rmdir ~/.skyward/machine) > /dev/null 2>&1 &",
        user=node.user,
    )
    end(machine.id)
    assert folders(nodes[:1]) == [False]


def test_what_another_user_runs_is_not_ours_to_end(nodes: list[Node], config: SSH, drive: Any) -> None:
    """sudo may keep the mark. Such a process is not seen, so it does not hold up the end either."""
    node = nodes[0]
    node.exec("mkdir -p ~/.skyward/machine", user=node.user)
    root = node.exec("cd ~/.skyward/machine && pwd -P", user=node.user)
    node.exec(f"SKYWARD_MACHINE={root} setsid sleep 1009 > /dev/null 2>&1 < /dev/null &", user="root")
    node.exec("rmdir ~/.skyward/machine", user=node.user)

    async def scenario(provider: SSHProvider) -> None:
        await provider.terminate([f"{node.url}/any"])

    drive(config, scenario)
    assert len(node.pids("^sleep 1009")) == 1


def test_an_orphan_without_a_folder_is_ended(
    nodes: list[Node], config: SSH, end: Callable[[str], float]
) -> None:
    node = nodes[0]
    node.exec("mkdir -p ~/.skyward/machine", user=node.user)
    root = node.exec("cd ~/.skyward/machine && pwd -P", user=node.user)
    node.exec(f"SKYWARD_MACHINE={root} setsid sleep 1000 > /dev/null 2>&1 < /dev/null &", user=node.user)
    node.exec("rmdir ~/.skyward/machine", user=node.user)
    end(f"{node.url}/any")
    assert node.pids("^sleep 1000") == []


def test_release_ends_the_pool_and_what_a_cancelled_launch_took(
    nodes: list[Node],
    config: SSH,
    pool: PoolRef,
    claim: Callable[..., Claim],
    drive: Any,
    folders: Callable[[Sequence[Node]], list[bool]],
) -> None:
    async def scenario(provider: SSHProvider) -> None:
        import asyncio

        offer = await offered(provider)
        launches = [asyncio.ensure_future(provider.launch(pool, offer, claim(pool, n))) for n in range(3)]
        await asyncio.sleep(0.03)
        for launch in launches:
            launch.cancel()
        await asyncio.wait(launches)
        await provider.release(pool)

    drive(config, scenario)
    assert folders(nodes) == [False] * 3


def test_a_host_that_cannot_be_reached_is_said_and_forgiven(
    nodes: list[Node],
    config: SSH,
    pool: PoolRef,
    claim: Callable[..., Claim],
    drive: Any,
    caplog: pytest.LogCaptureFixture,
    folders: Callable[[Sequence[Node]], list[bool]],
) -> None:
    async def scenario(provider: SSHProvider) -> None:
        machine = await provider.launch(pool, await offered(provider), claim(pool))
        nodes[0].kill_sshd()
        await provider.terminate([machine.id])
        (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert said.startswith(
            f"machine {machine.id} could not be told to end ({nodes[0].url} can't be reached"
        )
        assert said.endswith("; it ends itself within 600 s")
        assert folders(nodes[:1]) == [True]
        nodes[0].start_sshd()
        await provider.release(pool)  # it was remembered

    with caplog.at_level(logging.WARNING, logger=WARNINGS):
        drive(config, scenario)
    assert folders(nodes[:1]) == [False]


def test_listings_leave_out_what_cannot_be_reached(
    nodes: list[Node],
    config: SSH,
    pool: PoolRef,
    claim: Callable[..., Claim],
    drive: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(provider: SSHProvider) -> tuple[Sequence[Machine], Sequence[Machine], str]:
        offer = await offered(provider)
        for rank in range(2):
            await provider.launch(pool, offer, claim(pool, rank))
        nodes[0].kill_sshd()
        try:
            found = await provider.machines(pool), await provider.owned()
        finally:
            nodes[0].start_sshd()
        return *found, caplog.text

    with caplog.at_level(logging.WARNING, logger=WARNINGS):
        machines, owned, said = drive(config, scenario)
    assert [machine.id.rpartition("/")[0] for machine in machines] == [nodes[1].url]
    assert [machine.id.rpartition("/")[0] for machine in owned] == [nodes[1].url]
    assert f"not asked for its machines: {nodes[0].url} can't be reached" in said


def test_two_clients_take_turns_at_a_host(
    nodes: list[Node], machine: Machine, config: SSH, drive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever judges or removes a lease holds the lock; the other is told, should that take too long."""
    node = nodes[0]
    command = "flock ~/.skyward/machine.lock sleep 1008"
    node.exec(f"setsid {command} > /dev/null 2>&1 < /dev/null &", user=node.user)
    monkeypatch.setattr(scripts, "_FUNCTIONS", scripts._FUNCTIONS.replace("-lt 200", "-lt 10"))

    async def scenario(provider: SSHProvider) -> None:
        with pytest.raises(ProviderError, match="another client is at work there") as caught:
            await provider.terminate([machine.id])
        assert caught.value.retryable
        node.pkill("^sleep 1008")
        await provider.terminate([machine.id])

    drive(config, scenario)
