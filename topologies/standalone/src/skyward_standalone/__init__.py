"""The topology in which every node hangs on the client alone and shares no state.

Each node is told who else is in the pool, because ``shard`` and ranks need it, but not that it could reach
them: ``head_addr`` is ``""`` and ``head_port`` is ``0``, so that a training framework which insists on
meeting fails at once instead of waiting for an address that nobody answers. Public: ``Standalone``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from skyward.hooks import common_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyward.hooks.values import Formation

__all__ = ["Standalone"]


class Standalone:
    """A star: nodes talk to the client and to nobody else. What ``Options(cluster=False)`` chooses."""

    topology_name: ClassVar[str] = "standalone"
    connected: ClassVar[bool] = False

    def facts(self, formation: Formation, rank: int) -> Mapping[str, Any]:
        """Return the fields of ``InstanceInfo`` for ``rank``."""
        return common_facts(formation, rank, head_addr="", head_port=0)

    def collections_error(self) -> str:
        return (
            "distributed collections need nodes that reach each other, and in the standalone topology they "
            "reach only the client: open the pool with Options(cluster=True) on a provider whose nodes share "
            "a network"
        )
