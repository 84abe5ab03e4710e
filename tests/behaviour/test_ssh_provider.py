"""A script on machines that one has: hosts named, functions run there, hosts given back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward_testing.testbed import Node, Testbed

FUNCTIONS = """
import socket
import skyward as sky

@sky.function
def hostname() -> str:
    return socket.gethostname()

@sky.function
def facts() -> tuple[int, int]:
    info = sky.instance_info()
    return info.node, info.total_nodes
"""

OPTIONS: dict[str, Any] = {"console": False, "logging": False, "provision_retry_delay": 1}


@pytest.fixture
def task(functions_of: Callable[[str], Any]) -> Any:
    return functions_of(FUNCTIONS)


@pytest.fixture(scope="module")
def nodes(shared_testbed: Testbed) -> list[Node]:
    return shared_testbed.nodes(2, user="plain")


@pytest.fixture
def lab(nodes: list[Node], ssh_to: Callable[..., sky.SSH]) -> Iterator[sky.SSH]:
    """The two hosts as a provider; every test must give them back."""
    yield ssh_to(*nodes)
    for node in nodes:
        assert not node.exists("/home/plain/.skyward/machine")
        assert node.pids("skyward.node") == []


def test_a_function_runs_on_every_host(lab: sky.SSH, nodes: list[Node], task: Any) -> None:
    with sky.Compute(provider=lab, nodes=2, **OPTIONS) as pool:
        assert sorted(task.hostname() @ pool) == sorted(node.name for node in nodes)
        assert task.facts() @ pool == [(0, 2), (1, 2)]
        assert pool.map(len, ["a", "bc", "def"]) == [1, 2, 3]


def test_two_pools_share_no_host(lab: sky.SSH, nodes: list[Node], task: Any) -> None:
    nodes[0].need("name")
    with sky.Compute(provider=lab, nodes=1, **OPTIONS) as first:
        with sky.Compute(provider=lab, nodes=1, **OPTIONS) as second:
            assert task.hostname() >> first != task.hostname() >> second


def test_hosts_that_another_pool_has_are_named(lab: sky.SSH, nodes: list[Node]) -> None:
    with sky.Compute(provider=lab, nodes=2, **OPTIONS):
        with pytest.raises(sky.ProvisioningError) as caught:
            with sky.Compute(provider=lab, nodes=1, max_provision_attempts=1, **OPTIONS):
                pytest.fail("both hosts are leased")
    for node in nodes:
        assert f"{node.url} is leased by pool " in str(caught.value)


def test_a_pool_after_a_pool(lab: sky.SSH, nodes: list[Node], task: Any) -> None:
    for _ in range(3):
        with sky.Compute(provider=lab, nodes=2, **OPTIONS) as pool:
            assert len(task.hostname() @ pool) == 2


def test_a_refused_login_is_told_at_once(nodes: list[Node], tmp_path: Path) -> None:
    import asyncssh

    key = tmp_path / "other"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    host = sky.ssh.Host(nodes[0].url, key=key, host_key=nodes[0].host_key)
    with pytest.raises(sky.CredentialsError, match="refuses the login"):
        with sky.Compute(provider=sky.SSH([host], config=False), nodes=1, **OPTIONS):
            pytest.fail("nobody was let in")
