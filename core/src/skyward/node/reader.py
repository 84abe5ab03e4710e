"""A short-lived child of the agent that isn't a worker: what it prints is read as it comes, without waiting.

Whoever starts it says what becomes of its output; ``skyward.node.gauges`` does, for what is measured.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import time
from collections.abc import Callable

from skyward.node.process import Child, end_group

OUTPUT_BYTES = 1 << 16
"""More than that is not a number; a command that prints it is ended."""


def ignore(status: int, output: bytes, errors: bytes, why: str) -> None:
    """Nobody waits for the result."""


class Reader:
    """A child whose output is read as it comes. ``on_result`` gets its status, output and errors at its end,
    and why we ended it, if we did.
    """

    def __init__(
        self,
        child: Child,
        limit: float,
        on_lines: Callable[[bytes], bytes] | None,
        selector: selectors.BaseSelector,
    ) -> None:
        self.child = child
        self.limit = limit
        self.deadline = time.monotonic() + limit
        self.on_result: Callable[[int, bytes, bytes, str], None] = ignore
        self._on_lines = on_lines
        self._selector = selector
        self._why = ""
        self._streams = dict(child.outputs)
        self._read = {"stdout": b"", "stderr": b""}
        for fd in self._streams:
            selector.register(fd, selectors.EVENT_READ, self._handler(fd))

    def _handler(self, fd: int) -> Callable[[int], None]:
        return lambda events: self._take(fd)

    def _take(self, fd: int) -> None:
        stream = self._streams.get(fd)
        if stream is None:  # closed by what came before it in the same turn
            return
        try:
            data = os.read(fd, OUTPUT_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(fd)
        self._read[stream] = (self._read[stream] + data)[-OUTPUT_BYTES:]
        if stream == "stdout" and self._on_lines is not None:
            self._read[stream] = self._on_lines(self._read[stream])
        elif len(self._read[stream]) == OUTPUT_BYTES:
            self.kill("printed more than a number")

    def kill(self, why: str) -> None:
        """End it; ``on_result`` gets ``why``."""
        self._why = self._why or why
        self.deadline = math.inf
        end_group(self.child.pid, signal.SIGKILL)

    def finish(self, status: int) -> None:
        """Hand over the result of a child that has ended."""
        end_group(self.child.pid, signal.SIGKILL)  # what it had started
        self.on_result(status, self._read["stdout"], self._read["stderr"], self._why)

    def close(self) -> None:
        """Read what is left and let go."""
        for fd in list(self._streams):
            self._take(fd)  # all that a pipe holds; who still writes into it is not our child
            self._close(fd)

    def _close(self, fd: int) -> None:
        if self._streams.pop(fd, None):
            self._selector.unregister(fd)
            os.close(fd)
