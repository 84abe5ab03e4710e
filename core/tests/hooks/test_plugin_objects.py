"""What may be listed in ``plugins=[...]``, and what is refused before any hook is called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from skyward.errors import ConfigError, PluginApiError
from skyward.hooks import PoolHooks, hookimpl


class OnlyTasks:
    @hookimpl
    def skyward_task(self, fn: Any) -> Any:
        return fn


def test_a_plugin_may_hide_a_hook_by_its_parameters(cluster: Any) -> None:
    @dataclass(frozen=True)
    class Sometimes:
        on: bool

        def implements_hook(self, name: str) -> bool:
            return self.on or name == "skyward_task"

        @hookimpl
        def skyward_bootstrap(self) -> Sequence[str]:
            return ("echo on",)

        @hookimpl
        def skyward_task(self, fn: Any) -> Any:
            return fn

    assert PoolHooks([Sometimes(on=True)]).bootstrap(cluster) == ("echo on",)
    assert not PoolHooks([Sometimes(on=False)]).has("skyward_bootstrap")


def test_a_module_can_be_a_plugin(install: Any, cluster: Any) -> None:
    source = (
        "from skyward.hooks import hookimpl\n"
        "@hookimpl\n"
        "def skyward_bootstrap(cluster):\n"
        "    return ('echo',)\n"
    )
    install("modular", modules={"modular.py": source})
    import modular  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    assert PoolHooks([modular]).bootstrap(cluster) == ("echo",)


def test_a_decorated_hook_gets_its_arguments(cluster: Any) -> None:
    def logged(hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def wrapper(*args: Any) -> Any:
            return hook(*args)

        return wrapper

    class Decorated:
        @hookimpl
        @logged
        def skyward_bootstrap(self, cluster: Any) -> Sequence[str]:
            return (cluster.name,)

    assert PoolHooks([Decorated()]).bootstrap(cluster) == ("tests",)


class NoHooks:
    def close(self) -> None: ...


class Unmarked:
    def skyward_image(self, image: Any) -> None: ...


class Overridden(OnlyTasks):
    def skyward_task(self, fn: Any) -> Any:
        return fn


class Misspelt:
    @hookimpl
    def skyward_imgae(self, image: Any) -> None: ...


class Renamed:
    @hookimpl(specname="skyward_image")
    def transform(self, image: Any) -> None: ...


class Hasty:
    @hookimpl(tryfirst=True)
    def skyward_image(self, image: Any) -> None: ...


class Asynchronous:
    @hookimpl
    async def skyward_image(self, image: Any) -> None: ...


class WrongArgument:
    @hookimpl
    def skyward_image(self, picture: Any) -> None: ...


class DefaultArgument:
    @hookimpl
    def skyward_image(self, image: Any, cluster: Any = None) -> None: ...


class KeywordOnly:
    @hookimpl
    def skyward_image(self, *, image: Any) -> None: ...


class Greedy:
    @hookimpl
    def skyward_image(self, *args: Any) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (NoHooks(), "plugin 'NoHooks' .* implements no hook"),
        ("torch", "plugin 'str' .* implements no hook"),
        (None, "implements no hook"),
        (NoHooks, r"plugins take NoHooks\(\.\.\.\), not NoHooks itself: call it"),
        (len, r"plugins take len\(\.\.\.\)"),
        (Unmarked(), "skyward_image is not marked @hookimpl"),
        (Overridden(), "skyward_task is not marked @hookimpl"),
        (Misspelt(), r"there is no hook skyward_imgae: did you mean skyward_image\?"),
        (Renamed(), "there is no hook transform"),
        (Hasty(), r"uses hookimpl\(tryfirst=\.\.\.\), but the order in plugins=\[\.\.\.\] decides"),
        (Asynchronous(), "skyward_image is a coroutine function, but hooks are synchronous"),
        (WrongArgument(), "skyward_image has no argument 'picture'; it has image, cluster"),
        (DefaultArgument(), "must take 'cluster' by position and without a default"),
        (KeywordOnly(), "must take 'image' by position and without a default"),
        (Greedy(), r"takes \*args; name the arguments image, cluster"),
    ],
)
def test_what_would_silently_not_work_is_refused_at_once(plugin: object, message: str) -> None:
    with pytest.raises(PluginApiError, match=message) as caught:
        PoolHooks([plugin])
    assert "\n" not in str(caught.value)


def test_a_hook_for_a_newer_skyward_may_be_optional() -> None:
    class Ahead(OnlyTasks):
        @hookimpl(optionalhook=True)
        def skyward_hibernate(self) -> None: ...

    assert PoolHooks([Ahead()]).has("skyward_task")


def test_attributes_that_are_no_hooks_are_left_alone() -> None:
    class Busy(OnlyTasks):
        skyward_version = "1.2"

        @property
        def expensive(self) -> str:
            raise AssertionError("nobody may evaluate this")

    assert PoolHooks([Busy()]).has("skyward_task")


def test_one_plugin_twice_is_an_error(cluster: Any) -> None:
    @dataclass(frozen=True)
    class Level:
        n: int

        @hookimpl
        def skyward_bootstrap(self) -> Sequence[str]:
            return (f"level {self.n}",)

    same = OnlyTasks()
    with pytest.raises(ConfigError, match=r"plugin 'OnlyTasks' .* is listed twice: list it once"):
        PoolHooks([same, same])
    with pytest.raises(ConfigError, match="plugin 'Level'"):
        PoolHooks([Level(1), Level(2), Level(1)])
    assert PoolHooks([Level(1), Level(2)]).bootstrap(cluster) == ("level 1", "level 2")
