"""What was measured becomes phases that add up."""

from __future__ import annotations

import pytest
import skyward as sky
from skyward.timing import NodeTiming, Timing, without_gaps


def test_gaps_have_a_name_and_nothing_is_counted_twice() -> None:
    measured = [
        ("connect", 11.0, 12.0),
        ("launch", 10.5, 11.0),
        ("worker", 13.0, 14.0),
        ("agent", 12.5, 13.2),
    ]
    phases = without_gaps(measured, opened=10.0, begun=10.5)
    assert [(phase.name, phase.begin, phase.seconds) for phase in phases] == [
        ("launch", 0.5, 0.5),
        ("connect", 1.0, 1.0),
        ("other", 2.0, 0.5),
        ("agent", 2.5, pytest.approx(0.7)),
        ("worker", pytest.approx(3.2), pytest.approx(0.8)),
    ]
    timing = Timing(nodes=(NodeTiming(rank=3, phases=phases),))
    assert timing.nodes[0].seconds == pytest.approx(3.5)
    assert timing.seconds == pytest.approx(4.0)
    assert "node 3  ready after 4.00 s" in str(timing)


def test_of_a_real_pool_it_adds_up() -> None:
    ready: list[float] = []
    with (
        sky.subscribe(lambda event: ready.append(event.seconds), sky.ClusterReady),
        sky.Compute(nodes=2, console=False, logging=False) as pool,
    ):
        timing = pool.timing()
    assert [node.rank for node in timing.nodes] == [0, 1]
    assert {"launch", "agent", "worker"} <= {phase.name for phase in timing.nodes[0].phases}
    assert timing.seconds == pytest.approx(ready[0], abs=0.05)
