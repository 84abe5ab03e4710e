"""When the agent has a node's health checked, and what it makes of the answers.

The check is the user's function, so it runs in a process of its own, ``skyward.node.checker``, beside the
workers: one that hangs holds up neither a task nor the agent, and is ended when its time is over. Whether a
node is given up is the client's business; it hears of every answer, and nothing is checked while it is away.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CHECKER = -2
"""The checker's place among the agent's children."""
START_SECONDS = 60.0
"""What loading the check may take, with all that it imports."""


def checker_argv() -> list[str]:
    """Return the checker's command, without its own arguments."""
    return [sys.executable, "-P", "-m", "skyward.node.checker"]


class Checkup:
    """The schedule of one node's checks. ``health``: ``interval``, ``timeout``, ``initial_delay``; seconds.

    ``start`` starts the checker, ``kill`` ends it, ``ask`` has it check, ``tell`` takes what the client is to
    hear. The checker is off, starting, idle, checking, ending, or broken, which means off for good.
    """

    def __init__(
        self,
        health: dict[str, Any] | None,
        *,
        start: Callable[[], None],
        kill: Callable[[str], None],
        ask: Callable[[], None],
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        fields = health or {}
        self._interval = float(fields.get("interval", math.inf))
        self._timeout = float(fields.get("timeout", math.inf))
        self._delay = float(fields.get("initial_delay", 0.0))
        self._start, self._kill, self._ask, self._tell = start, kill, ask, tell
        self._state = "off"
        self._begun = 0.0  # the start or the check that is under way, or was the last
        self._due = math.inf if health is None else 0.0
        self._deadline = math.inf

    def turn(self, watched: bool) -> float:
        """Start the checker, or have it check, if it is time; return the seconds until more is to do."""
        now = time.monotonic()
        if now >= self._deadline:
            limit = self._deadline - self._begun
            self._conclude("ending", f"no answer within {limit:g} s")
            self._kill("its time was over")
        elif now >= self._due and watched:
            self._begun, self._due = now, math.inf
            if self._state == "idle":
                self._state, self._deadline = "checking", now + self._timeout
                self._ask()
            else:
                self._state, self._deadline = "starting", now + START_SECONDS
                self._start()
        return max(min(self._due, self._deadline) - now, 0.0)

    def on_ready(self) -> None:
        """The checker has loaded the check."""
        self._state, self._deadline = "idle", math.inf
        self._due = time.monotonic() + self._delay
        self._delay = 0.0  # it is about the machine's first minutes, not about each checker's

    def on_broken(self, what: str) -> None:
        """The check can't be loaded: to try again would change nothing."""
        self._state, self._deadline, self._due = "broken", math.inf, math.inf
        self._tell({"event": "health-broken", "what": what})

    def on_answer(self, what: str) -> None:
        """The check was done; ``what`` is wrong, or nothing."""
        if self._state == "checking":
            self._conclude("idle", what)
            self._due = max(self._begun + self._interval, time.monotonic())

    def on_death(self, cause: str) -> None:
        """The checker ended. It is started again when the next check would be due."""
        if self._state == "broken":
            return
        if self._state in ("starting", "checking"):
            self._conclude("off", f"its process {cause}")
        self._state, self._due = "off", self._begun + self._interval

    def _conclude(self, state: str, what: str) -> None:
        self._state, self._deadline = state, math.inf
        self._tell({"event": "health", "what": what})
