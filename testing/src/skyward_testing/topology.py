"""The conformance suite of a topology.

    class TestMine(TopologyContract):
        @pytest.fixture
        def topology(self) -> Mine:
            return Mine()

Facts are checked the way a node uses them: through JSON, then as an ``InstanceInfo``. A topology that says
that collections can't work promises no meeting point, and one that says nothing must give one.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from skyward.accelerators import Custom
from skyward.errors import MissingExtraError
from skyward.hooks import registry
from skyward.hooks.ports import Topology
from skyward.hooks.values import Formation, Member

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward.runtime import InstanceInfo

FIELDS = frozenset(
    {
        *("node", "worker", "total_nodes", "workers_per_node", "accelerators", "total_accelerators"),
        *("head_addr", "head_port", "job_id", "peers", "accelerator", "network"),
    }
)


def formation(*ranks: int, workers_per_node: int = 1, accelerators: float = 0) -> Formation:
    """A pool whose nodes ``ranks`` are ready, with addresses (of RFC 5737) that tell them apart."""
    return Formation(
        pool="conformance",
        job_id="job-1",
        members=tuple(
            Member(rank=r, private_ip=f"192.0.2.{r + 1}", public_ip=f"203.0.113.{r + 1}") for r in ranks
        ),
        accelerator=Custom("Test-GPU", memory="24GB", count=accelerators) if accelerators else None,
        workers_per_node=workers_per_node,
    )


class TopologyContract:
    """Subclass it, override ``topology``, and every test below runs against yours."""

    @pytest.fixture
    def topology(self) -> Topology:
        pytest.fail("override the fixture `topology`: return an instance")

    @pytest.fixture
    def formations(self) -> Sequence[Formation]:
        """One node; several; some lost, the head among them; many workers; accelerators, whole and sliced."""
        return (
            formation(0),
            formation(0, 1, 2),
            formation(1, 3),
            formation(0, 1, workers_per_node=4),
            formation(0, 1, accelerators=8),
            formation(0, 1, accelerators=0.5),
        )

    def test_it_is_a_topology_with_a_name(self, topology: Topology) -> None:
        assert isinstance(topology, Topology)
        assert topology.topology_name
        assert topology.topology_name == topology.topology_name.lower()

    def test_the_entry_point_gives_the_class(self, topology: Topology) -> None:
        try:
            found = registry.find(registry.TOPOLOGIES, topology.topology_name)
        except MissingExtraError:
            pytest.skip(
                f"no installed distribution offers {topology.topology_name!r}: install yours to check it"
            )
        assert found is type(topology)
        assert found().topology_name == topology.topology_name

    def test_facts_are_what_instance_info_takes(
        self, topology: Topology, formations: Sequence[Formation]
    ) -> None:
        for one in formations:
            for member in one.members:
                facts = topology.facts(one, member.rank)
                assert facts.keys() >= FIELDS, f"missing: {sorted(FIELDS - facts.keys())}"
                assert json.loads(json.dumps(dict(facts))) == facts, "facts must survive JSON as they are"
                info = _info(facts)
                assert facts.keys() <= type(info).model_fields.keys(), "a fact that no task can ask for"

    def test_facts_tell_the_node_and_the_pool(
        self, topology: Topology, formations: Sequence[Formation]
    ) -> None:
        for one in formations:
            for member in one.members:
                info = _info(topology.facts(one, member.rank))
                assert (info.node, info.worker) == (member.rank, 0)
                assert info.total_nodes == len(one.members)
                assert info.workers_per_node == one.workers_per_node
                assert info.total_workers == len(one.members) * one.workers_per_node
                assert info.job_id == one.job_id

    def test_peers_are_all_members_in_rank_order(
        self, topology: Topology, formations: Sequence[Formation]
    ) -> None:
        for one in formations:
            expected = [(member.rank, member.private_ip, member.public_ip) for member in one.members]
            for member in one.members:
                peers = _info(topology.facts(one, member.rank)).peers
                assert [(peer.node, peer.private_ip, peer.public_ip) for peer in peers] == expected

    def test_accelerators_are_counted_per_node_and_in_total(self, topology: Topology) -> None:
        for count in (1, 8, 0.5):
            info = _info(topology.facts(formation(0, 1, 2, accelerators=count), 1))
            assert info.accelerators == count
            assert info.total_accelerators == 3 * count
            assert info.accelerator is not None
            described = (info.accelerator.type, info.accelerator.count, info.accelerator.memory_gb)
            assert described == ("Test-GPU", count, 24)
        bare = _info(topology.facts(formation(0, 1), 1))
        assert (bare.accelerators, bare.total_accelerators, bare.accelerator) == (0, 0, None)

    def test_facts_are_pure(self, topology: Topology, formations: Sequence[Formation]) -> None:
        """Asked in another order, of another instance, after another pool: the same answer."""
        asked = [(one, member.rank) for one in formations for member in one.members]
        first = [dict(topology.facts(one, rank)) for one, rank in asked]
        untouched = copy.deepcopy(first)
        for facts in first:
            facts.clear()
        again = [dict(type(topology)().facts(one, rank)) for one, rank in reversed(asked)]
        assert again[::-1] == untouched

    def test_all_nodes_agree_on_where_to_meet(
        self, topology: Topology, formations: Sequence[Formation]
    ) -> None:
        for one in formations:
            places = set[tuple[str, int]]()
            for member in one.members:
                facts = topology.facts(one, member.rank)
                places.add((facts["head_addr"], facts["head_port"]))
            assert len(places) == 1, f"nodes of one pool disagree: {places}"
            ((address, port),) = places
            if topology.collections_error() is None:
                assert address in {member.private_ip for member in one.members}
                assert 0 < port < 65536
            else:
                assert (address == "") == (port == 0), "an address without a port leads nowhere"

    def test_why_collections_do_not_work_is_one_line_with_a_way_out(self, topology: Topology) -> None:
        reason = topology.collections_error()
        if reason is None:
            pytest.skip("collections work in this topology")
        assert len(reason.splitlines()) == 1
        assert topology.topology_name in reason, "name the topology that is the reason"
        assert "cluster" in reason, "say that a pool with the cluster topology has them"
        assert topology.collections_error() == reason


def _info(facts: Any) -> InstanceInfo:
    from skyward.runtime_models import InstanceInfo

    return InstanceInfo.model_validate(facts)
