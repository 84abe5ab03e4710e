"""What goes wrong with machines that one has: every task gets one outcome, none runs twice without need."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import skyward as sky
from skyward_testing.testbed import Node, Testbed

type Hosts = Callable[..., sky.SSH]

pytestmark = [pytest.mark.local_only("it names its provider"), pytest.mark.usefixtures("own_state")]

SECONDS = 60.0
OPTIONS: dict[str, Any] = {"console": False, "logging": False, "provision_retry_delay": 1}

FUNCTIONS = """
import os, socket, time
import skyward as sky

@sky.function
def hostname() -> str:
    return socket.gethostname()

@sky.function
def noted(number: int, seconds: float = 0.0) -> int:
    "Leave a line for every time that this runs."
    time.sleep(seconds)
    with open(os.path.expanduser("~/runs"), "a") as file:
        file.write(f"{number}\\n")
    return number

@sky.function
def held(path: str) -> str:
    "Run until a file is there."
    with open(os.path.expanduser("~/held"), "a") as file:
        file.write("x")
    while not os.path.exists(os.path.expanduser(path)):
        time.sleep(0.02)
    return socket.gethostname()

@sky.function
def ppid() -> int:
    return os.getppid()

@sky.function
def hog(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))

@sky.function
def size(data: bytes) -> int:
    return len(data)

@sky.function
def many(size: int) -> bytes:
    return os.urandom(size)
"""


@pytest.fixture
def task(functions_of: Callable[[str], Any]) -> Any:
    return functions_of(FUNCTIONS)


def wait_until(holds: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def home(node: Node) -> str:
    return node.exec("echo ~").strip()


def runs(*nodes: Node) -> list[int]:
    found: list[int] = []
    for node in nodes:
        if node.exists(f"{home(node)}/runs"):
            found += map(int, node.read(f"{home(node)}/runs").split())
    return sorted(found)


def test_connections_cut_twenty_times_lose_nothing_and_run_nothing_twice(
    testbed: Testbed, task: Any, ssh_to: Hosts
) -> None:
    nodes = testbed.nodes(2)
    with sky.Compute(provider=ssh_to(*nodes), nodes=2, **OPTIONS) as pool:
        futures = [task.noted(number, 0.004) > pool for number in range(2000)]
        for turn in range(20):
            time.sleep(0.1)
            nodes[turn % 2].reset_connections()
        assert [future.result(timeout=SECONDS) for future in futures] == list(range(2000))
        assert pool.current_nodes() == 2
        assert runs(*nodes) == list(range(2000))


def test_large_values_survive_a_cut(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    (node,) = testbed.nodes(1)
    node.link(rate_mbit=400)
    with sky.Compute(provider=ssh_to(node), nodes=1, **OPTIONS) as pool:
        future = task.size(os.urandom(30_000_000)) > pool
        time.sleep(0.3)
        node.reset_connections()
        assert future.result(timeout=SECONDS) == 30_000_000
        back = task.many(30_000_000) > pool
        time.sleep(0.4)
        node.reset_connections()
        assert len(back.result(timeout=SECONDS)) == 30_000_000


def test_a_node_frozen_for_a_while_goes_on(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    nodes = testbed.nodes(2)
    with sky.Compute(provider=ssh_to(*nodes), nodes=2, **OPTIONS) as pool:
        futures = [task.noted(number, 0.02) > pool for number in range(200)]
        time.sleep(0.5)
        nodes[0].freeze()
        time.sleep(10)
        nodes[0].thaw()
        assert [future.result(timeout=SECONDS) for future in futures] == list(range(200))
        assert runs(*nodes) == list(range(200))
        assert pool.current_nodes() == 2


@pytest.mark.parametrize("how", ["partition", "vanish", "kill"])
def test_a_node_that_is_gone_for_good_has_its_tasks_run_elsewhere(
    testbed: Testbed, task: Any, impatient: None, how: str, ssh_to: Hosts
) -> None:
    nodes = testbed.nodes(3)
    with sky.Compute(provider=ssh_to(*nodes), nodes=2, **OPTIONS) as pool:
        names = task.hostname() @ pool
        gone = next(node for node in nodes if node.name == names[0])
        stays = next(node for node in nodes if node.name == names[1])
        future = pool.run_async(task.held("~/gate"), target=0)
        other = task.held("~/gate") > pool
        for node in (gone, stays):
            wait_until(lambda: node.exists(f"{home(node)}/held"), "a task that runs")  # noqa: B023
        getattr(gone, how)()
        for node in nodes:
            if node is not gone:
                node.write(f"{home(node)}/gate", "")
        assert other.result(timeout=SECONDS) == stays.name
        assert future.result(timeout=SECONDS) not in (names[0], stays.name)
        wait_until(lambda: pool.current_nodes() == 2, "a replacement")


def test_an_agent_killed_is_replaced(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    nodes = testbed.nodes(2)
    lost: list[sky.InstancePreempted] = []
    with sky.subscribe(lost.append, sky.InstancePreempted):
        with sky.Compute(provider=ssh_to(*nodes), nodes=1, **OPTIONS) as pool:
            before = task.hostname() >> pool
            node = next(node for node in nodes if node.name == before)
            node.pkill("skyward.node.agent")
            wait_until(lambda: bool(lost), "the loss")
            assert task.hostname() >> pool in {node.name for node in nodes}
    assert "its agent is gone" in lost[0].reason


def test_a_worker_killed_for_memory_is_named_so(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    node = testbed.node(memory_mb=400)
    with sky.Compute(provider=ssh_to(node), nodes=1, **OPTIONS) as pool:
        assert task.hog(10) >> pool == 10 << 20
        with pytest.raises(sky.TaskLostError, match="memory"):
            task.hog(2000) >> pool
        assert task.hog(10) >> pool == 10 << 20


def test_a_full_disk_is_told_and_the_node_goes_on(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    node = testbed.node(disk_mb=500)
    with sky.Compute(provider=ssh_to(node), nodes=1, **OPTIONS) as pool:
        assert task.hostname() >> pool == node.name
        node.fill_disk()
        with pytest.raises(sky.NodeError, match=r"(?i)no space left"):
            task.size(os.urandom(20_000_000)) >> pool
        with pytest.raises(sky.SerializationError, match=r"(?i)no space left"):
            task.many(20_000_000) >> pool
        node.free_disk()
        assert task.size(os.urandom(20_000_000)) >> pool == 20_000_000


def test_a_full_disk_ends_the_set_up_with_what_is_full(testbed: Testbed, ssh_to: Hosts) -> None:
    node = testbed.node(disk_mb=200)
    node.fill_disk(leave_kb=300)
    with pytest.raises(sky.BootstrapError, match=r"node 0, phase \w+: .*(disk|space)") as caught:
        with sky.Compute(provider=ssh_to(node), nodes=1, **OPTIONS):
            pytest.fail("there was no room")
    assert caught.value.phase
    node.free_disk()
    assert node.pids("skyward.node") == []


def test_a_package_that_does_not_exist_is_named(testbed: Testbed, ssh_to: Hosts) -> None:
    nodes = testbed.nodes(2)
    image = sky.Image(pip=["surely-nobody-has-made-this-package"])
    with pytest.raises(sky.BootstrapError, match="surely-nobody-has-made-this-package") as caught:
        with sky.Compute(provider=ssh_to(*nodes), nodes=2, image=image, **OPTIONS):
            pytest.fail("there is no such package")
    assert caught.value.phase == "packages"
    for node in nodes:
        wait_until(lambda: not node.exists(f"{home(node)}/.skyward/machine"), "a host given back")  # noqa: B023


def test_a_python_that_nobody_has_is_named(testbed: Testbed, ssh_to: Hosts) -> None:
    testbed.relay.down()
    node = testbed.node()
    with pytest.raises(sky.BootstrapError, match=r"Python 3\.99") as caught:
        with sky.Compute(provider=ssh_to(node), nodes=1, image=sky.Image(python="3.99"), **OPTIONS):
            pytest.fail("there is no such Python")
    assert caught.value.phase == "python"


def test_a_server_that_drops_connections_at_the_start(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    nodes = testbed.nodes(3)
    nodes[0].need("name")
    for node in nodes:
        node.drop_connections(one_in=3)
    with sky.Compute(provider=ssh_to(*nodes), nodes=3, **OPTIONS) as pool:
        assert len(set(task.hostname() @ pool)) == 3


def test_a_node_behind_another(testbed: Testbed, task: Any) -> None:
    jump = testbed.node()
    node = testbed.node(behind=jump)
    first = sky.ssh.Host(jump.url, key=jump.key, host_key=jump.host_key)
    host = sky.ssh.Host(node.url, key=node.key, host_key=node.host_key, jump=first)
    with sky.Compute(provider=sky.SSH([host], config=False), nodes=1, **OPTIONS) as pool:
        assert task.hostname() >> pool == node.name
        jump.reset_connections()
        assert task.hostname() >> pool == node.name


def test_a_server_that_forwards_no_sockets(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    node = testbed.node(forwarding=False)
    with sky.Compute(provider=ssh_to(node), nodes=1, **OPTIONS) as pool:
        assert pool.map(len, ["a", "bc"]) == [1, 2]
        assert len(task.many(3_000_000) >> pool) == 3_000_000


def test_several_hosts_on_one_address(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    nodes = testbed.share_address(testbed.nodes(3))
    nodes[0].need("name")
    assert len({node.address for node in nodes}) == 1
    with sky.Compute(provider=ssh_to(*nodes), nodes=3, **OPTIONS) as pool:
        assert len(set(task.hostname() @ pool)) == 3


def test_another_key_at_the_address_is_refused(testbed: Testbed, ssh_to: Hosts) -> None:
    node = testbed.node()
    honest = ssh_to(node)
    node.change_host_key()
    with pytest.raises(sky.SkywardError, match="host key has changed") as caught:
        with sky.Compute(provider=honest, nodes=1, **OPTIONS):
            pytest.fail("somebody is in between")
    assert str(caught.value).count("SHA256:") == 2


def test_a_key_pinned_at_first_contact_holds(testbed: Testbed, task: Any) -> None:
    node = testbed.node()
    trusting = sky.SSH([sky.ssh.Host(node.url, key=node.key)], config=False)
    with sky.Compute(provider=trusting, nodes=1, **OPTIONS) as pool:
        assert task.hostname() >> pool == node.name
    node.change_host_key()
    with pytest.raises(sky.SkywardError, match="host key has changed"):
        with sky.Compute(provider=trusting, nodes=1, **OPTIONS):
            pytest.fail("somebody is in between")
    refusing = sky.SSH([sky.ssh.Host(testbed.node().url, key=node.key)], config=False, first_contact="refuse")
    with pytest.raises(sky.SkywardError, match="host key is not known"):
        with sky.Compute(provider=refusing, nodes=1, **OPTIONS):
            pytest.fail("nobody knows it")


def test_no_thread_of_ours_stays(testbed: Testbed, task: Any, ssh_to: Hosts) -> None:
    node = testbed.node()
    before = threading.active_count()
    with sky.Compute(provider=ssh_to(node), nodes=1, **OPTIONS) as pool:
        assert task.hostname() >> pool == node.name
    wait_until(lambda: threading.active_count() <= before, "no more threads than before")
