"""Every test here runs twice: on machines that are folders of this computer, and on such reached by SSH.

A test that is about the first only has the mark ``local_only``, with the reason. Pools that several files
need are here; a file may have a ``pool`` of its own. A fixture that keeps a pool asks for ``machines``, so
that it makes another for each kind.
"""

from __future__ import annotations

import os
import runpy
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import skyward as sky
import skyward.opening
from skyward.hooks import Claim, LocalEndpoint, Machine, Offer, PoolRef, SSHEndpoint
from skyward.link import connection
from skyward.link.ssh import SSHLink
from skyward_local.config import Local
from skyward_local.provider import LocalProvider
from skyward_testing import loopback
from skyward_testing.testbed import Node

EXECUTORS = {
    "one thread": sky.Worker(),
    "threads": sky.Worker(concurrency=3, executor="thread"),
    "processes": sky.Worker(concurrency=3, executor="process"),
}


class OverSSHProvider(LocalProvider):
    """Folders of this computer that are reached through an SSH server of it."""

    def __init__(self, server: loopback.Server) -> None:
        super().__init__()
        self._server = server

    def _over_ssh(self, machine: Machine) -> Machine:
        assert isinstance(machine.endpoint, LocalEndpoint)
        endpoint = SSHEndpoint(
            host="127.0.0.1",
            port=self._server.port,
            user=self._server.user,
            keys=(str(self._server.key),),
            host_keys=(self._server.host_key,),
            config=False,
            folder=machine.endpoint.root,
        )
        return replace(machine, endpoint=endpoint)

    async def launch(self, pool: PoolRef, offer: Offer, claim: Claim) -> Machine:
        return self._over_ssh(await super().launch(pool, offer, claim))

    async def machines(self, pool: PoolRef) -> Sequence[Machine]:
        return [self._over_ssh(machine) for machine in await super().machines(pool)]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverSSH(Local):
    """``here`` as with Local: setting a machine up has tests of its own."""

    server: loopback.Server

    def connect(self) -> OverSSHProvider:
        return OverSSHProvider(self.server)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "local_only(reason): not run again on machines reached by SSH")


@pytest.fixture(scope="session")
def server() -> Iterator[loopback.Server]:
    """An SSH server of this computer."""
    why = loopback.unavailable()
    if why is not None:
        (pytest.fail if os.environ.get("SKYWARD_TESTBED") == "required" else pytest.skip)(why)
    folder = Path(tempfile.mkdtemp(prefix="sky-ssh-"))
    server = loopback.Server(folder)
    yield server
    server.close()
    shutil.rmtree(folder)


KINDS = os.environ.get("SKYWARD_TEST_MACHINES", "local ssh").split()


@pytest.fixture(scope="module", params=KINDS, autouse=True)
def machines(request: pytest.FixtureRequest) -> Iterator[str]:
    """How the machines of pools that name no provider are reached."""
    if request.param == "local":
        yield "local"
        return
    provider = OverSSH(server=request.getfixturevalue("server"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skyward.opening, "default_provider", lambda: provider)
        yield "ssh"


@pytest.fixture(autouse=True)
def _only_where_it_means_something(request: pytest.FixtureRequest, machines: str) -> None:
    mark = request.node.get_closest_marker("local_only")
    if mark is not None and machines != "local":
        pytest.skip(mark.args[0])


@pytest.fixture(scope="module", params=EXECUTORS)
def pool(request: pytest.FixtureRequest, machines: str) -> Iterator[sky.Pool]:
    """A node with each kind of worker in turn."""
    worker = EXECUTORS[request.param]
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def wide(machines: str) -> Iterator[sky.Pool]:
    """A node that runs eight tasks at once."""
    with sky.Compute(nodes=1, worker=sky.Worker(concurrency=8), console=False, logging=False) as opened:
        yield opened


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with no key agent, and with nothing in the folder where we keep ours: that is returned."""
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "state" / "skyward"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that soon takes silence for a loss."""
    monkeypatch.setattr(connection, "KEEPALIVE_SECONDS", 0.7)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 2.0)
    monkeypatch.setattr(SSHLink, "patience", 4.0)


type Hosts = Callable[..., sky.SSH]
type Functions = Callable[[str], Any]


@pytest.fixture(scope="session")
def ssh_to() -> Hosts:
    """Make a provider of the testbed's nodes, whose keys are known beforehand."""

    def provider(*nodes: Node) -> sky.SSH:
        hosts = [sky.ssh.Host(node.url, key=node.key, host_key=node.host_key) for node in nodes]
        return sky.SSH(hosts, config=False)

    return provider


@pytest.fixture
def functions_of(tmp_path: Path) -> Functions:
    """Make functions of a module's text: nodes lack pytest, which a test's own module imports."""

    def make(text: str) -> Any:
        path = tmp_path / "functions.py"
        path.write_text(text)
        return SimpleNamespace(**runpy.run_path(os.fspath(path)))

    return make
