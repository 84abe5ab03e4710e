"""Gauges with real children and a real selector, as the agent has them.

``nvidia-smi`` is a written script: it prints what the real one does, of GPUs that this computer hasn't got.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from skyward import metrics
from skyward.metrics import Metric
from skyward.node import gauges
from skyward.node.gauges import Gauges, disk_share, gpu_row, numbers


class Node:
    """The part of an agent that gauges need: its loop. ``told``: what the client would hear."""

    def __init__(self, *wanted: Metric, env: dict[str, str] | None = None) -> None:
        self.selector = selectors.DefaultSelector()
        self.told: list[dict[str, Any]] = []
        self.longest = 0.0
        self.ends: list[int] = []
        self.gauges = Gauges(
            list(map(asdict, wanted)), env or dict(os.environ), self.selector, self.told.append, lambda: None
        )

    @property
    def pids(self) -> list[int]:
        return [int(identity.split()[0]) for identity in self.gauges.identities]

    @property
    def remarks(self) -> list[str]:
        return [message["what"] for message in self.told if message["event"] == "remark"]

    @property
    def values(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for message in self.told:
            for name, value in message.get("values", ()):
                found.setdefault(name, []).append(value)
        return found

    def turn(self, watched: bool = True) -> None:
        begun = time.monotonic()
        pause = self.gauges.turn(watched)
        for pid in self.pids:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.gauges.on_exit(pid, status)
        self.longest = max(self.longest, time.monotonic() - begun)
        for key, events in self.selector.select(min(pause, 0.02)):
            key.data(events)

    def until(self, condition: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.told
            self.turn()

    def during(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.turn()

    def leave(self) -> None:
        """The client goes; wait for what was killed."""
        pids = self.pids
        self.turn(watched=False)
        for pid in pids:
            os.waitpid(pid, 0)


@pytest.fixture
def node() -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(*wanted: Metric, env: dict[str, str] | None = None) -> Node:
        made.append(Node(*wanted, env=env))
        return made[-1]

    yield make
    for one in made:
        one.leave()
        assert not one.selector.get_map()
        one.selector.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing starts here that would have to come first."""
    monkeypatch.setattr(gauges, "SETTLE", 0.05)


def custom(name: str, command: str, interval: float = 0.1, *, multi: bool = False) -> Metric:
    return Metric(name, command, interval, multi)


# ── commands ──


def test_a_command_gives_a_number_or_several(node: Callable[..., Node]) -> None:
    one = node(custom("fans", 'echo " $SPEED"'), custom("temps", "echo 40; echo 41.5", multi=True))
    one.gauges.env["SPEED"] = "1.25e3"
    one.until(lambda: len(one.values.get("fans", ())) > 2 and len(one.values.get("temps:1", ())) > 2)
    assert set(one.values["fans"]) == {1250.0}
    assert set(one.values["temps:0"]) == {40.0}
    assert set(one.values["temps:1"]) == {41.5}
    assert not one.remarks


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("echo three", "printed three, which is not a number"),
        ("echo nan", "printed nan, which is not a number"),
        ("echo 1 2", "printed 1 2, which is not a number"),
        ("true", "printed nothing"),
        ("echo 5; echo oh >&2; echo no >&2; exit 3", "ended with status 3: no"),
        ("kill -9 $$", "ended with status -9"),
        ("sleep 60", "took longer than 0.3 s"),
        ("yes", "printed more than a number"),
        ("yes >&2", "printed more than a number"),
    ],
)
def test_what_gives_no_number_is_told_of_once(
    node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, command: str, what: str
) -> None:
    monkeypatch.setattr(gauges, "COMMAND_SECONDS", 0.3)
    one = node(custom("bad", command))
    one.until(lambda: one.remarks)
    one.during(1.0)
    again = "it is run again, but this is not said again"
    assert one.remarks == [f"metric 'bad': `{command}` {what}; {again}"]
    assert not one.values


def test_a_command_that_fails_for_a_while_gives_its_numbers_then(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    one = node(custom("late", f"cat {tmp_path}/value"))
    one.until(lambda: one.remarks)
    (tmp_path / "value").write_text("7")
    one.until(lambda: one.values.get("late"))
    assert len(one.remarks) == 1


def test_what_hangs_holds_up_nothing_and_runs_once_at_a_time(
    node: Callable[..., Node], tmp_path: Path
) -> None:
    one = node(custom("hangs", f"echo >> {tmp_path}/starts; sleep 60"), custom("quick", "echo 1"))
    one.until(lambda: len(one.values.get("quick", ())) >= 5)
    assert (tmp_path / "starts").read_text() == "\n"
    assert one.longest < 5


def test_the_disk_is_asked_of_df(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node(metrics.Disk(str(tmp_path), 0.1), metrics.Disk(str(tmp_path / "none"), 0.1))
    one.until(lambda: one.values and one.remarks)
    fields = os.statvfs(tmp_path)
    used = fields.f_blocks - fields.f_bfree
    assert one.values[f"disk:{tmp_path}"][0] == pytest.approx(100 * used / (used + fields.f_bavail), abs=1)
    assert "No such file" in one.remarks[0]


def test_output_is_read_as_it_is_written() -> None:
    assert numbers(b" -3.5 \n", False) == [-3.5]
    assert numbers(b"", True) == []
    head = b"Filesystem     1024-blocks      Used Available Capacity Mounted on\n"
    assert disk_share(head + b"/dev/sda1  100 30 60 34% /mnt/my disk\n") == [pytest.approx(100 / 3)]
    assert disk_share(head + b"//server/a share 100 30 60 34% /mnt\n") == [pytest.approx(100 / 3)]
    assert disk_share(head + b"tmpfs 10 10 -2 100% /full\n") == [100.0]
    assert disk_share(head + b"proc 0 0 0 - /proc\n") == []
    with pytest.raises(ValueError, match="df"):
        disk_share(b"df: no\n")
    assert gpu_row(b"1, 35, 512, 81559, [N/A]") == (1, (35.0, 512.0, 81559.0, None))
    for line in b"", b"No devices were found", b"0, 35, 512", b"x, 1, 2, 3, 4":
        assert gpu_row(line) is None


# ── schedule ──


def test_nothing_is_read_for_nobody(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node(custom("counted", f"echo >> {tmp_path}/runs; echo 1"), custom("long", "sleep 60"))
    one.turn(watched=False)
    assert not one.pids
    one.until(lambda: one.values)
    assert len(one.pids) >= 1
    one.leave()
    assert not one.pids
    runs, told = (tmp_path / "runs").read_text(), len(one.told)
    for _ in range(20):
        one.turn(watched=False)
    assert ((tmp_path / "runs").read_text(), len(one.told)) == (runs, told)
    one.until(lambda: len(one.told) > told)  # and again for the next client


def test_readings_of_one_interval_come_together_and_none_is_made_up_for(node: Callable[..., Node]) -> None:
    one = node(metrics.Memory(0.1), metrics.MemoryUsed(0.1), metrics.MemoryTotal(60))
    one.during(0.55)
    together = [message for message in one.told if len(message["values"]) > 1]
    assert len(together) == len(one.told)
    assert 2 <= len(one.told) <= 7
    assert len(one.values["memory_total"]) == 1
    before = len(one.told)
    time.sleep(0.5)
    one.turn()
    one.turn()
    assert len(one.told) - before <= 2


# ── GPUs ──

SMI = """#!/bin/sh
echo "$*" >> {folder}/calls
n=0
while [ $n -lt {rounds} ]; do
  n=$((n+1))
  printf '0, %s, 1000, 81559, 40\\n1, 20, ' $n
  printf '2000, 81559, [N/A]\\n'
  sleep 0.1
done
{end}
"""


def smi(folder: Path, rounds: int = 10**6, end: str = "", text: str = SMI) -> dict[str, str]:
    """Write an ``nvidia-smi`` and return the environment that has it."""
    script = folder / "nvidia-smi"
    script.write_text(text.format(folder=folder, rounds=rounds, end=end))
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


GPU_METRICS = (
    metrics.GPU(None, 0.1),
    metrics.GPUMemory(1, 0.2),
    metrics.GPUMemoryTotal(),
    metrics.GPUTemp(interval=0.1),
)


def test_one_process_tells_of_all_gpus(node: Callable[..., Node], tmp_path: Path) -> None:
    one = node(*GPU_METRICS, env=smi(tmp_path))
    one.until(lambda: len(one.values.get("gpu:0", ())) > 4 and one.values.get("gpu_memory:1"))
    found = one.values
    assert sorted(found["gpu:0"]) == found["gpu:0"]
    assert found["gpu:0"][-1] > found["gpu:0"][0]
    assert set(found["gpu:1"]) == {20.0}
    assert set(found["gpu_memory:1"]) == {2000.0}
    assert (found["gpu_memory_total:0"], found["gpu_memory_total:1"]) == ([81559.0], [81559.0])
    assert set(found["gpu_temp:0"]) == {40.0}
    assert "gpu_temp:1" not in found
    assert "gpu_memory:0" not in found
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.endswith("--format=csv,noheader,nounits --loop-ms=100")
    one.leave()
    assert not one.pids
    before = len(one.values["gpu:1"])
    one.until(lambda: len(one.values["gpu:1"]) > before)  # the next client waits for nothing
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_no_gpu_is_no_news(node: Callable[..., Node], tmp_path: Path) -> None:
    none = node(*GPU_METRICS, env={"PATH": str(tmp_path / "empty")})
    broken = node(*GPU_METRICS, env=smi(tmp_path, 0, "echo no driver; exit 9"))
    for one in none, broken:
        one.during(0.6)
        assert not one.told
        assert not one.pids
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_a_driver_that_went_away_is_asked_again(
    node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "RETRY", 0.5)
    one = node(metrics.GPU(0, 0.1), env=smi(tmp_path, 1, "exit 15"))
    calls = tmp_path / "calls"
    one.until(lambda: calls.exists() and len(calls.read_text().splitlines()) == 3)
    assert set(one.values["gpu:0"]) == {1.0}
    assert not one.remarks


def test_a_gpu_that_is_silent_is_not_told_of_for_ever(
    node: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauges, "COMMAND_SECONDS", 0.2)
    one = node(metrics.GPU(0, 0.1), env=smi(tmp_path, 1, "exec sleep 60"))
    one.until(lambda: one.values)
    one.during(1.0)
    before = len(one.told)
    one.during(0.5)
    assert len(one.told) == before
    assert len(one.pids) == 1
