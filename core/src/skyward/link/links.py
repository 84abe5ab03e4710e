"""What every link to a machine offers, and which link an endpoint wants. Used by ``skyward.engine``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from skyward.hooks.values import Endpoint
    from skyward.link.agentconfig import AgentConfig
    from skyward.link.wire import Wire


class Files(Protocol):
    """What a link offers that carries files."""

    async def put(self, path: str, data: Iterable[bytes], mode: int = ...) -> None:
        """Write a file: whole, or not at all. Raises ConnectionError when cut, OSError for the machine's."""
        ...

    def get(self, path: str, start: int = ...) -> AsyncIterator[bytes]:
        """Read a file from its byte ``start`` on. Raises as ``put``."""
        ...


class Remote(Files, Protocol):
    """What a machine somewhere else can do before its agent runs."""

    root: str
    """The machine's folder: absolute, private, where commands run."""

    async def run(
        self,
        command: str | tuple[str, ...],
        env: Mapping[str, str],
        *,
        stdin: bytes = ...,
        on_line: Callable[[str], None] | None = ...,
    ) -> tuple[int, str]:
        """Run a shell line or an argv; return its status and output, both streams in one.

        ``env`` shows in no list of processes. ``on_line`` gets each line as it comes.
        """
        ...


class Link(Protocol):
    """See ``skyward.link.local`` and ``skyward.link.ssh``. All on the loop."""

    reconnect_delays: ClassVar[tuple[float, ...]]
    """Seconds before each try to open a wire again that was cut; then what it led to is given up."""
    patience: ClassVar[float]
    """Seconds after the cut in which a try is begun."""
    files: Remote | None
    """The machine as one that is somewhere else; None where it is this computer."""
    remarks: list[str]
    """What a person should know about how it was reached."""
    root: str
    """The machine's folder."""
    python: str
    """The interpreter there, once it is known."""

    async def reach(self, timeout: float, interval: float) -> None:
        """Connect. Raises ConnectError, HostKeyError or ConfigError."""
        ...

    async def run(self, command: str | tuple[str, ...], env: Mapping[str, str]) -> tuple[int, str]:
        """Run a shell line, or an argv, in the machine's folder; return its status and output."""
        ...

    async def start_agent(self, python: str, config: AgentConfig) -> None:
        """Start the agent and wait until its socket is there. Raises ConnectError."""
        ...

    async def open(
        self,
        name: str,
        greeting: dict[str, Any] | None,
        on_frame: Callable[[int, memoryview], None],
        on_closed: Callable[[], None],
        on_received: Callable[[int, bool], None] = ...,
    ) -> tuple[Wire, dict[str, Any]]:
        """Connect to a socket of the machine. Raises OSError, or FrameError when who listens is not ours."""
        ...

    async def ended(self) -> None:
        """Return when the agent is known to be gone, or the link is closed."""
        ...

    def close(self) -> None:
        """Let go of the connection. Idempotent; ends nothing on the machine."""
        ...


def link_to(endpoint: Endpoint) -> Link:
    """Return a link to a machine; nothing is connected yet."""
    from skyward.hooks.values import LocalEndpoint

    if isinstance(endpoint, LocalEndpoint):
        from skyward.link.local import LocalLink

        return LocalLink(endpoint)
    from skyward.link.ssh import SSHLink

    return SSHLink(endpoint)
