"""``sky.Plugin``: building one, what it does as a plugin, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, replace
from functools import partial
from typing import Any

import cloudpickle
import pytest
import skyward as sky
from skyward.errors import ConfigError, PluginApiError, PluginError, UsageError
from skyward.hooks import PoolHooks
from skyward.image import Image


def test_a_built_plugin_implements_exactly_what_was_given() -> None:
    plugin = sky.Plugin.create("mine").with_decorator(lambda fn: fn)
    hooks = PoolHooks([plugin])
    assert hooks.has("skyward_task")
    assert not hooks.has("skyward_image")
    assert not hooks.has("skyward_worker")


def test_an_empty_plugin_is_refused_by_name() -> None:
    with pytest.raises(PluginApiError, match=r"plugin 'idle' .* implements no hook"):
        PoolHooks([sky.Plugin.create("idle")])


def test_every_builder_sets_its_hook_and_changes_no_other(
    cluster: Any, command: Any, context: Any, info: Any
) -> None:
    seen: list[str] = []

    @contextmanager
    def around(*what: Any) -> Iterator[None]:
        seen.append(f"enter {len(what)}")
        yield
        seen.append("leave")

    def shout(fn: Callable[..., str]) -> Callable[..., str]:
        return lambda *args: fn(*args).upper()

    empty = sky.Plugin.create("all")
    plugin = (
        empty.with_image_transform(lambda image, cluster: replace(image, apt=(cluster.name,)))
        .with_bootstrap(lambda cluster: (f"echo {cluster.num_nodes}",))
        .with_decorator(shout)
        .with_around_app(around)
        .with_around_process(around)
        .with_around_client(around)
        .with_launcher(lambda command, context: replace(command, launcher=("nice",)))
    )
    assert empty == sky.Plugin.create("all")
    hooks = PoolHooks([plugin])
    assert hooks.image(Image(), cluster).apt == ("tests",)
    assert hooks.bootstrap(cluster) == ("echo 2",)
    assert hooks.launch(command, context).argv[0] == "nice"
    assert hooks.task(str)("quiet") == "QUIET"
    pool: Any = object()
    client = hooks.client(pool, cluster)
    for wrapped, arguments in ((hooks.worker(info), 1), (hooks.process(info), 1), (client, 2)):
        with wrapped:
            assert seen == [f"enter {arguments}"]
        assert seen.pop() == "leave"
        seen.clear()


def test_a_hook_set_again_replaces_the_first(cluster: Any) -> None:
    plugin = sky.Plugin.create("twice").with_bootstrap(lambda cluster: ("one",))
    plugin = plugin.with_bootstrap(lambda cluster: ("two",))
    assert PoolHooks([plugin]).bootstrap(cluster) == ("two",)


def test_a_plugin_is_a_frozen_value() -> None:
    plugin = sky.Plugin.create("frozen")
    with pytest.raises(FrozenInstanceError):
        plugin.name = "thawed"  # type: ignore[misc]
    assert plugin == sky.Plugin(name="frozen")
    assert hash(plugin) == hash(sky.Plugin(name="frozen"))


def test_without_the_facade_an_unset_hook_changes_nothing(
    cluster: Any, command: Any, context: Any, info: Any
) -> None:
    plugin, pool = sky.Plugin.create("idle"), object()
    given: Any = pool
    assert plugin.skyward_image(Image(), cluster) is None
    assert plugin.skyward_bootstrap(cluster) == ()
    assert plugin.skyward_launch(command, context) is command
    assert plugin.skyward_task(len) is len
    with plugin.skyward_client(given, cluster), plugin.skyward_worker(info), plugin.skyward_process(info):
        pass


def test_it_travels_by_value_to_a_process_that_has_not_its_code() -> None:
    level = 3
    plugin = sky.Plugin.create("travels").with_decorator(lambda fn: lambda x: fn(x) * level)
    code = (
        "import sys, cloudpickle\n"
        "from skyward.hooks import PoolHooks\n"
        "plugin = cloudpickle.load(sys.stdin.buffer)\n"
        "print(plugin.name, PoolHooks([plugin]).task(lambda x: x + 1)(4))\n"
    )
    this: Any = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(this)
    try:
        data: bytes = cloudpickle.dumps(plugin)
    finally:
        cloudpickle.unregister_pickle_by_value(this)
    answer = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert answer.stdout.decode().strip() == "travels 15"


def test_an_error_names_the_plugin_and_where_its_functions_are(cluster: Any) -> None:
    def broken(cluster: Any) -> Any:
        raise ValueError("as told")

    with pytest.raises(PluginError) as caught:
        PoolHooks([sky.Plugin.create("mine").with_bootstrap(broken)]).bootstrap(cluster)
    assert str(caught.value) == (
        f"plugin 'mine' (from {__name__}) failed in skyward_bootstrap: ValueError: as told"
    )


def test_a_packages_factory_is_blamed_with_its_package(install: Any, cluster: Any) -> None:
    source = (
        "import skyward as sky\n"
        "def broken(cluster):\n"
        "    raise ValueError('as told')\n"
        "def made():\n"
        "    return sky.Plugin.create('made').with_bootstrap(broken)\n"
    )
    install(
        "skyward-made", "2.0", entry_points={"skyward.plugins": {"made": "skyward_made:made"}},
        modules={"skyward_made.py": source},
    )  # fmt: skip
    with pytest.raises(PluginError, match=r"plugin 'made' \(skyward-made 2\.0\) failed in skyward_bootstrap"):
        PoolHooks([sky.plugins.made()]).bootstrap(cluster)


def generator(info: Any) -> Iterator[None]:
    yield


async def coroutine(cluster: Any) -> tuple[str, ...]:
    return ()


@pytest.mark.parametrize(
    ("builder", "function", "error", "message"),
    [
        ("with_bootstrap", "echo", UsageError, r"takes a function of \(cluster\), not str"),
        ("with_bootstrap", lambda: (), UsageError, r"takes a function of \(cluster\), but .* takes \(\)"),
        ("with_image_transform", lambda image: image, UsageError, r"takes a function of \(image, cluster\)"),
        ("with_decorator", partial(divmod, 1, 2), UsageError, r"takes a function of \(fn\)"),
        ("with_bootstrap", coroutine, PluginApiError, "coroutine is a coroutine function, but hooks are"),
        ("with_around_app", generator, UsageError, "generator is a generator function; decorate it with"),
        ("with_bootstrap", generator, UsageError, "generator is a generator function; return, don't yield"),
    ],
)
def test_a_wrong_function_is_refused_when_the_plugin_is_built(
    builder: str, function: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        getattr(sky.Plugin.create("mine"), builder)(function)
    assert str(caught.value).startswith(f"plugin 'mine': {builder}")
    assert "\n" not in str(caught.value)


def test_a_function_may_take_more_if_it_has_defaults_for_it(cluster: Any) -> None:
    def ops(cluster: Any, shell: str = "sh") -> tuple[str, ...]:
        return (shell,)

    assert PoolHooks([sky.Plugin.create("more").with_bootstrap(ops)]).bootstrap(cluster) == ("sh",)


@pytest.mark.parametrize("name", ["", "  "])
def test_a_plugin_needs_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="a plugin's name must not be empty"):
        sky.Plugin.create(name)
