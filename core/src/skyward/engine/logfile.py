"""The log file: what happened to a pool, and what its tasks printed, in a file that rotates."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from skyward import events
from skyward.console import describe
from skyward.subscriptions import Subscription, subscribe

if TYPE_CHECKING:
    from skyward.events import Event
    from skyward.options import LogConfig

TRACE = 5
_LEVELS: dict[type[Event], int] = {
    events.TaskStarted: TRACE,
    events.TaskCompleted: logging.DEBUG,
    events.Metric: TRACE,
    events.InstancePhase: logging.DEBUG,
    events.InstancePreempted: logging.WARNING,
    events.WorkerDied: logging.WARNING,
    events.Error: logging.ERROR,
}


class LogFile:
    """Writes one pool's events to the configured file, from a thread of its own."""

    def __init__(self, config: LogConfig, pool: str) -> None:
        self._level = TRACE if config.level == "TRACE" else logging.getLevelNamesMapping()[config.level]
        self._config = config
        self._handler: logging.Handler | None = None
        kinds = [kind for kind in _every_event() if _LEVELS.get(kind, logging.INFO) >= self._level]
        self._subscription: Subscription = subscribe(self._write, *kinds, pool=pool)

    def _write(self, event: Event) -> None:
        described = describe(event)
        if described is None:
            return
        if self._handler is None:
            self._handler = _open(self._config)
        label, message = described
        level = _LEVELS.get(type(event), logging.INFO)
        record = logging.LogRecord("skyward", level, "", 0, "%s  %s", (f"{event.pool} {label}", message), None)
        record.created = event.at
        self._handler.handle(record)

    def close(self) -> None:
        """Write what came so far, then close the file."""
        self._subscription.close()
        if self._handler is not None:
            self._handler.close()


def _every_event() -> list[type[Event]]:
    return [
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event
    ]


def _open(config: LogConfig) -> logging.Handler:
    from logging.handlers import RotatingFileHandler, TimedRotatingFileHandler

    path = os.path.expanduser(config.file)
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    handler: logging.Handler
    if config.rotation_bytes is not None:
        handler = RotatingFileHandler(
            path, maxBytes=int(config.rotation_bytes), backupCount=config.retention, encoding="utf-8"
        )
    else:
        seconds = max(1, int(config.rotation_seconds or 86400))
        handler = TimedRotatingFileHandler(
            path, when="S", interval=seconds, backupCount=config.retention, encoding="utf-8"
        )
    os.chmod(path, 0o600)  # tasks print what they like
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    return handler
