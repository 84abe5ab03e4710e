"""Whether the nodes of a pool reach each other by their private addresses: asked of them, before it is used.

Every node listens for a moment, and every other calls. On the loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from skyward.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skyward.engine.node import Node

CALL_SECONDS = 5.0
"""How long one call may take."""
WAY_OUT = "if they need not, open the pool with Options(cluster=False)"


class Probe:
    """What one node's agent is asked about its network. ``command``: to the agent."""

    def __init__(self, command: Callable[[dict[str, Any]], None]) -> None:
        self._command = command
        self._listening: asyncio.Future[dict[str, Any]] | None = None
        self._called: dict[int, str] = {}
        self._missing: set[int] = set()
        self._done: asyncio.Future[None] | None = None

    def on_notice(self, message: dict[str, Any]) -> None:
        if message["event"] == "listening":
            if self._listening is not None and not self._listening.done():
                self._listening.set_result(message)
            return
        self._called[message["rank"]] = message["why"]
        self._missing.discard(message["rank"])
        if not self._missing and self._done is not None and not self._done.done():
            self._done.set_result(None)

    async def listen(self, address: str) -> dict[str, Any]:
        """Have the agent listen; return what it says. Raises TimeoutError."""
        self._listening = asyncio.get_running_loop().create_future()
        self._command({"do": "listen", "address": address})
        async with asyncio.timeout(CALL_SECONDS):
            return await self._listening

    async def call(self, targets: list[dict[str, Any]]) -> dict[int, str]:
        """Have the agent call at others; return why it failed, by rank; "" where it did not."""
        self._called.clear()
        self._missing = {target["rank"] for target in targets}
        self._done = asyncio.get_running_loop().create_future()
        self._command({"do": "call", "targets": targets, "seconds": CALL_SECONDS})
        try:
            async with asyncio.timeout(2 * CALL_SECONDS):
                await self._done
        except TimeoutError:
            pass
        return {target["rank"]: self._called.get(target["rank"], "no answer") for target in targets}

    def stop(self) -> None:
        self._command({"do": "listen-no-more"})


async def check(nodes: Sequence[Node]) -> None:
    """Have each node call at each other one. Raises ConnectError, which names the first two that can't."""
    if len(nodes) < 2:
        return
    for node in nodes:
        if not node.machine.private_ip:
            raise ConnectError(
                f"node {node.rank} ({node.machine.id}) has no private address that others could reach it by: "
                f"{WAY_OUT}",
                rank=node.rank,
                machine=node.machine.id,
            )
    try:
        doors = await asyncio.gather(*(node.probe.listen(node.machine.private_ip) for node in nodes))
        targets: list[dict[str, Any]] = [
            {"rank": node.rank, "address": node.machine.private_ip, **door}
            for node, door in zip(nodes, doors, strict=True)
        ]
        for node, target in zip(nodes, targets, strict=True):
            if target["why"]:
                _refuse(node, node, target["why"])
        answers = await asyncio.gather(
            *(
                node.probe.call([target for target in targets if target["rank"] != node.rank])
                for node in nodes
            )
        )
    except TimeoutError:
        raise ConnectError(f"nodes did not say whether they reach each other: {WAY_OUT}") from None
    finally:
        for node in nodes:
            node.probe.stop()
    by_rank = {node.rank: node for node in nodes}
    for node, answer in zip(nodes, answers, strict=True):
        for rank, why in answer.items():
            if why:
                _refuse(node, by_rank[rank], why)


def _refuse(node: Node, other: Node, why: str) -> None:
    raise ConnectError(
        f"node {node.rank} ({node.machine.private_ip}) can't reach node {other.rank} "
        f"({other.machine.private_ip}) over their private network: {why}; {WAY_OUT}",
        rank=node.rank,
        machine=node.machine.id,
    )
