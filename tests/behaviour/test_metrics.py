"""What nodes measure, as the pool's owner sees it: ``Metric`` events from real agents.

GPUs are those of an ``nvidia-smi`` that is a script written here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skyward as sky
from skyward import metrics

pytestmark = pytest.mark.usefixtures("no_leftovers")


class Heard:
    """The events of interest so far."""

    def __init__(self) -> None:
        self.metrics: list[sky.Metric] = []
        self.errors: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, event: object) -> None:
        with self._changed:
            if isinstance(event, sky.Metric):
                self.metrics.append(event)
            elif isinstance(event, sky.Error):
                self.errors.append(event.message)
            self._changed.notify_all()

    def of(self, name: str) -> dict[int, list[float]]:
        """The values of one metric, by node."""
        found: dict[int, list[float]] = {}
        for event in list(self.metrics):
            if event.name == name:
                found.setdefault(event.instance.node, []).append(event.value)
        return found

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), (self.metrics[-5:], self.errors)


@pytest.fixture
def heard() -> Iterator[Heard]:
    listener = Heard()
    with sky.subscribe(listener, sky.Metric, sky.Error):
        yield listener


def compute(*wanted: metrics.Metric, nodes: int = 1, **env: str) -> sky.Compute:
    image = sky.Image(metrics=list(wanted), env=env)
    return sky.Compute(nodes=nodes, image=image, console=False, logging=False)


@sky.function
def agent() -> int:
    return os.getppid()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel doesn't tell")
def test_every_node_tells_what_the_default_says(heard: Heard) -> None:
    image = sky.Image(metrics=metrics.Default(cpu_interval=0.3, memory_interval=0.3))
    with sky.Compute(nodes=2, image=image, console=False, logging=False):
        heard.until(lambda: all(len(heard.of("cpu").get(node, ())) >= 3 for node in (0, 1)))
        heard.until(lambda: len(heard.of("memory_total")) == 2)
    for node in (0, 1):
        (total,) = heard.of("memory_total")[node]
        assert 64 < total <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20) + 1
        assert all(0 < used < total for used in heard.of("memory_used")[node])
        assert all(0 <= share <= 100 for share in heard.of("cpu")[node])
    assert {event.name for event in heard.metrics} <= {"cpu", "memory_used", "memory_total"} | {
        event.name for event in heard.metrics if event.name.startswith("gpu")
    }
    assert not heard.errors


def test_no_metrics_is_no_readings(heard: Heard) -> None:
    with sky.Compute(nodes=1, image=sky.Image(metrics=None), console=False, logging=False) as pool:
        pid = agent() >> pool
        time.sleep(1.5)
        if sys.platform == "linux":
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            assert len(children) == 1  # the worker
    assert not heard.metrics


def test_a_custom_metric_runs_in_the_images_environment(heard: Heard) -> None:
    with compute(sky.metrics.Custom("answer", "echo $ANSWER", 0.2), ANSWER="42.5"):
        heard.until(lambda: len(heard.of("answer").get(0, ())) >= 2)
    assert set(heard.of("answer")[0]) == {42.5}


def test_a_metric_that_is_no_number_is_one_event(heard: Heard) -> None:
    good, bad = sky.metrics.Custom("good", "echo 1", 0.2), sky.metrics.Custom("bad", "echo high", 0.2)
    with compute(good, bad):
        heard.until(lambda: len(heard.of("good").get(0, ())) >= 5)
    (error,) = heard.errors
    assert error.startswith("node 0: metric 'bad': `echo high` printed high, which is not a number")


@pytest.mark.local_only("what is on PATH here is not on that of an SSH server")
def test_gpus_are_told_of_by_number(heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\nwhile :; do echo '0, 87, 1024, 81559, 61'; echo '1, 0, 3, 81559, 30'; sleep 0.2; done\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with compute(*metrics.Default(gpu_interval=0.2), metrics.GPU(1, 0.2)):
        names = {f"gpu{kind}:{n}" for kind in ("", "_memory", "_memory_total", "_temp") for n in (0, 1)}
        heard.until(lambda: names <= {event.name for event in heard.metrics})
    assert set(heard.of("gpu:0")[0]) == {87.0}
    assert set(heard.of("gpu_temp:1")[0]) == {30.0}
    assert set(heard.of("gpu_memory_total:0")[0]) == {81559.0}
    assert not heard.errors


def test_a_long_task_and_a_hanging_metric_do_not_meet(heard: Heard) -> None:
    @sky.function
    def busy(seconds: float) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return "done"

    with compute(
        sky.metrics.Custom("hangs", "sleep 600", 0.2), sky.metrics.Custom("n", "echo 1", 0.2)
    ) as pool:
        future = busy(2.0) > pool
        heard.until(lambda: len(heard.of("n").get(0, ())) >= 4)
        assert not future.done()
        assert future.result(timeout=60) == "done"


def marked(mark: bytes) -> list[int]:
    """Processes that have the mark in their command line."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("victim", [None, "agent"])
def test_what_runs_for_a_metric_ends_with_its_node(heard: Heard, tmp_path: Path, victim: str | None) -> None:
    command = f"exec tail -f {tmp_path}/never"
    (tmp_path / "never").touch()
    with compute(sky.metrics.Custom("hangs", command, 0.2)) as pool:
        pid = agent() >> pool
        until = time.monotonic() + 30
        while not (before := marked(bytes(tmp_path))):
            assert time.monotonic() < until
            time.sleep(0.02)
        if victim is not None:
            os.kill(pid, signal.SIGKILL)
            pool.wait_for_nodes(1, timeout=60)
            while set(before) & set(marked(bytes(tmp_path))):
                assert time.monotonic() < until + 30
                time.sleep(0.02)
    assert not marked(bytes(tmp_path))


CLIENT = """
import os, sys, time
import skyward as sky

@sky.function
def agent():
    return os.getppid()

if __name__ == "__main__":
    image = sky.Image(metrics=[sky.metrics.Custom("n", f"echo >> {sys.argv[1]}; echo 1", 0.2)])
    with sky.Compute(nodes=1, image=image, ttl=5, console=False, logging=False) as pool:
        print(agent() >> pool, flush=True)
        time.sleep(600)
"""


@pytest.mark.local_only("the client is a script of its own")
def test_nothing_is_read_for_a_client_that_is_gone(tmp_path: Path) -> None:
    script, log = tmp_path / "client.py", tmp_path / "runs"
    script.write_text(CLIENT)
    with subprocess.Popen([sys.executable, script, log], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        until = time.monotonic() + 30
        while not log.exists() or log.stat().st_size < 4:
            assert time.monotonic() < until
            time.sleep(0.02)
        client.kill()
    time.sleep(0.5)
    size = log.stat().st_size
    time.sleep(1.0)
    os.kill(pid, 0)  # the agent is there, and waits for the client's return
    assert log.stat().st_size == size
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until + 30
        time.sleep(0.05)
