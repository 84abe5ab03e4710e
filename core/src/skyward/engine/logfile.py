"""The log file: what happened to a pool, and what its tasks printed, in a file that rotates.

Only its owner may read it, because tasks print what they like. Several programs may write to one file: each
line is one write, and whoever finds that another has begun a new file follows. A file that can't be written
is reported once and costs nobody anything else.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from skyward import events
from skyward.console import describe
from skyward.subscriptions import Subscription, publish, subscribe

if TYPE_CHECKING:
    from io import TextIOWrapper

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
        self._failed = False
        kinds = [kind for kind in _every_event() if _LEVELS.get(kind, logging.INFO) >= self._level]
        self._subscription: Subscription = subscribe(self._write, *kinds, pool=pool)

    def _write(self, event: Event) -> None:
        described = describe(event)
        if described is None or self._failed:
            return
        try:
            self._handler = self._handler or open_log(self._config)
        except OSError as error:
            self._failed = True
            what = f"nothing is logged: {error} (LogConfig(file=...) names another, logging=False none)"
            publish(events.Error(pool=event.pool, message=what))
            return
        label, message = described
        level = _LEVELS.get(type(event), logging.INFO)
        record = logging.LogRecord(
            "skyward", level, "", 0, "%s  %s", (f"{event.pool} {label}", message), None
        )
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


def open_log(config: LogConfig) -> logging.Handler:
    """Open the configured file. Raises OSError when it can't be written."""
    from logging.handlers import BaseRotatingHandler, RotatingFileHandler, TimedRotatingFileHandler

    class Private(BaseRotatingHandler):
        """What both ways to rotate have in common here."""

        def _open(self) -> TextIOWrapper:
            return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

        def emit(self, record: logging.LogRecord) -> None:
            stream: TextIOWrapper | None = self.stream
            if stream is not None and _was_replaced(self.baseFilename, stream):
                stream.close()
                self.stream = self._open()
            super().emit(record)

        def rotate(self, source: str, dest: str) -> None:
            if config.retention:
                super().rotate(source, dest)
            else:
                os.unlink(source)

    class BySize(Private, RotatingFileHandler):
        pass

    class ByAge(Private, TimedRotatingFileHandler):
        pass

    path = os.path.expanduser(config.file)
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    keep = max(1, config.retention)  # 0 would mean to them that the file never ends
    handler: logging.Handler
    if config.rotation_bytes is not None:
        handler = BySize(path, maxBytes=config.rotation_bytes, backupCount=keep, encoding="utf-8")
    else:
        seconds = max(1, int(config.rotation_seconds or 86400))
        handler = ByAge(path, when="S", interval=seconds, backupCount=keep, encoding="utf-8")
    os.chmod(path, 0o600)  # it may have been there before
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    return handler


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _was_replaced(path: str, stream: TextIOWrapper) -> bool:
    """Whether another program has begun a new file under our file's name."""
    try:
        return not os.path.samestat(os.stat(path), os.fstat(stream.fileno()))
    except FileNotFoundError:
        return True
