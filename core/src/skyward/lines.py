"""A text stream that cuts what is written to it into lines, for any number of threads and tasks at once.

Invariants: one call of ``emit`` per finished line, by the thread that finished it; unfinished lines are kept
apart by thread and task; no lock is held while ``emit`` runs. Imported by `output`.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from skyward.runtime import current_task

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["LineWriter"]

type _Writer = tuple[int, str | None]
"""Thread and task: what separates one unfinished line from another."""

# A line that never ends must not fill the memory: beyond 16 Mi characters it is handed on in parts. json.dump
# writes real lines of some MB in tiny pieces, so less would cut what somebody parses.
_LONGEST_OPEN = 1 << 24
# Pieces of a line are joined this many at a time, so that a million dots take fifteen joins, not a million.
_MOST_PIECES = 1 << 16
# Seconds between two pictures of a growing line: as often as a progress bar redraws itself.
_PICTURE_EVERY = 0.1
# Nobody watches a line longer than this while it grows.
_LARGEST_PICTURE = 1 << 16


class LineWriter(io.TextIOBase):
    """Calls ``emit(line, overwrite)`` for each line, without its end.

    ``overwrite`` is true for what the next line takes the place of: text that a carriage return ended, and
    the picture of an unfinished line that `flush` gives. The line itself still comes, whole, once it is
    finished, so whoever shows only ``overwrite=False`` shows what a terminal shows in the end:
    ``print("a", end="", flush=True); print("b")`` gives ``("a", True), ("ab", False)``. A newline right after
    a carriage return finishes the text before it, so ``"ab\\r\\n"`` is one line.

    Closing does nothing: the stream is its process's, not one task's.
    """

    encoding = "utf-8"
    errors = "replace"
    line_buffering = True
    mode = "w"

    def __init__(self, emit: Callable[[str, bool], object]) -> None:
        self._emit = emit
        # Joined only when needed.
        self._open: dict[_Writer, list[str]] = {}
        # What was last emitted to be overwritten, and when its line may be pictured again (0.0: at once).
        # Only writers that did such a thing are in it.
        self._pictures: dict[_Writer, tuple[str, float]] = {}
        self._bytes = _ByteSide(self)

    def write(self, text: str, /) -> int:
        writer = (get_ident(), current_task.get())
        if text == "\n":
            self._finish(writer)
        elif "\n" in text or "\r" in text:
            self._cut(writer, text)
        elif text:
            pieces = self._open.get(writer)
            if pieces is None:
                self._open[writer] = [text]
            else:
                pieces.append(text)
                if len(pieces) >= _MOST_PIECES and len(_joined(pieces)) > _LONGEST_OPEN:
                    self._finish(writer)
        return len(text)

    def flush(self) -> None:
        """Show the calling thread's unfinished line as it is, unless much the same was shown just now.

        A line that grows by single flushed characters is shown when it has doubled or a tenth of a second has
        passed; otherwise n characters would cost n²/2 on the wire.
        """
        if not self._open:
            return
        writer = (get_ident(), current_task.get())
        pieces = self._open.get(writer)
        if pieces is None:
            return
        if len(pieces) > 64:  # from here on, counting them is dearer than joining them once
            _joined(pieces)
        size, now = sum(map(len, pieces)), monotonic()
        shown, again_at = self._pictures.get(writer, ("", 0.0))
        if size > _LARGEST_PICTURE or (now < again_at and size < 2 * len(shown)):
            return
        text = _joined(pieces)
        if text != shown:
            self._pictures[writer] = (text, now + _PICTURE_EVERY)
            self._emit(text, True)

    def finish(self, *, everything: bool = False) -> None:
        """Hand on what is unfinished as if its line had ended.

        Call it when a task has ended, still in its context: it takes the lines of all the task's threads;
        outside a task, the calling thread's. ``everything``: when the process ends, those of all threads.
        """
        if not self._open and not self._pictures:
            return
        thread, task = get_ident(), current_task.get()
        for writer in dict.fromkeys([*self._open, *self._pictures]):
            mine = writer == (thread, None) if task is None else writer[1] == task
            if everything or mine:
                self._finish(writer)

    def _finish(self, writer: _Writer) -> None:
        pieces = self._open.pop(writer, None)
        line = "" if pieces is None else _joined(pieces)
        if self._pictures:
            shown = self._pictures.pop(writer, None)
            if shown is not None and not line:
                line = shown[0]
        self._emit(line, False)

    def _overwrite(self, writer: _Writer) -> None:
        """A carriage return."""
        text = "".join(self._open.pop(writer, ()))
        if not text:
            return
        shown = self._pictures.get(writer)
        self._pictures[writer] = (text, 0.0)
        if shown is None or shown[0] != text:
            self._emit(text, True)

    def _cut(self, writer: _Writer, text: str) -> None:
        *lines, rest = text.split("\n")
        for line in lines:
            self._extend(writer, line)
            self._finish(writer)
        self._extend(writer, rest)

    def _extend(self, writer: _Writer, text: str) -> None:
        """Add text without newlines, but maybe with carriage returns."""
        *frames, rest = text.split("\r") if "\r" in text else (text,)
        for frame in frames:
            if frame:
                self._open.setdefault(writer, []).append(frame)
            self._overwrite(writer)
        if rest:
            self._open.setdefault(writer, []).append(rest)

    @property
    def buffer(self) -> _ByteSide:
        """The same stream for bytes."""
        return self._bytes

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def close(self) -> None:
        self.flush()

    def reconfigure(self, **_: object) -> None:
        """Accepted, because scripts ask `sys.stdout` for UTF-8 or line buffering; both are what they get."""


class _ByteSide(io.BufferedIOBase):
    """UTF-8 into the text side; what is not UTF-8 becomes replacement characters."""

    mode = "wb"

    def __init__(self, text: LineWriter) -> None:
        self.name = "<bytes>"  # what is wrapped by a TextIOWrapper must have one
        self._text = text
        # A character may be cut between two writes.
        self._decoders: dict[_Writer, codecs.IncrementalDecoder] = {}

    def write(self, data: ReadableBuffer, /) -> int:
        writer = (get_ident(), current_task.get())
        octets = bytes(data)
        decoder = self._decoders.pop(writer, None) or codecs.getincrementaldecoder("utf-8")("replace")
        self._text.write(decoder.decode(octets))
        if decoder.getstate()[0]:
            self._decoders[writer] = decoder
        return len(octets)

    def flush(self) -> None:
        self._text.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._text.fileno()

    def close(self) -> None:
        self.flush()


def _joined(pieces: list[str]) -> str:
    """One piece of many, in place."""
    if len(pieces) > 1:
        pieces[:] = ["".join(pieces)]
    return pieces[0]
