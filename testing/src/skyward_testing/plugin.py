"""The conformance suite of a plugin: what the hooks' reference promises, tried through the engine's façade.

    class TestMine(PluginContract):
        entry_point = "mine"

        @pytest.fixture
        def plugin(self) -> object:
            return mine(level=3)

A hook that the plugin does not implement is skipped, and so is one whose framework is not installed here. To
try ``skyward_client``, override ``pool`` with an open pool.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import shlex
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
import pytest
from skyward.errors import PluginError
from skyward.hooks import registry
from skyward.hooks.facade import HOOKS, PoolHooks
from skyward.hooks.values import Cluster, LaunchCommand, LaunchContext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from contextlib import AbstractContextManager
    from types import ModuleType

    from skyward.image import Image
    from skyward.runtime import InstanceInfo

NODE_SECONDS = 60.0

# It comes without types.
_cloudpickle: Any = cloudpickle

# What a node does with a plugin that arrived. The answer shows whether its parameters came along.
_NODE = """
import sys, cloudpickle
plugin, cluster, image, command, context = cloudpickle.load(sys.stdin.buffer)
from skyward.hooks.facade import HOOKS, PoolHooks
hooks = PoolHooks([plugin])
answer = (
    sorted(name for name in HOOKS if hooks.has(name)),
    hooks.image(image, cluster), hooks.bootstrap(cluster), hooks.launch(command, context),
)
sys.stdout.buffer.write(cloudpickle.dumps(answer))
"""


class PluginContract:
    """Subclass it, override ``plugin``, and every test below runs against yours."""

    entry_point: ClassVar[str] = ""
    """Its name in ``skyward.plugins``; '' for a plugin that no distribution offers."""

    @pytest.fixture
    def plugin(self) -> object:
        pytest.fail("override the fixture `plugin`: return the plugin, built as a user would build it")

    @pytest.fixture
    def cluster(self) -> Cluster:
        """A pool that the plugin fits; add the accelerator that it needs."""
        from skyward.options import Worker
        from skyward.spec import Nodes

        return Cluster(
            name="conformance",
            provider="local",
            nodes=Nodes(desired=2),
            accelerator=None,
            worker=Worker(),
            topology="cluster",
        )

    @pytest.fixture
    def image(self) -> Image:
        """What the user and the plugins before it asked for; none of it may get lost."""
        from skyward.image import Image

        return Image(
            pip=["kept-package==1.0"], apt=["kept-apt"], env={"KEPT": "1"}, shell_vars={"KEPT_TOO": "echo 2"}
        )

    @pytest.fixture
    def info(self) -> InstanceInfo:
        """The place of the only node of a pool, so that nothing waits for peers."""
        from skyward.runtime_models import InstanceInfo

        return InstanceInfo(
            node=0, total_nodes=1, head_addr="127.0.0.1", head_port=29500, job_id="conformance"
        )

    @pytest.fixture
    def command(self) -> LaunchCommand:
        return LaunchCommand(
            launcher=(), entrypoint=("python", "-m", "worker"), args=("--socket", "/a b/worker.sock")
        )

    @pytest.fixture
    def context(self) -> LaunchContext:
        return LaunchContext(
            node=1,
            num_nodes=2,
            head_addr="192.0.2.1",
            private_ip="192.0.2.2",
            python="python",
            concurrency=1,
            executor="process",
        )

    @pytest.fixture
    def pool(self) -> Any:
        """An open pool for ``skyward_client``; None skips it."""
        return None

    @pytest.fixture
    def hooks(self, plugin: object) -> PoolHooks:
        """The plugin as the engine sees it."""
        return PoolHooks([plugin])

    # The package

    def test_its_hooks_are_valid_and_it_has_some(self, hooks: PoolHooks) -> None:
        assert [name for name in HOOKS if hooks.has(name)], "a plugin without any hook does nothing"

    def test_the_entry_point_finds_it(self, plugin: object) -> None:
        if not self.entry_point:
            pytest.skip("no `entry_point` is set: this plugin belongs to no distribution")
        factory = registry.find(registry.PLUGINS, self.entry_point)
        assert callable(factory)
        home = registry.distribution_of(factory)
        assert home is not None
        authors = {registry.distribution_of(part) for part in _parts(plugin)}
        assert home in authors, f"{self.entry_point!r} leads to {home}, but the plugin is from {authors}"

    def test_it_reaches_the_node(
        self,
        plugin: object,
        hooks: PoolHooks,
        cluster: Cluster,
        image: Image,
        command: LaunchCommand,
        context: LaunchContext,
    ) -> None:
        """Pickled, unpickled in a fresh interpreter, and used there."""
        with _by_value(plugin):
            sent = _cloudpickle.dumps((plugin, cluster, image, command, context))
        node = subprocess.run(
            [sys.executable, "-c", _NODE],
            input=sent,
            capture_output=True,
            timeout=NODE_SECONDS,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
        assert node.returncode == 0, node.stderr.decode(errors="replace")
        assert _cloudpickle.loads(node.stdout) == (
            sorted(name for name in HOOKS if hooks.has(name)),
            hooks.image(image, cluster),
            hooks.bootstrap(cluster),
            hooks.launch(command, context),
        )

    def test_it_gets_along_with_neighbours(
        self, plugin: object, hooks: PoolHooks, cluster: Cluster, image: Image
    ) -> None:
        """Listed before or after another plugin, both take effect."""
        from skyward.hooks.plugin import Plugin

        def add(image: Image, cluster: Cluster) -> Image:
            return replace(image, env={**image.env, "NEIGHBOUR": "1"})

        neighbour = (
            Plugin.create("neighbour").with_image_transform(add).with_bootstrap(lambda cluster: ("true",))
        )
        for both in ([plugin, neighbour], [neighbour, plugin]):
            together = PoolHooks(both)
            assert together.image(image, cluster).env["NEIGHBOUR"] == "1"
            assert set(hooks.image(image, cluster).pip) <= set(together.image(image, cluster).pip)
            assert sorted(map(str, together.bootstrap(cluster))) == sorted(
                map(str, (*hooks.bootstrap(cluster), "true"))
            )

    # What it makes of the environment

    def test_the_image_is_transformed_purely(self, hooks: PoolHooks, cluster: Cluster, image: Image) -> None:
        _need(hooks, "skyward_image")
        before = copy.deepcopy(image)
        with _untouched_process():
            changed = hooks.image(image, cluster)
        assert image == before
        again = hooks.image(image, cluster)
        assert again == changed
        assert again.content_hash() == changed.content_hash(), "equal pools must find the same environment"

    def test_the_image_keeps_what_was_in_it(self, hooks: PoolHooks, cluster: Cluster, image: Image) -> None:
        _need(hooks, "skyward_image")
        changed = hooks.image(image, cluster)
        assert set(image.pip) <= set(changed.pip)
        assert set(image.pip_indexes) <= set(changed.pip_indexes)
        assert set(image.apt) <= set(changed.apt)
        assert image.env.items() <= changed.env.items()
        assert image.shell_vars.items() <= changed.shell_vars.items()

    def test_the_bootstrap_is_the_same_each_time(self, hooks: PoolHooks, cluster: Cluster) -> None:
        _need(hooks, "skyward_bootstrap")
        with _untouched_process():
            first = hooks.bootstrap(cluster)
        assert hooks.bootstrap(cluster) == first

    def test_the_bootstrap_is_valid_shell(self, hooks: PoolHooks, cluster: Cluster) -> None:
        _need(hooks, "skyward_bootstrap")
        for operation in hooks.bootstrap(cluster):
            if isinstance(operation, str):
                checked = subprocess.run(
                    ["sh", "-n", "-c", operation], capture_output=True, text=True, check=False
                )
                assert checked.returncode == 0, f"{operation!r}: {checked.stderr}"

    # How it starts workers

    def test_the_launch_is_transformed_purely(
        self, hooks: PoolHooks, command: LaunchCommand, context: LaunchContext
    ) -> None:
        _need(hooks, "skyward_launch")
        before = copy.deepcopy(command)
        with _untouched_process():
            changed = hooks.launch(command, context)
        assert command == before
        assert hooks.launch(command, context) == changed
        assert changed.args == command.args, "the worker's own arguments are not the plugin's to change"
        assert shlex.split(changed.render()) == list(changed.argv)

    def test_the_launch_keeps_another_launcher(
        self, hooks: PoolHooks, command: LaunchCommand, context: LaunchContext
    ) -> None:
        _need(hooks, "skyward_launch")
        changed = hooks.launch(replace(command, launcher=("nice", "-n", "5")), context)
        assert " nice -n 5 " in f" {' '.join(changed.launcher)} "

    # What it wraps

    @pytest.mark.parametrize("hook", ["skyward_worker", "skyward_process"])
    def test_what_it_wraps_is_left_as_it_was_found(
        self, hooks: PoolHooks, info: InstanceInfo, hook: str
    ) -> None:
        """Twice, because a worker that died is started again."""
        _need(hooks, hook)
        for _ in range(2):
            with _untouched_process(), _its_framework_may_be_missing():
                with self._around(hooks, hook, info):
                    pass

    @pytest.mark.parametrize("hook", ["skyward_worker", "skyward_process"])
    def test_an_error_passes_untouched_and_leaves_nothing(
        self, hooks: PoolHooks, info: InstanceInfo, hook: str
    ) -> None:
        _need(hooks, hook)
        error = ZeroDivisionError("of the user")
        with _untouched_process(), _its_framework_may_be_missing():
            with pytest.raises(ZeroDivisionError) as caught, self._around(hooks, hook, info):
                raise error
        assert caught.value is error

    def test_the_client_is_left_as_it_was_found(self, hooks: PoolHooks, cluster: Cluster, pool: Any) -> None:
        _need(hooks, "skyward_client")
        if pool is None:
            pytest.skip("override the fixture `pool` to try skyward_client")
        error = ZeroDivisionError("of the user")
        with _untouched_process(), _its_framework_may_be_missing():
            with pytest.raises(ZeroDivisionError) as caught, hooks.client(pool, cluster):
                raise error
        assert caught.value is error

    def _around(self, hooks: PoolHooks, hook: str, info: InstanceInfo) -> AbstractContextManager[object]:
        return hooks.worker(info) if hook == "skyward_worker" else hooks.process(info)

    # What it makes of tasks

    def test_a_wrapped_task_gives_the_same(self, hooks: PoolHooks) -> None:
        _need(hooks, "skyward_task")
        wrapped = hooks.task(_add)
        assert inspect.signature(wrapped) == inspect.signature(_add)
        with _untouched_process(), _its_framework_may_be_missing():
            assert [wrapped(1, 2), wrapped(1, b=3)] == [3, 4]

    def test_a_wrapped_task_keeps_its_kind(self, hooks: PoolHooks) -> None:
        _need(hooks, "skyward_task")
        generator, coroutine, stream = hooks.task(_count), hooks.task(_add_later), hooks.task(_count_later)
        assert inspect.isgeneratorfunction(generator)
        assert inspect.iscoroutinefunction(coroutine)
        assert inspect.isasyncgenfunction(stream)
        with _untouched_process(), _its_framework_may_be_missing():
            assert list(generator(3)) == [0, 1, 2]
            assert asyncio.run(coroutine(1, 2)) == 3

    def test_a_wrapped_task_raises_its_own_errors(self, hooks: PoolHooks) -> None:
        _need(hooks, "skyward_task")
        wrapped = hooks.task(_fail)
        with (
            _untouched_process(),
            _its_framework_may_be_missing(),
            pytest.raises(KeyError, match="of the user"),
        ):
            wrapped()


def _add(a: int, b: int = 2) -> int:
    return a + b


async def _add_later(a: int, b: int = 2) -> int:
    return a + b


def _count(n: int) -> Iterator[int]:
    yield from range(n)


async def _count_later(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


def _fail() -> None:
    raise KeyError("of the user")


def _need(hooks: PoolHooks, hook: str) -> None:
    if not hooks.has(hook):
        pytest.skip(f"this plugin has no {hook}")


@contextmanager
def _untouched_process() -> Generator[None]:
    """Check that the block leaves the process's environment, folder and threads as they were."""
    before = (dict(os.environ), os.getcwd(), list(sys.argv))
    threads = set(threading.enumerate())
    yield
    after = (dict(os.environ), os.getcwd(), list(sys.argv))
    assert after == before
    started = [thread.name for thread in set(threading.enumerate()) - threads if not thread.daemon]
    assert not started, f"threads that keep the process from ending: {started}"


@contextmanager
def _its_framework_may_be_missing() -> Generator[None]:
    try:
        yield
    except (ImportError, PluginError) as error:
        missing = error if isinstance(error, ImportError) else error.__cause__
        if not isinstance(missing, ImportError):
            raise
        pytest.skip(f"needs what is not installed here: {missing}")


@contextmanager
def _by_value(plugin: object) -> Generator[None]:
    """Let modules of no distribution travel by value, as the user's own do."""
    strangers: list[ModuleType] = []
    for part in _parts(plugin):
        module = sys.modules.get(str(getattr(part, "__module__", "") or type(part).__module__))
        if module is not None and registry.distribution_of(part) is None and module not in strangers:
            strangers.append(module)
    for module in strangers:
        _cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in strangers:
            _cloudpickle.unregister_pickle_by_value(module)


def _parts(plugin: object) -> list[object]:
    """The plugin's class, and the functions it was put together from where ``sky.Plugin`` made it."""
    return [type(plugin), *getattr(plugin, "functions", ())]
