"""Nothing secret is left anywhere, and no machine runs on without its client."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward_testing.testbed import Node, Testbed

type Hosts = Callable[..., sky.SSH]

pytestmark = pytest.mark.local_only("it names its provider")

SECONDS = 60.0

FUNCTIONS = """
import os
import skyward as sky

@sky.function
def token() -> str:
    return os.environ["API_TOKEN"]
"""

ORPHAN = """
import sys, time
import skyward as sky

@sky.function
def busy():
    import subprocess, time
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    time.sleep(1000)

host = sky.ssh.Host(sys.argv[1], key=sys.argv[2], host_key=sys.argv[3])
with sky.Compute(provider=sky.SSH([host], config=False), ttl=4, console=False, logging=False) as pool:
    future = busy() > pool
    while not future.running():
        time.sleep(0.01)
    print("busy", flush=True)
    future.result()
"""


@pytest.fixture(autouse=True)
def client(tmp_path: Path, own_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder, which is searched."""
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    return tmp_path


def files_with(node: Node, secret: str) -> str:
    """List the files of a node that hold a secret; the search itself must not show in a list of processes."""
    pattern = f'"{secret[:4]}""{secret[4:]}"'
    shared = "--exclude-dir=.cache --exclude-dir=.pyenv"  # with the host of these nodes
    return node.exec(f"grep -rslF {shared} {pattern} ~ /home /tmp /var/log /run /etc || true")


def test_secrets_are_in_no_argv_file_log_or_event(
    testbed: Testbed, client: Path, functions_of: Callable[[str], Any], ssh_to: Hosts
) -> None:
    node = testbed.node()
    secret = f"canary-{secrets.token_hex(12)}"
    task = functions_of(FUNCTIONS)
    events: list[object] = []
    log = sky.LogConfig(file=os.fspath(client / "log"), level="DEBUG")
    image = sky.Image(env={"API_TOKEN": secret}, shell_vars={"GREETING": "echo hello"})
    with sky.subscribe(events.append, sky.Event):
        with sky.Compute(provider=ssh_to(node), image=image, console=False, logging=log) as pool:
            assert task.token() >> pool == secret
            assert secret not in node.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            assert files_with(node, secret) == ""
            assert secret not in repr(pool.snapshot())
    assert files_with(node, secret) == ""
    assert events
    assert secret not in repr(events)
    for path in client.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_what_it_keeps_on_a_machine_is_the_users_alone(testbed: Testbed, ssh_to: Hosts) -> None:
    node = testbed.node(user="plain")
    with sky.Compute(provider=ssh_to(node), console=False, logging=False) as pool:
        assert pool.map(len, ["a"]) == [1]
        # Whoever else is on the machine gets no further than the door.
        assert node.exec("stat -c %a /home/plain/.skyward/machine").strip() == "700"
        assert node.exec("find /tmp -mindepth 1 -user plain 2>/dev/null").strip() == ""
        assert "LISTEN" not in node.exec("ss -Htln | grep -v ':22 ' || true")


def test_a_machine_ends_without_its_client(testbed: Testbed, client: Path) -> None:
    node = testbed.node()
    script = client / "orphan.py"
    script.write_text(ORPHAN)
    command = [sys.executable, os.fspath(script), node.url, os.fspath(node.key), node.host_key]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "busy\n"
        assert node.pids("skyward.node.worker")
        while not node.pids("sleep 1000"):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    killed = time.monotonic()
    machine = f"{node.exec('echo ~').strip()}/.skyward/machine"
    while node.pids("skyward.node") or node.pids("sleep 1000") or node.exists(machine):
        assert time.monotonic() - killed < SECONDS, "it lives on"
        time.sleep(0.1)
    assert 3 < time.monotonic() - killed < 20  # ttl is 4
