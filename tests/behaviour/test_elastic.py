"""Pools that grow, shrink, start late in part, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import skyward as sky
from skyward.hooks import Plugin
from skyward.hooks.values import LaunchCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from skyward.hooks.values import LaunchContext

pytestmark = pytest.mark.usefixtures("no_leftovers")

SECONDS = 60.0


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds:g} s for: {what}"
        time.sleep(0.01)


@sky.function
def rank() -> int:
    return sky.instance_info().node


@sky.function
def nap(seconds: float) -> int:
    time.sleep(seconds)
    return sky.instance_info().node


@sky.function
def hold(folder: str) -> tuple[int, int]:
    """Run until the gate opens."""
    info = sky.instance_info()
    open(os.path.join(folder, f"{info.node}-{os.getpid()}"), "w").close()
    until = time.monotonic() + SECONDS
    while not os.path.exists(os.path.join(folder, "open")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return info.node, os.getpid()


def holding(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in folder.glob("*-*"))


def open_gate(folder: Path) -> None:
    (folder / "open").touch()


# elastic


def test_it_grows_under_load_and_shrinks_when_idle(tmp_path: Path) -> None:
    changes: list[Any] = []
    with (
        sky.subscribe(changes.append, sky.ScalingChanged),
        sky.Compute(
            nodes=(2, 6),
            autoscale_cooldown=0.1,
            autoscale_idle_timeout=1.0,
            console=False,
            logging=False,
        ) as pool,
    ):
        assert pool.current_nodes() == 2
        assert pool.snapshot().scaling.is_elastic
        futures = [nap(0.1) > pool for _ in range(100)]
        wait_until(lambda: pool.current_nodes() == 6, "6 nodes")
        assert {future.result(timeout=SECONDS) for future in futures} == set(range(6))
        wait_until(lambda: pool.current_nodes() == 2, "2 nodes")
        wait_until(lambda: len(pool.nodes()) == 2, "the others' machines to be gone")
        assert sorted(rank() @ pool) == [0, 1]
    desired = [change.desired for change in changes]
    assert max(desired) == 6
    assert desired[-1] == 2
    assert "queued" in changes[0].reason
    assert changes[-1].reason == "idle"


def test_a_busy_node_is_not_taken_away(tmp_path: Path) -> None:
    with sky.Compute(
        nodes=(1, 4),
        autoscale_cooldown=0.05,
        autoscale_idle_timeout=0.3,
        retry_on_interruption=0,
        console=False,
        logging=False,
    ) as pool:
        held = [hold(str(tmp_path)) > pool for _ in range(4)]
        wait_until(lambda: holding(tmp_path) == [0, 1, 2, 3], "one task on each of 4 nodes")
        time.sleep(1.5)  # several times what an idle node would get
        assert pool.current_nodes() == 4
        open_gate(tmp_path)
        assert sorted(future.result(timeout=SECONDS)[0] for future in held) == [0, 1, 2, 3]
        wait_until(lambda: pool.current_nodes() == 1, "1 node")
        assert (rank() >> pool) == 0


def test_a_burst_that_its_nodes_can_take_grows_nothing() -> None:
    with sky.Compute(nodes=(2, 6), autoscale_cooldown=0.0, console=False, logging=False) as pool:
        for _ in range(20):
            sky.gather(rank(), rank()) >> pool
        assert pool.snapshot().scaling.desired == 2


def test_it_grows_and_shrinks_again_and_again() -> None:
    with sky.Compute(
        nodes=(1, 3), autoscale_cooldown=0.05, autoscale_idle_timeout=0.2, console=False, logging=False
    ) as pool:
        for _ in range(4):
            futures = [nap(0.05) > pool for _ in range(60)]
            wait_until(lambda: pool.current_nodes() == 3, "3 nodes")
            for future in futures:
                future.result(timeout=SECONDS)
            wait_until(lambda: pool.current_nodes() == 1, "1 node")


# part of them first


def slow_starters(folder: Path, quick: int) -> Plugin:
    """All nodes but the first ``quick`` wait in their set-up until the gate opens."""
    places = " ".join(map(str, range(quick)))
    command = (
        f"for i in {places}; do mkdir {folder}/quick$i 2>/dev/null && exit 0; done; "
        f"while [ ! -e {folder}/open ]; do sleep 0.02; done"
    )
    return Plugin.create("slow-starters").with_bootstrap(lambda cluster: (command,))


def test_usable_at_the_least_and_the_rest_joins(tmp_path: Path) -> None:
    with sky.Compute(
        nodes=sky.Nodes(desired=4, min=2),
        plugins=[slow_starters(tmp_path, 2)],
        console=False,
        logging=False,
    ) as pool:
        assert pool.current_nodes() == 2
        assert pool.snapshot().scaling.desired == 4
        assert pool.snapshot().scaling.pending == 2
        early = rank() @ pool
        assert len(early) == 2
        assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
        open_gate(tmp_path)
        pool.wait_for_nodes(4, timeout=SECONDS)
        assert rank() @ pool == [0, 1, 2, 3]


def test_left_before_the_rest_has_come(tmp_path: Path) -> None:
    with sky.Compute(
        nodes=sky.Nodes(desired=4, min=1),
        plugins=[slow_starters(tmp_path, 1)],
        console=False,
        logging=False,
    ) as pool:
        assert len(rank() @ pool) == 1


# resize


def test_resize_both_ways_while_tasks_run() -> None:
    with sky.Compute(nodes=2, retry_on_interruption=0, console=False, logging=False) as pool:
        futures = [nap(0.02) > pool for _ in range(500)]
        for wanted in (5, 1, 3, 1, 4, 2):
            pool.resize(wanted)
            pool.wait_for_nodes(wanted, timeout=SECONDS)
            until = time.monotonic() + SECONDS
            while pool.current_nodes() != wanted:
                assert time.monotonic() < until
                time.sleep(0.01)
        assert all(future.result(timeout=SECONDS) in range(5) for future in futures)
        wait_until(lambda: len(pool.nodes()) == 2, "the machines of the others to be gone")
        assert rank() @ pool == [0, 1]


def test_a_node_that_goes_finishes_its_task(tmp_path: Path) -> None:
    with sky.Compute(nodes=3, retry_on_interruption=0, console=False, logging=False) as pool:
        held = [hold(str(tmp_path)) > pool for _ in range(3)]
        wait_until(lambda: holding(tmp_path) == [0, 1, 2], "a task on each node")
        pool.resize(1)
        wait_until(lambda: pool.snapshot().scaling.draining == 2, "two that drain")
        assert not any(future.done() for future in held)
        open_gate(tmp_path)
        assert sorted(future.result(timeout=SECONDS)[0] for future in held) == [0, 1, 2]
        wait_until(lambda: len(pool.nodes()) == 1, "the other two to be gone")


def test_a_node_is_wanted_again_before_it_has_gone(tmp_path: Path) -> None:
    with sky.Compute(nodes=2, retry_on_interruption=0, console=False, logging=False) as pool:
        held = [hold(str(tmp_path)) > pool for _ in range(2)]
        wait_until(lambda: holding(tmp_path) == [0, 1], "a task on each node")
        pool.resize(1)
        wait_until(lambda: pool.snapshot().scaling.draining == 1, "one that drains")
        pool.resize(2)
        open_gate(tmp_path)
        for future in held:
            future.result(timeout=SECONDS)
        wait_until(lambda: rank() @ pool == [0, 1], "two nodes")


def test_a_task_that_hangs_does_not_keep_a_draining_node_for_ever(tmp_path: Path) -> None:
    @sky.function
    def deaf(folder: str) -> None:
        open(os.path.join(folder, f"{sky.instance_info().node}-{os.getpid()}"), "w").close()
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(1000)

    with sky.Compute(nodes=2, shutdown_timeout=5.0, console=False, logging=False) as pool:
        futures = [deaf(str(tmp_path)).with_timeout(3.0) > pool for _ in range(2)]
        wait_until(lambda: holding(tmp_path) == [0, 1], "a task on each node")
        pool.resize(1)
        for future in futures:
            with pytest.raises(sky.TaskTimeoutError):
                future.result(timeout=SECONDS)
        wait_until(lambda: len(pool.nodes()) == 1, "node 1 to be gone", 20)


def test_resize_tells_tasks_how_many_they_are() -> None:
    @sky.function
    def total() -> int:
        return sky.instance_info().total_nodes

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        assert total() @ pool == [1]
        pool.resize(3)
        pool.wait_for_nodes(3, timeout=SECONDS)
        assert total() @ pool == [3, 3, 3]


# machines that vanish


def test_a_node_lost_while_it_starts_is_tried_again(tmp_path: Path) -> None:
    """The first two agents die while their workers start."""

    @contextlib.contextmanager
    def murderous(info: sky.InstanceInfo) -> Iterator[None]:
        for number in range(2):
            with contextlib.suppress(FileExistsError):
                os.mkdir(tmp_path / f"killed{number}")
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
        yield

    plugin = Plugin.create("murderous").with_around_app(murderous)
    with sky.Compute(
        nodes=2, plugins=[plugin], provision_retry_delay=0.01, console=False, logging=False
    ) as pool:
        assert rank() @ pool == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_node_that_is_never_reached_ends_the_start(tmp_path: Path) -> None:
    @contextlib.contextmanager
    def murderous(info: sky.InstanceInfo) -> Iterator[None]:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
        yield

    plugin = Plugin.create("murderous").with_around_app(murderous)
    with pytest.raises(sky.ProvisioningError, match="in 3 attempts: node 0") as failed:
        with sky.Compute(
            plugins=[plugin],
            provision_retry_delay=0.01,
            max_provision_attempts=3,
            console=False,
            logging=False,
        ):
            pass
    assert len(failed.value.attempts) == 3


def test_machines_that_vanish_with_their_folders_are_replaced() -> None:
    import shutil

    @sky.function
    def agent() -> tuple[int, str]:
        return os.getppid(), os.environ["SKYWARD_MACHINE"]

    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        before = agent() @ pool
        for pid, folder in before:
            os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)
        wait_until(
            lambda: (
                not {node.machine for node in pool.nodes()} & {os.path.basename(path) for _, path in before}
                and pool.current_nodes() == 2
            ),
            "two other machines",
        )
        assert rank() @ pool == [0, 1]


# ready means ready


def test_a_plugin_that_fails_on_the_node_fails_the_start(tmp_path: Path) -> None:
    @contextlib.contextmanager
    def broken(info: sky.InstanceInfo) -> Iterator[None]:
        print("about to break")
        raise LookupError("no such licence server")
        yield

    for plugin in (
        Plugin.create("broken").with_around_app(broken),
        Plugin.create("broken").with_around_process(broken),
    ):
        for executor in ("thread", "process"):
            begun = time.monotonic()
            worker = sky.Worker(executor=executor)
            with pytest.raises(sky.BootstrapError, match="no such licence server") as failed:
                with sky.Compute(nodes=3, worker=worker, plugins=[plugin], console=False, logging=False):
                    pytest.fail("it is not usable")
            assert failed.value.phase == "worker"
            assert "LookupError" in failed.value.tail
            assert failed.value.rank in (0, 1, 2)
            assert time.monotonic() - begun < 20


def launched_by(*launcher: str) -> Plugin:
    def launch(command: LaunchCommand, context: LaunchContext) -> LaunchCommand:
        return LaunchCommand(launcher=launcher, entrypoint=command.entrypoint)

    return Plugin.create("launcher").with_launcher(launch)


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        (("/no/such/python",), "/no/such/python: No such file or directory"),
        (("/bin/false",), "exited with status 1"),
        ((sys.executable, "-c", "import sys; sys.exit('wrong glibc')"), "wrong glibc"),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"), "SIGSEGV"),
    ],
    ids=["missing", "false", "complains", "crashes"],
)
def test_a_worker_that_can_not_start_fails_the_start(launcher: tuple[str, ...], words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(sky.BootstrapError) as failed:
        with sky.Compute(nodes=2, plugins=[launched_by(*launcher)], console=False, logging=False):
            pytest.fail("it is not usable")
    assert failed.value.phase == "worker"
    assert words in failed.value.tail
    assert str(failed.value).startswith(f"node {failed.value.rank}: starting the worker failed:")
    assert time.monotonic() - begun < 20


def test_a_worker_that_never_gets_ready_fails_the_start() -> None:
    launcher = launched_by(sys.executable, "-c", "import time; time.sleep(1000)")
    with pytest.raises(sky.BootstrapError, match=r"not ready 1 s after its start \(phase worker\)"):
        with sky.Compute(plugins=[launcher], bootstrap_timeout=1, console=False, logging=False):
            pytest.fail("it is not usable")


def test_a_bootstrap_command_that_fails_is_shown() -> None:
    plugin = Plugin.create("setup").with_bootstrap(lambda cluster: ("echo some way; echo into it; exit 5",))
    with pytest.raises(sky.BootstrapError, match="status 5") as failed:
        with sky.Compute(nodes=2, plugins=[plugin], console=False, logging=False):
            pytest.fail("it is not usable")
    assert failed.value.phase == "bootstrap"
    assert failed.value.tail == "some way\ninto it"


def test_what_a_bootstrap_command_left_running_ends_with_the_node(tmp_path: Path) -> None:
    command = f"setsid sleep 1000 >/dev/null 2>&1 & echo $! > {tmp_path}/pid"
    plugin = Plugin.create("daemon").with_bootstrap(lambda cluster: (command,))
    with sky.Compute(plugins=[plugin], console=False, logging=False) as pool:
        assert (rank() >> pool) == 0
        assert (tmp_path / "pid").read_text().strip()
    # no_leftovers says whether it runs


@pytest.mark.parametrize("nodes", [16, 32])
def test_many_nodes(nodes: int) -> None:
    with sky.Compute(nodes=nodes, console=False, logging=False) as pool:
        assert rank() @ pool == list(range(nodes))
        assert sum(pool.map(abs, range(500))) == sum(range(500))
