"""What a running task can ask about the place it runs in.

The node's side tells this module the *facts* once per worker process (`set_facts`), and again whenever
nodes join or leave; user code reads them as `instance_info()`. Facts are a plain JSON-able mapping with the
fields of `InstanceInfo`.

Invariants: importing this module never imports pydantic (the first `instance_info()` loads the models); facts
are replaced as a whole, so a reader sees the old ones or the new ones, never a mixture; a model that was
handed out never changes. Imported by the node's worker, by `shard` and `output`, and through `sky` by users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

from skyward.errors import InternalError, NotOnNodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skyward.runtime_models import AcceleratorInfo, InstanceInfo, NetworkInfo, PeerInfo

__all__ = [
    "AcceleratorInfo",
    "InstanceInfo",
    "NetworkInfo",
    "PeerInfo",
    "current_task",
    "environment",
    "facts",
    "inside_task",
    "instance_info",
    "is_head",
    "number",
    "set_facts",
    "shard_place",
]

current_task: ContextVar[str | None] = ContextVar("skyward_task", default=None)
"""Name or id of the task this context runs; the worker sets it around each task."""

shard_place: ContextVar[tuple[int, int] | None] = ContextVar("skyward_shard_place", default=None)
"""(index, count) of this task among those of its broadcast; the worker sets it around a broadcast's task.

A broadcast runs on the nodes that are ready when it is dispatched. With ranks 0, 2 and 3 of four ready, a
split by rank would lose a quarter of the rows; the client counted three, so rank 2 is (1, 3) here.
"""


class _Known:
    """One set of facts and the model built from it, so that both are replaced by one assignment."""

    __slots__ = ("info", "values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values
        self.info: InstanceInfo | None = None


_known: _Known | None = None


def set_facts(facts: Mapping[str, object] | None) -> None:
    """Say where this process runs; ``None`` says that it is no node.

    Called by the worker, and in users' unit tests; from any thread, at any time. Only ``node`` and
    ``total_nodes`` must be there.
    """
    global _known
    if facts is None:
        _known = None
        return
    missing = [name for name in ("node", "total_nodes") if name not in facts]
    if missing:
        raise InternalError(f"set_facts() was given facts without {' and '.join(missing)}")
    _known = _Known(MappingProxyType(dict(facts)))


def facts() -> Mapping[str, object] | None:
    """The present facts, read-only, or ``None`` where no node's side has set any."""
    known = _known
    return None if known is None else known.values


def instance_info() -> InstanceInfo:
    """This worker's place in the pool, as it is now.

    Call it again to see nodes that joined or left since. Raises `NotOnNodeError` outside a task.
    """
    known = _known
    if known is None:
        raise NotOnNodeError(
            "instance_info() has an answer only inside a running @sky.function task: dispatch the call, "
            "sky.Compute(nodes=1) runs it on this machine; in a unit test, call "
            "skyward.runtime.set_facts({'node': 0, 'total_nodes': 1}) first"
        )
    if known.info is None:
        from skyward.runtime_models import InstanceInfo

        known.info = InstanceInfo.model_validate(known.values)
    return known.info


def is_head(info: InstanceInfo) -> bool:
    """True on exactly one worker of the pool: the first worker of node 0."""
    return info.is_head


def inside_task() -> bool:
    """True in the context of a task that a worker runs; ``.local`` alone does not make one."""
    return current_task.get() is not None


def environment(facts: Mapping[str, object]) -> dict[str, str]:
    """The variables every task finds set: rank, number of nodes, their addresses, accelerators a node.

    Each comes twice, as ``SKYWARD_*`` and as ``SKYPILOT_*``, so that a script written for SkyPilot runs
    unchanged. The addresses are one a line, by rank, private where there is one.
    """
    values = {
        "NODE_RANK": str(int(number(facts, "node"))),
        "NUM_NODES": str(int(number(facts, "total_nodes"))),
        "NODE_IPS": "\n".join(_addresses(facts)),
        # A slice of an accelerator is still a device to whoever starts one process per device.
        "NUM_GPUS_PER_NODE": str(math.ceil(number(facts, "accelerators", 0))),
    }
    return {f"{prefix}_{name}": value for prefix in ("SKYWARD", "SKYPILOT") for name, value in values.items()}


def number(facts: Mapping[str, object], name: str, default: float | None = None) -> float:
    """One numeric fact; for readers that must not load pydantic."""
    value = facts.get(name, default)
    if not isinstance(value, int | float):
        raise InternalError(f"the fact {name!r} should be a number, it is {value!r}")
    return value


def _addresses(facts: Mapping[str, object]) -> list[str]:
    """Addresses of all nodes in rank order; of the head alone where nodes know no peers."""
    peers: Any = facts.get("peers") or ()
    found: dict[int, str] = {}
    for peer in peers:
        found[int(number(peer, "node"))] = str(peer.get("private_ip") or peer.get("public_ip") or "")
    if not found:
        return [str(facts.get("head_addr") or "127.0.0.1")]
    return [found[rank] for rank in sorted(found)]


def __getattr__(name: str) -> object:
    if name in ("AcceleratorInfo", "InstanceInfo", "NetworkInfo", "PeerInfo"):
        from skyward import runtime_models

        return getattr(runtime_models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
