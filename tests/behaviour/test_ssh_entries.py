"""``ssh <pool>`` while a pool lives: entries for OpenSSH's own client, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import skyward as sky
from skyward.hooks.values import SSHEndpoint
from skyward.link import sshentries
from skyward.link.sshentries import Entries
from skyward_testing.testbed import Testbed


@sky.function
def twice(n: int) -> int:
    return 2 * n


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state folder"))
    return tmp_path / "state folder" / "skyward" / "ssh"


def ssh(state: Path, host: str, command: str) -> str:
    line = ["ssh", "-F", os.fspath(state / "config"), "-o", "BatchMode=yes", host, command]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=False
    )
    return done.stdout + done.stderr


def test_every_node_is_found_by_its_name(machines: str, state: Path) -> None:
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        pool.run(twice(1))
        if machines == "local":
            assert not state.exists()
            return
        for host in (pool.name, f"{pool.name}-worker1"):
            assert ssh(state, host, "echo $((6*7))") == "42\n"
        for path in state.iterdir():
            assert path.stat().st_mode & 0o77 == 0, path
        pool.resize(1)
        until = time.monotonic() + 20
        while "worker1" in (state / f"{pool.name}.conf").read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert ssh(state, pool.name, "echo $((6*7))") == "42\n"
    assert not state.exists()


@pytest.mark.local_only("hosts are named")
def test_jump_hosts_and_a_key_of_the_pool_alone(
    testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenSSH does not quote the path of its own configuration when it calls itself for a jump.
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    state = tmp_path / "state" / "skyward" / "ssh"
    front = testbed.node(name="front")
    back = testbed.node(name="back", behind=front)
    entries = Entries("my pool!")
    hop = SSHEndpoint(
        host=front.address,
        port=front.port,
        user=front.user,
        key_data=front.key.read_text(),
        host_keys=(front.host_key,),
        config=False,
    )
    far = SSHEndpoint(
        host=back.address,
        port=back.port,
        user=back.user,
        keys=(os.fspath(back.key),),
        host_keys=(back.host_key,),
        config=False,
        jump=(hop,),
    )
    entries.write({0: far, 3: hop})
    assert ssh(state, "my-pool", "hostname") == "back\n"
    assert ssh(state, "my-pool-worker3", "hostname") == "front\n"
    back.change_host_key()
    assert "Host key verification failed" in ssh(state, "my-pool", "hostname")
    entries.remove()
    assert not state.exists()


ENDPOINT = SSHEndpoint(host="node.example", port=2200, user="me", keys=("/k",), config=False)


@pytest.mark.local_only("no machine is needed")
def test_two_pools_of_one_name(state: Path) -> None:
    first, second = Entries("same"), Entries("same")
    first.write({0: ENDPOINT})
    second.write({0: ENDPOINT})
    assert (first.name, second.name) == ("same", "same-2")
    assert "Host same-2\n" in (state / "same-2.conf").read_text()
    first.remove()
    assert sorted(path.name for path in state.iterdir()) == ["config", "same-2.conf", "same-2.lock"]
    second.remove()
    assert not state.exists()


@pytest.mark.local_only("no machine is needed")
def test_what_a_killed_process_left_is_swept(state: Path) -> None:
    script = (
        "import os, signal; from skyward.link.sshentries import Entries; "
        "from skyward.hooks.values import SSHEndpoint as E; "
        "e = Entries('dead'); e.write({0: E(host='h', key_data='SECRET', config=False)}); "
        f"os.kill(os.getpid(), {signal.SIGKILL:d})"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert (state / "dead.head.key").read_text() == "SECRET\n"
    assert (state / "dead.head.key").stat().st_mode & 0o777 == 0o600
    alive = Entries("alive")
    alive.write({0: ENDPOINT})
    assert sorted(path.name for path in state.iterdir()) == ["alive.conf", "alive.lock", "config"]
    alive.remove()


@pytest.mark.local_only("no machine is needed")
@pytest.mark.parametrize("host", ["a\nProxyCommand evil", "a\x1b[0m"])
def test_no_value_becomes_an_option(host: str, state: Path) -> None:
    entries = Entries("pool")
    entries.write({0: SSHEndpoint(host=host, config=False), 1: ENDPOINT})
    text = (state / "pool.conf").read_text()
    assert "evil" not in text
    assert "\x1b" not in text
    assert "Host pool-worker1\n" in text
    entries.remove()


@pytest.mark.local_only("no machine is needed")
def test_an_alias_is_resolved_as_the_user_wrote_it(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    (tmp_path / ".ssh").mkdir()
    own = "Host gpu\n  HostName 10.1.2.3\n  Port 2022\n  User alice\n  ProxyJump bastion.example\n"
    (tmp_path / ".ssh" / "config").write_text(own)
    entries = Entries("pool")
    entries.write({0: SSHEndpoint(host="gpu")})
    text = (state / "pool.conf").read_text()
    for line in ("HostName 10.1.2.3", "Port 2022", "User alice", "ProxyJump bastion.example"):
        assert f"  {line}\n" in text
    assert sshentries.folder() == state
    entries.remove()
