"""Every fault is real: what a client sees of it, and that it ends when it is ended."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from skyward_testing.testbed import BedError, Node, Testbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK = 0.6
"""Seconds after which silence counts as silence here: answers take milliseconds."""


@pytest.fixture
def network(testbed: Testbed) -> None:
    """For what only nodes made by root have; ``test_testbed_users`` tries what the others have for it."""
    if testbed.tier != "network":
        pytest.skip("about nodes with network cards: run pytest as root")


def connect(node: Node, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection((node.address, node.port), timeout=timeout)


def banner(node: Node, timeout: float = 5.0) -> bytes:
    with connect(node, timeout) as connection:
        return connection.recv(4)


@contextmanager
def greeted(node: Node) -> Iterator[socket.socket]:
    """A connection that has had the server's greeting."""
    with connect(node) as connection:
        assert b"\n" in connection.recv(256)
        yield connection


def silent(connection: socket.socket) -> bool:
    """Whether a connection says nothing, not even that it is over, though it is spoken to."""
    connection.settimeout(QUICK)
    try:
        connection.sendall(b"SSH-2.0-test\r\n")
        connection.recv(1)
    except TimeoutError:
        return True
    return False


def is_over(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(4096) == b""
    except ConnectionResetError:
        return True


def ping_ms(node: Node, count: int = 4) -> tuple[int, float]:
    """Answers, and the shortest time of one: this machine may be busy."""
    words = ["ping", "-c", str(count), "-i", "0.05", "-W", "1", node.address]
    out = subprocess.run(words, capture_output=True, text=True).stdout
    received = re.search(r"(\d+) received", out)
    assert received
    return int(received[1]), shortest_ms(out) if int(received[1]) else 0.0


def shortest_ms(out: str) -> float:
    found = re.search(r"= ([\d.]+)/", out)
    assert found
    return float(found[1])


def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestDeath:
    def test_kill_closes_what_was_open_and_then_nobody_answers(self, testbed: Testbed) -> None:
        node = testbed.node()
        with greeted(node) as connection:
            node.kill()
            assert is_over(connection)
        assert not node.alive
        with pytest.raises(TimeoutError):
            connect(node, QUICK)

    def test_vanish_says_nothing(self, testbed: Testbed) -> None:
        node = testbed.node()
        with greeted(node) as connection:
            node.vanish()
            assert not node.alive
            assert silent(connection)
        with pytest.raises(TimeoutError):
            connect(node, QUICK)

    @pytest.mark.parametrize("word", ["shutdown now", "poweroff", "sudo shutdown -h now"])
    def test_it_can_switch_itself_off(self, testbed: Testbed, word: str) -> None:
        node = testbed.node(user="ubuntu")
        subprocess.run([*node.ssh_command(), word if "sudo" in word else f"sudo {word}"], timeout=20)
        until(lambda: not node.alive)

    def test_a_shutdown_can_be_for_later_and_taken_back(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.need("shutdown")
        node.exec("shutdown -P +1")
        until(lambda: node.pids("^sleep 60") != [])
        node.exec("shutdown -c")
        until(lambda: node.pids("^sleep 60") == [] or node.pids("kill -TERM 1") == [])
        assert node.alive

    def test_not_everybody_may_switch_it_off(self, testbed: Testbed) -> None:
        node = testbed.node()
        with pytest.raises(BedError, match="must be root"):
            node.exec("shutdown now", user="plain")
        node.shutdown()
        assert not node.alive


class TestFreezing:
    def test_a_frozen_node_takes_connections_and_gives_no_banner(self, testbed: Testbed) -> None:
        node = testbed.node()
        with greeted(node) as before:
            node.freeze()
            assert silent(before)
            with connect(node) as connection:
                assert silent(connection)
                node.thaw()
                assert b"SSH-" in connection.recv(256)

    def test_its_processes_stand_still(self, testbed: Testbed) -> None:
        node = testbed.node()
        count = "for ((n = 0; ; n++)); do echo $n > n; sleep 0.01; done"
        with subprocess.Popen([*node.ssh_command(), count]) as client:
            until(lambda: node.exists("n"))
            node.freeze()
            stood = node.read("n")
            time.sleep(0.2)
            assert node.read("n") == stood
            node.thaw()
            until(lambda: node.read("n") not in {stood, ""})
            assert node.pkill("for ..n = 0") > 0
            client.wait(10)

    def test_a_frozen_node_can_be_killed(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.freeze()
        node.kill()
        assert not node.alive


class TestSshd:
    def test_killed_and_started(self, testbed: Testbed) -> None:
        node = testbed.node()
        with greeted(node) as connection:
            node.kill_sshd()
            assert is_over(connection)
        with pytest.raises(ConnectionRefusedError):
            connect(node)
        node.start_sshd()
        assert banner(node) == b"SSH-"

    def test_sessions_can_outlive_it(self, testbed: Testbed) -> None:
        node = testbed.node()
        words = [*node.ssh_command(), "echo here; read line; echo $line"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stdout.readline() == "here\n"
            node.kill_sshd(sessions=False)
            with pytest.raises(ConnectionRefusedError):
                for _ in range(50):  # a process that it was about to start may hold the socket for a moment
                    connect(node).close()
                    time.sleep(0.1)
            client.stdin.write("still\n")
            client.stdin.flush()
            assert client.stdout.readline() == "still\n"

    def test_a_started_sshd_is_part_of_the_node(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.kill_sshd()
        node.start_sshd()
        node.freeze()
        with connect(node) as connection:
            assert silent(connection)

    def test_a_changed_host_key_is_noticed(self, testbed: Testbed) -> None:
        node = testbed.node()
        before, words = node.host_key, node.ssh_command()
        assert subprocess.run([*words, "true"]).returncode == 0
        assert node.change_host_key() == node.host_key != before
        done = subprocess.run([*words, "true"], capture_output=True, text=True)
        assert done.returncode == 255
        assert "Host key verification failed" in done.stderr
        assert subprocess.run([*node.ssh_command(), "true"]).returncode == 0

    def test_connections_are_reset(self, testbed: Testbed) -> None:
        node = testbed.node()
        with greeted(node) as connection:
            node.reset_connections()
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        assert banner(node) == b"SSH-"

    def test_every_third_connection_is_refused(self, testbed: Testbed, network: None) -> None:
        node = testbed.node()
        node.drop_connections(one_in=3)
        assert sum(not refuses(node) for _ in range(9)) == 6
        node.drop_connections(one_in=0)
        assert not any(refuses(node) for _ in range(9))


def refuses(node: Node) -> bool:
    try:
        connect(node).close()
    except ConnectionRefusedError:
        return True
    return False


class TestDisk:
    def test_it_is_full_and_free_again(self, testbed: Testbed) -> None:
        node = testbed.node(disk_mb=64)
        node.fill_disk(leave_kb=100)
        assert node.exec("head -c 50000 /dev/zero > small; echo $?") == "0"
        with pytest.raises(BedError, match="No space left on device"):
            node.exec("head -c 1000000 /dev/zero > /tmp/large")
        node.free_disk()
        node.exec("head -c 1000000 /dev/zero > /tmp/large")


class TestLinks:
    def test_a_partition_loses_everything_and_heals(self, testbed: Testbed) -> None:
        node, other = testbed.nodes(2)
        with greeted(node) as connection:
            node.partition()
            assert silent(connection)
            with pytest.raises(TimeoutError):
                connect(node, QUICK)
            if testbed.tier == "network":
                assert other.exec(f"ping -c 1 -W 1 {node.address} > /dev/null || echo lost") == "lost"
            node.heal()
            connection.settimeout(10)
            assert connection.recv(256)  # what was lost is sent again
        assert banner(node) == b"SSH-"

    def test_two_nodes_lose_each_other_only(self, testbed: Testbed) -> None:
        first, second, third = testbed.nodes(3)
        first.isolate_from(second)
        sees = "ping -c 1 -W 1 {} > /dev/null && echo yes || echo no"
        assert first.exec(sees.format(second.address)) == "no"
        assert second.exec(sees.format(first.address)) == "no"
        assert first.exec(sees.format(third.address)) == "yes"
        assert banner(first) == banner(second) == b"SSH-"
        second.heal()
        assert first.exec(sees.format(second.address)) == "yes"

    def test_delay(self, testbed: Testbed, network: None) -> None:
        node = testbed.node()
        with greeted(node) as connection:
            node.link(delay_ms=50)
            assert 100 <= ping_ms(node)[1] < 115
            connection.sendall(b"SSH-2.0-test\r\n")
            assert connection.recv(4096)  # a connection from before goes on
        node.link()
        assert ping_ms(node)[1] < 20

    def test_delays_of_two_nodes_add_up(self, testbed: Testbed, network: None) -> None:
        first, second = testbed.nodes(2)
        first.link(delay_ms=20)
        second.link(delay_ms=10)
        out = first.exec(f"ping -c 5 -i 0.1 {second.address}")
        assert 60 <= shortest_ms(out) < 75

    def test_loss(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.link(loss=0.3)
        words = ["ping", "-c", "300", "-i", "0.002", "-W", "1", node.address]
        out = subprocess.run(words, capture_output=True, text=True).stdout
        received = re.search(r"(\d+) received", out)
        assert received
        assert 90 < int(received[1]) < 205  # 147 expected: 0.7 there and 0.7 back
        node.link()
        assert ping_ms(node)[0] == 4

    def test_rate(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.link(rate_mbit=8)
        begin = time.monotonic()
        words = [*node.ssh_command("-o", "Compression=no"), "head -c 1000000 /dev/urandom"]
        got = subprocess.run(words, capture_output=True, timeout=30).stdout
        assert len(got) == 1_000_000
        assert time.monotonic() - begin > 1.0

    def test_faults_add_up(self, testbed: Testbed, network: None) -> None:
        node = testbed.node()
        node.link(delay_ms=20)
        node.partition()
        with pytest.raises(TimeoutError):
            connect(node, QUICK)
        node.heal()
        assert ping_ms(node)[1] >= 40

    def test_a_slow_node_behind_a_slow_door(self, testbed: Testbed, network: None) -> None:
        door = testbed.node()
        hidden = testbed.node(behind=door)
        door.link(delay_ms=20)
        hidden.link(delay_ms=10)
        out = door.exec(f"ping -c 5 -i 0.1 {hidden.address}")
        assert 60 <= shortest_ms(out) < 75

    def test_a_slow_shared_address(self, testbed: Testbed, network: None) -> None:
        node = testbed.node()
        (shared,) = testbed.share_address([node])
        shared.link(delay_ms=50)
        begin = time.monotonic()
        assert banner(shared) == b"SSH-"
        assert time.monotonic() - begin >= 0.2


class TestProcesses:
    def test_signals(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.exec(
            'setsid bash -c \'trap "echo got > got" USR1; touch set;'
            " while :; do sleep 0.05; done'"
            " > /dev/null 2>&1 &"
        )
        until(lambda: node.exists("set"))
        assert node.pkill("trap .echo got", "USR1") == 1
        until(lambda: node.exists("got"))
        assert node.pkill("trap .echo got") == 1
        until(lambda: node.pids("trap .echo got") == [])

    def test_pid_1_is_out_of_reach(self, testbed: Testbed) -> None:
        node = testbed.node()
        node.pkill("")
        assert node.alive
        assert node.pids() == []
