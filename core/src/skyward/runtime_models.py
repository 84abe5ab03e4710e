"""The models behind `instance_info()`: a worker's place in its pool, frozen and checked.

Apart from `skyward.runtime`, which imports this module on the first `instance_info()`, because pydantic costs
more to import than everything else a task needs.
"""

from __future__ import annotations

import socket

from pydantic import BaseModel, ConfigDict, Field, computed_field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class PeerInfo(_Frozen):
    """One node of the pool, this one included, by its rank."""

    node: int
    private_ip: str = ""
    public_ip: str | None = None


class AcceleratorInfo(_Frozen):
    """The accelerator of this node. ``count`` is a fraction where the node has a slice of one."""

    type: str
    count: float = 1.0
    memory_gb: float = 0.0
    is_trainium: bool = False


class NetworkInfo(_Frozen):
    """How this node reaches its peers; ``bandwidth_gbps`` is ``None`` where the provider does not say."""

    interface: str = ""
    bandwidth_gbps: float | None = None


class InstanceInfo(_Frozen):
    """This worker's place in the pool.

    ``accelerators`` counts those of this node, ``total_accelerators`` those of the pool; ``worker`` is the
    index of the worker process on its node; ``job_id`` is the same on all nodes of one pool and in no other.
    """

    node: int = Field(ge=0)
    worker: int = Field(default=0, ge=0)
    total_nodes: int = Field(ge=1)
    workers_per_node: int = Field(default=1, ge=1)
    accelerators: float = 0.0
    total_accelerators: float = 0.0
    head_addr: str = "127.0.0.1"
    head_port: int = 0
    job_id: str = ""
    peers: list[PeerInfo] = Field(default_factory=list[PeerInfo])
    accelerator: AcceleratorInfo | None = None
    network: NetworkInfo = NetworkInfo()
    # A field, not a property: returned to the client, it must still name the node.
    hostname: str = Field(default_factory=socket.gethostname)

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented form, which mypy can't follow
    @property
    def global_worker_index(self) -> int:
        """Rank of this worker among all workers of the pool."""
        return self.node * self.workers_per_node + self.worker

    @computed_field  # type: ignore[prop-decorator]  # as above
    @property
    def total_workers(self) -> int:
        """Number of workers in the pool: what training frameworks call the world size."""
        return self.total_nodes * self.workers_per_node

    @computed_field  # type: ignore[prop-decorator]  # as above
    @property
    def is_head(self) -> bool:
        """True on exactly one worker of the pool."""
        return self.global_worker_index == 0
