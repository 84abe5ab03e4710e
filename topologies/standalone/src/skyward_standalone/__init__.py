"""The topology in which every node hangs on the client alone and shares no state.

Each node is told who else is in the pool, because ``shard`` and ranks need it, but not that it could reach
them: ``head_addr`` is ``""`` and ``head_port`` is ``0``, so that a training framework which insists on
meeting fails at once instead of waiting for an address that nobody answers. Public: ``Standalone``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyward.accelerators import Accelerator
    from skyward.hooks.values import Formation

__all__ = ["Standalone"]


class Standalone:
    """A star: nodes talk to the client and to nobody else. What ``Options(cluster=False)`` chooses."""

    topology_name: ClassVar[str] = "standalone"

    def facts(self, formation: Formation, rank: int) -> Mapping[str, Any]:
        """Return the fields of ``InstanceInfo`` for ``rank``.

        A peer's addresses are those the provider gave, ``""`` where it gave none. The network is not known.
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
            "head_addr": "",
            "head_port": 0,
            "job_id": formation.job_id,
            "peers": [
                {"node": member.rank, "private_ip": member.private_ip, "public_ip": member.public_ip}
                for member in formation.members
            ],
            "accelerator": _description(accelerator),
            "network": {"interface": "", "bandwidth_gbps": None},
        }

    def collections_error(self) -> str:
        return (
            "distributed collections need nodes that reach each other, and in the standalone topology they "
            "reach only the client: open the pool with Options(cluster=True) on a provider whose nodes share "
            "a network"
        )


def _description(accelerator: Accelerator | None) -> dict[str, Any] | None:
    if accelerator is None:
        return None
    return {
        "type": accelerator.name,
        "count": accelerator.count,
        "memory_gb": accelerator.memory_gb,
        "is_trainium": accelerator.name.startswith("Trainium"),
    }
