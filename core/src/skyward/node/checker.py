"""The process that checks a node's health: it loads the user's function once, and calls it when told to.

``python -m skyward.node.checker <root> <index> <generation>``, started by the agent, which says when to check
and ends this process when an answer takes too long: see ``skyward.node.checkup``. It runs no tasks, and no
plugin's context surrounds it.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from skyward import runtime
from skyward.link import frames
from skyward.link.pickling import loads
from skyward.node.failures import remote_text
from skyward.node.worker import AgentLink, set_facts, shipped_modules

LONGEST_REASON = 500
"""Characters of a reason that go to the client."""


class CheckerLink(AgentLink):
    """The connection over which the agent says when to check."""

    def commands(self) -> Iterator[dict[str, Any]]:
        """Yield what the agent says, as it says it, until it is gone."""
        while data := self._sock.recv(1 << 16):
            for _, body in self._splitter.feed(data):
                yield frames.read_json(body)


def verdict(check: Callable[[Any], object]) -> str:
    """Call a health check; return what is wrong, or nothing."""
    try:
        answer = check(runtime.instance_info())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:LONGEST_REASON]
    if isinstance(answer, str):
        return answer.strip()[:LONGEST_REASON] or "the check gave an empty reason"
    if answer is None:
        return "the check returned None: return True, or False, or what is wrong"
    return "" if answer else "the check returned False"


def load(health: dict[str, Any]) -> Callable[[Any], object]:
    """Return the user's function."""
    if health["sources"]:
        shipped_modules().add(health["sources"])
    given: Any = loads(base64.b64decode(health["function"]))
    # Called outside a task, a decorated function would only make a pending call.
    check: Callable[[Any], object] = given.local if hasattr(given, "_skyward_decorated") else given
    return check


def main() -> None:
    """Load the check, then do it again and again."""
    root, index, generation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    agent = CheckerLink(root, index, generation)
    agent.tell("started")
    config = agent.configuration()
    # Another connection, because this process is to die of a word on it, and be it the end's.
    AgentLink(root, index, generation).watch()
    try:
        assert config.health is not None
        set_facts(config.facts)
        runtime.instance_info()  # loads its models now, not in the time of the first check
        check = load(config.health)
    except BaseException as error:
        what = f"{remote_text(error)}\nthe health check can't be loaded: {type(error).__name__}: {error}"
        agent.tell("failed", what=what)
        os._exit(1)
    agent.tell("ready")
    for command in agent.commands():
        set_facts(command["facts"])
        agent.tell("checked", what=verdict(check))


if __name__ == "__main__":
    main()
