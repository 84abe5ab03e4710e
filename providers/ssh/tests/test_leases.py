"""A host is one machine, of one pool at a time: who gets it, who is told no and why, when a lease is over."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from skyward.errors import CapacityError, ProviderError
from skyward.hooks.values import Claim, Machine, Offer, PoolRef, SSHEndpoint, Wanted
from skyward_ssh import SSH, Host

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from skyward_ssh.provider import SSHProvider
    from skyward_testing.testbed import Node

MINUTES = 60
STALE, YOUNG = 20 * MINUTES, 10 * MINUTES


async def offered(provider: SSHProvider) -> Offer:
    (offer,) = await provider.offers(Wanted())
    return offer


@pytest.fixture
def lease(drive: Any, claim: Callable[..., Claim]) -> Callable[..., Machine]:
    """Lease a host through a provider of its own."""

    def take(config: SSH, pool: PoolRef) -> Machine:
        async def scenario(provider: SSHProvider) -> Machine:
            return await provider.launch(pool, await offered(provider), claim(pool))

        return drive(config, scenario)

    return take


def test_hosts_are_taken_in_their_order(
    config: SSH, nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine]
) -> None:
    taken = [lease(config, pool).id.rpartition("/")[0] for _ in nodes]
    assert taken == [node.url for node in nodes]


def test_a_machine_says_where_it_is(
    config: SSH, nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine]
) -> None:
    machine = lease(config, pool)
    assert isinstance(machine.endpoint, SSHEndpoint)
    assert (machine.endpoint.host, machine.endpoint.port) == (nodes[0].address, nodes[0].port)
    assert machine.endpoint.folder == ".skyward/machine"
    assert not machine.endpoint.starting
    assert machine.public_ip == nodes[0].address
    if nodes[0].can("isolate_from"):  # or it has no address of its own
        assert machine.private_ip == nodes[0].address  # its first global one
    assert machine.usd_per_hour == 0.0


def test_what_the_user_knows_better_counts(
    nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine], host_of: Callable[..., Host], config: SSH
) -> None:
    host = host_of(nodes[0], internal_ip="10.1.2.3", usd_per_hour=1.5, root="elsewhere")
    machine = lease(SSH([host], config=False), pool)
    assert (machine.private_ip, machine.usd_per_hour) == ("10.1.2.3", 1.5)
    assert nodes[0].exec("ls ~/elsewhere/.skyward", user=nodes[0].user).split() == ["machine", "machine.lock"]
    nodes[0].exec("rm -rf ~/elsewhere", user=nodes[0].user)


def test_the_lease_is_written_down_and_private(
    config: SSH, nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine]
) -> None:
    machine = lease(config, pool)
    node = nodes[0]
    written = json.loads(node.exec("cat ~/.skyward/machine/machine.json", user=node.user))
    assert {key: written[key] for key in ("claim", "pool", "pool_name", "rank", "owner", "ttl", "host")} == {
        "claim": machine.claim, "pool": pool.id, "pool_name": "mine", "rank": 0, "owner": "me:1", "ttl": 600,
        "host": node.name,
    }  # fmt: skip
    assert node.exec(f"stat -c %U ~{node.user}/.skyward/machine") == node.user
    modes = node.exec(
        "stat -c %a ~/.skyward ~/.skyward/machine ~/.skyward/machine/machine.json", user=node.user
    )
    assert modes.split() == ["700", "700", "600"]


def test_a_leased_host_is_passed_over(
    config: SSH, nodes: list[Node], pool: PoolRef, other_pool: PoolRef, lease: Callable[..., Machine]
) -> None:
    lease(config, pool)
    assert lease(config, other_pool).id.startswith(nodes[1].url)


def test_no_host_left_is_told_with_every_reason(
    config: SSH,
    nodes: list[Node],
    pool: PoolRef,
    other_pool: PoolRef,
    lease: Callable[..., Machine],
) -> None:
    lease(config, other_pool)
    lease(config, pool)
    lease(config, pool)
    with pytest.raises(CapacityError) as caught:
        lease(config, pool)
    first, second, third = (node.url for node in nodes)
    assert str(caught.value).startswith(
        f"none of the 3 hosts is free: {first} is leased by pool 'other' of me:1 since "
    )
    assert str(caught.value).endswith(
        f"; {second} is a machine of this pool already; {third} is a machine of this pool already"
    )
    assert caught.value.retryable, "the other pool may give its host back"


def test_a_pool_that_has_every_host_waits_for_none(
    config: SSH, nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine]
) -> None:
    for _ in nodes:
        lease(config, pool)
    with pytest.raises(CapacityError) as caught:
        lease(config, pool)
    assert not caught.value.retryable


def test_many_clients_at_once_never_share_a_host(
    config: SSH, nodes: list[Node], claim: Callable[..., Claim]
) -> None:
    pools = [PoolRef(id=f"pool-{number}", name="p", ttl=60) for number in range(6)]

    async def one(pool: PoolRef) -> Machine | ProviderError:
        provider = config.connect()
        try:
            return await provider.launch(pool, await offered(provider), claim(pool))
        except CapacityError as error:
            return error
        finally:
            await provider.aclose()

    async def all_at_once() -> list[Machine | ProviderError]:
        return await asyncio.gather(*map(one, pools))

    outcomes = asyncio.run(all_at_once())
    machines = [outcome for outcome in outcomes if isinstance(outcome, Machine)]
    assert sorted(machine.id.rpartition("/")[0] for machine in machines) == sorted(node.url for node in nodes)
    for machine, node in zip(sorted(machines, key=lambda machine: machine.id), nodes, strict=True):
        written = json.loads(node.exec("cat ~/.skyward/machine/machine.json", user=node.user))
        assert written["pool"] == machine.pool


def test_many_launches_of_one_pool_take_a_host_each(
    config: SSH, nodes: list[Node], pool: PoolRef, claim: Callable[..., Claim], drive: Any
) -> None:
    async def scenario(provider: SSHProvider) -> Sequence[object]:
        offer = await offered(provider)
        launches = [provider.launch(pool, offer, claim(pool, rank)) for rank in range(5)]
        return await asyncio.gather(*launches, return_exceptions=True)

    outcomes = drive(config, scenario)
    assert len({outcome.id for outcome in outcomes if isinstance(outcome, Machine)}) == 3
    assert sum(isinstance(outcome, CapacityError) for outcome in outcomes) == 2


@pytest.mark.parametrize(
    ("seconds", "agent", "kept"),
    [
        (0, "", True),
        (YOUNG, "", True),
        (STALE, "", False),
        (STALE, "alive", True),
        (YOUNG, "dead", True),
        (STALE, "dead", False),
        (STALE, "bootstrap", True),
    ],
)
def test_a_lease_is_over_when_nothing_runs_in_it_and_it_is_old(
    config: SSH,
    nodes: list[Node],
    pool: PoolRef,
    other_pool: PoolRef,
    lease: Callable[..., Machine],
    run_agent: Callable[..., str],
    age: Callable[[Node, int], None],
    seconds: int,
    agent: str,
    kept: bool,
) -> None:
    node = nodes[0]
    lease(config, other_pool)
    if agent in ("alive", "dead"):
        pid = run_agent(node)
        if agent == "dead":
            node.exec(f"kill -9 {pid}")
    elif agent == "bootstrap":
        command = "SKYWARD_MACHINE=$(cd ~/.skyward/machine && pwd -P) setsid sleep 1000"
        node.exec(f"{command} > /dev/null 2>&1 < /dev/null &", user=node.user)
    age(node, seconds)
    assert lease(config, pool).id.startswith(nodes[1 if kept else 0].url)
    written = json.loads(node.exec("cat ~/.skyward/machine/machine.json", user=node.user))
    assert written["pool"] == (other_pool if kept else pool).id
    assert node.exec("ls ~/.skyward", user=node.user).split() == ["machine", "machine.lock"]
    node.pkill("/tmp/agent")


def test_what_a_dead_agent_left_running_ends_when_its_lease_is_taken_over(
    config: SSH,
    nodes: list[Node],
    pool: PoolRef,
    other_pool: PoolRef,
    lease: Callable[..., Machine],
    run_agent: Callable[..., str],
    age: Callable[[Node, int], None],
) -> None:
    lease(config, other_pool)
    nodes[0].exec(f"kill -9 {run_agent(nodes[0], 'family', 'stray')}")
    assert len(nodes[0].pids("^sleep 100")) == 4
    age(nodes[0], STALE)
    assert lease(config, pool).id.startswith(nodes[0].url)
    assert nodes[0].pids("^sleep 100") == []


@pytest.mark.parametrize(("seconds", "taken"), [(0, False), (2 * MINUTES, True)])
def test_a_folder_without_a_lease_is_left_alone_for_a_minute(
    config: SSH,
    nodes: list[Node],
    pool: PoolRef,
    lease: Callable[..., Machine],
    seconds: int,
    taken: bool,
) -> None:
    node = nodes[0]
    node.exec(
        f"mkdir -p ~/.skyward/machine && touch -d '{seconds} seconds ago' ~/.skyward/machine", user=node.user
    )
    assert lease(config, pool).id.startswith(nodes[0 if taken else 1].url)


def test_a_host_being_given_up_is_waited_for(
    config: SSH, nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine]
) -> None:
    """An agent that ends removes its folder file by file; the next pool may come at that moment."""
    node = nodes[0]
    node.exec(
        "mkdir -p ~/.skyward/machine; (sleep 1; rmdir ~/.skyward/machine) > /dev/null 2>&1 &", user=node.user
    )
    assert lease(config, pool).id.startswith(node.url)


def test_hosts_that_share_a_home_are_told_so(
    nodes: list[Node],
    pool: PoolRef,
    lease: Callable[..., Machine],
    age: Callable[[Node, int], None],
    host_of: Callable[..., Host],
    config: SSH,
    drive: Any,
) -> None:
    """Whether the machine there lives can't be seen from here, so it is never taken over."""
    node = nodes[0]
    alone = SSH([host_of(node)], config=False)
    lease(alone, pool)
    node.exec(f"sed -i 's/{node.name}/elsewhere/' ~/.skyward/machine/machine.json", user=node.user)
    age(node, STALE)
    with pytest.raises(CapacityError, match=r"shares its home with elsewhere, .*Host\(\.\.\., root=\.\.\.\)"):
        lease(alone, pool)

    async def scenario(provider: SSHProvider) -> Sequence[Machine]:
        return [*await provider.machines(pool), *await provider.owned()]

    assert drive(alone, scenario) == []


def test_two_names_of_one_host_are_one_machine(
    nodes: list[Node],
    pool: PoolRef,
    claim: Callable[..., Claim],
    host_of: Callable[..., Host],
    config: SSH,
    drive: Any,
    home: Path,
) -> None:
    node = nodes[0]
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text(
        f"Host twin\n  HostName {node.address}\n  Port {node.port}\n  User {node.user}\n"
    )
    twice = SSH([host_of(node), Host("twin", key=node.key, host_key=node.host_key)])

    async def scenario(provider: SSHProvider) -> tuple[int, int]:
        offer = await offered(provider)
        await provider.launch(pool, offer, claim(pool))
        with pytest.raises(CapacityError):
            await provider.launch(pool, offer, claim(pool, 1))
        return len(await provider.machines(pool)), len(await provider.owned())

    assert drive(twice, scenario) == (1, 1)


def test_a_machine_whose_agent_died_is_absent_but_ours_to_clean(
    config: SSH,
    nodes: list[Node],
    pool: PoolRef,
    claim: Callable[..., Claim],
    run_agent: Callable[..., str],
    drive: Any,
) -> None:
    async def scenario(provider: SSHProvider) -> list[list[str]]:
        machine = await provider.launch(pool, await offered(provider), claim(pool))
        seen = [[found.id for found in await provider.machines(pool)]]
        pid = run_agent(nodes[0])
        seen.append([found.id for found in await provider.machines(pool)])
        nodes[0].exec(f"kill -9 {pid}")
        seen.append([found.id for found in await provider.machines(pool)])
        seen.append([found.id for found in await provider.owned()])
        return [[name == machine.id for name in names] for names in seen]

    assert drive(config, scenario) == [[True], [True], [], [True]]


def test_a_lease_that_a_task_overwrote_is_nobodys(
    config: SSH, nodes: list[Node], pool: PoolRef, lease: Callable[..., Machine], drive: Any
) -> None:
    lease(config, pool)
    for text in ("", "{}", "[1]", "no json", '{"claim": 7, "more": 1}'):
        nodes[0].exec(f"printf %s '{text}' > ~/.skyward/machine/machine.json", user=nodes[0].user)

        async def scenario(provider: SSHProvider) -> Sequence[Machine]:
            return await provider.owned()

        assert drive(config, scenario) == []
