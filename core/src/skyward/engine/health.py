"""A node's health, as far as the client is concerned: what is sent to check it, and what its answers do.

The checks run on the node, under its agent: see ``skyward.node.checkup``. Here the answers are counted. Until
the first good one the node takes no tasks; after enough bad ones in a row it is given up, as if it were lost.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

from skyward.errors import BootstrapError, ConnectError
from skyward.events import Error
from skyward.link.pickling import dumps, explain
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from skyward.engine.node import Node
    from skyward.errors import NodeError
    from skyward.link.modules import Project
    from skyward.options import HealthChecker


def health_config(checker: HealthChecker, project: Project) -> dict[str, Any]:
    """Put together what an agent is told about the check. Raises SerializationError."""
    name = getattr(checker.fn, "__name__", None) or type(checker.fn).__name__
    try:
        pickled = dumps(checker.fn, is_project_module=project.is_project_module, in_band=True)
    except Exception as error:
        raise explain(error, checker.fn, "fn", name, "the health check") from error
    return {
        "function": base64.b64encode(pickled.data).decode(),
        "sources": [source.to_json() for source in project.closure(pickled.modules).values()],
        "interval": checker.interval,
        "timeout": checker.timeout,
        "initial_delay": checker.initial_delay,
        "failures": checker.consecutive_failures,
    }


class Health:
    """The answers of one node. ``limit``: after so many bad ones in a row the node is given up."""

    def __init__(self, node: Node, pool: str, limit: int) -> None:
        self._node = node
        self._pool = pool
        self._limit = limit
        self._failures = 0
        self._decided = asyncio.Event()
        self._problem: NodeError | None = None

    async def passed(self) -> None:
        """Return when the node was found healthy. Raises ConnectError if it was lost before that, and
        BootstrapError if the check can't be loaded there.
        """
        await self._decided.wait()
        if self._problem is not None:
            raise self._problem

    def on_answer(self, what: str) -> None:
        """A check was done. ``what`` is wrong; nothing, if it is empty."""
        if not what:
            self._failures = 0
            self._decided.set()
            return
        self._failures += 1
        count = f"{self._failures} of {self._limit}"
        message = f"node {self._node.rank}: the health check failed ({count}): {what}"
        publish(Error(pool=self._pool, message=message))
        if self._failures >= self._limit:
            self._node.command({"do": "shutdown"})  # its tasks are about to run elsewhere
            times = f"{self._limit} times in a row" if self._limit > 1 else "once"
            self._node.lose(f"health check failed {times}: {what}")

    def on_broken(self, what: str) -> None:
        """The check can't be loaded there; ``what`` is the traceback, its last line the sum of it."""
        last = what.strip().rpartition("\n")[2]
        if self._decided.is_set():
            self._node.lose(last)
            return
        node = self._node
        self._problem = BootstrapError(
            f"node {node.rank}: {last}", phase="health", tail=what, rank=node.rank, machine=node.machine.id
        )
        self._decided.set()

    def on_lost(self, reason: str) -> None:
        """The node was lost: there is nothing to wait for."""
        if not self._decided.is_set():
            node = self._node
            self._problem = ConnectError(
                f"node {node.rank}: {reason}", rank=node.rank, machine=node.machine.id
            )
            self._decided.set()
