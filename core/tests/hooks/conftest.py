"""Throw-away distributions: real ``dist-info`` folders and packages on a path of their own."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from skyward.hooks import registry
from skyward.hooks.values import Cluster, LaunchCommand, LaunchContext
from skyward.options import Worker
from skyward.runtime import InstanceInfo
from skyward.spec import Nodes

REPOSITORY = Path(__file__).resolve().parents[3]

type Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution made of ``modules`` (path: source) and undo it, imports included, afterwards."""
    registry.forget()

    def make(
        name: str,
        version: str = "1.0",
        *,
        entry_points: Mapping[str, Mapping[str, str]] | None = None,
        modules: Mapping[str, str] | None = None,
        extras: Sequence[str] = (),
        metadata: str | None = None,
        site: str = "site",
    ) -> Path:
        place = tmp_path / site
        info = place / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        provided = "".join(f"Provides-Extra: {extra}\n" for extra in extras)
        plain = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{provided}"
        (info / "METADATA").write_text(plain if metadata is None else metadata)
        record: list[str] = []
        for path, source in (modules or {}).items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(source)
            record.append(f"{path},,\n")
        (info / "RECORD").write_text("".join(record))
        lines = [
            f"[{group}]\n" + "".join(f"{entry} = {value}\n" for entry, value in entries.items())
            for group, entries in (entry_points or {}).items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        if str(place) not in sys.path:
            monkeypatch.syspath_prepend(str(place))
        registry.forget()
        return info

    yield make
    monkeypatch.undo()
    registry.forget()
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def install_project(install: Install) -> Callable[[Path], Path]:
    """Install a project folder's package, as its pyproject.toml says."""

    def make(folder: Path) -> Path:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        source = folder / "src"
        modules = {path.relative_to(source).as_posix(): path.read_text() for path in source.rglob("*.py")}
        return install(
            project["name"], project["version"], entry_points=project["entry-points"], modules=modules
        )

    return make


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(
        name="tests",
        provider="local",
        nodes=Nodes(desired=2),
        accelerator=None,
        worker=Worker(),
        topology="standalone",
    )


@pytest.fixture
def command() -> LaunchCommand:
    return LaunchCommand(launcher=(), entrypoint=("python", "-m", "worker"))


@pytest.fixture
def context() -> LaunchContext:
    return LaunchContext(
        node=0,
        num_nodes=2,
        head_addr="192.0.2.1",
        private_ip="192.0.2.1",
        python="python",
        concurrency=1,
        executor="thread",
    )


@pytest.fixture
def info() -> InstanceInfo:
    return InstanceInfo(node=0, total_nodes=1, head_addr="127.0.0.1", head_port=29500, job_id="tests")
