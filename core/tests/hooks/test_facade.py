"""The façade: order, chaining, who is blamed for what, and which results it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from skyward.errors import InternalError, PluginApiError, PluginError
from skyward.hooks import LaunchCommand, LaunchContext, PoolHooks, hookimpl
from skyward.image import Image

POOL: Any = object()
"""Hooks only pass the pool on, so any object serves."""


class Tracing:
    """Implements every hook and notes each call."""

    def __init__(self, name: str, trace: list[str]) -> None:
        self.name = name
        self.trace = trace

    @hookimpl
    def skyward_image(self, image: Image, cluster: Any) -> Image:
        self.trace.append(f"image {self.name}")
        return replace(image, pip=(*image.pip, self.name))

    @hookimpl
    def skyward_bootstrap(self, cluster: Any) -> Sequence[Any]:
        self.trace.append(f"bootstrap {self.name}")
        return (f"echo {self.name} {cluster.num_nodes}", ["argv", self.name])

    @hookimpl
    def skyward_launch(self, command: LaunchCommand, context: LaunchContext) -> LaunchCommand:
        return replace(command, launcher=(self.name, *command.launcher))

    @contextmanager
    def _around(self, what: str) -> Generator[None]:
        self.trace.append(f"+{what} {self.name}")
        try:
            yield
        finally:
            self.trace.append(f"-{what} {self.name}")

    @hookimpl
    def skyward_client(self, pool: Any, cluster: Any) -> AbstractContextManager[object]:
        assert pool is POOL
        return self._around("client")

    @hookimpl
    def skyward_worker(self, info: Any) -> AbstractContextManager[object]:
        return self._around(f"worker{info.node}")

    @hookimpl
    def skyward_process(self, info: Any) -> AbstractContextManager[object]:
        return self._around(f"process{info.node}")

    @hookimpl
    def skyward_task(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            self.trace.append(f"task {self.name}")
            return fn(*args)

        return wrapped


@pytest.fixture
def trace() -> list[str]:
    return []


@pytest.fixture
def hooks(trace: list[str]) -> PoolHooks:
    return PoolHooks([Tracing("a", trace), Tracing("b", trace), Tracing("c", trace)])


def test_image_is_handed_from_plugin_to_plugin_in_listed_order(hooks: PoolHooks, cluster: Any) -> None:
    assert hooks.image(Image(pip=["mine"]), cluster).pip == ("mine", "a", "b", "c")


def test_an_image_hook_that_gives_none_changes_nothing(cluster: Any, trace: list[str]) -> None:
    class Looks:
        @hookimpl
        def skyward_image(self, cluster: Any) -> None:
            trace.append(cluster.name)

    image = Image()
    assert PoolHooks([Looks()]).image(image, cluster) is image
    assert trace == ["tests"]


def test_bootstrap_is_concatenated_in_listed_order(hooks: PoolHooks, cluster: Any) -> None:
    assert hooks.bootstrap(cluster)[:4] == ("echo a 2", ("argv", "a"), "echo b 2", ("argv", "b"))


def test_the_first_listed_launcher_is_outermost(
    hooks: PoolHooks, command: LaunchCommand, context: LaunchContext
) -> None:
    assert hooks.launch(command, context).argv == ("a", "b", "c", "python", "-m", "worker")


def test_the_first_listed_task_wrapper_is_outermost(hooks: PoolHooks, trace: list[str]) -> None:
    assert hooks.task(len)("four") == 4
    assert trace == ["task a", "task b", "task c"]


@pytest.mark.parametrize("kind", ["client", "worker", "process"])
def test_context_managers_enter_in_listed_order_and_leave_in_reverse(
    kind: str, hooks: PoolHooks, trace: list[str], cluster: Any, info: Any
) -> None:
    wrapped = hooks.client(POOL, cluster) if kind == "client" else getattr(hooks, kind)(info)
    label = kind if kind == "client" else f"{kind}0"
    assert trace == []
    with pytest.raises(KeyError), wrapped:
        trace.append("block")
        raise KeyError("the block's own")
    enters = [f"+{label} {name}" for name in "abc"]
    assert trace == [*enters, "block", *(f"-{label} {name}" for name in "cba")]


def test_without_plugins_everything_is_as_it_was(cluster: Any, command: Any, context: Any, info: Any) -> None:
    hooks, image = PoolHooks(), Image()
    assert hooks.image(image, cluster) is image
    assert hooks.bootstrap(cluster) == ()
    assert hooks.launch(command, context) is command
    assert hooks.task(len) is len
    with hooks.client(POOL, cluster), hooks.worker(info), hooks.process(info):
        pass
    assert not any(hooks.has(name) for name in ("skyward_image", "skyward_worker", "skyward_task"))


def test_without_plugins_pluggy_is_not_imported() -> None:
    code = "import sys; from skyward.hooks import PoolHooks; PoolHooks(); print('pluggy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_has_knows_what_is_implemented(trace: list[str]) -> None:
    class OnlyTasks:
        @hookimpl
        def skyward_task(self, fn: Any) -> Any:
            return fn

    hooks = PoolHooks([OnlyTasks()])
    assert hooks.has("skyward_task")
    assert not hooks.has("skyward_worker")
    with pytest.raises(InternalError, match="skyward_tusk"):
        hooks.has("skyward_tusk")


# Blame


class Failing:
    """Fails in whatever is asked of it."""

    @hookimpl
    def skyward_image(self) -> None:
        raise ValueError("no such wheel")

    @hookimpl
    def skyward_bootstrap(self) -> None:
        raise ValueError("no such command")

    @hookimpl
    def skyward_launch(self) -> None:
        raise ValueError("no such launcher")

    @hookimpl
    def skyward_client(self) -> None:
        raise ValueError("no such backend")

    @hookimpl
    def skyward_worker(self) -> None:
        raise ValueError("no such daemon")

    @hookimpl
    def skyward_process(self) -> None:
        raise ValueError("no such device")

    @hookimpl
    def skyward_task(self) -> None:
        raise ValueError("no such function")


def call(hooks: PoolHooks, name: str, cluster: Any, info: Any) -> None:
    command: Any = LaunchCommand(launcher=(), entrypoint=("python",))
    around = {"client": (POOL, cluster), "worker": (info,), "process": (info,)}
    if name in around:
        with getattr(hooks, name)(*around[name]):
            pass
        return
    plain = {"image": (Image(), cluster), "bootstrap": (cluster,), "launch": (command, POOL), "task": (len,)}
    getattr(hooks, name)(*plain[name])


@pytest.mark.parametrize("name", ["image", "bootstrap", "launch", "client", "worker", "process", "task"])
def test_an_error_in_any_hook_names_the_plugin_and_the_hook(name: str, cluster: Any, info: Any) -> None:
    with pytest.raises(PluginError) as caught:
        call(PoolHooks([Failing()]), name, cluster, info)
    message = str(caught.value)
    assert message.startswith(f"plugin 'Failing' (from {__name__}) failed in skyward_{name}: ValueError: no ")
    assert "\n" not in message
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_names_the_distribution_and_its_version(install: Any, cluster: Any) -> None:
    source = (
        "from skyward.hooks import hookimpl\n"
        "class Bad:\n"
        "    @hookimpl\n"
        "    def skyward_bootstrap(self, cluster):\n"
        "        raise OSError('disk')\n"
    )
    install(
        "skyward-bad", "3.1", entry_points={"skyward.plugins": {"bad": "skyward_bad:Bad"}},
        modules={"skyward_bad/__init__.py": source},
    )  # fmt: skip
    import skyward as sky

    with pytest.raises(PluginError, match=r"plugin 'Bad' \(skyward-bad 3\.1\) failed in skyward_bootstrap"):
        PoolHooks([sky.plugins.bad()]).bootstrap(cluster)


def test_errors_of_the_task_itself_pass_untouched(hooks: PoolHooks) -> None:
    def task() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        hooks.task(task)()
    assert caught.value.args == ("mine",)
    assert not hasattr(caught.value, "__notes__")


class Around:
    """A plugin whose one context manager is ``manager``."""

    def __init__(self, manager: Callable[[], AbstractContextManager[object]]) -> None:
        self.manager = manager

    @hookimpl
    def skyward_worker(self) -> AbstractContextManager[object]:
        return self.manager()


def test_the_blocks_exception_passes_untouched_and_is_the_same_object(info: Any) -> None:
    @contextmanager
    def transparent() -> Iterator[None]:
        yield

    mine = StopIteration("even this one")
    with pytest.raises(StopIteration) as caught, PoolHooks([Around(transparent)]).worker(info):
        raise mine
    assert caught.value is mine
    assert not hasattr(mine, "__notes__")


def test_a_plugin_that_raises_the_blocks_exception_itself_adds_nothing(info: Any) -> None:
    class Raising(AbstractContextManager[None]):
        def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
            if error is not None:
                raise error

    with pytest.raises(ValueError, match="mine") as caught, PoolHooks([Around(Raising)]).worker(info):
        raise ValueError("mine")
    assert not hasattr(caught.value, "__notes__")


def test_a_plugin_cannot_swallow_the_blocks_exception(info: Any) -> None:
    @contextmanager
    def swallowing() -> Iterator[None]:
        try:
            yield
        except ValueError:
            pass

    with pytest.raises(ValueError, match="seen"), PoolHooks([Around(swallowing)]).worker(info):
        raise ValueError("seen")


def test_a_plugin_cannot_replace_the_blocks_exception(info: Any) -> None:
    @contextmanager
    def replacing() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise OSError("instead") from error

    with pytest.raises(ValueError, match="mine") as caught, PoolHooks([Around(replacing)]).worker(info):
        raise ValueError("mine")
    (note,) = caught.value.__notes__
    assert "plugin 'Around'" in note
    assert "skyward_worker, on leaving: OSError: instead" in note


def test_an_interrupt_passes_a_plugin_that_fails_to_clean_up(info: Any) -> None:
    @contextmanager
    def messy() -> Iterator[None]:
        try:
            yield
        finally:
            raise OSError("messy")

    with pytest.raises(KeyboardInterrupt), PoolHooks([Around(messy)]).worker(info):
        raise KeyboardInterrupt


def test_failing_to_leave_after_a_good_block_is_the_plugins_error(info: Any, trace: list[str]) -> None:
    @contextmanager
    def messy() -> Iterator[None]:
        yield
        raise OSError("messy")

    hooks = PoolHooks([Tracing("outer", trace), Around(messy), Tracing("inner", trace)])
    with pytest.raises(PluginError, match="skyward_worker, on leaving: OSError: messy"), hooks.worker(info):
        pass
    assert trace == ["+worker0 outer", "+worker0 inner", "-worker0 inner", "-worker0 outer"]


def test_failing_to_enter_leaves_those_before_and_asks_none_after(info: Any, trace: list[str]) -> None:
    @contextmanager
    def shut() -> Iterator[None]:
        raise OSError("shut")
        yield

    hooks = PoolHooks([Tracing("first", trace), Around(shut), Tracing("never", trace)])
    with pytest.raises(PluginError, match="skyward_worker, on entering: OSError: shut"), hooks.worker(info):
        trace.append("block")
    assert trace == ["+worker0 first", "-worker0 first"]


# What a hook may return


def returning(hook: str, value: Any) -> object:
    @hookimpl
    def implementation(self: object) -> Any:
        return value() if callable(value) and hook != "skyward_task" else value

    return type("Returning", (), {hook: implementation})()


@asynccontextmanager
async def awaitable_manager() -> Any:
    yield


async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image", "numpy", "must return an Image or None, got str"),
        ("bootstrap", "echo one string", "must return a tuple of operations, got str"),
        ("bootstrap", None, r"got None; is a `return` missing\?"),
        ("bootstrap", (1,), "each a str or a tuple of str, got int"),
        ("bootstrap", ((),), "each a str or a tuple of str, got tuple"),
        ("launch", None, r"must return a LaunchCommand, got None; is a `return` missing\?"),
        ("client", None, "must return a context manager, got None"),
        ("worker", awaitable_manager, "must return a context manager, got _AsyncGeneratorContextManager"),
        ("process", 3, "must return a context manager, got int"),
        ("task", None, "must return a function, got None"),
        ("bootstrap", coroutine, "gave a coroutine, but hooks are synchronous"),
    ],
)
def test_a_wrong_result_is_an_error_that_says_what_is_right(
    name: str, value: Any, message: str, cluster: Any, info: Any
) -> None:
    with pytest.raises(PluginApiError, match=f"skyward_{name} .*{message}"):
        call(PoolHooks([returning(f"skyward_{name}", value)]), name, cluster, info)
