"""The line to a node's agent: commands out, notices in, opened again when it was cut. On the loop.

Notices are numbered by their bytes, as ``skyward.link.session`` does it: what was said while nobody listened
is heard after the line is open again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from skyward.errors import ConnectError, HostKeyError
from skyward.link import frames
from skyward.link.agentconfig import AGENT_SOCKET

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from skyward.link.links import Link
    from skyward.link.wire import Wire

PING_SECONDS = 5.0
"""Between two words to the agent: a fraction of the least silence it minds."""
NOT_NUMBERED = ("hello", "metrics")
"""Notices that are not said again."""


async def tries(link: Link) -> AsyncGenerator[None]:
    """Wait before each try to open a wire again, and stop when it has been tried for long enough."""
    begun = time.monotonic()
    for delay in link.reconnect_delays:
        if delay:
            await asyncio.sleep(delay)
        if time.monotonic() - begun > link.patience:
            return
        yield


class AgentLine:
    """``on_message`` gets each notice; ``on_cut`` is called when the line was cut, and not by ``close``."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None], on_cut: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_cut = on_cut
        self._wire: Wire | None = None
        self._session = ""
        self._heard = 0

    async def open(self, link: Link, *, inherit: bool = False) -> None:
        """Connect to the agent; what it had to say meanwhile comes first. Raises as ``Link.open``.

        ``inherit``: another client had it, which is gone; the agent's hello says what that one knew.
        """
        self._wire, _ = await link.open(AGENT_SOCKET, None, self._on_frame, self._on_closed)
        hello = {"session": self._session, "received": self._heard, "inherit": inherit}
        self._wire.send(frames.json_frame(frames.HELLO, hello))

    async def open_again(self, link: Link) -> str | None:
        """Try until it is open; return why it can't be, None when it is."""
        async for _ in tries(link):
            try:
                await self.open(link)
            except (ConnectionRefusedError, FileNotFoundError):
                break
            except HostKeyError as error:
                return str(error)
            except (OSError, ConnectError):
                continue
            return None
        return "its agent is gone"

    def command(self, message: dict[str, Any]) -> None:
        """Tell the agent something, if there is a line to it."""
        if self._wire is not None:
            self._wire.send(frames.json_frame(frames.COMMAND, message))

    async def keep_alive(self) -> None:
        """Let the agent hear from us, for ever."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            self.command({"do": "ping", "received": self._heard})

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _on_frame(self, kind: int, body: memoryview) -> None:
        message = frames.read_json(body)
        if message["event"] not in NOT_NUMBERED:
            self._heard += frames.HEADER.size + len(body)
        if message["event"] == "hello" and self._session != message["session"]:
            self._session, self._heard = message["session"], 0
        self._on_message(message)

    def _on_closed(self) -> None:
        self._wire = None
        self._on_cut()
