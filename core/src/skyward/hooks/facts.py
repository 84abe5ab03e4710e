"""What every topology says of a pool, whatever its nodes are to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skyward.accelerators import Accelerator
    from skyward.hooks.values import Formation


def common_facts(formation: Formation, rank: int, *, head_addr: str, head_port: int) -> dict[str, Any]:
    """Return the fields of ``InstanceInfo`` for ``rank``. Where nodes meet is the topology's to say.

    A peer's addresses are those that the provider gave, "" where it gave none. The network is not known.
    """
    accelerator = formation.accelerator
    per_node = accelerator.count if accelerator is not None else 0
    return {
        "node": rank,
        "worker": 0,
        "total_nodes": len(formation.members),
        "workers_per_node": formation.workers_per_node,
        "accelerators": per_node,
        "total_accelerators": per_node * len(formation.members),
        "head_addr": head_addr,
        "head_port": head_port,
        "job_id": formation.job_id,
        "peers": [
            {"node": member.rank, "private_ip": member.private_ip, "public_ip": member.public_ip}
            for member in formation.members
        ],
        "accelerator": _description(accelerator),
        "network": {"interface": "", "bandwidth_gbps": None},
    }


def _description(accelerator: Accelerator | None) -> dict[str, Any] | None:
    if accelerator is None:
        return None
    return {
        "type": accelerator.name,
        "count": accelerator.count,
        "memory_gb": accelerator.memory_gb,
        "is_trainium": accelerator.name.startswith("Trainium"),
    }
