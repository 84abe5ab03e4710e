"""Plugins, sound or with one defect, each under the plugin suite."""

from __future__ import annotations

import functools
import inspect
import os
import random
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from skyward.hooks import Plugin, hookimpl
from skyward_testing.plugin import PluginContract

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from skyward.hooks import Cluster, LaunchCommand, LaunchContext
    from skyward.image import Image
    from skyward.runtime import InstanceInfo


@contextmanager
def around(info: InstanceInfo) -> Generator[None]:
    os.environ["ACME_NODE"] = str(info.node)
    try:
        yield
    finally:
        del os.environ["ACME_NODE"]


@contextmanager
def leaky(info: InstanceInfo) -> Generator[None]:
    os.environ["ACME_LEAK"] = str(random.random())
    yield


@contextmanager
def forgetful(info: InstanceInfo) -> Generator[None]:
    os.environ["ACME_NODE"] = "1"
    yield
    del os.environ["ACME_NODE"]  # not after an error


@contextmanager
def threaded(info: InstanceInfo) -> Generator[None]:
    threading.Thread(target=threading.Event().wait, args=(5,)).start()
    yield


def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the kind: what decides it is copied by hand where a wrapper would hide it."""
    if not inspect.isfunction(fn) or inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        return fn
    if inspect.isgeneratorfunction(fn):
        return fn

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def flatten(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def anonymize(fn: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.isfunction(fn) or inspect.isgeneratorfunction(fn) or inspect.iscoroutinefunction(fn):
        return fn
    return lambda *args, **kwargs: fn(*args, **kwargs)


def soften(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except KeyError:
            return None

    return wrapper


def noisy(image: Image, cluster: Cluster) -> Image:
    os.environ["ACME_LEAK"] = str(random.random())
    return image


def add_package(image: Image, cluster: Cluster) -> Image:
    return replace(image, pip=(*image.pip, f"acme=={cluster.num_nodes}"), env={**image.env, "ACME": "1"})


def launch(command: LaunchCommand, context: LaunchContext) -> LaunchCommand:
    return replace(command, launcher=("acme", "run", str(context.node), *command.launcher))


class Locked:
    """Holds what can't be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    @hookimpl
    def skyward_bootstrap(self, cluster: Cluster) -> tuple[str, ...]:
        return ("true",)


class Parametrised:
    """Travels as it was built, or its bootstrap differs on the node."""

    def __init__(self, words: str) -> None:
        self.words = words

    @hookimpl
    def skyward_bootstrap(self, cluster: Cluster) -> tuple[str, ...]:
        return (f"echo {self.words}",)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Parametrised, ("forgotten",))


new = Plugin.create("acme")
SOUND = (
    new.with_image_transform(add_package)
    .with_bootstrap(lambda cluster: (f"echo {cluster.num_nodes}", ("echo", "a b")))
    .with_decorator(decorate)
    .with_around_app(around)
    .with_around_process(around)
    .with_launcher(launch)
    .with_around_client(lambda pool, cluster: pool)
)

WRAPPED = "test_what_it_wraps_is_left_as_it_was_found"
DEFECTS: dict[str, tuple[object, str]] = {
    "does nothing": (new, "test_its_hooks_are_valid_and_it_has_some"),
    "holds a lock": (Locked(), "test_it_reaches_the_node"),
    "forgets its parameters": (Parametrised("x"), "test_it_reaches_the_node"),
    "rolls dice": (
        new.with_image_transform(
            lambda image, cluster: replace(image, pip=(*image.pip, str(random.random())))
        ),
        "test_the_image_is_transformed_purely",
    ),
    "writes the client's environment": (
        new.with_image_transform(noisy),
        "test_the_image_is_transformed_purely",
    ),
    "drops packages": (
        new.with_image_transform(lambda image, cluster: replace(image, pip=("acme",))),
        "test_the_image_keeps_what_was_in_it",
    ),
    "drops variables": (
        new.with_image_transform(lambda image, cluster: replace(image, env={"ACME": "1"})),
        "test_it_gets_along_with_neighbours",
    ),
    "boots at random": (
        new.with_bootstrap(lambda cluster: (f"echo {random.random()}",)),
        "test_the_bootstrap_is_the_same_each_time",
    ),
    "boots with half a line": (
        new.with_bootstrap(lambda cluster: ("if true; then echo",)),
        "test_the_bootstrap_is_valid_shell",
    ),
    "drops the arguments": (
        new.with_launcher(lambda command, context: replace(command, args=())),
        "test_the_launch_is_transformed_purely",
    ),
    "drops another launcher": (
        new.with_launcher(lambda command, context: replace(command, launcher=("acme",))),
        "test_the_launch_keeps_another_launcher",
    ),
    "leaks variables": (new.with_around_process(leaky), f"{WRAPPED}[skyward_process]"),
    "leaves a thread": (new.with_around_app(threaded), f"{WRAPPED}[skyward_worker]"),
    "cleans up on success only": (
        new.with_around_app(forgetful),
        "test_an_error_passes_untouched_and_leaves_nothing[skyward_worker]",
    ),
    "flattens generators": (new.with_decorator(flatten), "test_a_wrapped_task_keeps_its_kind"),
    "hides the signature": (new.with_decorator(anonymize), "test_a_wrapped_task_gives_the_same"),
    "swallows a task's errors": (new.with_decorator(soften), "test_a_wrapped_task_raises_its_own_errors"),
}


def suite(plugin_: object) -> type[PluginContract]:
    class Specimen(PluginContract):
        @pytest.fixture
        def plugin(self) -> object:
            return plugin_

    return Specimen


globals()["Test "] = suite(SOUND)
globals().update({f"Test {defect}": suite(plugin) for defect, (plugin, _) in DEFECTS.items()})
