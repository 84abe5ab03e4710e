"""Plugins made in a script: each hook runs where and when it should, in the order they were listed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import skyward as sky

QUIET: Any = {"console": False, "logging": False}


class Diary:
    """A file to which any process appends ``<pid> <what>``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def write(self, what: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {what}\n")

    @contextlib.contextmanager
    def around(self, what: str) -> Iterator[None]:
        self.write(f"enter {what}")
        yield
        self.write(f"leave {what}")

    def entries(self, what: str = "") -> list[tuple[int, str]]:
        found = [line.split(" ", 1) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [(int(pid), text) for pid, text in found if what in text]


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")


def with_every_hook(name: str, diary: Diary) -> sky.Plugin:
    def transform(image: sky.Image, cluster: Any) -> sky.Image:
        diary.write(f"image {name}")
        order = image.env.get("ORDER", "") + name
        return dataclasses.replace(image, env={**image.env, "ORDER": order})

    def bootstrap(cluster: Any) -> list[str]:
        diary.write(f"bootstrap {name}")
        return [f'echo "$$ operation {name}" >> {diary.path}']

    def launcher(command: Any, context: Any) -> Any:
        diary.write(f"launch {name} {context.node}")
        return dataclasses.replace(command, launcher=("env", f"LAUNCHED_BY={name}", *command.launcher))

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        diary.write(f"decorate {name}")

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return f"{name}({fn(*args, **kwargs)})"

        return wrapper

    return (
        sky.Plugin.create(name)
        .with_image_transform(transform)
        .with_bootstrap(bootstrap)
        .with_launcher(launcher)
        .with_around_client(lambda pool, cluster: diary.around(f"client {name} {pool.is_active}"))
        .with_around_app(lambda info: diary.around(f"app {name} {info.node}"))
        .with_around_process(lambda info: diary.around(f"process {name} {info.node}"))
        .with_decorator(decorate)
    )


@sky.function
def place() -> tuple[int, int, str, str]:
    return sky.instance_info().node, os.getpid(), os.environ["ORDER"], os.environ["LAUNCHED_BY"]


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_every_hook_runs_in_its_place_and_order(executor: Any, diary: Diary) -> None:
    plugins = [with_every_hook("a", diary), with_every_hook("b", diary)]
    places: set[tuple[int, int]] = set()
    with sky.Compute(
        nodes=2, worker=sky.Worker(concurrency=2, executor=executor), plugins=plugins, **QUIET
    ) as pool:
        assert pool.is_active
        for future in [pool.submit(place.local) for _ in range(20)]:
            text = future.result()
            assert text.startswith("a(b((")
            node, pid, order, launched = eval(text.removeprefix("a(b(").removesuffix("))"))
            places.add((node, pid))
            assert order == "ab"
            # The first listed puts its command in front of the others', so the last to set the variable is
            # the last.
            assert launched == "b"

    here = os.getpid()
    # On the client, in order; the launcher from the inside out, once a node.
    assert diary.entries("image")[:2] == [(here, "image a"), (here, "image b")]
    assert diary.entries("bootstrap")[:2] == [(here, "bootstrap a"), (here, "bootstrap b")]
    assert sorted(diary.entries("launch")) == [
        (here, f"launch {name} {node}") for name in "ab" for node in (0, 1)
    ]
    assert [text[:8] for _, text in diary.entries("launch")][:2] == ["launch b", "launch a"]
    assert [text for pid, text in diary.entries("client") if pid == here] == [
        "enter client a True",
        "enter client b True",
        "leave client b True",
        "leave client a True",
    ]
    # On the nodes: the operations once a node, in order.
    operations = diary.entries("operation")
    assert len(operations) == 4
    assert here not in {pid for pid, _ in operations}
    in_order(diary, "operation a", "operation b", times=2)

    processes = {pid: node for node, pid in places}
    check_processes(diary, processes, executor)


def check_processes(diary: Diary, processes: dict[int, int], executor: str) -> None:
    here = os.getpid()
    workers = {pid for pid, text in diary.entries("enter process")}
    assert here not in workers
    assert set(processes) <= workers
    assert len(workers) == (2 if executor == "thread" else 4)
    for pid in processes:
        mine = [text for who, text in diary.entries() if who == pid and "decorate" not in text]
        node = processes[pid]
        inside = [
            f"enter process a {node}",
            f"enter process b {node}",
            f"leave process b {node}",
            f"leave process a {node}",
        ]
        outside = [f"enter app a {node}", f"enter app b {node}", f"leave app b {node}", f"leave app a {node}"]
        assert mine == ([*outside[:2], *inside, *outside[2:]] if executor == "thread" else inside)
    # Around the app: once a node, whatever runs the tasks.
    assert sorted(text for _, text in diary.entries("enter app")) == [
        f"enter app {n} {i}" for n in "ab" for i in (0, 1)
    ]
    assert len(diary.entries("leave app")) == 4
    # The function: once in each process that ran it, the first listed outermost.
    for pid in processes:
        assert [text for who, text in diary.entries("decorate") if who == pid] == ["decorate b", "decorate a"]


def test_the_image_and_the_operations_are_asked_once_a_pool(diary: Diary) -> None:
    with sky.Compute(nodes=2, plugins=[with_every_hook("a", diary)], **QUIET):
        pass
    assert [text for _, text in diary.entries("image") + diary.entries("bootstrap")] == [
        "image a",
        "bootstrap a",
    ]


def in_order(diary: Diary, first: str, second: str, *, times: int) -> None:
    texts = [text for _, text in diary.entries()]
    assert texts.count(first) == texts.count(second) == times
    assert texts.index(first) < texts.index(second)


def test_a_launcher_starts_the_worker(tmp_path: Path) -> None:
    def launcher(command: Any, context: Any) -> Any:
        return dataclasses.replace(command, launcher=("nice", "-n", "7", *command.launcher))

    plugin = sky.Plugin.create("nice").with_launcher(launcher)
    with sky.Compute(plugins=[plugin], **QUIET) as pool:
        assert pool.submit(os.nice, 0).result() == os.nice(0) + 7


def test_around_client_may_use_the_pool_and_sees_the_block_fail(diary: Diary) -> None:
    @contextlib.contextmanager
    def around(pool: sky.Pool, cluster: Any) -> Iterator[None]:
        diary.write(f"before {pool.submit(abs, -3).result()}")
        try:
            yield
        except ValueError as error:
            diary.write(f"saw {error}")
            raise

    plugin = sky.Plugin.create("x").with_around_client(around)
    with pytest.raises(ValueError, match="the user's"), sky.Compute(plugins=[plugin], **QUIET):
        raise ValueError("the user's")
    assert diary.entries("before") == [(os.getpid(), "before 3")]


def test_plugins_leave_generators_and_coroutines_what_they_are() -> None:
    plugin = sky.Plugin.create("x").with_decorator(lambda fn: fn)

    @sky.function
    def items() -> Iterator[int]:
        yield from range(3)

    @sky.function
    async def later() -> int:
        return 5

    with sky.Compute(plugins=[plugin], **QUIET) as pool:
        assert list(items() >> pool) == [0, 1, 2]
        assert later() >> pool == 5


# failures are the plugin's, by name


def boom(*args: Any) -> Any:
    raise ZeroDivisionError("boom")


@contextlib.contextmanager
def boom_on_entering(*args: Any) -> Iterator[None]:
    raise ZeroDivisionError("boom")
    yield


FAILING: dict[str, Callable[[sky.Plugin], sky.Plugin]] = {
    "skyward_image": lambda plugin: plugin.with_image_transform(boom),
    "skyward_bootstrap": lambda plugin: plugin.with_bootstrap(boom),
    "skyward_launch": lambda plugin: plugin.with_launcher(boom),
    "skyward_client": lambda plugin: plugin.with_around_client(boom_on_entering),
    "skyward_worker": lambda plugin: plugin.with_around_app(boom_on_entering),
    "skyward_process": lambda plugin: plugin.with_around_process(boom_on_entering),
}


@pytest.mark.parametrize("hook", FAILING)
def test_a_plugin_that_fails_is_named(hook: str) -> None:
    plugin = FAILING[hook](sky.Plugin.create("clumsy"))
    with pytest.raises(sky.SkywardError) as caught, sky.Compute(plugins=[plugin], **QUIET):
        pytest.fail("the pool opened")
    text = str(caught.value)
    assert "clumsy" in text
    assert hook in text
    assert "ZeroDivisionError: boom" in text


def test_a_decorator_that_fails_is_the_task_s_error_and_named() -> None:
    with sky.Compute(plugins=[sky.Plugin.create("clumsy").with_decorator(boom)], **QUIET) as pool:
        with pytest.raises(sky.PluginError, match=r"clumsy.*skyward_task.*ZeroDivisionError: boom"):
            pool.submit(abs, 1).result()


def test_an_operation_that_fails_shows_what_it_said() -> None:
    plugin = sky.Plugin.create("x").with_bootstrap(lambda cluster: ["echo no such luck >&2; exit 9"])
    with pytest.raises(sky.BootstrapError, match=r"(?s)phase bootstrap: .*exit 9.* status 9: no such luck"):
        with sky.Compute(plugins=[plugin], **QUIET):
            pytest.fail("the pool opened")


def test_a_plugin_of_the_script_s_own_class_travels_with_its_module(tmp_path: Path) -> None:
    """Its class is in a project module, and so is what its hooks use."""
    import subprocess
    import sys

    (tmp_path / "mine.py").write_text(
        "from skyward.hooks import hookimpl\n"
        "from mine_too import suffix\n"
        "class Mine:\n"
        "    @hookimpl\n"
        "    def skyward_task(self, fn):\n"
        "        return lambda *a, **k: fn(*a, **k) + suffix()\n"
    )
    (tmp_path / "mine_too.py").write_text("def suffix():\n    return '!'\n")
    (tmp_path / "script.py").write_text(
        "import skyward as sky\n"
        "from mine import Mine\n"
        "if __name__ == '__main__':\n"
        "    with sky.Compute(plugins=[Mine()], console=False, logging=False) as pool:\n"
        "        print(pool.submit(lambda: 'hi').result())\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("hi!\n", "")


# packages of others


def distribution(site: Path, name: str, version: str, entry_points: str, source: str) -> None:
    """Put a distribution into ``site`` as an installer leaves it there."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n")
    (info / "entry_points.txt").write_text(entry_points)


OTHERS = """
import skyward as sky

def message(get):
    try:
        get()
    except sky.PluginError as error:
        return f"{type(error).__name__}: {error}"

if __name__ == "__main__":
    with sky.Compute(plugins=[sky.plugins.fine()], logging=False) as pool:
        print(pool.submit(lambda: 1).result())
    print(message(lambda: sky.plugins.broken))
    print(message(lambda: sky.Wreck))
    print(message(lambda: sky.plugins.twice))
"""


def test_a_broken_package_is_named_when_asked_for_and_harmless_otherwise(tmp_path: Path) -> None:
    import subprocess
    import sys

    site = tmp_path / "site"
    site.mkdir()
    every = "".join(
        f"[skyward.{group}]\n{name} = acme_broken:Thing\n"
        for group, name in [
            ("plugins", "broken"),
            ("providers", "wreck"),
            ("consoles", "junk"),
            ("topologies", "odd"),
        ]
    )
    distribution(site, "acme-broken", "3.1.4", every, "raise RuntimeError('not today')")
    fine = (
        "from skyward.hooks import hookimpl\nclass Fine:\n    skyward_task = hookimpl(lambda self, fn: fn)\n"
    )
    distribution(site, "acme-fine", "1.0", "[skyward.plugins]\nfine = acme_fine:Fine\n", fine)
    for name in ("acme-one", "acme-two"):
        distribution(site, name, "2.0", f"[skyward.plugins]\ntwice = {name.replace('-', '_')}:Fine\n", fine)
    (tmp_path / "script.py").write_text(OTHERS)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, broken, wreck, twice = done.stdout.splitlines()
    assert one == "1"
    for text in (broken, wreck):
        assert text.startswith("PluginLoadError: ")
        assert "acme-broken 3.1.4" in text
        assert "not today" in text
    assert twice.startswith("AmbiguousNameError: ")
    assert "acme-one 2.0" in twice
    assert "acme-two 2.0" in twice
