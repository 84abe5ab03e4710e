"""Spec, Nodes, Options and their kin refuse what can't work, in words, and resolve to one PoolSpec."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any, ClassVar, get_type_hints

import pytest
import skyward as sky
from hypothesis import given
from hypothesis import strategies as st
from skyward import accelerators
from skyward.errors import ConfigError, UsageError
from skyward.hooks.plugin import Plugin
from skyward.image import Image
from skyward.options import OptionKwargs
from skyward.spec import (
    HealthChecker,
    LogConfig,
    Nodes,
    Options,
    PoolSpec,
    PoolState,
    Spec,
    SpecKwargs,
    Worker,
)
from skyward.storage import Volume


@dataclass(frozen=True, slots=True)
class Island:
    """A provider whose nodes can't reach each other."""

    provider_name: ClassVar[str] = "island"
    cluster: ClassVar[bool] = False
    here: ClassVar[bool] = True

    def connect(self) -> Any:
        raise AssertionError("a value does no I/O")


def untyped(make: Callable[..., object], **arguments: object) -> object:
    """Call as a script without types would."""
    return make(**arguments)


WRONG_VALUES: list[tuple[Callable[..., object], dict[str, object], str]] = [
    (Spec, {"nodes": 0}, "nodes: desired must be a whole number of 1 or more, not 0"),
    (Spec, {"nodes": (8, 2)}, "nodes: max (2) must not be below desired (8)"),
    (Nodes, {"desired": 2, "min": 3}, "nodes: min (3) must not be above desired (2)"),
    (Nodes, {"desired": 2, "min": 0}, "nodes: min must be a whole number of 1 or more, not 0"),
    (Spec, {"vcpus": 0}, "vcpus must be a number above 0, not 0"),
    (Spec, {"memory_gb": float("nan")}, "memory_gb must be a number above 0, not nan"),
    (Spec, {"max_hourly_cost": 0}, "max_hourly_cost must be a number above 0, not 0"),
    (Spec, {"max_hourly_cost": float("inf")}, "max_hourly_cost must be a number above 0, not inf"),
    (Spec, {"disk_gb": 0}, "disk_gb must be a whole number of 1 or more, not 0"),
    (Spec, {"ttl": -1}, "ttl must be a number of 0 or more, not -1"),
    (Spec, {"region": " "}, "region must not be empty"),
    (
        Spec,
        {"allocation": "on_demand"},
        "allocation must be one of 'spot', 'on-demand', 'spot-if-available', 'cheapest', not 'on_demand': "
        "did you mean 'on-demand'?",
    ),
    (
        Spec,
        {"architecture": "arm"},
        "architecture must be one of 'x86_64', 'arm64', not 'arm': did you mean 'arm64'?",
    ),
    (
        Spec,
        {"volumes": [Volume("a", "/data"), Volume("b", "/data/")]},
        "volumes: 'a' and 'b' can't both be mounted at '/data'",
    ),
    (Worker, {"concurrency": 0}, "concurrency must be a whole number of 1 or more, not 0"),
    (Worker, {"buffer": -1}, "buffer must be a whole number of 0 or more, not -1"),
    (
        Worker,
        {"executor": "proces"},
        "executor must be one of 'auto', 'thread', 'process', not 'proces': did you mean 'process'?",
    ),
    (
        Worker,
        {"reuse_processes": False},
        "reuse_processes=False needs executor='process': tasks of 'auto' share a process",
    ),
    (
        Options,
        {"selection": "cheap"},
        "selection must be one of 'cheapest', 'first', not 'cheap': did you mean 'cheapest'?",
    ),
    (Options, {"provision_timeout": -1}, "provision_timeout must be a number above 0, not -1"),
    (Options, {"ssh_timeout": -0.5}, "ssh_timeout must be a number above 0, not -0.5"),
    (Options, {"bootstrap_timeout": 0}, "bootstrap_timeout must be a number above 0, not 0"),
    (Options, {"default_compute_timeout": -3}, "default_compute_timeout must be a number above 0, not -3"),
    (Options, {"shutdown_timeout": -1}, "shutdown_timeout must be a number of 0 or more, not -1"),
    (Options, {"autoscale_cooldown": -1}, "autoscale_cooldown must be a number of 0 or more, not -1"),
    (
        Options,
        {"max_provision_attempts": 0},
        "max_provision_attempts must be a whole number of 1 or more, not 0",
    ),
    (
        Options,
        {"retry_on_interruption": -1},
        "retry_on_interruption must be a whole number of 0 or more, not -1",
    ),
    (HealthChecker, {"fn": bool, "interval": 0}, "interval must be a number above 0, not 0"),
    (
        HealthChecker,
        {"fn": bool, "consecutive_failures": 0},
        "consecutive_failures must be a whole number of 1 or more, not 0",
    ),
    (HealthChecker, {"fn": bool, "initial_delay": -1}, "initial_delay must be a number of 0 or more, not -1"),
    (
        LogConfig,
        {"level": "debug"},
        "level must be one of 'TRACE', 'DEBUG', 'INFO', 'WARNING', 'ERROR', not 'debug': "
        "did you mean 'DEBUG'?",
    ),
    (
        LogConfig,
        {"rotation": "50 parsecs"},
        "rotation must be a size such as '50 MB' or an age such as '1 day', not '50 parsecs'",
    ),
]

WRONG_TYPES: list[tuple[Callable[..., object], dict[str, object], str]] = [
    (Spec, {"nodes": "2"}, "nodes must be a number, a pair (desired, max) or sky.Nodes(...), not '2'"),
    (Spec, {"nodes": True}, "nodes must be a number, a pair (desired, max) or sky.Nodes(...), not True"),
    (
        Spec,
        {"nodes": (1, 2, 3)},
        "nodes must be a number, a pair (desired, max) or sky.Nodes(...), not (1, 2, 3)",
    ),
    (Spec, {"nodes": 1.5}, "nodes must be a number, a pair (desired, max) or sky.Nodes(...), not 1.5"),
    (Nodes, {"desired": "2"}, "nodes: desired must be a whole number of 1 or more, not '2'"),
    (
        Spec,
        {"accelerator": "A100"},
        "accelerator must be an object, not the string 'A100', which works only in skyward.toml: "
        "use sky.accelerators.A100()",
    ),
    (
        Spec,
        {"accelerator": "a100-40gb:8"},
        "accelerator must be an object, not the string 'a100-40gb:8', which works only in skyward.toml: "
        'use sky.accelerators.A100(memory="40GB", count=8)',
    ),
    (
        Spec,
        {"accelerator": "RTX 409"},
        "accelerator must be an object, not the string 'RTX 409', which works only in skyward.toml: "
        "use sky.accelerators.RTX_4090()",
    ),
    (
        Spec,
        {"accelerator": "Frobnicator"},
        "accelerator must be an object, not the string 'Frobnicator', which works only in skyward.toml: "
        "use sky.accelerators.Custom('Frobnicator')",
    ),
    (Spec, {"accelerator": accelerators.L4}, "accelerator must be called: use sky.accelerators.L4()"),
    (Spec, {"accelerator": accelerators.A100}, "accelerator must be called: use sky.accelerators.A100()"),
    (Spec, {"accelerator": 8}, "accelerator must be such as sky.accelerators.A100(), not 8"),
    (Spec, {"provider": Island}, "provider must be a value, not a class: write Island()"),
    (
        Spec,
        {"provider": "island"},
        "provider must be a value such as sky.Local(), not the string 'island', "
        "which works only in skyward.toml",
    ),
    (Spec, {"provider": 3}, "provider must be a provider's value such as sky.Local(), not 3"),
    (Spec, {"image": "ubuntu"}, "image must be a sky.Image(...), not 'ubuntu'"),
    (Spec, {"vcpus": "8"}, "vcpus must be a number above 0, not '8'"),
    (Spec, {"ttl": None}, "ttl must be a number of 0 or more, not None"),
    (
        Spec,
        {"volumes": "data"},
        'volumes must be a list or tuple of Volume values, such as [sky.Volume("bucket", "/data")], '
        "not 'data'",
    ),
    (Spec, {"volumes": ["data"]}, 'volumes[0] must be sky.Volume("bucket", "/data"), not \'data\''),
    (
        Spec,
        {"plugins": ["torch"]},
        "plugins[0] must be an object, not the string 'torch': use sky.plugins.torch()",
    ),
    (Spec, {"plugins": [Plugin]}, "plugins[0] must be called: use Plugin()"),
    (Worker, {"concurrency": "4"}, "concurrency must be a whole number of 1 or more, not '4'"),
    (Worker, {"concurrency": True}, "concurrency must be a whole number of 1 or more, not True"),
    (Worker, {"reuse_processes": 0}, "reuse_processes must be True or False, not 0"),
    (Options, {"worker": 4}, "worker must be a Worker, such as sky.Worker(concurrency=4), not 4"),
    (Options, {"logging": "INFO"}, "logging must be True, False or a sky.LogConfig(), not 'INFO'"),
    (Options, {"cluster": "no"}, "cluster must be True or False, not 'no'"),
    (HealthChecker, {"fn": "ok"}, "fn must be a function of one InstanceInfo, not 'ok'"),
]


def named(case: object) -> str | None:
    return getattr(case, "__name__", None)


@pytest.mark.parametrize(("make", "arguments", "message"), WRONG_VALUES, ids=named)
def test_a_wrong_value_is_a_config_error(
    make: Callable[..., object], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**arguments)
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("make", "arguments", "message"), WRONG_TYPES, ids=named)
def test_a_wrong_type_is_a_usage_error(
    make: Callable[..., object], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        make(**arguments)
    assert str(caught.value) == message
    assert isinstance(caught.value, TypeError)


def test_an_unknown_console_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'rich', 'minimal', 'log', 'silent'.*did you mean 'rich'\?"):
        Options(console="ritch")


def test_a_console_of_another_package_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    info = tmp_path / "thirdparty_console-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty-console\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[skyward.consoles]\nwallpaper = thirdparty:Console\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from skyward.hooks import registry

    registry.forget()
    try:
        assert Options(console="wallpaper").console == "wallpaper"
    finally:
        registry.forget()


def test_lists_become_tuples() -> None:
    plugin = Plugin.create("mine")
    spec = Spec(volumes=[Volume("b", "/data")], plugins=[plugin])
    assert spec.volumes == (Volume("b", "/data"),)
    assert spec.plugins == (plugin,)
    assert untyped(Spec, nodes=[2, 8]) == Spec(nodes=(2, 8))


def test_values_are_frozen_and_survive_copy_and_pickle() -> None:
    spec = Spec(
        Island(), accelerators.H100(count=8), (2, 8), image=Image(env={"A": "b"}), volumes=[Volume("b", "/d")]
    )
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    assert hash(pickle.loads(pickle.dumps(spec))) == hash(spec)
    assert replace(spec, ttl=0).ttl == 0
    assert replace(spec, ttl=spec.ttl) == spec
    with pytest.raises(FrozenInstanceError):
        spec.ttl = 1  # type: ignore[misc]  # the error under test
    options = Options(worker=Worker(concurrency=2), logging=LogConfig())
    assert pickle.loads(pickle.dumps(options)) == options


def test_replace_checks_again() -> None:
    with pytest.raises(ConfigError, match="ttl"):
        replace(Spec(), ttl=-1)


sizes = st.integers(min_value=-2, max_value=8)


@given(sizes, st.none() | sizes, st.none() | sizes)
def test_nodes_that_exist_are_in_order(desired: int, most: int | None, least: int | None) -> None:
    in_order = 1 <= (desired if least is None else least) <= desired <= (desired if most is None else most)
    try:
        nodes = Nodes(desired, most, least)
    except ConfigError:
        assert not in_order
    else:
        assert 1 <= nodes.floor <= nodes.desired <= nodes.ceiling
        assert in_order
        assert nodes.auto_scaling == (most is not None)
        assert Nodes.from_spec(nodes) is nodes


@given(st.integers(min_value=1, max_value=99), st.integers(min_value=0, max_value=99))
def test_nodes_short_forms(desired: int, more: int) -> None:
    assert Nodes.from_spec(desired) == Nodes(desired)
    assert Nodes.from_spec((desired, desired + more)) == Nodes(desired, max=desired + more)


def test_keyword_types_match_the_values() -> None:
    assert list(SpecKwargs.__annotations__) == [field.name for field in fields(Spec)]
    assert OptionKwargs.__annotations__.keys() == Options.__annotations__.keys()
    declared = get_type_hints(OptionKwargs, localns={"InstanceInfo": object})
    assert declared == get_type_hints(Options, localns={"InstanceInfo": object})


def test_pool_states_are_their_names() -> None:
    assert [state.value for state in PoolState] == [
        "init", "requesting", "provisioning", "ready", "shutting_down", "destroyed",
    ]  # fmt: skip
    assert PoolState("ready") is PoolState.READY


def test_log_rotation_is_a_size_or_an_age() -> None:
    assert (LogConfig().rotation_bytes, LogConfig().rotation_seconds) == (50_000_000, None)
    daily = LogConfig(rotation="1 day")
    assert (daily.rotation_bytes, daily.rotation_seconds) == (None, 86400.0)
    assert LogConfig(rotation="2 weeks").rotation_seconds == 14 * 86400.0


def test_resolve_fills_in_the_documented_defaults() -> None:
    resolved = PoolSpec.resolve(Spec(), Options(), "p")
    assert resolved == PoolSpec(nodes=Nodes(1), accelerator=None, region="", name="p")
    assert (resolved.provision_timeout, resolved.ssh_timeout, resolved.bootstrap_timeout) == (300, 300, 300)
    assert (resolved.ssh_retry_interval, resolved.provision_retry_delay) == (5, 10)
    assert (resolved.max_provision_attempts, resolved.retry_on_interruption) == (10, 3)
    assert resolved.cluster
    assert resolved.provider is None
    assert (resolved.accelerator_name, resolved.accelerator_count, resolved.accelerator_memory_gb) == (
        None,
        0,
        0,
    )


def test_resolve_prefers_what_the_user_said() -> None:
    image = Image(bootstrap_timeout=900)
    spec = Spec(Island(), accelerators.A100(count=4), (2, 8), image=image, region="north", ttl=0.5)
    resolved = PoolSpec.resolve(spec, Options(), "p")
    assert resolved.nodes == Nodes(2, max=8)
    assert (resolved.accelerator_name, resolved.accelerator_count, resolved.accelerator_memory_gb) == (
        "A100",
        4,
        80,
    )
    assert (resolved.provider, resolved.region, resolved.cluster) == ("island", "north", False)
    assert resolved.bootstrap_timeout == 900
    assert resolved.ttl == 1, "a fraction of a second must not become 'at once'"

    options = Options(
        worker=Worker(concurrency=3),
        cluster=True,
        bootstrap_timeout=60,
        ssh_timeout=7,
        max_provision_attempts=2,
    )
    resolved = PoolSpec.resolve(spec, options, "p")
    assert (resolved.worker, resolved.cluster) == (Worker(concurrency=3), True)
    assert (resolved.bootstrap_timeout, resolved.ssh_timeout, resolved.max_provision_attempts) == (60, 7, 2)


def test_resolve_carries_every_shared_field() -> None:
    """A field added to Spec or Options under a PoolSpec field's name must not be forgotten in resolve."""
    probe = HealthChecker(bool)
    spec = Spec(
        Island(), accelerators.L4(), 3, 2, 4, 5, "arm64", "spot", Image(pip=["x"]), "r", 1.5, 7,
        [Volume("b", "/d")], [Plugin.create("mine")],
    )  # fmt: skip
    options = Options(
        "first", Worker(2), 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, "log", False, True, 22, probe
    )
    resolved = PoolSpec.resolve(spec, options, "p")
    given_fields = {f.name: getattr(spec, f.name) for f in fields(spec)}
    given_fields |= {f.name: getattr(options, f.name) for f in fields(options)}
    shared = {f.name for f in fields(PoolSpec)} & given_fields.keys() - {"nodes", "provider"}
    assert {name: getattr(resolved, name) for name in shared} == {name: given_fields[name] for name in shared}
    assert given_fields.keys() - {f.name for f in fields(PoolSpec)} == {"selection", "console", "logging"}


def test_a_decorated_health_check_is_what_it_decorates() -> None:
    @sky.function
    def healthy(info: sky.InstanceInfo) -> bool:
        return info.node == 0

    assert HealthChecker(healthy).fn is healthy._skyward_body
