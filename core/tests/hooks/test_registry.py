"""The registry, against real distributions that are made for one test and thrown away."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward.errors import (
    AmbiguousNameError,
    MissingExtraError,
    PluginApiError,
    PluginLoadError,
    UnknownNameError,
)
from skyward.hooks import registry
from skyward.hooks.registry import CONSOLES, PLUGINS, PROVIDERS, TOPOLOGIES

PROVIDER = textwrap.dedent(
    """
    from typing import ClassVar

    class Moon:
        provider_name: ClassVar[str] = "moon"
        cluster: ClassVar[bool] = True
        here: ClassVar[bool] = True

        def connect(self): ...
    """
)


def install_moon(install: Any) -> None:
    entry_points = {PROVIDERS: {"moon": "skyward_moon:Moon"}}
    install("skyward-moon", "1.0", entry_points=entry_points, modules={"skyward_moon.py": PROVIDER})


def install_plugin(install: Any, name: str, version: str, value: str, **more: Any) -> Path:
    """Install a distribution with one plugin, named as its module. ``modules``: path sans .py -> source."""
    modules = {f"{module}.py": source for module, source in more.pop("modules", {}).items()}
    entry = value.partition(":")[0].rpartition(".")[2]
    made: Path = install(name, version, entry_points={PLUGINS: {entry: value}}, modules=modules, **more)
    return made


def install_fine(install: Any) -> None:
    install_plugin(install, "skyward-fine", "1.0", "fine:fine", modules={"fine": "fine = len"})


def test_a_provider_is_found_by_its_name_however_it_is_written(install: Any) -> None:
    install_moon(install)
    moon: Any = registry.find(PROVIDERS, "moon")
    assert moon.__name__ == "Moon"
    for name in ("MOON", "Mo_on", "mo-on"):
        assert registry.find(PROVIDERS, name) is moon
    attribute: Any = sky
    assert attribute.Moon is moon
    assert "moon" in registry.names(PROVIDERS)


def test_only_the_package_that_is_asked_for_is_imported(install: Any) -> None:
    install(
        "skyward-moon",
        entry_points={
            PROVIDERS: {"moon": "skyward_moon:Moon"},
            PLUGINS: {"moonlight": "skyward_light:light"},
        },
        modules={"skyward_moon.py": PROVIDER, "skyward_light.py": "def light(): ..."},
    )
    assert registry.names(PLUGINS) == ("moonlight",)
    assert "skyward_light" not in sys.modules
    registry.find(PROVIDERS, "moon")
    assert "skyward_light" not in sys.modules
    assert sky.plugins.moonlight is sky.plugins.Moon_Light
    assert "skyward_light" in sys.modules


def test_a_package_installed_later_is_found_without_a_restart(install: Any, monkeypatch: Any) -> None:
    with pytest.raises(MissingExtraError):
        registry.find(PLUGINS, "late")
    modules = {"late": "late = print"}
    info = install_plugin(install, "skyward-late", "1.0", "late:late", modules=modules)
    entry_points = (info / "entry_points.txt").read_text()
    (info / "entry_points.txt").write_text("")
    registry.forget()
    assert "late" not in registry.names(PLUGINS)
    (info / "entry_points.txt").write_text(entry_points)
    assert registry.find(PLUGINS, "late") is print


# What can go wrong with a package, each with the name that is at fault


def test_two_distributions_with_one_name_are_an_error_that_names_both(install: Any) -> None:
    install_moon(install)
    install("other-moon", "0.3", entry_points={PROVIDERS: {"Mo_On": "other_moon:Moon"}})
    with pytest.raises(AmbiguousNameError) as caught:
        registry.find(PROVIDERS, "moon")
    message = str(caught.value)
    assert "skyward-moon 1.0 (skyward_moon:Moon)" in message
    assert "other-moon 0.3 (other_moon:Moon)" in message
    assert message.startswith("provider 'moon' is offered by")
    assert message.endswith("uninstall all of these but one")


def test_one_distribution_twice_on_the_path_is_no_conflict(install: Any) -> None:
    for version, function in (("1.0", "len"), ("2.0", "max")):
        module = {f"moon{function}": f"f = {function}"}
        install_plugin(install, "skyward-moon", version, f"moon{function}:f", modules=module, site=version)
    # As Python does: the first on the path, here the last installed, is the one that counts.
    assert registry.names(PLUGINS) == ("moonmax",)


def test_a_place_that_is_twice_on_the_path_is_no_conflict(install: Any) -> None:
    for site in ("one", "other"):
        install_plugin(install, "skyward-fine", "1.0", "fine:fine", modules={"fine": "fine = len"}, site=site)
    assert registry.find(PLUGINS, "fine") is len


def test_a_shadowed_install_offers_nothing(install: Any) -> None:
    install("skyward-moon", "1.0", entry_points={PLUGINS: {"moon": "one:f"}}, site="older")
    install("skyward-moon", "2.0", site="newer")
    assert "moon" not in registry.names(PLUGINS)


@pytest.mark.parametrize(
    ("source", "value", "cause"),
    [
        (
            "import not_there_at_all",
            "broken:thing",
            "ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("1 / 0", "broken:thing", "ZeroDivisionError: division by zero"),
        ("thing = ", "broken:thing", "SyntaxError"),
        ("raise SystemExit('wrong Python')", "broken:thing", "SystemExit: wrong Python"),
        ("", "broken:thing", "AttributeError: module 'broken' has no attribute 'thing'"),
        ("", "gone:thing", "ModuleNotFoundError: No module named 'gone'"),
    ],
)
def test_a_broken_package_is_named_with_its_version_and_entry_point(
    install: Any, source: str, value: str, cause: str
) -> None:
    install("skyward-broken", "4.2", entry_points={PLUGINS: {"broken": value}}, modules={"broken.py": source})
    install_fine(install)
    with pytest.raises(PluginLoadError) as caught:
        registry.find(PLUGINS, "broken")
    message = str(caught.value)
    assert message.startswith(f"plugin 'broken' of skyward-broken 4.2 can't be loaded from '{value}': ")
    assert cause in message
    assert caught.value.__cause__ is not None
    assert registry.find(PLUGINS, "fine") is len


@pytest.mark.parametrize("metadata", ["", "\0\0\0", "Name: \n"])
def test_unreadable_metadata_breaks_only_its_own_package(install: Any, metadata: str) -> None:
    install("skyward-torn", entry_points={PLUGINS: {"torn": "torn:torn"}}, metadata=metadata)
    install_fine(install)
    assert registry.find(PLUGINS, "fine") is len


def test_unreadable_entry_points_break_only_their_own_package(install: Any) -> None:
    info: Path = install("skyward-torn")
    (info / "entry_points.txt").write_bytes(b"[skyward.plugins\nthere is no sign of equality\n\xff\xfe")
    install_fine(install)
    assert registry.find(PLUGINS, "fine") is len


@pytest.mark.parametrize(
    ("group", "value", "message"),
    [
        (PROVIDERS, "moon:instance", "must be a class, it is Moon"),
        (PROVIDERS, "moon:NoConnect", "lacks 'connect', which skyward.hooks.ProviderConfig asks for"),
        (PROVIDERS, "moon:NoCluster", "lacks 'cluster', which skyward.hooks.ProviderConfig asks for"),
        (PROVIDERS, "moon:DeadConnect", "has a 'connect' that is no method"),
        (PROVIDERS, "moon:Misnamed", "calls itself provider_name = 'mars', but its entry point is 'moon'"),
        (PLUGINS, "moon:number", "must be callable, it is int"),
        (PLUGINS, "moon", "must be callable, it is module"),
        (CONSOLES, "moon:Moon", "lacks 'handle', which skyward.hooks.Console asks for"),
        (TOPOLOGIES, "moon:Moon", "lacks 'collections_error', which skyward.hooks.Topology asks for"),
    ],
)
def test_a_thing_of_the_wrong_kind_is_refused_by_the_port(
    install: Any, group: str, value: str, message: str
) -> None:
    source = PROVIDER + textwrap.dedent(
        """
        instance, number = Moon(), 3

        class NoConnect:
            provider_name, cluster = "moon", False

        class NoCluster:
            provider_name = "moon"
            def connect(self): ...

        class DeadConnect(Moon):
            connect = None

        class Misnamed(Moon):
            provider_name = "mars"
        """
    )
    install("skyward-moon", "1.1", entry_points={group: {"moon": value}}, modules={"moon.py": source})
    with pytest.raises(PluginApiError) as caught:
        registry.find(group, "moon")
    assert "'moon' of skyward-moon 1.1: " in str(caught.value)
    assert str(caught.value).endswith(message)


# What is not installed


def test_one_of_our_extras_is_missing_with_the_line_that_installs_it(install: Any) -> None:
    install("skyward", "9.9", extras=["moon", "vast-ai"])
    with pytest.raises(MissingExtraError) as caught:
        registry.find(PROVIDERS, "Moon")
    assert str(caught.value) == "no provider 'Moon' is installed: pip install 'skyward[moon]'"
    with pytest.raises(MissingExtraError, match=r"pip install 'skyward\[vast-ai\]'$"):
        _ = sky.VastAI  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    with pytest.raises(ImportError, match=r"pip install 'skyward\[moon\]'$"):
        exec("from skyward import Moon")


def test_a_strangers_package_is_missing_with_its_line_and_what_there_is(install: Any) -> None:
    install("skyward", "9.9", extras=["moon"])
    install_fine(install)
    with pytest.raises(MissingExtraError) as caught:
        registry.find(PLUGINS, "my_own")
    message, _, installed = str(caught.value).partition(" (installed: ")
    assert message == "no plugin 'my_own' is installed: pip install skyward-my-own"
    assert "fine" in installed.rstrip(")").split(", ")


def test_a_slip_is_told_the_nearest_installed_name(install: Any) -> None:
    install("skyward-fine", entry_points={PLUGINS: {"moonlight": "fine:fine"}})
    with pytest.raises(MissingExtraError) as caught:
        registry.find(PLUGINS, "moonligth")
    assert str(caught.value).endswith("did you mean 'moonlight'? If not: pip install skyward-moonligth")


def test_a_name_of_another_kind_says_which(install: Any) -> None:
    install("skyward", "9.9", extras=["moonlight"])
    install("skyward-fine", entry_points={PLUGINS: {"moonlight": "fine:fine"}})
    with pytest.raises(MissingExtraError, match="is installed, but a plugin of that name is"):
        registry.find(PROVIDERS, "moonlight")


def test_a_group_that_is_none_is_named_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'skyward\.provider': did you mean 'skyward\.providers'"):
        registry.names("skyward.provider")


# Where an object comes from


def test_the_distribution_of_what_an_entry_point_gave(install: Any) -> None:
    install("skyward-moon", "1.5", entry_points={PROVIDERS: {"moon": "skyward_moon.config:Moon"}}, modules={
        "skyward_moon/__init__.py": "", "skyward_moon/config.py": PROVIDER,
    })  # fmt: skip
    moon: Any = registry.find(PROVIDERS, "moon")
    assert registry.distribution_of(moon) == ("skyward-moon", "1.5")
    assert registry.distribution_of(moon()) == ("skyward-moon", "1.5")


def test_a_shared_top_level_package_belongs_to_whoever_has_the_module(install: Any) -> None:
    function = "def f(): ..."
    install_plugin(install, "big-moon", "1.0", "moons.big:f", modules={"moons/big": function})
    install_plugin(install, "small-moon", "2.0", "moons.small:f", modules={"moons/small": function})
    assert registry.distribution_of(sky.plugins.big) == ("big-moon", "1.0")
    assert registry.distribution_of(sky.plugins.small) == ("small-moon", "2.0")


def test_the_distribution_of_anything_else() -> None:
    assert registry.distribution_of(pytest.fixture) is not None
    assert registry.distribution_of(pytest.raises)[0] == "pytest"  # type: ignore[index]  # pyright: ignore[reportOptionalSubscript]
    assert registry.distribution_of(sky.Plugin)[0] == "skyward-core"  # type: ignore[index]  # pyright: ignore[reportOptionalSubscript]
    assert registry.distribution_of(textwrap.dedent) is None
    assert registry.distribution_of(PROVIDER) is None
    assert registry.distribution_of(test_the_distribution_of_anything_else) is None


def test_the_plugins_module_lists_and_finds(install: Any) -> None:
    install("skyward-fine", entry_points={PLUGINS: {"moon-light": "builtins:len"}})
    assert {"Plugin", "moon_light"} <= set(dir(sky.plugins))
    assert sky.plugins.moon_light is len
    assert sky.plugins.Plugin is sky.Plugin
    with pytest.raises(AttributeError, match="_ipython_display_"):
        _ = sky.plugins._ipython_display_
