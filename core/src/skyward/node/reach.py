"""Finds out whether nodes reach each other: listens at an address for a while, and calls at those of others.

Who listens says a word that only the client knows beforehand: an address may be that of another machine in
another private network. Nothing is read from whoever calls. Part of the agent.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTEN_SECONDS = 60.0
"""How long it listens, if nobody says that it is enough."""


class Reach:
    """One agent's. ``tell``: to the client."""

    def __init__(self, selector: selectors.BaseSelector, tell: Callable[[dict[str, Any]], None]) -> None:
        self._selector = selector
        self._tell = tell
        self._listener: socket.socket | None = None
        self._word = b""
        self._until = 0.0
        self._calls: dict[socket.socket, tuple[int, bytes, float]] = {}

    def listen(self, address: str) -> None:
        """Listen there, and tell at which port, and what is said to who calls."""
        self.stop()
        self._word = os.urandom(8).hex().encode()
        try:
            info = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
            listener = socket.socket(info[0], socket.SOCK_STREAM)
            listener.bind(info[4])
            listener.listen(128)
        except OSError as error:
            self._tell({"event": "listening", "port": 0, "why": error.strerror or str(error)})
            return
        listener.setblocking(False)
        self._listener, self._until = listener, time.monotonic() + LISTEN_SECONDS
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        port = listener.getsockname()[1]
        self._tell({"event": "listening", "port": port, "word": self._word.decode(), "why": ""})

    def _accept(self, events: int) -> None:
        assert self._listener is not None
        try:
            caller, _ = self._listener.accept()
        except OSError:
            return
        with caller:
            caller.setblocking(False)
            try:
                caller.send(self._word)
            except OSError:
                return

    def call(self, targets: list[dict[str, Any]], seconds: float) -> None:
        """Call at each of these: ``rank``, ``address``, ``port``, ``word``; tell of each what came of it."""
        until = time.monotonic() + seconds
        for target in targets:
            rank, word = target["rank"], target["word"].encode()
            try:
                info = socket.getaddrinfo(target["address"], target["port"], type=socket.SOCK_STREAM)[0]
                caller = socket.socket(info[0], socket.SOCK_STREAM)
                caller.setblocking(False)
                caller.connect_ex(info[4])
            except OSError as error:
                self._end(rank, error.strerror or str(error))
                continue
            self._calls[caller] = rank, word, until
            self._selector.register(caller, selectors.EVENT_READ, self._answer(caller))

    def _answer(self, caller: socket.socket) -> Callable[[int], None]:
        return lambda events: self._on_answer(caller)

    def _on_answer(self, caller: socket.socket) -> None:
        rank, word, _ = self._forget(caller)
        with caller:
            try:
                said = caller.recv(64)
            except OSError as error:
                self._end(rank, error.strerror or str(error))
                return
        self._end(rank, "" if said == word else "another machine has that address there")

    def _forget(self, caller: socket.socket) -> tuple[int, bytes, float]:
        self._selector.unregister(caller)
        return self._calls.pop(caller)

    def _end(self, rank: int, why: str) -> None:
        self._tell({"event": "called", "rank": rank, "why": why})

    def look(self) -> None:
        """Give up what takes too long; call every now and then."""
        now = time.monotonic()
        for caller, (rank, _, until) in list(self._calls.items()):
            if now > until:
                self._forget(caller)
                caller.close()
                self._end(rank, "no answer")
        if self._listener is not None and now > self._until:
            self.stop()

    def stop(self) -> None:
        """Listen no longer."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
