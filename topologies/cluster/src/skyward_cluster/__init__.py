"""The topology in which nodes reach each other over a network of their own.

They meet at the head: the member of the lowest rank, by its private address, at a port that all nodes of a
pool agree on and other pools on the same machines, most likely, do not. That nodes do reach each other is
found out before the pool is used. Public: ``ClusterTopology``.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, ClassVar

from skyward.hooks import common_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyward.hooks.values import Formation

__all__ = ["ClusterTopology"]

FIRST_PORT, PORTS = 20_000, 10_000
"""Above those of services, below those that Linux gives to connections."""


class ClusterTopology:
    """Nodes that know each other. What ``Options(cluster=True)`` chooses, and providers with a network."""

    topology_name: ClassVar[str] = "cluster"
    connected: ClassVar[bool] = True

    def facts(self, formation: Formation, rank: int) -> Mapping[str, Any]:
        """Return the fields of ``InstanceInfo`` for ``rank``."""
        port = FIRST_PORT + zlib.crc32(formation.job_id.encode()) % PORTS
        head = formation.members[0].private_ip if formation.members else ""
        return common_facts(formation, rank, head_addr=head, head_port=port)

    def collections_error(self) -> None:
        """None: where nodes reach each other, nothing is in the way."""
