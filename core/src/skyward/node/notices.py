"""What an agent has to say to its client: numbered by its bytes and kept until the client has it.

What processes for one task have answered is kept here too, because they end with it: for a client that comes
after one that is gone for good.
"""

from __future__ import annotations

import os
from collections import deque

from skyward.link.agentconfig import AgentConfig
from skyward.link.frames import NOTICE, json_frame
from skyward.link.session import Outbox
from skyward.node.connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEPT_BYTES = 1 << 24
"""Of notices, output lines mostly, that the client has not said to have; the oldest go first."""
KEPT_ANSWERS = 1 << 24
"""Bytes of what processes for one task have answered; the oldest go first."""


class Notices:
    """See the module. ``client``: whoever said hello last, while it is connected."""

    def __init__(self) -> None:
        self.client: Connection | None = None
        self._session = os.urandom(8).hex()
        self._kept = Outbox()
        self._answers: deque[tuple[int, dict[str, Any]]] = deque()
        self._answers_bytes = 0

    def greet(
        self, client: Connection, hello: dict[str, Any], workers: list[list[int]], config: AgentConfig
    ) -> None:
        """Answer a client's hello; one that comes after another (``inherit``) is told what that one knew."""
        self.client = client
        answer: dict[str, Any] = {"event": "hello", "session": self._session, "workers": workers}
        if hello.get("inherit"):
            answer["config"] = config.to_json().decode()
            answer["answers"] = [entry for _, entry in self._answers]
        received = hello["received"] if hello.get("session") == self._session else 0
        missed = [data for data, _ in self._kept.since(received)]
        client.send(json_frame(NOTICE, answer) + b"".join(missed))

    def tell(self, message: dict[str, Any]) -> None:
        data = json_frame(NOTICE, message)
        if message["event"] != "metrics":  # worth nothing later: neither kept nor, by the client, counted
            self._kept.push(data)
            self._kept.forget_beyond(KEPT_BYTES)
        if self.client is not None:
            self.client.send(data)

    def acknowledge(self, received: int) -> None:
        """Forget what the client has."""
        self._kept.acknowledge(received)

    def on_answers(self, index: int, generation: int, message: dict[str, Any]) -> None:
        """Keep what a process has answered that is about to end; tell the client, if it has not got it."""
        for answer in message["answers"]:
            entry = {**answer, "classes": message["classes"], "index": index, "generation": generation}
            size = sum(map(len, answer["frames"])) + sum(len(kind["pickle"]) for kind in message["classes"])
            self._answers.append((size, entry))
            self._answers_bytes += size
            if not message["received"]:
                self.tell({"event": "late", **entry})
        while self._answers_bytes > KEPT_ANSWERS and len(self._answers) > 1:
            self._answers_bytes -= self._answers.popleft()[0]
