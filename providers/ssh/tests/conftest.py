"""Hosts: real ones, from the testbed, each with an SSH server of its own; and pools that lease them."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from skyward.hooks.values import Claim, PoolRef
from skyward_ssh import SSH, Host

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from skyward_ssh.provider import SSHProvider
    from skyward_testing.testbed import Node, Testbed

FOLDER = ".skyward/machine"

# Plays our agent: says in its folder who it is and whom it started, and waits. Not python, which a host of
# ours need not have. Its words decide how it behaves.
AGENT = """
cd ~/.skyward/machine || exit 1
export SKYWARD_MACHINE=$(pwd -P)
identity() { stat=$(cat /proc/$1/stat); set -- $1 ${stat##*) }; printf '%s %s' "$1" "${21}"; }
case " $* " in *" stubborn "*) trap '' TERM ;; esac
case " $* " in *" polite "*) trap 'echo heard > ../farewell; exit 0' TERM ;; esac
case " $* " in *" worker "*) setsid sleep 1001 & worker=$! ;; esac
case " $* " in *" family "*) setsid sh -c 'sleep 1002 & sleep 1003 & wait' & worker=$! ;; esac
case " $* " in *" stray "*) setsid sh -c 'sleep 1004 & sleep 1005' & ;; esac
: > pids
[ -z "${worker:-}" ] || { identity $worker > pids; echo >> pids; }
identity $$ > agent.new && mv agent.new agent.pid
while :; do sleep 0.2; done
"""


@pytest.fixture(scope="module")
def nodes(shared_testbed: Testbed) -> list[Node]:
    """Three hosts that all tests of a file share."""
    return shared_testbed.nodes(3, user="plain", python=False, uv=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client's side: an empty home folder, in which host keys are pinned."""
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def host_of() -> Callable[..., Host]:
    """Describe a node as a host whose key is known, so that nothing is pinned."""

    def describe(node: Node, **more: Any) -> Host:
        return Host(node.url, **{"key": node.key, "host_key": node.host_key, **more})

    return describe


@pytest.fixture
def config(nodes: list[Node], host_of: Callable[..., Host]) -> Iterator[SSH]:
    """The three hosts; whatever a test left on them is removed."""
    yield SSH([host_of(node) for node in nodes], config=False)
    for node in nodes:
        clean(node)


def clean(node: Node) -> None:
    """Make a host as it was."""
    node.pkill("sleep 100")
    node.exec("rm -rf ~/.skyward", user=node.user)


@pytest.fixture
def pool() -> PoolRef:
    return new_pool()


@pytest.fixture
def other_pool() -> PoolRef:
    return new_pool("other")


def new_pool(name: str = "mine") -> PoolRef:
    return PoolRef(id=uuid.uuid4().hex, name=name, ttl=600)


@pytest.fixture
def claim() -> Callable[..., Claim]:
    """A claim of a pool."""

    def make(pool: PoolRef, rank: int = 0) -> Claim:
        deadline = time.time() + 600
        return Claim(
            id=uuid.uuid4().hex[:16], pool=pool.id, rank=rank, provider="ssh", owner="me:1", deadline=deadline
        )

    return make


@pytest.fixture
def drive() -> Callable[..., Any]:
    """Connect a provider, run a scenario with it to its end, and close it."""

    def run[T](config: SSH, scenario: Callable[[SSHProvider], Awaitable[T]]) -> T:
        async def main() -> T:
            provider = config.connect()
            try:
                return await scenario(provider)
            finally:
                await provider.aclose()

        return asyncio.run(main())

    return run


@pytest.fixture
def run_agent() -> Callable[..., str]:
    """Start what plays an agent in a host's leased folder, and return its pid there."""

    def start(node: Node, *words: str) -> str:
        node.write("/tmp/agent", AGENT, user=node.user)
        command = f"setsid sh /tmp/agent {' '.join(words)} > /dev/null 2>&1 < /dev/null &"
        node.exec(command, user=node.user)
        deadline = time.monotonic() + 10
        while not (said := node.exec(f"cat ~/{FOLDER}/agent.pid", user=node.user, check=False)):
            assert time.monotonic() < deadline, "the agent did not start"
            time.sleep(0.02)
        return said.split()[0]

    return start


@pytest.fixture
def age() -> Callable[[Node, int], None]:
    """Make a host's lease so many seconds old."""

    def touch(node: Node, seconds: int) -> None:
        node.exec(
            f"touch -d '{seconds} seconds ago' ~/{FOLDER}/machine.json ~/{FOLDER}",
            user=node.user,
            check=False,
        )

    return touch


@pytest.fixture
def folders() -> Callable[[Sequence[Node]], list[bool]]:
    """Whether there is a machine's folder on each of the hosts."""

    def look(nodes: Sequence[Node]) -> list[bool]:
        return [
            node.exec(f"test -e ~/{FOLDER} && echo y", user=node.user, check=False) == "y" for node in nodes
        ]

    return look
