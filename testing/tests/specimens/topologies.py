"""A topology, sound or with one defect, each under the topology suite."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from skyward_testing.topology import TopologyContract

if TYPE_CHECKING:
    from skyward.hooks.values import Formation

CALLS = itertools.count()


class Ring:
    """Sound: everyone meets at the lowest rank."""

    topology_name: ClassVar[str] = "ring"
    connected: ClassVar[bool] = True

    def facts(self, formation: Formation, rank: int) -> dict[str, Any]:
        accelerator = formation.accelerator
        count = accelerator.count if accelerator else 0
        return {
            "node": rank,
            "worker": 0,
            "total_nodes": len(formation.members),
            "workers_per_node": formation.workers_per_node,
            "accelerators": count,
            "total_accelerators": count * len(formation.members),
            "head_addr": formation.members[0].private_ip,
            "head_port": 29500,
            "job_id": formation.job_id,
            "peers": [
                {"node": one.rank, "private_ip": one.private_ip, "public_ip": one.public_ip}
                for one in formation.members
            ],
            "accelerator": {"type": accelerator.name, "count": count, "memory_gb": accelerator.memory_gb}
            if accelerator
            else None,
            "network": {"interface": "eth0", "bandwidth_gbps": 10.0},
        }

    def collections_error(self) -> str | None:
        return None


class Broken(Ring):
    defect: ClassVar[str]

    def facts(self, formation: Formation, rank: int) -> dict[str, Any]:
        facts = super().facts(formation, rank)
        match self.defect:
            case "forgets a field":
                del facts["network"]
            case "invents a field":
                facts["color"] = "blue"
            case "is no json":
                facts["peers"] = tuple(facts["peers"])
            case "counts worlds from one":
                facts["node"] += 1
            case "thinks all ranks are there":
                facts["total_nodes"] = formation.members[-1].rank + 1
            case "knows the others only":
                facts["peers"] = [peer for peer in facts["peers"] if peer["node"] != rank]
            case "counts accelerators once":
                facts["total_accelerators"] = facts["accelerators"]
            case "remembers":
                facts["job_id"] += str(next(CALLS))
            case "meets at home":
                own = next(one for one in formation.members if one.rank == rank)
                facts["head_addr"] = own.private_ip
            case "meets nowhere":
                facts["head_port"] = 0
            case _:
                pass
        return facts

    def collections_error(self) -> str | None:
        match self.defect:
            case "talks too much":
                return "ring:\nno cluster"
            case "names no way out":
                return "collections don't work"
            case _:
                return None


DEFECTS = {
    "forgets a field": "test_facts_are_what_instance_info_takes",
    "invents a field": "test_facts_are_what_instance_info_takes",
    "is no json": "test_facts_are_what_instance_info_takes",
    "counts worlds from one": "test_facts_tell_the_node_and_the_pool",
    "thinks all ranks are there": "test_facts_tell_the_node_and_the_pool",
    "knows the others only": "test_peers_are_all_members_in_rank_order",
    "counts accelerators once": "test_accelerators_are_counted_per_node_and_in_total",
    "remembers": "test_facts_are_pure",
    "meets at home": "test_all_nodes_agree_on_where_to_meet",
    "meets nowhere": "test_all_nodes_agree_on_where_to_meet",
    "talks too much": "test_why_collections_do_not_work_is_one_line_with_a_way_out",
    "names no way out": "test_why_collections_do_not_work_is_one_line_with_a_way_out",
}


def suite(defect: str) -> type[TopologyContract]:
    class BrokenRing(Broken):
        pass

    BrokenRing.defect = defect

    class Specimen(TopologyContract):
        @pytest.fixture
        def topology(self) -> Ring:
            return BrokenRing()

    return Specimen


globals().update({f"Test {defect}": suite(defect) for defect in ("", *DEFECTS)})
