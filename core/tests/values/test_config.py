"""The TOML files become the values that Python code would make; whatever is wrong names file and table."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from skyward import accelerators, config, metrics, storage
from skyward.config import Configuration
from skyward.errors import ConfigError, MissingExtraError, PluginLoadError, SkywardError, UnknownNameError
from skyward.hooks.plugin import Plugin
from skyward.image import Image, PipIndex
from skyward.spec import LogConfig, Nodes, Options, Spec, Worker
from skyward.storage import Storage, Volume


@dataclass(frozen=True, slots=True)
class Acme:
    """A provider's value, as a third party would write it."""

    provider_name: ClassVar[str] = "acme"
    cluster: ClassVar[bool] = True
    here: ClassVar[bool] = True

    region: str = "north"
    ports: tuple[str, ...] = ()
    api_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.region == "moon":
            raise ConfigError("region 'moon' has no machines")

    def connect(self) -> Any:
        raise AssertionError("reading a file connects to nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """One that can't be made without settings."""

    provider_name: ClassVar[str] = "hosts"
    cluster: ClassVar[bool] = False
    here: ClassVar[bool] = True

    hosts: tuple[str, ...]

    def connect(self) -> Any:
        raise AssertionError("reading a file connects to nothing")


def torch(*, backend: str | None = None, cuda: str = "cu128") -> Plugin:
    return Plugin.create(f"torch {backend} {cuda}")


def mig(profile: str) -> Plugin:
    return Plugin.create(f"mig {profile}")


def provider_class(name: str) -> type[Any]:
    if name == "broken":
        raise PluginLoadError("skyward-broken 1.0 can't be imported")
    if name == "gone":
        raise MissingExtraError("no provider 'gone' is installed: pip install skyward-gone")
    known = {"acme": Acme, "hosts": Hosts}
    if name not in known:
        raise UnknownNameError("provider", name, known)
    return known[name]


def plugin_factory(name: str) -> Callable[..., Any]:
    known: dict[str, Callable[..., Any]] = {"torch": torch, "mig": mig}
    if name not in known:
        raise UnknownNameError("plugin", name, known)
    return known[name]


class Files:
    """A project's and a home directory with the two files in them."""

    def __init__(self, root: Path) -> None:
        self.cwd, self.home = root / "project", root / "home"
        self.cwd.mkdir()
        (self.home / ".skyward").mkdir(parents=True)
        self.project = self.cwd / "skyward.toml"
        self.defaults = self.home / ".skyward" / "defaults.toml"

    def load(self, project: str = "", defaults: str = "") -> Configuration:
        if project:
            self.project.write_text(project)
        if defaults:
            self.defaults.write_text(defaults)
        return config.load(self.cwd, self.home, provider_class=provider_class, plugin_factory=plugin_factory)

    def spec(self, project: str, defaults: str = "") -> Spec:
        (spec,), _ = self.load(project, defaults).pool("p")
        return spec


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


WHOLE_FILE = """
[providers.mine]
type = "acme"
region = "south"
ports = ["22/tcp"]

[pools.train]
provider = "mine"
nodes = [2, 8]
accelerator = "A100-40GB:8"
region = "eu"
ttl = 0
max_hourly_cost = 12.5
selection = "first"
console = "log"
provision_timeout = 600

[pools.train.worker]
concurrency = 4
executor = "process"

[pools.train.logging]
level = "DEBUG"

[pools.train.image]
python = "3.13"
pip = ["torch", "transformers"]
apt = ["ffmpeg"]
metrics = ["CPU", {type = "Disk", path = "/data"}]
[pools.train.image.env]
HF_HOME = "/data/hf"
[[pools.train.image.pip_indexes]]
url = "https://download.pytorch.org/whl/cu121"
packages = ["torch"]

[[pools.train.volumes]]
bucket = "my-bucket"
mount = "/data"
[[pools.train.volumes]]
bucket = "out"
mount = "/out"
read_only = false
storage = {type = "S3", region = "eu-west-1"}
[[pools.train.volumes]]
bucket = "own"
mount = "/own"
storage = {endpoint = "https://s3.example", path_style = true}

[pools.train.plugins]
torch = {backend = "nccl"}
mig = {profile = "3g.40gb"}
"""


def test_a_whole_file(files: Files) -> None:
    specs, options = files.load(WHOLE_FILE).pool("train")
    assert specs == (
        Spec(
            provider=Acme(region="south", ports=("22/tcp",)),
            nodes=(2, 8),
            accelerator=accelerators.A100(memory="40GB", count=8),
            region="eu",
            ttl=0,
            max_hourly_cost=12.5,
            image=Image(
                python="3.13",
                pip=["torch", "transformers"],
                apt=["ffmpeg"],
                metrics=[metrics.CPU(), metrics.Disk("/data")],
                env={"HF_HOME": "/data/hf"},
                pip_indexes=[PipIndex("https://download.pytorch.org/whl/cu121", ["torch"])],
            ),
            volumes=[
                Volume("my-bucket", "/data"),
                Volume("out", "/out", read_only=False, storage=storage.S3(region="eu-west-1")),
                Volume("own", "/own", storage=Storage("https://s3.example", path_style=True)),
            ],
            plugins=[torch(backend="nccl"), mig("3g.40gb")],
        ),
    )
    assert options == Options(
        selection="first",
        console="log",
        provision_timeout=600,
        worker=Worker(concurrency=4, executor="process"),
        logging=LogConfig(level="DEBUG"),
    )


def test_an_empty_pool_is_the_default(files: Files) -> None:
    assert files.load("[pools.p]").pool("p") == ((Spec(),), Options())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nodes = 4", Spec(nodes=4)),
        ("nodes = {desired = 8, min = 4}", Spec(nodes=Nodes(8, min=4))),
        ('provider = "acme"', Spec(provider=Acme())),
        ("plugins = {torch = true, mig = false}", Spec(plugins=[torch()])),
        ("image = {metrics = false}", Spec(image=Image(metrics=None))),
        ("image = {metrics = true}", Spec(image=Image())),
    ],
)
def test_short_forms(files: Files, line: str, expected: Spec) -> None:
    assert files.spec(f"[pools.p]\n{line}") == expected


def test_the_project_wins_key_by_key(files: Files) -> None:
    spec = files.spec(
        project='[pools.p]\nnodes = 2\n[pools.p.image]\npip = ["b"]\n[pools.p.plugins]\ntorch = false',
        defaults='[pools.p]\nnodes = 1\nvcpus = 3\n[pools.p.image]\npip = ["a"]\napt = ["git"]\n'
        '[pools.p.plugins]\ntorch = true\nmig = {profile = "x"}',
    )
    assert (spec.nodes, spec.vcpus) == (2, 3)
    assert spec.image == Image(pip=["b"], apt=["git"])
    assert spec.plugins == (mig("x"),)


def test_a_provider_of_another_type_replaces_the_default_one(files: Files) -> None:
    loaded = files.load(
        project='[providers.main]\ntype = "hosts"\nhosts = ["a"]',
        defaults='[providers.main]\ntype = "acme"\nregion = "south"\n[providers.other]\ntype = "acme"',
    )
    assert loaded.providers == {"main": Hosts(hosts=("a",)), "other": Acme()}


def test_several_specs_share_what_stands_beside_them(files: Files) -> None:
    specs, options = files.load("""
        [pools.p]
        nodes = 2
        selection = "first"
        [[pools.p.specs]]
        provider = "acme"
        [[pools.p.specs]]
        nodes = 3
        [pools.p.specs.image]
        pip = ["x"]
    """).pool("p")
    assert specs == (Spec(provider=Acme(), nodes=2), Spec(nodes=3, image=Image(pip=["x"])))
    assert options == Options(selection="first")


def test_only_what_is_asked_for_is_looked_up(files: Files) -> None:
    loaded = files.load('[providers.bad]\ntype = "broken"\n[pools.bad]\nnodes = 0\n[pools.p]\nnodes = 2')
    assert loaded.pools == ("bad", "p")
    assert loaded.pool("p") == ((Spec(nodes=2),), Options())


def test_the_repr_shows_no_secret(files: Files) -> None:
    loaded = files.load('[providers.a]\ntype = "acme"\napi_key = "hunter2"\n[pools.p]')
    assert repr(loaded) == "Configuration(providers=['a'], pools=['p'])"
    assert loaded.provider("a") == Acme(api_key="hunter2")


MISTAKES = tomllib.loads((Path(__file__).parent / "config_mistakes.toml").read_text())["case"]


@pytest.mark.parametrize("case", MISTAKES, ids=[case["text"] for case in MISTAKES])
def test_a_mistake_names_file_and_table(files: Files, case: dict[str, str]) -> None:
    with pytest.raises(SkywardError) as caught:
        files.load(case["text"]).pool("p")
    said = str(caught.value)
    assert type(caught.value).__name__ == case["error"]
    assert said.startswith(case["message"].format(file=files.project, defaults=files.defaults))
    assert "\n" not in said


def test_the_file_that_wrote_the_key_is_named(files: Files) -> None:
    for key, culprit in (("ttl", files.defaults), ("vcpus", files.project)):
        good_and_bad = {"ttl": "[pools.p]\nttl = 1", "vcpus": "[pools.p]\nvcpus = 1"}
        good_and_bad[key] = good_and_bad[key].replace("1", "-1")
        with pytest.raises(ConfigError) as caught:
            files.load(project=good_and_bad["vcpus"], defaults=good_and_bad["ttl"]).pool("p")
        assert str(caught.value).startswith(f"{culprit} [pools.p]: {key} must be")


def test_a_mistake_of_both_files_names_both(files: Files) -> None:
    with pytest.raises(ConfigError) as caught:
        files.load(
            project='[pools.p.worker]\nexecutor = "thread"', defaults="[pools.p.worker]\nconcurrency = 0"
        ).pool("p")
    assert str(caught.value).startswith(f"{files.defaults} [pools.p.worker]: concurrency")
    with pytest.raises(ConfigError) as caught:
        files.load(project="[pools.p.nodes]\nmin = 1", defaults="[pools.p.nodes]\nmax = 3").pool("p")
    both = f"{files.defaults} and {files.project} [pools.p.nodes]"
    assert str(caught.value) == f"{both}: the key 'desired' is missing"


def test_a_broken_package_keeps_its_error(files: Files) -> None:
    with pytest.raises(PluginLoadError) as caught:
        files.load('[providers.bad]\ntype = "broken"').provider("bad")
    assert caught.value.__notes__ == [f"asked for by {files.project} [providers.bad]"]


def test_unreadable_files(files: Files) -> None:
    files.project.write_bytes(b"[pools.p]\nregion = '\xff'")
    with pytest.raises(ConfigError) as caught:
        files.load()
    assert str(caught.value) == f"{files.project}, line 2: not UTF-8, which TOML requires"
    files.project.unlink()
    files.project.mkdir()
    with pytest.raises(ConfigError, match=r"skyward\.toml can't be read: Is a directory"):
        files.load()


def test_without_files_a_pool_says_where_it_was_looked_for(files: Files) -> None:
    with pytest.raises(UnknownNameError) as caught:
        files.load().pool("p")
    assert str(caught.value).startswith(
        f"unknown pool 'p' in {files.defaults} (no such file) or {files.project} (no such file)"
    )


def test_the_current_directory_and_home_are_the_defaults(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.cwd)
    monkeypatch.setenv("HOME", str(files.home))
    files.defaults.write_text("[pools.a]")
    files.project.write_text("[pools.b]")
    loaded = config.load(provider_class=provider_class, plugin_factory=plugin_factory)
    assert loaded.pools == ("a", "b")
