"""How many nodes a load calls for: properties that hold for every load and every limit."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from skyward.engine.autoscale import Limits, Load, desired_nodes

seconds = st.floats(0, 1000, allow_nan=False)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    floor = draw(st.integers(1, 20))
    return Limits(
        floor=floor,
        ceiling=draw(st.integers(floor, 40)),
        cooldown=draw(seconds),
        idle_timeout=draw(st.floats(0.01, 1000, allow_nan=False)),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Load, Limits]:
    bounds = draw(limits())
    nodes = draw(st.integers(bounds.floor, bounds.ceiling))
    load = Load(
        queued=draw(st.integers(0, 10_000)),
        running=draw(st.integers(0, 500)),
        nodes=nodes,
        slots_per_node=draw(st.integers(1, 16)),
        idle_seconds=tuple(sorted(draw(st.lists(seconds, max_size=nodes)), reverse=True)),
        since_change=draw(seconds),
    )
    return load, bounds


@given(situations(), st.integers(0, 60))
def test_the_answer_is_always_within_the_limits(situation: tuple[Load, Limits], nodes: int) -> None:
    """Also when the pool was outside them, as after a resize, and even during the cooldown."""
    load, bounds = situation
    assert bounds.floor <= desired_nodes(replace(load, nodes=nodes), bounds) <= bounds.ceiling


@given(situations())
def test_nothing_changes_during_the_cooldown(situation: tuple[Load, Limits]) -> None:
    load, bounds = situation
    if load.since_change < bounds.cooldown:
        assert desired_nodes(load, bounds) == load.nodes


@given(situations())
def test_it_grows_only_for_what_is_queued_and_no_further_than_that_fills(
    situation: tuple[Load, Limits],
) -> None:
    load, bounds = situation
    desired = desired_nodes(load, bounds)
    if desired > load.nodes:
        assert load.queued
        assert (desired - 1) * load.slots_per_node < load.queued + load.running


@given(situations())
def test_what_is_queued_gets_all_the_nodes_that_it_can_use(situation: tuple[Load, Limits]) -> None:
    load, bounds = situation
    if load.queued and load.since_change >= bounds.cooldown:
        slots = desired_nodes(load, bounds) * load.slots_per_node
        assert slots >= load.queued + load.running or slots == bounds.ceiling * load.slots_per_node


@given(situations())
def test_it_shrinks_only_by_nodes_that_were_idle_long_enough(situation: tuple[Load, Limits]) -> None:
    load, bounds = situation
    gone = load.nodes - desired_nodes(load, bounds)
    if gone > 0:
        assert not load.queued
        assert gone <= sum(idle >= bounds.idle_timeout for idle in load.idle_seconds)


@given(situations())
def test_all_that_are_idle_long_enough_go(situation: tuple[Load, Limits]) -> None:
    load, bounds = situation
    calm = replace(load, queued=0, since_change=math.inf)
    idle = sum(seconds >= bounds.idle_timeout for seconds in calm.idle_seconds)
    assert desired_nodes(calm, bounds) == max(bounds.floor, calm.nodes - idle)


@given(situations(), st.integers(0, 10_000))
def test_more_work_never_means_fewer_nodes(situation: tuple[Load, Limits], more: int) -> None:
    load, bounds = situation
    assert desired_nodes(load, bounds) <= desired_nodes(replace(load, queued=load.queued + more), bounds)
    if load.queued:
        assert desired_nodes(load, bounds) <= desired_nodes(
            replace(load, running=load.running + more), bounds
        )


@given(situations())
def test_it_settles(situation: tuple[Load, Limits]) -> None:
    """Following its own advice under an unchanged load, it asks for nothing more."""
    load, bounds = situation
    load = replace(load, since_change=math.inf)
    there = desired_nodes(load, bounds)
    if there >= load.nodes:
        assert desired_nodes(replace(load, nodes=there), bounds) == there
    else:  # the idle ones are gone
        left = load.idle_seconds[load.nodes - there :]
        assert desired_nodes(replace(load, nodes=there, idle_seconds=left), bounds) == there


@given(limits(), st.integers(1, 16))
def test_a_pool_without_work_goes_down_to_its_floor(bounds: Limits, slots: int) -> None:
    load = Load(
        queued=0,
        running=0,
        nodes=bounds.ceiling,
        slots_per_node=slots,
        idle_seconds=(bounds.idle_timeout,) * bounds.ceiling,
        since_change=math.inf,
    )
    assert desired_nodes(load, bounds) == bounds.floor
