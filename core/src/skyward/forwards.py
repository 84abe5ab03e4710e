"""``pool.forward``: a port of this computer that leads to a port of a node. Imported with the first."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Self

from skyward.errors import ConfigError, UsageError
from skyward.link.forwarding import Forwarding

if TYPE_CHECKING:
    from concurrent.futures import Future

    from skyward.engine.loop import LoopThread
    from skyward.engine.pool import PoolEngine

CLOSE_SECONDS = 5.0
"""How long ``close`` waits for the loop to let go of the connections."""


class Forward:
    """A forwarded port. Open until ``close``, the end of its ``with`` block, or that of the pool."""

    def __init__(
        self, engine: PoolEngine, loop: LoopThread, port: int, rank: int, local_port: int | None
    ) -> None:
        for name, value in (("port", port), ("local_port", local_port)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):  # pyright: ignore[reportUnnecessaryIsInstance]  users aren't type-checked
                raise UsageError(f"{name} is a number, not {value!r}")
            if value is not None and not 0 < value < 65536:
                raise ConfigError(f"{name}={value}: ports are 1 to 65535")
        engine.places(rank)
        self._node = rank
        self._to = port
        self._over = threading.Event()
        self._forwarding = Forwarding(port, lambda: engine.places(rank)[0])
        try:
            self._port = self._forwarding.listen(local_port or 0)
        except OSError as error:
            raise ConfigError(
                f"local_port={local_port} can't be taken on this computer ({error.strerror}): "
                "leave it out for one that is free"
            ) from error
        begun = threading.Event()
        serve = functools.partial(self._forwarding.serve, begun.set, self._over.set)
        self._future: Future[None] = loop.start(engine.hold(serve))
        self._future.add_done_callback(lambda _: begun.set())
        begun.wait()  # what is ended before it begins would not end itself
        if self._future.done():
            self._forwarding.close()

    @property
    def port(self) -> int:
        """The port on this computer's 127.0.0.1."""
        return self._port

    @property
    def url(self) -> str:
        """The same for a browser, if it is a web server that listens on the node."""
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        """Close it, and all connections through it. Idempotent; from any thread."""
        if not self._future.done():
            self._future.cancel()
            self._over.wait(CLOSE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._future.done() else "open"
        return f"<forward 127.0.0.1:{self._port} to port {self._to} of node {self._node}: {state}>"
