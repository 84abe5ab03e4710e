"""The packages of a stranger (``examples/acme``) get exactly what ours get, and keep the same contracts."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward.errors import CapacityError, ConfigError, ProviderError
from skyward.hooks import Claim, LocalEndpoint, Machine, PoolHooks, PoolRef, Wanted, registry
from skyward.image import Image
from skyward_testing.plugin import PluginContract
from skyward_testing.provider import ProviderContract

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "acme"
SKY: Any = sky
POOL = PoolRef(id="pool-1", name="tests", ttl=600)

type InstallProject = Callable[[Path], Path]


@pytest.fixture
def acme(install_project: InstallProject, tmp_path: Path) -> Any:
    install_project(EXAMPLES / "acme-provider")
    return SKY.Acme(home=str(tmp_path / "acme"), capacity=8)


@pytest.fixture
def acme_plugin(install_project: InstallProject, monkeypatch: pytest.MonkeyPatch) -> Any:
    site = install_project(EXAMPLES / "acme-plugin").parent
    monkeypatch.setenv("PYTHONPATH", str(site))  # where a node's processes find it
    return sky.plugins.acme(project="genomics", slow_after=0.05)


class TestTheProvider(ProviderContract):
    @pytest.fixture
    def config(self, acme: Any) -> Any:
        return acme


class TestThePlugin(PluginContract):
    entry_point = "acme"

    @pytest.fixture
    def plugin(self, acme_plugin: Any) -> object:
        return acme_plugin


def test_they_use_public_means_only() -> None:
    imported: set[str] = set()
    for path in EXAMPLES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
    ours = {name for name in imported if name.startswith("skyward")}
    assert ours == {"skyward.errors", "skyward.hooks", "skyward.image"}


def test_the_registry_names_the_strangers_distribution(acme: Any, acme_plugin: Any) -> None:
    assert registry.distribution_of(acme) == ("acme-skyward", "1.0.0")
    assert registry.distribution_of(acme_plugin) == ("acme-plugin", "1.0.0")


def test_the_plugin_in_the_readme_works_as_it_stands(install_project: InstallProject, tmp_path: Path) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    assert [language for language, _ in blocks[:2]] == ["toml", "python"]
    source = tmp_path / "nice" / "src" / "skyward_nice"
    source.mkdir(parents=True)
    (tmp_path / "nice" / "pyproject.toml").write_text(blocks[0][1])
    (source / "__init__.py").write_text(blocks[1][1])
    site = install_project(tmp_path / "nice").parent
    code = (
        "import os, skyward as sky\n"
        "from skyward.hooks import PoolHooks\n"
        "before = os.nice(0)\n"
        "assert PoolHooks([sky.plugins.nice(level=5)]).task(len) is len\n"
        "assert os.nice(0) > before\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(site)}, check=True)


# The provider, where it goes beyond the contract


def claim(number: int) -> Claim:
    return Claim(id=f"claim-{number}", pool=POOL.id, rank=0, provider="acme", owner="tests", deadline=0)


def launch(config: Any, number: int = 0) -> Machine:
    async def scenario() -> Machine:
        provider = config.connect()
        await provider.prepare(POOL)
        offers = await provider.offers(Wanted())
        machine: Machine = await provider.launch(POOL, offers[0], claim(number))
        return machine

    return asyncio.run(scenario())


def root_of(machine: Machine) -> Path:
    assert isinstance(machine.endpoint, LocalEndpoint)
    return Path(machine.endpoint.root)


@pytest.fixture
def agent() -> Generator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process in a machine's folder, as our agent would; ended afterwards in any case."""
    started: list[subprocess.Popen[bytes]] = []

    def start(root: Path, *, stubborn: bool = False) -> subprocess.Popen[bytes]:
        handler = "SIG_IGN" if stubborn else "SIG_DFL"
        code = (
            "import signal, time\n"
            f"signal.signal(signal.SIGTERM, signal.{handler})\n"
            "print(flush=True)\n"
            "time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        (root / "agent.pid").write_text(f"{process.pid} {stat.rpartition(')')[2].split()[19]}\n")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


linux_only = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads start times from /proc")


def test_a_machine_is_a_private_folder(acme: Any) -> None:
    root = root_of(launch(acme))
    assert root.is_dir()
    assert root.stat().st_mode & 0o777 == 0o700


@linux_only
def test_a_machine_whose_agent_died_is_absent_until_it_is_cleaned_up(acme: Any, agent: Any) -> None:
    machine = launch(acme)
    process = agent(root_of(machine))
    provider = acme.connect()
    assert [found.id for found in asyncio.run(provider.machines(POOL))] == [machine.id]
    process.kill()
    process.wait()
    assert asyncio.run(provider.machines(POOL)) == []
    assert [found.id for found in asyncio.run(provider.owned())] == [machine.id]
    asyncio.run(provider.release(POOL))
    assert asyncio.run(provider.owned()) == []
    assert not root_of(machine).exists()


@linux_only
@pytest.mark.parametrize("stubborn", [False, True])
def test_ending_a_machine_ends_its_agent(
    acme: Any, agent: Any, stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = launch(acme)
    process = agent(root_of(machine), stubborn=stubborn)
    provider = acme.connect()
    monkeypatch.setattr(sys.modules[type(provider).__module__], "STOP_POLLS", 5)
    asyncio.run(provider.terminate([machine.id]))
    assert process.wait(10) == (-9 if stubborn else -15)
    assert not root_of(machine).exists()


@linux_only
def test_somebody_elses_process_with_a_reused_pid_is_left_alone(acme: Any, agent: Any) -> None:
    machine = launch(acme)
    process = agent(root_of(machine))
    (root_of(machine) / "agent.pid").write_text(f"{process.pid} 12345\n")
    asyncio.run(acme.connect().terminate([machine.id]))
    time.sleep(0.05)
    assert process.poll() is None


def test_an_account_that_is_full_says_so(acme: Any, tmp_path: Path) -> None:
    small = SKY.Acme(home=str(tmp_path / "acme"), capacity=1)
    first = launch(small)
    with pytest.raises(CapacityError, match="this account has its 1 machines"):
        launch(small, 1)
    assert launch(small).id == first.id


def test_a_home_that_others_can_read_is_refused(acme: Any, tmp_path: Path) -> None:
    home = tmp_path / "open"
    home.mkdir()
    home.chmod(0o755)
    with pytest.raises(ProviderError, match="must be a folder of yours with mode 0700"):
        launch(SKY.Acme(home=str(home)))


def test_a_wrong_setting_is_refused_when_it_is_written(acme: Any) -> None:
    with pytest.raises(ConfigError, match="capacity must be 1 or more, not 0"):
        SKY.Acme(capacity=0)


# The plugin


def test_the_plugin_tells_tasks_their_project(acme_plugin: Any, cluster: Any) -> None:
    image = PoolHooks([acme_plugin]).image(Image(env={"MINE": "1"}), cluster)
    assert dict(image.env) == {"MINE": "1", "ACME_PROJECT": "genomics", "ACME_POOL": "tests"}


def test_the_plugin_times_functions_and_coroutines(
    acme_plugin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def align(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async def fetch(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    hooks = PoolHooks([acme_plugin])
    assert hooks.task(align)(0.0) == 0.0
    assert capsys.readouterr().out == ""
    assert hooks.task(align)(0.06) == 0.06
    assert asyncio.run(hooks.task(fetch)(0.06)) == 0.06
    assert capsys.readouterr().out == "align took 0.1 s\nfetch took 0.1 s\n"


def test_the_plugin_leaves_streams_alone(acme_plugin: Any) -> None:
    def stream() -> Generator[int]:
        yield 1

    assert PoolHooks([acme_plugin]).task(stream) is stream
