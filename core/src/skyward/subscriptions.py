"""Who hears of events: any number of listeners, each with a thread of its own, none in the way of another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from skyward.events import Event


class Listener(Protocol):
    """What events are offered to. Both methods are called on any thread and must not block."""

    def wants(self, kind: type[Event]) -> bool:
        """Whether events of this type mean anything to it."""
        ...

    def offer(self, event: Event) -> None:
        """Take an event, or leave it."""
        ...


_lock = threading.Lock()
_listeners: tuple[Listener, ...] = ()
_wanted: dict[type[Event], bool] = {}
"""What ``wanted`` has answered since the listeners last changed."""


def add_listener(listener: Listener) -> None:
    """Offer every event from now on to ``listener``."""
    global _listeners
    with _lock:
        _listeners = (*_listeners, listener)
        _wanted.clear()


def remove_listener(listener: Listener) -> None:
    """Stop that. Idempotent."""
    global _listeners
    with _lock:
        _listeners = tuple(other for other in _listeners if other is not listener)
        _wanted.clear()


def publish(event: Event) -> None:
    """Offer an event to everyone. Never blocks."""
    for listener in _listeners:
        listener.offer(event)


def wanted(kind: type[Event]) -> bool:
    """Whether anyone would hear of such an event: lets frequent ones not be made at all."""
    known = _wanted.get(kind)
    if known is None:
        with _lock:
            known = _wanted[kind] = any(listener.wants(kind) for listener in _listeners)
    return known


class Subscription:
    """A callback that hears of events until ``close``; also a context manager.

    The callback runs on one thread, in order. What it raises goes to ``threading.excepthook`` and ends the
    subscription.
    """

    def __init__(
        self, callback: Callable[[Event], object], types: tuple[type[Event], ...], pool: str | None
    ) -> None:
        self._callback = callback
        self._types = types
        self._pool = pool
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="skyward-events", daemon=True)
        self._thread.start()

    def wants(self, kind: type[Event]) -> bool:
        """Whether it asked for events of this type."""
        return issubclass(kind, self._types)

    def offer(self, event: Event) -> None:
        """Take the event if it asked for such."""
        if isinstance(event, self._types) and (self._pool is None or event.pool == self._pool):
            self._queue.put(event)

    def close(self) -> None:
        """Hand over what came so far, then stop. Idempotent; returns when the callback is done."""
        remove_listener(self)
        self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while (event := self._queue.get()) is not None:
                self._callback(event)
        finally:
            remove_listener(self)


def subscribe(
    callback: Callable[[Event], object], *types: type[Event], pool: str | None = None
) -> Subscription:
    """Call ``callback`` with every event of the given types (all, when none is given), of one pool or of all.

    Subscribe before the pool opens to hear everything. Close the subscription, or use it as a context
    manager.
    """
    subscription = Subscription(callback, types or (Event,), pool)
    add_listener(subscription)
    return subscription
