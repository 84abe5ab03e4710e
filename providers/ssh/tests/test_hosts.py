"""What hosts are found to have, and what is said about those that can't be used: why, and what to do."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from skyward import accelerators
from skyward.errors import CapacityError, CredentialsError, ProviderError
from skyward.hooks.values import Claim, Offer, PoolRef, Wanted
from skyward_ssh import SSH, Host, remote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from skyward_ssh.provider import SSHProvider
    from skyward_testing.testbed import Node, Testbed

H100S = "NVIDIA H100 80GB HBM3, 81559\n" * 2
T4 = "Tesla T4, 15360\n"


@pytest.fixture
def offers(drive: Any) -> Callable[..., list[Offer]]:
    """Ask a provider of its own for offers."""

    def ask(config: SSH, wanted: Wanted | None = None) -> list[Offer]:
        async def scenario(provider: SSHProvider) -> list[Offer]:
            return list(await provider.offers(wanted or Wanted()))

        found: list[Offer] = drive(config, scenario)
        return found

    return ask


@pytest.fixture
def program() -> Iterator[Callable[[Node, str, str], None]]:
    """Put a shell script in front of one of a host's programs, until the test's end."""
    placed: list[tuple[Node, str]] = []

    def place(node: Node, name: str, script: str) -> None:
        node.write(f"/usr/local/bin/{name}", f"#!/bin/sh\n{script}\n", mode=0o755)
        placed.append((node, name))

    yield place
    for node, name in placed:
        node.exec(f"rm /usr/local/bin/{name}")


def refusal(offers: Callable[..., list[Offer]], config: SSH) -> ProviderError:
    """The error about a host that can't be used at all; it must be one line."""
    with pytest.raises(ProviderError) as caught:
        offers(config)
    assert "\n" not in str(caught.value)
    assert caught.value.provider == "ssh"
    return caught.value


# What they have


def test_hosts_make_one_offer_of_the_least_that_each_has(
    config: SSH, nodes: list[Node], offers: Callable[..., list[Offer]], program: Callable[..., None]
) -> None:
    program(nodes[1], "nproc", "echo 1")
    (offer,) = offers(config)
    assert offer.id == "hosts"
    assert offer.provider == "ssh"
    assert offer.specific["hosts"] == tuple(node.url for node in nodes)
    assert offer.instance_type == "3 hosts"
    assert (offer.vcpus, offer.usd_per_hour, offer.spot, offer.accelerator_count) == (1, 0.0, False, 0)
    said = int(nodes[0].exec("grep MemTotal /proc/meminfo").split()[1])
    assert offer.memory_gb == pytest.approx(said * 1024 / 1e9)
    free = int(nodes[0].exec("df -Pk /home | tail -n1").split()[3])
    assert offer.disk_gb == pytest.approx(free * 1024 / 1e9, rel=0.05)
    assert offer.architecture in ("x86_64", "arm64")


def test_only_hosts_that_have_all_that_is_wanted_are_offered(
    config: SSH, nodes: list[Node], offers: Callable[..., list[Offer]], program: Callable[..., None]
) -> None:
    program(nodes[1], "nproc", "echo 64")
    (offer,) = offers(config, Wanted(vcpus=64))
    assert (offer.specific["hosts"], offer.vcpus) == ((nodes[1].url,), 64)
    assert offers(config, Wanted(vcpus=65)) == []


def test_cards_are_known_by_what_the_driver_says(
    config: SSH, nodes: list[Node], offers: Callable[..., list[Offer]], program: Callable[..., None]
) -> None:
    program(nodes[0], "nvidia-smi", f"printf '{H100S}{T4}'")
    program(nodes[1], "nvidia-smi", f"printf '{H100S}'; exit 9")  # a driver that has failed
    program(nodes[2], "nvidia-smi", f"printf '{T4}'")
    (offer,) = offers(config, Wanted(accelerator=accelerators.H100(count=2)))
    assert offer.specific["hosts"] == (nodes[0].url,)
    assert (offer.accelerator, offer.accelerator_count) == ("H100", 2)
    assert round(offer.accelerator_memory_gb) == 86
    (offer,) = offers(config, Wanted(accelerator=accelerators.from_name("T4")))
    assert offer.specific["hosts"] == (nodes[0].url, nodes[2].url)
    assert offers(config, Wanted(accelerator=accelerators.H100(count=3))) == []


def test_the_driver_is_not_asked_when_no_card_is_wanted(
    config: SSH, nodes: list[Node], offers: Callable[..., list[Offer]], program: Callable[..., None]
) -> None:
    program(nodes[0], "nvidia-smi", "touch /tmp/asked")
    assert offers(config)
    assert not nodes[0].exists("/tmp/asked")


def test_hosts_may_cost_something(
    nodes: list[Node], host_of: Callable[..., Host], offers: Callable[..., list[Offer]]
) -> None:
    prices = dict(zip(nodes, (0.5, 1.5, 2.5), strict=True))
    config = SSH([host_of(node, usd_per_hour=price) for node, price in prices.items()], config=False)
    (offer,) = offers(config, Wanted(max_hourly_cost=2))
    assert offer.specific["hosts"] == (nodes[0].url, nodes[1].url)
    assert offer.usd_per_hour == 1.5, "an offer must not promise less than its machine may cost"
    assert offers(config, Wanted(max_hourly_cost=0.4)) == []


# What can't be used


def test_an_address_that_nobody_has(offers: Callable[..., list[Offer]], testbed: Testbed) -> None:
    refused = f"plain@{testbed.node(python=False, uv=False).address}:2"
    error = refusal(offers, SSH([refused], config=False))
    assert str(error).startswith(f"the host can't be used: {refused} can't be reached: ")
    assert "is it up" in str(error)
    assert error.retryable


def test_an_alias_that_nobody_knows(offers: Callable[..., list[Offer]], home: Path) -> None:
    error = refusal(offers, SSH(["gpu-server-1"]))
    assert str(error) == (
        "the host can't be used: gpu-server-1 can't be reached: no address is known for gpu-server-1, "
        "nor is it a Host of ~/.ssh/config: is it spelt right?"
    )


def test_a_key_that_is_refused(
    nodes: list[Node], host_of: Callable[..., Host], offers: Callable[..., list[Offer]], home: Path
) -> None:
    import asyncssh

    key = home / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    error = refusal(offers, SSH([host_of(nodes[0], key=key)], config=False))
    assert isinstance(error, CredentialsError)
    assert not error.retryable
    for word in (nodes[0].address, "refuses the login", str(key), "authorized_keys"):
        assert word in str(error)


def test_a_user_that_is_not_known(nodes: list[Node], offers: Callable[..., list[Offer]]) -> None:
    host = Host(
        f"nobody-here@{nodes[0].address}:{nodes[0].port}", key=nodes[0].key, host_key=nodes[0].host_key
    )
    error = refusal(offers, SSH([host], config=False))
    assert isinstance(error, CredentialsError)
    assert "nobody-here@" in str(error)
    assert "is it the right user" in str(error)


def test_a_key_file_that_is_not_there(
    nodes: list[Node], host_of: Callable[..., Host], offers: Callable[..., list[Offer]], home: Path
) -> None:
    error = refusal(offers, SSH([host_of(nodes[0], key=home / "missing")], config=False))
    assert isinstance(error, CredentialsError)
    assert str(home / "missing") in str(error)


def test_a_host_key_that_changed(offers: Callable[..., list[Offer]], testbed: Testbed, home: Path) -> None:
    node = testbed.node(user="plain", python=False, uv=False)
    config = SSH([Host(node.url, key=node.key)])
    assert offers(config), "pinned at first contact"
    assert offers(config), "and known from then on"
    before = node.host_key
    assert node.change_host_key() != before
    error = refusal(offers, config)
    assert not error.retryable
    assert "its host key has changed" in str(error)
    assert "ssh-keygen -R" in str(error)


def test_first_contact_may_be_refused(
    nodes: list[Node], offers: Callable[..., list[Offer]], home: Path
) -> None:
    host = Host(nodes[0].url, key=nodes[0].key)
    error = refusal(offers, SSH([host], first_contact="refuse"))
    assert "its host key is not known" in str(error)
    assert not (home / "state").exists(), "nothing was pinned"


def test_an_account_that_runs_no_commands(
    offers: Callable[..., list[Offer]], testbed: Testbed, host_of: Callable[..., Host]
) -> None:
    node = testbed.node(user="plain", python=False, uv=False)
    node.exec(r"sed -i 's#^\(plain:.*\):.*#\1:/usr/sbin/nologin#' /etc/passwd")
    error = refusal(offers, SSH([host_of(node)], config=False))
    assert "to a command it says 'This account is currently not available.'" in str(error)


def test_a_system_that_is_not_linux(
    nodes: list[Node],
    host_of: Callable[..., Host],
    offers: Callable[..., list[Offer]],
    program: Callable[..., None],
) -> None:
    program(nodes[0], "uname", "echo Darwin")
    error = refusal(offers, SSH([host_of(nodes[0])], config=False))
    assert str(error).endswith("it runs Darwin; nodes need Linux")


def test_every_host_is_named_with_its_own_reason(
    nodes: list[Node], host_of: Callable[..., Host], offers: Callable[..., list[Offer]], home: Path
) -> None:
    stranger = f"x@{nodes[0].address}:{nodes[0].port}"
    hosts = [Host("unheard-of"), Host(stranger, key=nodes[0].key, host_key=nodes[0].host_key)]
    text = str(refusal(offers, SSH(hosts)))
    assert text.startswith("none of the 2 hosts can be used: unheard-of can't be reached: ")
    assert f"; {stranger} refuses the login" in text


def test_a_start_up_file_may_say_what_it_likes(
    offers: Callable[..., list[Offer]], testbed: Testbed, host_of: Callable[..., Host]
) -> None:
    node = testbed.node(user="plain", python=False, uv=False)
    node.write("/home/plain/.bashrc", "printf 'Welcome!\\nskyward is nice, no newline here'\n", user="plain")
    assert offers(SSH([host_of(node)], config=False))


# What is left


def test_hosts_that_are_down_are_left_out_and_named(
    config: SSH, nodes: list[Node], offers: Callable[..., list[Offer]], caplog: pytest.LogCaptureFixture
) -> None:
    nodes[1].kill_sshd()
    try:
        with caplog.at_level(logging.WARNING, logger="skyward"):
            (offer,) = offers(config)
    finally:
        nodes[1].start_sshd()
    assert offer.specific["hosts"] == (nodes[0].url, nodes[2].url)
    assert f"left out: {nodes[1].url} can't be reached" in caplog.text


def test_a_host_that_hangs_costs_a_moment_once(
    config: SSH,
    nodes: list[Node],
    pool: PoolRef,
    drive: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "STRAGGLER_SECONDS", 0.5)

    async def scenario(provider: SSHProvider) -> list[float]:
        moments = [time.monotonic()]
        (offer,) = await provider.offers(Wanted())
        assert offer.specific["hosts"] == (nodes[1].url, nodes[2].url)
        moments.append(time.monotonic())
        await provider.machines(pool)
        moments.append(time.monotonic())
        return moments

    nodes[0].freeze()
    try:
        begun, offered, listed = drive(config, scenario)
    finally:
        nodes[0].thaw()
    assert 0.5 < offered - begun < 5
    assert listed - offered < 0.5, "it is not tried again at once"


def test_a_server_that_drops_connections_is_tried_again(
    nodes: list[Node], host_of: Callable[..., Host], offers: Callable[..., list[Offer]]
) -> None:
    """sshd does that to new connections when too many are logging in (MaxStartups)."""
    nodes[0].drop_connections(one_in=1)
    try:
        with pytest.raises(ProviderError):
            offers(SSH([host_of(nodes[0])], config=False))
        nodes[0].drop_connections(one_in=2)
        for _ in range(4):
            assert offers(SSH([host_of(nodes[0])], config=False))
    finally:
        nodes[0].drop_connections(one_in=0)


def test_a_connection_that_is_cut_is_made_again(
    config: SSH, nodes: list[Node], pool: PoolRef, claim: Callable[..., Claim], drive: Any
) -> None:
    async def scenario(provider: SSHProvider) -> Sequence[object]:
        (offer,) = await provider.offers(Wanted())
        for node in nodes:
            node.reset_connections()
        machine = await provider.launch(pool, offer, claim(pool))
        for node in nodes:
            node.reset_connections()
        return machine.id, [found.id for found in await provider.machines(pool)]

    launched, listed = drive(config, scenario)
    assert listed == [launched]


def test_a_host_that_went_down_is_passed_over(
    config: SSH, nodes: list[Node], pool: PoolRef, claim: Callable[..., Claim], drive: Any
) -> None:
    async def scenario(provider: SSHProvider) -> str:
        (offer,) = await provider.offers(Wanted())
        nodes[0].kill_sshd()
        try:
            launched = await provider.launch(pool, offer, claim(pool))
            await provider.launch(pool, offer, claim(pool, 1))
            with pytest.raises(CapacityError, match=f"{nodes[0].url} can't be reached") as caught:
                await provider.launch(pool, offer, claim(pool, 2))
            assert caught.value.retryable
        finally:
            nodes[0].start_sshd()
        return launched.id

    assert drive(config, scenario).startswith(nodes[1].url)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("touch ~/.skyward", "File exists"),
        ("chmod a-w ~", "Permission denied"),
        ("", "No space left on device"),
    ],
)
def test_a_lease_that_cannot_be_written_is_told(
    testbed: Testbed,
    pool: PoolRef,
    claim: Callable[..., Claim],
    drive: Any,
    host_of: Callable[..., Host],
    damage: str,
    message: str,
) -> None:
    node = testbed.node(user="plain", python=False, uv=False, disk_mb=64)

    async def scenario(provider: SSHProvider) -> None:
        (offer,) = await provider.offers(Wanted())
        if damage:
            node.exec(damage, user="plain")
        else:
            node.fill_disk(leave_kb=0)
        with pytest.raises(CapacityError, match=rf"{node.url} can't be used: .*{message}"):
            await provider.launch(pool, offer, claim(pool))
        assert await provider.machines(pool) == []
        assert not node.exists("/home/plain/.skyward/machine")

    drive(SSH([host_of(node)], config=False), scenario)
