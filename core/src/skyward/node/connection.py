"""One peer on the agent's socket, the client or a worker: frames in and frames out, never waiting for it."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable

from skyward.link.frames import FrameError, Splitter, read_json
from skyward.node.process import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Connection:
    """See the module. ``on_message`` gets each frame's kind and content; ``on_end`` is called once, when the
    peer is gone. ``worker``: who it is, once it has said so.
    """

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        on_message: Callable[[Connection, int, dict[str, Any]], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self.worker: Child | None = None
        self._sock = sock
        self._selector = selector
        self._on_message = on_message
        self._on_end = on_end
        self._splitter = Splitter()
        self._unsent = bytearray()
        self._is_open = True
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, self._on_events)

    @property
    def backlog(self) -> int:
        """Bytes that the peer has not taken yet."""
        return len(self._unsent)

    def send(self, data: bytes) -> None:
        """Send frames; what the peer does not take now goes when it does."""
        self._unsent += data
        self._flush()

    def read(self) -> bool:
        """Hear what the peer has said; return whether that was anything."""
        try:
            data = self._sock.recv(1 << 16)
            for kind, body in self._splitter.feed(data):
                self._on_message(self, kind, read_json(body))
        except BlockingIOError:
            return False
        except (OSError, FrameError, ValueError, KeyError):
            data = b""
        if not data:
            self._close()
        return bool(data)

    def _on_events(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and self._is_open:
            self.read()

    def _flush(self) -> None:
        if not self._is_open:
            return
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._close()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._sock, events, self._on_events)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._selector.unregister(self._sock)
            self._sock.close()
            self._on_end(self)
