"""Nodes that know each other: where they meet, and what happens when they can't."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward_testing.testbed import Testbed

SECONDS = 60.0
QUIET: Any = {"console": False, "logging": False}

FUNCTIONS = """
import socket, time
import skyward as sky

@sky.function
def place() -> tuple[int, str, int, list[tuple[int, str]]]:
    info = sky.instance_info()
    return info.node, info.head_addr, info.head_port, [(peer.node, peer.private_ip) for peer in info.peers]

@sky.function
def meet() -> str:
    "The head listens where the topology says, the others call there."
    info = sky.instance_info()
    if info.is_head:
        with socket.create_server((info.head_addr, info.head_port)) as server:
            said = []
            for _ in range(info.total_nodes - 1):
                caller, _ = server.accept()
                with caller:
                    said.append(caller.recv(16).decode())
            return " ".join(sorted(said))
    until = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection((info.head_addr, info.head_port), timeout=5) as call:
                call.sendall(str(info.node).encode())
                return "called"
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.02)
"""

over_ssh = pytest.mark.local_only("it names its provider")


@pytest.fixture
def task(functions_of: Callable[[str], Any]) -> Any:
    return functions_of(FUNCTIONS)


def test_here_too(task: Any) -> None:
    with sky.Compute(nodes=3, cluster=True, **QUIET) as pool:
        places = task.place() @ pool
        assert [place[0] for place in places] == [0, 1, 2]
        assert len({place[1:3] for place in places}) == 1
        assert places[0][1] == "127.0.0.1"
        assert task.meet() @ pool == ["1 2", "called", "called"]
        pool.resize(4)
        pool.wait_for_nodes(4, timeout=SECONDS)
        assert all(len(place[3]) == 4 for place in task.place() @ pool)


@over_ssh
@pytest.mark.usefixtures("own_state")
def test_over_their_own_network(testbed: Testbed, ssh_to: Callable[..., sky.SSH], task: Any) -> None:
    nodes = testbed.nodes(3)
    with sky.Compute(provider=ssh_to(*nodes), nodes=3, cluster=True, **QUIET) as pool:
        (_, head, _, peers), *_ = task.place() @ pool
        assert {address for _, address in peers} == {node.address for node in nodes}
        assert head == dict(peers)[0]
        assert task.meet() @ pool == ["1 2", "called", "called"]


@over_ssh
@pytest.mark.usefixtures("own_state")
def test_two_that_do_not_reach_each_other_are_named(testbed: Testbed, ssh_to: Callable[..., sky.SSH]) -> None:
    nodes = testbed.nodes(3)
    nodes[0].isolate_from(nodes[1])
    begun = time.monotonic()
    apart = rf"({nodes[0].address}|{nodes[1].address})"
    words = rf"node \d \({apart}\) can't reach node \d \({apart}\) over their .*: no answer; .*cluster=False"
    with pytest.raises(sky.ConnectError, match=words):
        with sky.Compute(provider=ssh_to(*nodes), nodes=3, cluster=True, **QUIET):
            pytest.fail("it is not usable")
    assert time.monotonic() - begun < 30
    for node in nodes:
        assert node.pids("skyward.node") == []
    with sky.Compute(provider=ssh_to(*nodes), nodes=3, cluster=False, **QUIET) as pool:
        assert pool.current_nodes() == 3


@over_ssh
@pytest.mark.usefixtures("own_state")
def test_one_that_joins_and_is_not_reached_is_told_of(
    testbed: Testbed, ssh_to: Callable[..., sky.SSH]
) -> None:
    nodes = testbed.nodes(2)
    nodes[0].isolate_from(nodes[1])
    errors: list[sky.Error] = []
    with sky.subscribe(errors.append, sky.Error):
        with sky.Compute(provider=ssh_to(*nodes), nodes=1, cluster=True, **QUIET) as pool:
            pool.resize(2)
            pool.wait_for_nodes(2, timeout=SECONDS)
            deadline = time.monotonic() + SECONDS
            while not any("can't reach node" in error.message for error in errors):
                assert time.monotonic() < deadline
                time.sleep(0.05)


@sky.function
def agent() -> int:
    return os.getppid()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_nobody_listens_any_more(machines: str) -> None:
    """What nodes called at is closed when they have, long before it would close by itself."""
    with sky.Compute(nodes=2, cluster=True, **QUIET) as pool:
        agents = agent() @ pool
        deadline = time.monotonic() + 10
        while listening(agents):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def listening(pids: list[int]) -> set[str]:
    """The sockets of these processes at which they listen for connections by TCP."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    held: set[str] = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(link))
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in held}
