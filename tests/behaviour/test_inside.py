"""Inside a task: where it runs, its share of the data, and what it prints."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import skyward as sky

NODES = 3
QUIET: Any = {"console": False, "logging": False}


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=NODES, **QUIET) as pool:
        yield pool


@pytest.fixture(scope="module")
def processes(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=2, worker=sky.Worker(concurrency=2, executor="process"), **QUIET) as pool:
        yield pool


class Heard:
    """What a pool's tasks printed, as the client hears it."""

    def __init__(self, pool: sky.Pool) -> None:
        self.lines: list[tuple[int, str, str]] = []
        self._changed = threading.Condition()
        self._subscription = sky.subscribe(self._hear, sky.Log, pool=pool.name)

    def _hear(self, event: Any) -> None:
        with self._changed:
            self.lines.append((event.instance.node, event.stream, event.line))
            self._changed.notify_all()

    def wait_for(self, enough: Callable[[list[tuple[int, str, str]]], bool], seconds: float = 30) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self.lines), seconds), self.lines[-20:]

    def texts(self, stream: str = "stdout") -> list[str]:
        return [line for _, name, line in self.lines if name == stream]

    def close(self) -> None:
        self._subscription.close()


@contextlib.contextmanager
def listening(pool: sky.Pool) -> Iterator[Heard]:
    heard = Heard(pool)
    try:
        yield heard
    finally:
        heard.close()


def finish(pool: sky.Pool, heard: Heard) -> None:
    """Wait for a last line of every node, so that what was printed before is here."""

    @sky.function
    def say() -> None:
        print("last")

    say() @ pool
    heard.wait_for(lambda lines: sum(line == "last" for _, _, line in lines) == pool.current_nodes())


# where


def test_a_task_knows_its_place(pool: sky.Pool) -> None:
    @sky.function
    def place() -> Any:
        info = sky.instance_info()
        return info, sky.is_head(info)

    answers = place() @ pool
    infos = [info for info, _ in answers]
    assert [info.node for info in infos] == [0, 1, 2]
    assert {info.total_nodes for info in infos} == {NODES}
    assert {info.total_workers for info in infos} == {NODES}
    assert [info.global_worker_index for info in infos] == [0, 1, 2]
    assert [head for _, head in answers] == [True, False, False]
    assert len({info.job_id for info in infos}) == 1
    assert infos[0].job_id
    assert [peer.node for peer in infos[0].peers] == [0, 1, 2]
    assert infos[0].hostname == os.uname().nodename
    assert infos[0].accelerator is None
    assert type(infos[0]) is sky.InstanceInfo


def test_processes_of_a_node_are_one_worker(processes: sky.Pool) -> None:
    """A broadcast runs once a node, in any of its processes: each must count as the node's only worker."""

    def place() -> tuple[int, int, int, int, bool]:
        time.sleep(0.05)
        info = sky.instance_info()
        return info.node, info.worker, info.global_worker_index, info.total_workers, info.is_head

    places = {future.result() for future in [processes.submit(place) for _ in range(40)]}
    assert places == {(0, 0, 0, 2, True), (1, 0, 1, 2, False)}


def test_the_environment_of_scripts_that_know_no_skyward(pool: sky.Pool) -> None:
    @sky.function
    def variables() -> dict[str, str]:
        script = (
            "import os; print({k: v for k, v in os.environ.items() if k[:4] == 'SKYW' or k[:4] == 'SKYP'})"
        )
        return dict(eval(subprocess.check_output([sys.executable, "-c", script], text=True)))

    for rank, found in enumerate(variables() @ pool):
        for prefix in ("SKYWARD", "SKYPILOT"):
            assert found[f"{prefix}_NODE_RANK"] == str(rank)
            assert found[f"{prefix}_NUM_NODES"] == str(NODES)
            assert len(found[f"{prefix}_NODE_IPS"].splitlines()) == NODES
            assert found[f"{prefix}_NUM_GPUS_PER_NODE"] == "0"


def test_the_image_s_variables_are_set(tmp_path: Any) -> None:
    image = sky.Image(
        env={"GREETING": "hello"}, shell_vars={"ANSWER": "echo $((6 * 7))", "BOTH": 'echo "$GREETING!"'}
    )
    with sky.Compute(image=image, **QUIET) as pool:
        names = ["GREETING", "ANSWER", "BOTH"]
        assert pool.submit(lambda: [os.environ[name] for name in names]).result() == ["hello", "42", "hello!"]


def test_a_shell_variable_that_fails_names_its_command() -> None:
    image = sky.Image(shell_vars={"ANSWER": "echo wrong >&2; exit 3"})
    with pytest.raises(sky.BootstrapError) as caught, sky.Compute(image=image, **QUIET):
        pytest.fail("the pool opened")
    text = str(caught.value)
    assert "shell_vars" in text
    assert "exit 3" in text
    assert "wrong" in text


def test_what_local_does_not_install_is_remarked_and_what_is_installed_is_fine() -> None:
    heard: list[str] = []
    image = sky.Image(apt=["ffmpeg"], pip=["numpy>=1", "cloudpickle", "./wheels/mine.whl"], python=here())
    with sky.subscribe(lambda event: heard.append(event.message), sky.Error):
        with sky.Compute(nodes=2, image=image, **QUIET) as pool:
            assert pool.submit(abs, -1).result() == 1
    assert sorted(heard) == [
        "Local uses this computer as it is: apt packages are not installed (ffmpeg)",
        "Local uses this script's own environment: not checked for ./wheels/mine.whl",
    ]


def here() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


# shares


def whole(kind: str) -> Any:
    if kind == "list":
        return list(range(10))
    if kind == "tuple":
        return tuple(range(10))
    if kind == "range":
        return range(10)
    return np.arange(10)


@pytest.mark.parametrize("kind", ["list", "tuple", "range", "array"])
def test_a_broadcast_deals_data_out(kind: str, pool: sky.Pool) -> None:
    @sky.function
    def share(data: Any) -> Any:
        return sky.shard(data)

    data = whole(kind)
    shares = share(data) @ pool
    assert [type(part) for part in shares] == [type(data)] * NODES
    assert sorted(int(item) for part in shares for item in part) == list(range(10))
    assert {len(part) for part in shares} == {3, 4}


def test_arrays_that_belong_together_are_dealt_out_together(pool: sky.Pool) -> None:
    @sky.function
    def share(x: Any, y: Any) -> Any:
        return sky.shard(x, y, shuffle=True, seed=3)

    x = np.arange(100)
    shares = share(x, [int(i) * 2 for i in x]) @ pool
    assert all([int(i) * 2 for i in a] == b for a, b in shares)
    assert sorted(int(i) for a, _ in shares for i in a) == list(range(100))


@pytest.mark.parametrize("module", ["pandas", "pyarrow", "torch"])
def test_tables_and_tensors_are_dealt_out(module: str, pool: sky.Pool) -> None:
    pytest.importorskip(module)

    @sky.function
    def share(data: Any) -> Any:
        return sky.shard(data)

    if module == "pandas":
        import pandas as pd

        data: Any = pd.DataFrame({"a": range(10)})
    elif module == "pyarrow":
        import pyarrow as pa

        data = pa.table({"a": list(range(10))})
    else:
        import torch

        data = torch.arange(10)
    shares = share(data) @ pool
    assert [type(part) for part in shares] == [type(data)] * NODES
    assert sum(len(part) for part in shares) == 10


# output


def test_output_arrives_labelled_and_in_order(pool: sky.Pool) -> None:
    @sky.function
    def talk() -> None:
        rank = sky.instance_info().node
        for i in range(200):
            print(f"out {rank} {i}")
            if i % 2:
                print(f"err {rank} {i}", file=sys.stderr)

    with listening(pool) as heard:
        talk() @ pool
        finish(pool, heard)
    for rank in range(NODES):
        mine = [(stream, line) for node, stream, line in heard.lines if node == rank and line != "last"]
        assert [line for stream, line in mine if stream == "stdout"] == [
            f"out {rank} {i}" for i in range(200)
        ]
        assert [line for stream, line in mine if stream == "stderr"] == [
            f"err {rank} {i}" for i in range(1, 200, 2)
        ]
        # Also between the two streams, as long as both go through Python.
        expected = [
            x for i in range(200) for x in ([f"out {rank} {i}"] + ([f"err {rank} {i}"] if i % 2 else []))
        ]
        assert [line for _, line in mine] == expected


def test_output_arrives_while_the_task_runs(pool: sky.Pool, tmp_path: Any) -> None:
    go_on = tmp_path / "go on"

    def talk() -> None:
        print("now")
        while not go_on.exists():
            time.sleep(0.01)

    with listening(pool) as heard:
        future = pool.submit(talk)
        heard.wait_for(lambda lines: any(line == "now" for _, _, line in lines))
        assert not future.done()
        go_on.touch()
        future.result()


def test_what_has_no_newline_arrives_with_the_end_of_the_task(pool: sky.Pool) -> None:
    def talk() -> None:
        print("half", end="")
        print(" a line", end="")

    with listening(pool) as heard:
        pool.submit(talk).result()
        heard.wait_for(lambda lines: any(line == "half a line" for _, _, line in lines))


def test_the_output_of_child_processes_arrives(pool: sky.Pool) -> None:
    def talk() -> None:
        subprocess.run(["sh", "-c", "echo from a child; echo its error >&2"], check=True)
        os.write(1, b"straight to the descriptor\n")

    with listening(pool) as heard:
        pool.submit(talk).result()
        heard.wait_for(lambda lines: len({line for _, _, line in lines}) >= 3)
    assert set(heard.texts()) == {"from a child", "straight to the descriptor"}
    assert heard.texts("stderr") == ["its error"]


@sky.stdout(only="head")
@sky.function
def head_above() -> int:
    print("head above")
    print("to stderr", file=sys.stderr)
    return sky.instance_info().node


@sky.function
@sky.stdout(only="head")
def head_below() -> int:
    print("head below")
    return sky.instance_info().node


@sky.function
@sky.stdout(only=lambda info: info.node == 1)
def by_predicate() -> None:
    print("predicate")


@sky.silent
@sky.function
def silent_above() -> None:
    print("never")
    print("never", file=sys.stderr)


@sky.function
@sky.silent
def silent_below() -> None:
    print("never")
    print("never", file=sys.stderr)


def test_output_control(pool: sky.Pool) -> None:
    with listening(pool) as heard:
        assert head_above() @ pool == [0, 1, 2]
        assert head_below() @ pool == [0, 1, 2]
        by_predicate() @ pool
        silent_above() @ pool
        silent_below() @ pool
        finish(pool, heard)
    said = sorted(line for line in heard.lines if line[2] != "last")
    assert said == [
        (0, "stderr", "to stderr"),
        (0, "stdout", "head above"),
        (0, "stdout", "head below"),
        (1, "stderr", "to stderr"),
        (1, "stdout", "predicate"),
        (2, "stderr", "to stderr"),
    ]


def test_redirected_output_goes_to_the_callback(pool: sky.Pool) -> None:
    def work() -> list[str]:
        caught: list[str] = []
        with sky.redirect_output(caught.append):
            print("kept")
        return caught

    with listening(pool) as heard:
        assert pool.submit(work).result() == ["kept"]
        finish(pool, heard)
    assert "kept" not in heard.texts()


@pytest.mark.parametrize(
    ("nodes", "worker"),
    [(8, sky.Worker(concurrency=8, executor="thread")), (4, sky.Worker(concurrency=16, executor="process"))],
    ids=["8 nodes of 8 threads", "4 nodes of 16 processes"],
)
def test_nothing_is_lost_when_64_workers_print_1000_lines_a_second(nodes: int, worker: sky.Worker) -> None:
    seconds, rate = 2, 1000

    def talk(number: int) -> None:
        begun = time.perf_counter()
        for i in range(seconds * rate):
            ahead = begun + i / rate - time.perf_counter()
            if ahead > 0.002:
                time.sleep(ahead)
            print(f"{number} {i}")

    with sky.Compute(nodes=nodes, worker=worker, **QUIET) as pool, listening(pool) as heard:
        assert pool.concurrency == 64
        pool.map(talk, range(64))
        heard.wait_for(lambda lines: len(lines) >= 64 * seconds * rate, 60)
    numbers: dict[str, list[int]] = defaultdict(list)
    for _, _, line in heard.lines:
        number, _, i = line.partition(" ")
        numbers[number].append(int(i))
    assert len(numbers) == 64
    assert all(found == list(range(seconds * rate)) for found in numbers.values())
