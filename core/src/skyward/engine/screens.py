"""Running a console: on a thread of its own, fed with events, ended with its pool, harmless when it fails."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from skyward.subscriptions import add_listener, remove_listener

if TYPE_CHECKING:
    from skyward.events import Event
    from skyward.hooks.ports import Console, PoolView

STOP_SECONDS = 5.0
"""How long a console may take to put its last lines out."""


class Screen:
    """Drives one console for one pool."""

    def __init__(self, console: Console, view: PoolView) -> None:
        self._console = console
        self._view = view
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="skyward-console", daemon=True)
        add_listener(self)
        self._thread.start()

    def wants(self, kind: type[Event]) -> bool:
        """Whether the console shows events of this type."""
        return issubclass(kind, self._console.handles)

    def offer(self, event: Event) -> None:
        """Take an event, from any thread."""
        if event.pool == self._view.name and isinstance(event, self._console.handles):
            self._queue.put(event)

    def close(self) -> None:
        """Show what came so far, then stop."""
        remove_listener(self)
        self._queue.put(None)
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._console.start(self._view)
            try:
                self._loop()
            finally:
                self._console.stop()
        except Exception:
            remove_listener(self)
            logging.getLogger("skyward").exception("the console %s failed", type(self._console).__name__)

    def _loop(self) -> None:
        while True:
            try:
                event = self._queue.get(timeout=self._console.tick_interval)
            except queue.Empty:
                self._console.tick()
                continue
            if event is None:
                return
            self._console.handle(event)
            if self._console.tick_interval is not None and self._queue.empty():
                self._console.tick()
