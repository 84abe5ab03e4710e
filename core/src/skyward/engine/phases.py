"""What is done to set a node up: each phase reported when it begins and ends, and kept."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skyward.events import InstancePhase
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Literal

    from skyward.events import Instance


class Phases:
    """Of one node. ``begun``: when it was wanted, by ``time.monotonic``."""

    def __init__(self, pool: str, instance: Instance, begun: float) -> None:
        self.begun = begun
        self.current = ""
        """What is being done; empty when nothing is."""
        self.done: list[tuple[str, float, float]] = [("launch", begun, time.monotonic())]
        """Each with its begin and its end."""
        self._pool = pool
        self._instance = instance

    @contextmanager
    def timed(self, phase: str) -> Generator[list[str]]:
        """Report one phase: its start, its end, its duration, and what is put into the list."""
        begun = time.monotonic()
        self.current = phase
        self._publish(phase, "started", 0.0, "")
        remarks: list[str] = []
        try:
            yield remarks
        except BaseException as error:
            self._publish(phase, "failed", time.monotonic() - begun, str(error) or type(error).__name__)
            raise
        ended = time.monotonic()
        self.done.append((phase, begun, ended))
        self._publish(phase, "done", ended - begun, "; ".join(remarks))
        self.current = ""

    def _publish(
        self, phase: str, state: Literal["started", "done", "failed"], seconds: float, detail: str
    ) -> None:
        publish(
            InstancePhase(
                pool=self._pool,
                instance=self._instance,
                phase=phase,
                state=state,
                seconds=seconds,
                detail=detail,
            )
        )
