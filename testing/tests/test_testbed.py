"""Nodes are machines of their own: what each has, who gets in, what it installs, where it is reached."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from skyward_testing.testbed import BedError, Node, Testbed


def ssh(node: Node, command: str, *options: str) -> str:
    """Run it by the real client; the exit status is part of the assertion."""
    words = [*node.ssh_command(*options), command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(node: Node, command: str, *options: str) -> str:
    words = [*node.ssh_command(*options), command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


@pytest.fixture
def network(testbed: Testbed) -> None:
    """For what only nodes made by root have; ``test_testbed_users`` tries what the others have for it."""
    if testbed.tier != "network":
        pytest.skip("about nodes with network cards: run pytest as root")


@pytest.fixture(scope="module")
def pair(shared_testbed: Testbed) -> list[Node]:
    return shared_testbed.nodes(2)


class TestOwnership:
    def test_addresses_and_names_differ(self, pair: list[Node]) -> None:
        first, second = pair
        assert first.address != second.address
        assert first.exec("hostname") == first.name != second.exec("hostname")

    def test_a_card_of_its_own(self, testbed: Testbed, network: None) -> None:
        first = testbed.node()
        assert first.address in first.exec("ip -o address show eth0")

    def test_files_are_its_own(self, pair: list[Node]) -> None:
        first, second = pair
        for path in ("/etc/own", "/tmp/own", "own", "/opt/own", "/usr/local/bin/own"):
            first.write(path, "mine\n")
            assert first.read(path) == "mine\n"
            assert not second.exists(path)
            assert not os.path.exists(path)

    def test_processes_are_its_own(self, pair: list[Node]) -> None:
        first, second = pair
        first.exec("setsid sleep 987 > /dev/null 2>&1 < /dev/null &")
        deadline = time.monotonic() + 5
        while not (pids := first.pids("^sleep 987")):
            assert time.monotonic() < deadline
        (pid,) = pids
        assert second.pids("^sleep 987") == []
        assert first.exec(f"cat /proc/{pid}/comm") == "sleep"
        assert first.pkill("^sleep 987") == 1
        assert first.pids("^sleep 987") == []

    def test_it_sees_nothing_of_the_hosts_people(self, pair: list[Node], tmp_path: Path) -> None:
        node = pair[0]
        (tmp_path / "secret").touch()
        at_home = [path for path in Path.home().iterdir() if path.is_file()]
        hidden = [Path(__file__), tmp_path / "secret", *at_home, Path("/var/log/dpkg.log")]
        assert not [path for path in hidden if node.exists(str(path))]
        assert node.exec("ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l") == "0"

    def test_they_reach_each_other(self, pair: list[Node]) -> None:
        first, second = pair
        assert first.exec(f"ping -c 1 -W 2 {second.address} > /dev/null && echo yes") == "yes"

    def test_what_ssh_shows_is_what_was_promised(self, pair: list[Node]) -> None:
        for node in pair:
            assert ssh(node, "hostname; whoami") == f"{node.name}\nroot"
        assert pair[0].host_key != pair[1].host_key
        assert pair[0].key.stat().st_mode & 0o777 == 0o600
        assert pair[0].url == f"root@{pair[0].address}:{pair[0].port}"

    def test_a_failing_command_says_what_it_said(self, pair: list[Node]) -> None:
        with pytest.raises(BedError, match=r"'ls /nowhere' ended with 2: ls: cannot access"):
            pair[0].exec("ls /nowhere")
        assert pair[0].exec("echo part; false", check=False) == "part"
        with pytest.raises(BedError, match=r"did not end within 0\.2 s"):
            pair[0].exec("sleep 654", timeout=0.2)
        deadline = time.monotonic() + 5
        while pair[0].pids("sleep 654"):
            assert time.monotonic() < deadline

    def test_files_belong_to_whom_they_are_written_for(self, pair: list[Node]) -> None:
        pair[0].write("/home/ubuntu/deep/er/file", "text", user="ubuntu", mode=0o600)
        assert pair[0].exec("stat -c '%U %a' /home/ubuntu/deep/er/file") == "ubuntu 600"
        with pytest.raises(BedError, match="No such file"):
            pair[0].read("/nowhere")

    def test_a_name_is_used_once(self, shared_testbed: Testbed, pair: list[Node]) -> None:
        with pytest.raises(BedError, match="there is a node named"):
            shared_testbed.node(name=pair[0].name)

    def test_an_unknown_user_is_an_error(self, shared_testbed: Testbed) -> None:
        with pytest.raises(BedError, match="'guest' is none of root, ubuntu, plain"):
            shared_testbed.node(user="guest")


class TestUsers:
    def test_ubuntu_becomes_root_and_keeps_the_way_out(self, testbed: Testbed) -> None:
        node = testbed.node(user="ubuntu")
        assert ssh(node, "id -un; sudo -n id -un; sudo -n printenv HTTPS_PROXY").splitlines() == [
            "ubuntu",
            "root",
            "http://10.66.0.2:3128",
        ]

    def test_plain_does_not(self, testbed: Testbed, network: None) -> None:
        node = testbed.node(user="plain")
        assert ssh(node, "id -un; pwd") == "plain\n/home/plain"
        assert "password is required" in refused(node, "sudo -n true")

    def test_without_sudo_there_is_no_such_command(self, testbed: Testbed) -> None:
        node = testbed.node(user="ubuntu", sudo=False)
        assert ssh(node, "command -v sudo || echo none") == "none"

    def test_only_the_user_gets_in(self, testbed: Testbed) -> None:
        node = testbed.node(user="ubuntu")
        assert "Permission denied" in refused(node, "true", "-l", "root")
        assert "Permission denied" in refused(node, "true", "-l", "plain")

    def test_its_port_is_another_if_wanted(self, testbed: Testbed) -> None:
        node = testbed.node(port=2022)
        assert ssh(node, "echo in") == "in"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((node.address, 22), timeout=5)


class TestSoftware:
    def test_interpreters_and_uv(self, testbed: Testbed) -> None:
        node = testbed.node(user="ubuntu")
        assert (
            ssh(node, "python3.12 -c 'import ssl; print(1)'; python3.13 -c 'import ssl; print(2)'") == "1\n2"
        )
        install = "uv venv -q --python 3.13 v && uv pip install -q --python v/bin/python cloudpickle"
        before = testbed.relay.requests
        assert ssh(node, f"{install} && v/bin/python -c 'import cloudpickle; print(3)'") == "3"
        assert testbed.relay.requests > before

    def test_none_of_them(self, testbed: Testbed) -> None:
        node = testbed.node(python=False, uv=False)
        found = "for name in python python2 python3 python3.11 python3.12 uv; do command -v $name; done; true"
        assert ssh(node, found) == ""
        assert node.exec(found) == ""
        assert node.exec("ls -A .cache") == ""

    def test_uv_finds_no_python_either(self, testbed: Testbed) -> None:
        node = testbed.node(python=False)
        assert "no interpreter found" in refused(node, "uv python find --offline").lower()

    def test_apt_installs_and_the_host_does_not_notice(self, testbed: Testbed) -> None:
        node = testbed.node(user="ubuntu")
        assert not os.path.exists("/usr/bin/hello")
        quiet = "DEBIAN_FRONTEND=noninteractive"
        ssh(node, f"sudo apt-get update -qq && sudo {quiet} apt-get install -y -qq hello")
        assert ssh(node, "hello") == "Hello, world!"
        assert not os.path.exists("/usr/bin/hello")


class TestLimits:
    def test_disk(self, testbed: Testbed) -> None:
        node = testbed.node(disk_mb=32)
        told = refused(node, "dd if=/dev/zero of=big bs=1M count=64")
        assert "No space left on device" in told

    def test_memory_kills_the_process_and_not_the_node(self, testbed: Testbed) -> None:
        node = testbed.node(memory_mb=96)
        hungry = "python3.12 -c 'x = bytearray(300 << 20); print(len(x))'"
        done = subprocess.run([*node.ssh_command(), hungry], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) in {(137, ""), (255, "")}  # 255: as ssh tells a signal
        assert node.oom_kills == 1
        assert ssh(node, "echo well") == "well"

    def test_cpu(self, testbed: Testbed) -> None:
        slow = testbed.node(cpus=0.2)
        spin = "import time; s = time.time()\nwhile time.time() < s + 1: pass\nprint(time.process_time())"
        slow.write("spin.py", spin)
        assert float(ssh(slow, "python3.12 spin.py")) < 0.6  # 0.2 by the quota, and what it starts with


class TestWays:
    def test_forwarding(self, testbed: Testbed, network: None) -> None:
        free, shut = testbed.node(), testbed.node(forwarding=False)
        to_itself = ("-W", "127.0.0.1:22")
        assert "SSH-2.0" in banner_through(free, *to_itself)
        assert "SSH-2.0" not in banner_through(shut, *to_itself)

    def test_behind_another(self, testbed: Testbed, network: None) -> None:
        door = testbed.node(name="door")
        other = testbed.node()
        hidden = testbed.node(name="hidden", behind=door)
        with pytest.raises(OSError, match="No route to host"):
            socket.create_connection((hidden.address, hidden.port), timeout=5)
        assert door.exec(f"ping -c 1 -W 2 {hidden.address} > /dev/null && echo yes") == "yes"
        assert other.exec(f"ping -c 1 -W 1 {hidden.address} > /dev/null || echo no") == "no"
        assert ssh(hidden, "hostname", "-o", f"ProxyCommand={jump(door)}") == "hidden"
        reach = "uv venv -q v && uv pip install -q --python v/bin/python --refresh cloudpickle && echo there"
        assert hidden.exec(reach) == "there"

    def test_shared_address(self, testbed: Testbed, network: None) -> None:
        nodes = testbed.nodes(2)
        shared = testbed.share_address(nodes)
        assert shared[0].address == shared[1].address != nodes[0].address
        assert shared[0].port != shared[1].port
        assert [ssh(node, "hostname") for node in shared] == [node.name for node in nodes]
        with socket.create_connection((shared[1].address, shared[1].port), timeout=5) as connection:
            connection.recv(4)
            reach = f"exec 4<> /dev/tcp/{shared[1].address}/{shared[1].port}; head -c 4 <&4"
            assert [node.exec(reach) for node in nodes] == ["SSH-", "SSH-"]


class TestRelay:
    def test_down_and_up(self, testbed: Testbed) -> None:
        node = testbed.node()
        install = install_on(node)
        testbed.relay.down()
        with pytest.raises(BedError, match="cloudpickle"):
            node.exec(install)
        testbed.relay.up()
        node.exec(install)

    def test_failing(self, testbed: Testbed) -> None:
        node = testbed.node()
        install = install_on(node)
        testbed.relay.fail(503, times=100)
        with pytest.raises(BedError, match=r"503|tunnel|unsuccessful"):
            node.exec(install)

    def test_slow(self, testbed: Testbed) -> None:
        node = testbed.node()
        install = install_on(node)
        begin, bytes_before = time.monotonic(), testbed.relay.bytes
        node.exec(install)
        moved, quick = testbed.relay.bytes - bytes_before, time.monotonic() - begin
        testbed.relay.slow(moved / 4)
        begin = time.monotonic()
        node.exec(install)
        assert time.monotonic() - begin > quick + 1


def install_on(node: Node) -> str:
    node.exec("uv venv -q v")
    return "UV_HTTP_RETRIES=0 uv pip install -q --python v/bin/python --refresh --reinstall cloudpickle"


def banner_through(node: Node, *options: str) -> str:
    words = node.ssh_command(*options)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as client:
        assert client.stdout is not None
        line = client.stdout.readline().decode()
        client.kill()
    return line


def jump(door: Node) -> str:
    """A ProxyCommand that goes by ``door``."""
    return " ".join(door.ssh_command("-W", "%h:%p"))
