"""Standalone keeps the topology's contract, and says plainly what nodes can't do in it."""

from __future__ import annotations

import pytest
from skyward import accelerators
from skyward.hooks.values import Formation, Member
from skyward_standalone import Standalone
from skyward_testing.topology import TopologyContract


class TestStandalone(TopologyContract):
    @pytest.fixture
    def topology(self) -> Standalone:
        return Standalone()


TRAINIUM = accelerators.from_name("Trainium2").with_count(16)
PAIR = Formation(
    pool="p",
    job_id="j",
    members=(
        Member(rank=0, private_ip="10.0.0.1", public_ip="192.0.2.1"),
        Member(rank=2, public_ip="192.0.2.3"),
    ),
    accelerator=TRAINIUM,
)


def test_all_the_facts() -> None:
    assert Standalone().facts(PAIR, 2) == {
        "node": 2,
        "worker": 0,
        "total_nodes": 2,
        "workers_per_node": 1,
        "accelerators": 16,
        "total_accelerators": 32,
        "head_addr": "",
        "head_port": 0,
        "job_id": "j",
        "peers": [
            {"node": 0, "private_ip": "10.0.0.1", "public_ip": "192.0.2.1"},
            {"node": 2, "private_ip": "", "public_ip": "192.0.2.3"},
        ],
        "accelerator": {
            "type": "Trainium2",
            "count": 16,
            "memory_gb": TRAINIUM.memory_gb,
            "is_trainium": True,
        },
        "network": {"interface": "", "bandwidth_gbps": None},
    }


def test_the_way_out_of_missing_collections_is_named() -> None:
    assert "Options(cluster=True)" in Standalone().collections_error()
