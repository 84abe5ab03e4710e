"""The health checker on real nodes: what gets no tasks, what is replaced, and what is never held up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skyward as sky

pytestmark = pytest.mark.usefixtures("no_leftovers")


class Heard:
    """The events of interest so far, in words."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.lost: list[str] = []
        self.launched: list[int] = []
        self._changed = threading.Condition()

    def __call__(self, event: object) -> None:
        with self._changed:
            if isinstance(event, sky.Error):
                self.errors.append(event.message)
            elif isinstance(event, sky.InstancePreempted):
                self.lost.append(f"node {event.instance.node}: {event.reason}")
            elif isinstance(event, sky.InstanceProvisioned):
                self.launched.append(event.instance.node)
            self._changed.notify_all()

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), (self.errors, self.lost)


@pytest.fixture
def heard() -> Iterator[Heard]:
    listener = Heard()
    with sky.subscribe(listener, sky.Error, sky.InstancePreempted, sky.InstanceProvisioned):
        yield listener


def compute(
    check: Callable[[sky.InstanceInfo], bool | str],
    *,
    nodes: int = 1,
    timeout: float = 10.0,
    failures: int = 1,
    attempts: int = 10,
    worker: sky.Worker | None = None,
) -> sky.Compute:
    return sky.Compute(
        nodes=nodes,
        worker=worker,
        image=sky.Image(metrics=None),
        health_checker=sky.HealthChecker(check, 0.3, timeout, failures),
        provision_retry_delay=0.0,
        max_provision_attempts=attempts,
        console=False,
        logging=False,
    )


@sky.function
def where() -> tuple[int, int]:
    """My node and my process."""
    return sky.instance_info().node, os.getpid()


def count(folder: Path, what: str = "checks") -> int:
    path = folder / what
    return len(path.read_text().splitlines()) if path.exists() else 0


def note(folder: Path, what: str = "checks") -> int:
    """Count one more, on the node."""
    with open(folder / what, "a") as file:
        file.write(f"{os.getpid()}\n")
    return count(folder, what)


@pytest.mark.parametrize("worker", [sky.Worker(), sky.Worker(concurrency=2, executor="process")])
def test_a_healthy_node_works_and_is_checked_again_and_again(
    heard: Heard, tmp_path: Path, worker: sky.Worker
) -> None:
    def check(info: sky.InstanceInfo) -> bool:
        note(tmp_path)
        return os.environ["SKYWARD_NODE_RANK"] == str(info.node)

    with compute(check, nodes=2, worker=worker) as pool:
        assert count(tmp_path) >= 2  # nobody got a task before
        assert [node for node, _ in where() @ pool] == [0, 1]
        pids = {pid for _, pid in where() @ pool}
        assert [phase.name for phase in pool.timing().nodes[0].phases][-1] == "health"
        until = time.monotonic() + 30
        while count(tmp_path) < 8:
            assert time.monotonic() < until
            time.sleep(0.05)
    checkers = set((tmp_path / "checks").read_text().split())
    assert len(checkers) == 2
    assert not checkers & set(map(str, pids))
    assert not heard.errors
    assert not heard.lost


def test_a_machine_that_is_sick_from_the_start_gets_no_task_but_a_successor(
    heard: Heard, tmp_path: Path
) -> None:
    @sky.function
    def check(info: sky.InstanceInfo) -> bool | str:  # decorated, as people do
        return note(tmp_path) >= 4 or "no GPU"

    # A type checker sees that the call would be pending; the node makes it.
    with compute(check, failures=2) as pool:  # type: ignore[arg-type]
        assert (where() >> pool)[0] == 0
    assert heard.launched == [0, 0]
    assert heard.errors[:2] == [
        "node 0: the health check failed (1 of 2): no GPU",
        "node 0: the health check failed (2 of 2): no GPU",
    ]
    assert heard.lost == ["node 0: health check failed 2 times in a row: no GPU"]


def test_when_no_machine_is_healthy_the_pool_says_why() -> None:
    with pytest.raises(sky.ProvisioningError, match=r"in 2 attempts: node 0: health check failed once: bad"):
        with compute(lambda info: "bad", attempts=2):
            pytest.fail("it opened")


SICK: dict[str, tuple[Callable[[sky.InstanceInfo], bool | str | None], str]] = {
    "says why": (lambda info: "ECC errors", "ECC errors"),
    "says nothing": (lambda info: "", "the check gave an empty reason"),
    "says no": (lambda info: False, "the check returned False"),
    "has no return": (
        lambda info: None,
        "the check returned None: return True, or False, or what is wrong",
    ),
    "raises": (lambda info: 1 / 0 > 1, "ZeroDivisionError: division by zero"),
    "exits": (lambda info: os._exit(3), "its process exited with status 3"),
    "dies": (lambda info: os.kill(os.getpid(), signal.SIGSEGV), "its process was killed by SIGSEGV (segment"),
    "hangs": (lambda info: time.sleep(600), "no answer within 0.5 s"),
}


@pytest.mark.local_only("how a check fails has nothing to do with how its node is reached")
@pytest.mark.parametrize("how", SICK)
def test_a_node_that_becomes_sick_is_replaced(heard: Heard, tmp_path: Path, how: str) -> None:
    symptom, reason = SICK[how]

    def check(info: sky.InstanceInfo) -> object:
        if info.node == 1 and (tmp_path / "sick").exists() and note(tmp_path, "symptoms") <= 2:
            return symptom(info)
        return True

    with compute(check, nodes=2, timeout=0.5 if how == "hangs" else 10, failures=2) as pool:  # type: ignore[arg-type]
        before = where() @ pool
        (tmp_path / "sick").touch()
        heard.until(lambda: heard.lost)
        pool.wait_for_nodes(2, timeout=60)
        after = where() @ pool
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert heard.lost[0].startswith(f"node 1: health check failed 2 times in a row: {reason}")
    assert len(heard.lost) == 1


def test_failures_that_are_not_in_a_row_replace_nothing(heard: Heard, tmp_path: Path) -> None:
    def check(info: sky.InstanceInfo) -> bool:
        return note(tmp_path) % 3 == 0

    with compute(check, failures=3) as pool:
        before = where() >> pool
        heard.until(lambda: len(heard.errors) >= 6)
        assert where() >> pool == before
    assert not heard.lost
    assert {error.partition("(")[2][:1] for error in heard.errors} == {"1", "2"}


def test_a_task_of_a_sick_node_runs_elsewhere_and_a_hanging_check_holds_none_up(
    heard: Heard, tmp_path: Path
) -> None:
    @sky.function
    def long(folder: Path) -> int:
        rank = sky.instance_info().node
        (folder / f"runs-on-{rank}").touch()
        if note(folder, "attempts") == 1:
            (folder / f"sick-{rank}").touch()
            time.sleep(600)
        return rank

    def check(info: sky.InstanceInfo) -> bool:
        sick = tmp_path / f"sick-{info.node}"
        if sick.exists():
            sick.unlink()
            time.sleep(600)
        return True

    with compute(check, nodes=2, timeout=1.5) as pool:
        future = long(tmp_path) > pool
        assert (where() >> pool)[0] in (0, 1)
        assert future.result(timeout=60) in (0, 1)
    assert count(tmp_path, "attempts") == 2
    assert len(heard.lost) == 1
    assert "no answer within 1.5 s" in heard.lost[0]


def test_a_task_that_holds_the_interpreter_makes_no_node_sick(heard: Heard) -> None:
    @sky.function
    def hold() -> None:
        import ctypes

        ctypes.PyDLL(None).usleep(2_000_000)  # in C, and with the interpreter's lock

    with compute(lambda info: True, timeout=1.0) as pool:
        assert (hold() >> pool) is None
    assert not heard.lost
    assert not heard.errors


def test_what_a_check_prints_is_seen(heard: Heard) -> None:
    lines: list[str] = []
    with sky.subscribe(lambda event: lines.append(event.line), sky.Log):  # type: ignore[attr-defined]
        with compute(lambda info: print("checked", info.node) is None):
            pass
    assert "checked 0" in lines


def test_a_check_that_can_not_be_sent_costs_no_machine(heard: Heard) -> None:
    lock = threading.Lock()
    with pytest.raises(sky.SerializationError, match=r"can't send the health check .*lock"):
        with compute(lambda info: lock.locked()):
            pytest.fail("it opened")
    assert not heard.launched


class Unloadable:
    """A check that the node can't make sense of."""

    def __call__(self, info: sky.InstanceInfo) -> bool:
        return True

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return __import__, ("a_module_that_only_the_client_has",)


def test_a_check_that_can_not_be_loaded_is_said_at_once(heard: Heard) -> None:
    what = r"node 0: the health check can't be loaded: ModuleNotFoundError: No module named 'a_module"
    with pytest.raises(sky.BootstrapError, match=what) as raised:
        with compute(Unloadable()):
            pytest.fail("it opened")
    assert raised.value.phase == "health"
    assert heard.launched == [0]


def test_the_first_check_waits_for_its_delay() -> None:
    begun = time.monotonic()
    checker = sky.HealthChecker(lambda info: True, initial_delay=1.5)
    with sky.Compute(nodes=1, health_checker=checker, console=False, logging=False):
        assert time.monotonic() - begun >= 1.5
