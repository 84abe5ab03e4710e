"""The words of the consoles: events, durations, rates, remote text and remote progress bars."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyward import events
from skyward.accelerators import A100
from skyward.console import (
    LIFECYCLE,
    Bars,
    Metrics,
    cell_width,
    clean,
    describe,
    duration_text,
    fit,
    heartbeat_text,
    money_text,
    nodes_text,
    progress_text,
    rate_text,
    summary_text,
)
from skyward.events import Event, Instance, Log, Metric
from skyward.snapshot import NodeSnapshot, PoolSnapshot, Progress, ScalingSnapshot, TaskCounts
from skyward.spec import Nodes, PoolSpec, PoolState

NODE = Instance(id="i-1", node=2, region="mars", usd_per_hour=0.5, spot=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (4, "4 s"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (8040, "2 h 14 min"),
        (86_400 * 3 + 3600 * 4, "3 d 04 h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (12.34, "12.3/s"),
        (1234.5, "1234/s"),
        (1, "1.0/s"),
        (0.5, "30.0/min"),
        (0.001, "3.6/h"),
        (0.00001, "0.0/h"),
        (0, "0.0/s"),
        (float("inf"), "?/s"),
    ],
)
def test_rates(per_second: float, text: str) -> None:
    assert rate_text(per_second) == text


def test_money_keeps_a_digit_that_says_something() -> None:
    assert [money_text(usd) for usd in (0.004, 0.1, 12.345)] == ["$0.004", "$0.10", "$12.35"]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            events.ClusterRequested(
                pool="p", provider="acme", spec=PoolSpec(nodes=Nodes(4), accelerator=A100(count=8), region="")
            ),
            ("p", "requested 4 nodes from acme, 8 × A100 each"),
        ),
        (events.ClusterProvisioned(pool="p", provider="acme", nodes=1), ("p", "1 machine from acme")),
        (events.ClusterReady(pool="p", nodes=4, seconds=52.2), ("p", "ready with 4 nodes in 52 s")),
        (events.ClusterDestroyed(pool="p"), ("p", "all machines released")),
        (
            events.InstanceRequested(pool="p", node=2, provider="acme", replacing="i-0"),
            ("node 2", "requesting a machine from acme, instead of i-0"),
        ),
        (
            events.InstanceProvisioned(pool="p", instance=NODE),
            ("node 2", "machine i-1 in mars, $0.50/h spot"),
        ),
        (events.InstancePhase(pool="p", instance=NODE, phase="apt", state="started"), None),
        (
            events.InstancePhase(pool="p", instance=NODE, phase="apt", state="done", seconds=12),
            ("node 2", "apt done in 12 s"),
        ),
        (
            events.InstancePhase(
                pool="p", instance=NODE, phase="apt", state="failed", seconds=3, detail="a\nb\x1b[2J"
            ),
            ("node 2", "apt failed after 3 s: a\nb"),
        ),
        (events.InstanceBootstrapped(pool="p", instance=NODE, seconds=41), ("node 2", "ready in 41 s")),
        (events.InstancePreempted(pool="p", instance=NODE, reason="outbid"), ("node 2", "lost: outbid")),
        (events.InstanceReplaced(pool="p", old_id="i-0", new=NODE), ("node 2", "i-1 replaces i-0")),
        (events.InstanceDestroyed(pool="p", instance=NODE), ("node 2", "machine i-1 released")),
        (
            events.WorkerDied(pool="p", instance=NODE, cause="SIGSEGV"),
            ("node 2", "a worker died and is started again: SIGSEGV"),
        ),
        (
            events.ScalingChanged(pool="p", desired=6, reason="40 tasks wait"),
            ("p", "scaling to 6 nodes: 40 tasks wait"),
        ),
        (events.TaskStarted(pool="p", task_id=1, instance=NODE, function_name="f"), None),
        (
            events.TaskCompleted(
                pool="p", task_id=1, instance=NODE, function_name="f", duration=2, success=False, error="boom"
            ),
            ("node 2", "f failed after 2 s: boom"),
        ),
        (Metric(pool="p", instance=NODE, name="cpu", value=1), None),
        (Log(pool="p", instance=NODE, line="\x1b[31mhello\x07  "), ("node 2", "hello")),
        (events.Error(pool="p", message="no"), ("p", "error: no")),
        (events.Error(pool="p", message="no", fatal=True), ("p", "fatal: no")),
        (Event(pool="p"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_events_in_words(event: Event, said: tuple[str, str] | None) -> None:
    assert describe(event) == said


def test_lifecycle_is_every_event_but_tasks_metrics_and_output() -> None:
    every = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}
    apart = {Event, events.TaskStarted, events.TaskCompleted, Metric, Log}
    assert set(LIFECYCLE) == every - apart


@given(st.text(alphabet=st.characters(), max_size=200))
def test_clean_text_is_one_line_that_any_file_takes(text: str) -> None:
    for cleaned in (clean(text), clean(text + "\ud800\x1b[2J\x9b1m\x1b]0;t\x07")):
        cleaned.encode("utf-8")
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", cleaned)


@given(st.text(alphabet="\x1b[]0;1m2JKABP\\\x07\x9b x", max_size=40))
def test_clean_text_with_colours_has_no_other_escapes(text: str) -> None:
    assert "\x1b" not in re.sub(r"\x1b\[[\d;:]*m", "", clean(text, colours=True))


def test_clean_keeps_what_is_harmless() -> None:
    assert clean("a\tb — 漢字 👩‍🔬") == "a       b — 漢字 👩‍🔬"
    assert clean("\x1b[1;31mred\x1b[0m", colours=True) == "\x1b[1;31mred\x1b[0m"
    assert clean("x" * 10, limit=4) == "xxxx… (+6 characters)"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=40), st.integers(0, 50))
def test_fit_never_takes_more_columns_than_there_are(text: str, width: int) -> None:
    fitted = fit(text, width)
    assert cell_width(fitted) <= width
    if cell_width(text) <= width:
        assert fitted == text


def test_wide_characters_take_two_columns_and_colours_none() -> None:
    assert cell_width("漢字 e\u0301") == 6
    assert cell_width("\x1b[31mred\x1b[0m") == 3


def snapshot(**changes: object) -> PoolSnapshot:
    node = NodeSnapshot(
        rank=0,
        machine="i",
        status="ready",
        phase="",
        slots=2,
        running=1,
        done=3,
        address="",
        usd_per_hour=0,
        since=0,
    )
    whole = PoolSnapshot(
        name="p",
        provider="acme",
        phase=PoolState.READY,
        nodes=(node, replace(node, rank=1, status="lost"), replace(node, rank=2, status="ended")),
        tasks=TaskCounts(queued=24, running=8, done=310, failed=2),
        scaling=ScalingSnapshot(desired=2, min=2, max=2, pending=0, draining=0, is_elastic=False),
        progress=(Progress(name="train", total=1000, done=310, started=0),),
        started=0,
        usd_per_hour=0,
        cost_usd=1.32,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]  # the tests' own changes


def test_snapshots_in_words() -> None:
    pool = snapshot()
    assert nodes_text(pool.nodes) == "1 lost, 1 ready"
    assert nodes_text(()) == "no nodes"
    assert heartbeat_text(pool, 31.0) == (
        "1 lost, 1 ready; tasks 310 done, 8 running, 24 queued, 2 failed; "
        "train 310/1000 (31 %), 10.0/s, 1 min 09 s left"
    )
    assert summary_text(pool, 725.0) == "312 tasks, 2 failed, 12 min 05 s, $1.32"
    assert summary_text(replace(pool, cost_usd=0.0), 9.5) == "312 tasks, 2 failed, 9.5 s"


def test_progress_says_nothing_that_is_not_known() -> None:
    assert progress_text(Progress(name="f", total=10, done=0, started=5), 6) == "f 0/10 (0 %)"
    assert progress_text(Progress(name="f", total=0, done=0, started=5), 6) == "f 0/0"
    assert (
        progress_text(Progress(name="f", total=10, done=10, started=0), 5)
        == "f 10/10 (100 %), 2.0/s, 0 s left"
    )


def test_metrics_are_means_over_the_nodes() -> None:
    metrics = Metrics()
    assert metrics.text() == ""
    for node, name, value in (
        (0, "cpu", 10),
        (0, "cpu", 40),
        (1, "cpu", 50),
        (0, "rss_total", 9),
        (0, "gpu_memory_total:1", 9),
        (0, "loss", 0.25),
        (0, "gpu:0", 100),
        (0, "gpu:1", 50),
        (1, "gpu:0", 30),
        (0, "disk", 30),
        (0, "disk:/data", 50),
        (0, "memory_used", 3 * 1024),
        (1, "memory_used", 1024),
    ):
        metrics.feed(Metric(pool="p", instance=replace(NODE, node=node), name=name, value=value))
    assert metrics.text() == "cpu 45 %, loss 0.25, gpu 60 %, disk 30 %, disk:/data 50 %, memory_used 2 GiB"


# ── progress bars ──


def log(line: str, *, node: int = 0, overwrite: bool = False) -> Log:
    return Log(pool="p", instance=replace(NODE, node=node), line=line, overwrite=overwrite)


def fed(bars: Bars, log: Log, now: float = 0.0) -> list[str]:
    return [shown.line for shown in bars.feed(log, now)]


def test_a_bar_is_held_back_and_its_last_line_is_not() -> None:
    bars = Bars()
    assert fed(bars, log("1%", overwrite=True)) == []
    assert fed(bars, log("2%", overwrite=True)) == []
    assert [bar.line for bar in bars.current()] == ["2%"]
    assert fed(bars, log("100%")) == ["100%"]
    assert bars.current() == ()


def test_a_newline_alone_commits_the_bar() -> None:
    bars = Bars()
    assert fed(bars, log("")) == [""]
    fed(bars, log("100%", overwrite=True))
    assert fed(bars, log("")) == ["100%"]


def test_a_bar_that_wipes_itself_is_gone() -> None:
    bars = Bars()
    fed(bars, log("50%", overwrite=True))
    assert fed(bars, log("     ", overwrite=True)) == []
    assert bars.current() == ()
    assert list(bars.settle(1e9, 0)) == []


def test_bars_of_nodes_are_apart_and_in_order() -> None:
    bars = Bars()
    for node in (3, 1, 2):
        fed(bars, log(f"bar {node}", node=node, overwrite=True))
    assert fed(bars, log("a line", node=2)) == ["a line"]
    assert [bar.line for bar in bars.current()] == ["bar 1", "bar 3"]


def test_a_bar_is_due_now_and_then_while_it_moves() -> None:
    bars = Bars()
    shown: list[str] = []
    for second in range(20):
        fed(bars, log(f"{second}", overwrite=True), now=second)
        shown += [due.line for due in bars.due(second, every=5)]
    assert shown == ["5", "10", "15"]
    assert [due.line for due in bars.due(30, every=5)] == ["19"]
    assert list(bars.due(60, every=5)) == [], "it has not moved"


def test_a_bar_that_stopped_moving_settles_once() -> None:
    bars = Bars()
    fed(bars, log("50%", overwrite=True), now=0)
    assert list(bars.settle(9, quiet=10)) == []
    assert [bar.line for bar in bars.settle(10, quiet=10)] == ["50%"]
    assert list(bars.settle(99, quiet=10)) == []
    fed(bars, log("60%", overwrite=True), now=100)
    list(bars.due(105, every=5))
    assert list(bars.settle(200, quiet=10)) == [], "it was shown already"
