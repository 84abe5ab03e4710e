from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from typing import Any

import pydantic
import pytest
import skyward.runtime as runtime
from skyward.errors import InternalError, NotOnNodeError
from skyward.runtime_models import InstanceInfo

FACTS: dict[str, Any] = {
    "node": 1,
    "worker": 1,
    "total_nodes": 3,
    "workers_per_node": 2,
    "accelerators": 2.0,
    "total_accelerators": 6.0,
    "head_addr": "10.0.0.1",
    "head_port": 29500,
    "job_id": "job-7",
    "peers": [
        {"node": 2, "private_ip": "10.0.0.3", "public_ip": "1.1.1.3"},
        {"node": 0, "private_ip": "10.0.0.1", "public_ip": "1.1.1.1"},
        {"node": 1, "private_ip": "", "public_ip": "1.1.1.2"},
    ],
    "accelerator": {"type": "A100", "count": 2, "memory_gb": 80, "is_trainium": False},
    "network": {"interface": "eth0", "bandwidth_gbps": 100},
}


def test_info_has_every_fact_and_what_follows_from_them() -> None:
    runtime.set_facts(json.loads(json.dumps(FACTS)))
    info = runtime.instance_info()
    assert (info.node, info.worker, info.total_nodes, info.workers_per_node) == (1, 1, 3, 2)
    assert (info.head_addr, info.head_port, info.job_id) == ("10.0.0.1", 29500, "job-7")
    assert (info.accelerators, info.total_accelerators) == (2.0, 6.0)
    assert [peer.node for peer in info.peers] == [2, 0, 1]
    assert info.accelerator is not None
    assert (info.accelerator.type, info.accelerator.count, info.accelerator.memory_gb) == ("A100", 2.0, 80.0)
    assert (info.network.interface, info.network.bandwidth_gbps) == ("eth0", 100.0)
    assert (info.global_worker_index, info.total_workers, info.is_head) == (3, 6, False)
    assert info.model_dump()["global_worker_index"] == 3


@pytest.mark.parametrize(("node", "worker", "head"), [(0, 0, True), (0, 1, False), (1, 0, False)])
def test_one_worker_of_the_pool_is_the_head(node: int, worker: int, head: bool) -> None:
    runtime.set_facts({**FACTS, "node": node, "worker": worker})
    assert runtime.is_head(runtime.instance_info()) is head


def test_info_is_frozen() -> None:
    runtime.set_facts(FACTS)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        info: Any = runtime.instance_info()
        info.node = 5


def test_info_is_kept_until_the_facts_change() -> None:
    runtime.set_facts(FACTS)
    first = runtime.instance_info()
    assert runtime.instance_info() is first
    runtime.set_facts({**FACTS, "total_nodes": 4})
    assert runtime.instance_info().total_nodes == 4
    assert first.total_nodes == 3


def test_facts_are_a_copy_and_read_only() -> None:
    given = dict(FACTS)
    runtime.set_facts(given)
    given["node"] = 99
    facts: Any = runtime.facts()
    assert facts["node"] == 1
    with pytest.raises(TypeError):
        facts["node"] = 2


def test_a_returned_info_keeps_the_hostname_of_its_node() -> None:
    info = InstanceInfo(node=0, total_nodes=1, hostname="far-away")
    assert pickle.loads(pickle.dumps(info)).hostname == "far-away"
    assert InstanceInfo(node=0, total_nodes=1).hostname != ""


def test_off_a_node_the_error_says_what_to_do_in_one_line() -> None:
    assert runtime.facts() is None
    with pytest.raises(NotOnNodeError, match=r"inside a running @sky\.function task.*set_facts") as caught:
        runtime.instance_info()
    assert "\n" not in str(caught.value)


def test_what_the_error_recommends_for_unit_tests_works() -> None:
    runtime.set_facts({"node": 0, "total_nodes": 1})
    assert runtime.is_head(runtime.instance_info())


def test_facts_without_a_rank_are_refused() -> None:
    with pytest.raises(InternalError, match="without node and total_nodes"):
        runtime.set_facts({"job_id": "x"})
    assert runtime.facts() is None


def test_readers_never_see_a_mixture_of_two_sets_of_facts() -> None:
    runtime.set_facts({**FACTS, "node": 0, "head_port": 0})
    done = threading.Event()
    mixed: list[tuple[int, int]] = []

    def read() -> None:
        while not done.is_set():
            info = runtime.instance_info()
            if info.node != info.head_port:
                mixed.append((info.node, info.head_port))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(300):
        runtime.set_facts({**FACTS, "node": i, "head_port": i})
    done.set()
    reader.join()
    assert mixed == []
    assert runtime.instance_info().node == 299


def test_environment_comes_under_both_names() -> None:
    assert runtime.environment(FACTS) == {
        "SKYWARD_NODE_RANK": "1",
        "SKYWARD_NUM_NODES": "3",
        "SKYWARD_NODE_IPS": "10.0.0.1\n1.1.1.2\n10.0.0.3",
        "SKYWARD_NUM_GPUS_PER_NODE": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NUM_NODES": "3",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n1.1.1.2\n10.0.0.3",
        "SKYPILOT_NUM_GPUS_PER_NODE": "2",
    }


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (0.25, "1"), (1.5, "2"), (8.0, "8")])
def test_part_of_an_accelerator_counts_as_one(count: float, text: str) -> None:
    assert runtime.environment({**FACTS, "accelerators": count})["SKYPILOT_NUM_GPUS_PER_NODE"] == text


def test_environment_of_a_node_without_peers() -> None:
    env = runtime.environment({"node": 0, "total_nodes": 1, "head_addr": "10.9.9.9"})
    assert env["SKYWARD_NODE_IPS"] == "10.9.9.9"
    assert env["SKYWARD_NUM_GPUS_PER_NODE"] == "0"


def test_inside_task_follows_the_context() -> None:
    assert not runtime.inside_task()
    token = runtime.current_task.set("train")
    try:
        assert runtime.inside_task()
        elsewhere: list[bool] = []
        thread = threading.Thread(target=lambda: elsewhere.append(runtime.inside_task()))
        thread.start()
        thread.join()
        # A plain thread has a context of its own, unless Python was told otherwise.
        assert elsewhere == [bool(getattr(sys.flags, "thread_inherit_context", False))]
    finally:
        runtime.current_task.reset(token)


def test_setting_facts_and_the_environment_load_no_pydantic() -> None:
    script = (
        "import sys, skyward.runtime as r;"
        "r.set_facts({'node': 0, 'total_nodes': 1}); r.environment(r.facts());"
        "from skyward.shard import shard; import skyward.output; shard([1, 2]);"
        "assert not {'pydantic', 'numpy', 'asyncio'} & set(sys.modules);"
        "assert r.InstanceInfo.__name__ == 'InstanceInfo' and 'pydantic' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_unknown_names_are_missing() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        runtime.nope  # noqa: B018  # type: ignore[attr-defined]
