"""Schedules come from their seed alone, happen as they say, and end."""

from __future__ import annotations

from random import Random

import pytest
from skyward_testing.chores import WEIGHTS, Chore, draw_chores
from skyward_testing.schedules import BREATH, KINDS, SPANS, Fault, Storm, draw
from skyward_testing.testbed import BedError, Node, Testbed


@pytest.fixture(scope="module")
def pair(shared_testbed: Testbed) -> list[Node]:
    return shared_testbed.nodes(2, disk_mb=32)


def test_the_same_seed_gives_the_same_faults() -> None:
    assert draw(Random(3), nodes=3) == draw(Random(3), nodes=3) != draw(Random(4), nodes=3)
    drawn = [draw(Random(seed), nodes=3, most=6, within=5.0) for seed in range(300)]
    assert {fault.kind for faults in drawn for fault in faults} == set(KINDS)
    for faults in drawn:
        assert 1 <= len(faults) <= 6
        assert list(faults) == sorted(faults, key=lambda fault: fault.at)
        for fault in faults:
            assert 0 <= fault.at <= 5
            assert fault.node in range(3)
            assert bool(fault.seconds) == (fault.kind in SPANS)


def test_no_node_has_two_lasting_faults_at_a_time() -> None:
    for seed in range(300):
        last: dict[int, float] = {}
        for fault in draw(Random(seed), nodes=1, most=6):
            if fault.seconds:
                assert fault.at >= last.get(fault.node, 0.0)
                last[fault.node] = fault.at + fault.seconds + BREATH


def test_what_lasts_ends(pair: list[Node]) -> None:
    plan = [
        Fault(kind="freeze", node=0, at=0.0, seconds=0.2),
        Fault(kind="fill-disk", node=1, at=0.1, seconds=0.2),
        Fault(kind="restart-sshd", node=0, at=0.3, seconds=0.1),
        Fault(kind="refuse", node=1, at=0.4, seconds=0.1),
        Fault(kind="kill-worker", node=1, at=0.4),
    ]
    with Storm(pair, plan) as storm:
        storm.begin()
        storm.wait()
        assert {entry.fault for entry in storm.played} == set(plan)
        assert all(entry.ended >= entry.began + entry.fault.seconds for entry in storm.played)
    assert 0.2 <= storm.silence(pair[0]) < 5
    assert storm.silence(pair[1]) == 0
    assert storm.kinds(pair[0]) == {"freeze", "restart-sshd"}
    assert storm.killed(pair[1]) == frozenset()
    assert "did not happen" not in str(storm)
    for node in pair:
        assert node.exec("dd if=/dev/zero of=room bs=1M count=4 status=none && rm room") == ""
        assert node.pids("sshd") != []
        assert "testbed" not in node.exec("nft list tables")


def test_the_end_of_the_block_ends_all(pair: list[Node]) -> None:
    plan = [Fault(kind="freeze", node=0, at=0.0, seconds=60), Fault(kind="vanish", node=1, at=60)]
    with Storm(pair, plan) as storm:
        storm.begin()
        with pytest.raises(TimeoutError):
            storm.wait(0.2)
    assert not pair[0].machine.groups.is_frozen
    assert pair[1].alive
    assert str(storm).count("did not happen") == 1


def test_the_dead_are_spared_and_trouble_is_told(shared_testbed: Testbed) -> None:
    node = shared_testbed.node()
    plan = [Fault(kind="power-off", node=0, at=0.0), Fault(kind="reset", node=0, at=0.05, seconds=0.1)]
    with Storm([node], plan) as storm:
        storm.begin()
        storm.wait()
    assert [entry.fault.kind for entry in storm.played] == ["power-off"]
    other = shared_testbed.node()
    other.exec("rm /usr/sbin/sshd")
    with Storm([other], [Fault(kind="restart-sshd", node=0, at=0.0, seconds=0.05)]) as storm:
        storm.begin()
        with pytest.raises(BedError, match="sshd did not start"):
            storm.wait()


def test_chores_know_their_outcome() -> None:
    assert draw_chores(Random(1), 200) == draw_chores(Random(1), 200)
    assert {chore.kind for chore in draw_chores(Random(1), 200)} == set(WEIGHTS)
    right = {"nap": 5, "count": [5, 6, 7], "total": 3, "wrong": LookupError(5)}
    for kind, outcome in right.items():
        (chore,) = (Chore(number=5, kind=name, size=3) for name in WEIGHTS if name == kind)
        assert chore.is_right(outcome)
        for other in (*right.values(), LookupError(4), [5, 6, 5, 6, 7], b"", None):
            assert chore.is_right(other) == (other is outcome)
    mirror = Chore(number=1, kind="mirror", size=10)
    assert mirror.is_right(Random(1).randbytes(10)[::-1])
    assert not mirror.is_right(Random(1).randbytes(10))
