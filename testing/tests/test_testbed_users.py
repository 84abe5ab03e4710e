"""Nodes that no root made: what a user can give them, what can befall them, and what they say they can't."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from skyward_testing.testbed import BedError, Node, Testbed, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIERS = ("namespaces", "processes")
QUICK = 0.2
"""Seconds after which silence counts as silence here."""


@pytest.fixture(scope="module", params=TIERS)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    if why := why_not(request.param):
        pytest.skip(why)
    bed = Testbed(tmp_path_factory.mktemp("users"), tier=request.param)
    yield bed
    assert bed.close() == []


@pytest.fixture(scope="module")
def pair(bed: Testbed) -> list[Node]:
    return bed.nodes(2)


@pytest.fixture
def node(pair: list[Node]) -> Node:
    """One for faults that end."""
    return pair[0]


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """For what happens in the front, which both kinds have."""
    if why := why_not("processes"):
        pytest.skip(why)
    bed = Testbed(tmp_path_factory.mktemp("fronted"), tier="processes")
    yield bed.node()
    assert bed.close() == []


def ssh(node: Node, command: str, *options: str) -> str:
    words = [*node.ssh_command(*options), command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def connect(node: Node, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection((node.address, node.port), timeout=timeout)


@contextmanager
def greeted(node: Node) -> Iterator[socket.socket]:
    with connect(node) as connection:
        assert b"\n" in connection.recv(256)
        yield connection


def greets(node: Node) -> bool:
    try:
        with connect(node) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def silent(connection: socket.socket) -> bool:
    connection.settimeout(QUICK)
    try:
        connection.sendall(b"SSH-2.0-test\r\n")
        connection.recv(1)
    except TimeoutError:
        return True
    return False


def is_over(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def exists(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_each_has_an_address_a_key_and_a_home(pair: list[Node]) -> None:
    first, second = pair
    assert first.address != second.address
    assert first.host_key != second.host_key
    for node in pair:
        node.write("own", f"{node.label}\n")
        where, home, user, own = ssh(node, "pwd; echo $HOME; whoami; cat own").splitlines()
        assert where == home == node.exec("echo ~")
        assert user == node.user
        assert own == node.read("own").strip() == node.read(f"{home}/own").strip() == node.label
    assert first.exists("own")
    assert not first.exists("of-none")


def test_processes_are_told_apart(pair: list[Node]) -> None:
    first, second = pair
    first.exec("setsid sleep 971 > /dev/null 2>&1 < /dev/null &")
    ssh(first, "setsid sleep 972 > /dev/null 2>&1 < /dev/null &")
    until(lambda: len(first.pids("^sleep 97[12]")) == 2)
    assert second.pids("^sleep 97") == []
    first.kill_sshd()
    assert first.pkill("^sleep 97") == 2, "whatever became of sshd"
    assert first.pids("^sleep 97") == []
    first.start_sshd()


def test_files_and_names_are_its_own_or_it_says_so(pair: list[Node]) -> None:
    first, second = pair
    if not first.can("files"):
        for ask in (lambda: first.read("/etc/hostname"), lambda: first.exists("/tmp"), lambda: first.name):
            with pytest.raises(pytest.skip.Exception, match=r"needs nodes with a .* of their own: "):
                ask()
        return
    assert first.exec("hostname") == first.name != second.name
    for path in ("/etc/own", "/tmp/own", "/opt/own", "/usr/local/bin/own", "/usr/bin/own", "other"):
        first.write(path, "mine\n")
        assert first.read(path) == "mine\n"
        assert not second.exists(path)
        assert not os.path.exists(path)
    at_home = [path for path in Path.home().iterdir() if path.is_file()]
    assert not [path for path in (Path(__file__), *at_home) if first.exists(str(path))]


def test_what_its_kind_lacks_skips_with_the_reason(bed: Testbed, pair: list[Node]) -> None:
    first, second = pair
    asked: dict[str, Callable[[], object]] = {
        "isolate_from": lambda: first.isolate_from(second),
        "loss": lambda: first.link(loss=0.1),
        "oom_kills": lambda: first.oom_kills,
        "memory_mb": lambda: bed.node(memory_mb=100),
        "cpus": lambda: bed.node(cpus=1),
        "sudo": lambda: bed.node(user="ubuntu"),
        "user": lambda: first.exec("true", user="ubuntu"),
        "python": lambda: bed.node(python=False),
        "disk_mb": lambda: bed.node(disk_mb=64),
        "behind": lambda: bed.node(behind=first),
        "fill_disk": first.fill_disk,
        "shutdown": first.shutdown,
    }
    lacking = {fault for fault in asked if not first.can(fault)}
    always = {"isolate_from", "loss", "oom_kills", "memory_mb", "cpus", "sudo", "user"}
    assert lacking == (always if bed.tier == "namespaces" else set(asked))
    for fault in lacking:
        with pytest.raises(pytest.skip.Exception, match=f"^{fault} needs nodes with .*: "):
            asked[fault]()
    assert first.can("partition")
    with pytest.raises(BedError, match="'fly' is nothing that a node can"):
        first.can("fly")


def test_sshd_killed_and_started(node: Node) -> None:
    with greeted(node) as connection:
        node.kill_sshd()
        assert connection.recv(4096) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(node)
    node.start_sshd()
    assert greets(node)


def test_sessions_outlive_sshd(node: Node) -> None:
    words = [*node.ssh_command(), "echo here; read line; echo $line"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "here\n"
        node.kill_sshd(sessions=False)
        client.stdin.write("still\n")
        client.stdin.flush()
        assert client.stdout.readline() == "still\n"
    node.start_sshd()


def test_a_changed_host_key(node: Node) -> None:
    before, words = node.host_key, node.ssh_command()
    assert node.change_host_key() == node.host_key != before
    done = subprocess.run([*words, "true"], capture_output=True, text=True)
    assert "Host key verification failed" in done.stderr
    assert ssh(node, "echo in") == "in", "the new one is known by now"


def test_connections_reset_and_dropped(fronted: Node) -> None:
    with greeted(fronted) as connection:
        fronted.reset_connections()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    fronted.drop_connections(one_in=3)
    assert [greets(fronted) for _ in range(6)] == [True, True, False] * 2
    fronted.drop_connections(one_in=0)
    assert all(greets(fronted) for _ in range(3))


def test_a_frozen_node_stands_still(node: Node) -> None:
    count = "for ((n = 0; ; n++)); do echo $n > n; sleep 0.01; done"
    with greeted(node) as before, subprocess.Popen([*node.ssh_command(), count]) as client:
        until(lambda: node.exists("n"))
        node.freeze()
        stood = node.read("n")
        assert silent(before)
        with connect(node) as connection:
            assert silent(connection)
            assert node.read("n") == stood
            node.thaw()
            assert b"SSH-" in connection.recv(256)
        until(lambda: node.read("n") not in {stood, ""})
        assert node.pkill("for ..n = 0") > 0
        client.wait(10)


def test_a_partition_is_silent_and_heals(fronted: Node) -> None:
    with greeted(fronted) as connection:
        fronted.partition()
        assert silent(connection)
        with pytest.raises(TimeoutError):
            connect(fronted, QUICK)
        fronted.heal()
        connection.settimeout(10)
        assert connection.recv(256), "what was under way arrives"
    assert greets(fronted)


def test_a_slow_link(fronted: Node) -> None:
    with greeted(fronted) as connection:
        fronted.link(delay_ms=100)
        begin = time.monotonic()
        connection.sendall(b"SSH-2.0-test\r\n")
        assert connection.recv(4096), "a connection from before goes on"
        assert time.monotonic() - begin >= 0.2
    fronted.link(rate_mbit=8)
    begin = time.monotonic()
    words = [*fronted.ssh_command("-o", "Compression=no"), "head -c 500000 /dev/urandom"]
    assert len(subprocess.run(words, capture_output=True, timeout=30).stdout) == 500_000
    assert time.monotonic() - begin > 0.5
    fronted.link()


def test_much_passes_unharmed(fronted: Node) -> None:
    data = os.urandom(5_000_000)
    words = [*fronted.ssh_command(), "cat > big; cat big"]
    assert subprocess.run(words, input=data, capture_output=True, timeout=60).stdout == data


def test_nodes_share_an_address(bed: Testbed, pair: list[Node]) -> None:
    shared = bed.share_address(pair)
    assert shared[0].address == shared[1].address != pair[0].address
    assert shared[0].port != shared[1].port
    pair[1].write("who", "second")
    assert ssh(shared[1], "cat who") == "second"
    assert not shared[0].exists("who")
    assert all(greets(node) for node in (*shared, *pair))


def test_a_node_behind_another(bed: Testbed, node: Node) -> None:
    if not node.can("behind"):
        pytest.skip("its kind can't")
    hidden = bed.node(behind=node, name="hidden")
    with pytest.raises(ConnectionRefusedError):
        connect(hidden)
    jump = " ".join(node.ssh_command("-W", "%h:%p"))
    assert ssh(hidden, "hostname", "-o", f"ProxyCommand={jump}") == "hidden"
    hidden.kill()


def test_a_full_disk(bed: Testbed, node: Node) -> None:
    if not node.can("fill_disk"):
        pytest.skip("its kind can't")
    small = bed.node(disk_mb=32, user="plain")
    small.fill_disk(leave_kb=100)
    with pytest.raises(BedError, match="No space left on device"):
        small.exec("head -c 1000000 /dev/zero > large")
    small.free_disk()
    small.exec("head -c 1000000 /dev/zero > large")
    small.kill()


def test_registries_are_reached_by_the_relay(bed: Testbed, node: Node) -> None:
    request = r"printf 'GET http://x/ HTTP/1.1\r\n\r\n'"
    ask = "exec 3<> /dev/tcp/127.0.0.1/${HTTP_PROXY##*:}; " + request + " >&3; head -1 <&3"
    bed.relay.fail(503, times=1)
    assert "503" in node.exec(ask)


@pytest.mark.parametrize("how", ["kill", "vanish"])
def test_an_end_is_seen_or_not(bed: Testbed, how: str) -> None:
    doomed = bed.node()
    doomed.exec("setsid sleep 975 > /dev/null 2>&1 < /dev/null &")
    until(lambda: doomed.pids("^sleep 975") != [])
    inner = list(doomed.machine.processes("^sleep 975").values())
    doomed.freeze()
    with connect(doomed) as connection:
        getattr(doomed, how)()
        assert not doomed.alive
        if how == "vanish":
            assert silent(connection)
        else:
            assert is_over(connection)
    assert not exists(inner[0])
    with pytest.raises(TimeoutError):
        connect(doomed, QUICK)
    assert "Server listening" in doomed.sshd_log


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_outlives_the_tests_process(tier: str, tmp_path: Path) -> None:
    if why := why_not(tier):
        pytest.skip(why)
    text = """
        import sys, time
        from pathlib import Path
        from skyward_testing.testbed import Testbed
        nodes = Testbed(Path(sys.argv[1]), tier=sys.argv[2]).nodes(2)
        nodes[0].exec("setsid sleep 976 > /dev/null 2>&1 < /dev/null &")
        while not nodes[0].pids("^sleep 976"):
            time.sleep(0.01)
        nodes[0].freeze()
        pids = [pid for node in nodes for pid in (node.machine.pid, *node.machine.processes().values())]
        print(*pids, flush=True)
        time.sleep(60)
        """
    words = [sys.executable, "-c", textwrap.dedent(text), os.fspath(tmp_path), tier]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) >= 5
        process.send_signal(signal.SIGKILL)
    until(lambda: not any(exists(pid) for pid in pids))
