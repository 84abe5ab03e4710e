"""The cluster topology keeps the contract, and its nodes agree on a place to meet."""

from __future__ import annotations

import pytest
from skyward.hooks.values import Formation, Member
from skyward_cluster import FIRST_PORT, PORTS, ClusterTopology
from skyward_testing.topology import TopologyContract


class TestCluster(TopologyContract):
    @pytest.fixture
    def topology(self) -> ClusterTopology:
        return ClusterTopology()


def formation(job: str, *ranks: int) -> Formation:
    members = tuple(Member(rank=rank, private_ip=f"10.0.0.{rank + 1}") for rank in ranks)
    return Formation(pool="p", job_id=job, members=members)


def test_they_meet_at_the_lowest_rank_that_is_there() -> None:
    topology = ClusterTopology()
    assert topology.facts(formation("a", 0, 1, 2), 1)["head_addr"] == "10.0.0.1"
    assert topology.facts(formation("a", 1, 2), 2)["head_addr"] == "10.0.0.2"


def test_every_pool_has_its_own_port_for_as_long_as_it_lives() -> None:
    topology = ClusterTopology()
    ports = {topology.facts(formation(f"job-{number}", 0), 0)["head_port"] for number in range(50)}
    assert len(ports) > 45
    assert all(FIRST_PORT <= port < FIRST_PORT + PORTS for port in ports)
    before, after = formation("a", 0, 1), formation("a", 1, 2, 3)
    assert topology.facts(before, 1)["head_port"] == topology.facts(after, 1)["head_port"]
