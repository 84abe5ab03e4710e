"""Rows at the bottom of the terminal that are redrawn in place while everything else scrolls above them.

A console asks for an ``Area`` with ``open_area()``. While at least one is open, ``sys.stdout`` and
``sys.stderr`` (and the logging handlers that hold them) go through here, so that what the user prints comes
out whole, above the rows. A line that is not finished yet (``print(..., end="")``, a progress bar of the
user's own) is shown as one more row until its newline comes. A stream that is not this terminal, such as a
redirected stdout, is not touched. Everything is put back when the last area closes, at the latest at exit.

Invariants: a frame is one write; no cursor is hidden and no mode is switched, so a killed process leaves a
usable terminal; the terminal is written at most every ``FRAME`` seconds however much is printed. Several
pools at once share one screen. Used by consoles.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
import time

from skyward.console import cell_width, clean, fit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from typing import Any, TextIO

FRAME = 0.095
"""Seconds between two frames at least. Just below 0.1, so that a console that ticks ten times a second
does not find every other tick a hair too early."""

_PENDING_LIMIT = 65_536
"""Characters that may wait for the next frame: a burst beyond it is written at once, to bound memory."""

_lock = threading.RLock()  # re-entrant: a signal handler or a finalizer may print while we hold it
_screen: _Screen | None = None


class Area:
    """The rows of one console. Safe from any thread; every method does nothing once it is closed."""

    def __init__(self, screen: _Screen) -> None:
        self._screen = screen
        self.rows: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Columns a row may take: one less than the terminal has, so that no row ever wraps."""
        return max(self._screen.size()[0] - 1, 1)

    @property
    def height(self) -> int:
        """Rows of the whole terminal."""
        return self._screen.size()[1]

    @property
    def unicode(self) -> bool:
        """Whether the terminal shows more than ASCII."""
        return (self._screen.stream.encoding or "ascii").lower().replace("-", "") == "utf8"

    def draw(self, rows: Sequence[str]) -> None:
        """Replace the rows: one line each, of at most ``width`` columns, with no escapes but colours."""
        with _lock:
            if self in self._screen.areas:
                self.rows = tuple(rows)
                self._screen.paint_when_due()

    def above(self, lines: Iterable[str]) -> None:
        """Let whole lines scroll by above the rows of every area; shown with the next frame."""
        with _lock:
            if self in self._screen.areas:
                self._screen.add("".join(f"{line}\n" for line in lines))

    def close(self, last: Iterable[str] = ()) -> None:
        """Take the rows away and leave the ``last`` lines in their place. Idempotent."""
        global _screen
        with _lock:
            if self not in self._screen.areas:
                return
            self.above(last)
            self._screen.areas.remove(self)
            if self._screen.areas:
                self._screen.paint()
            else:
                self._screen.leave()
                _screen = None


def open_area() -> Area | None:
    """Return new rows at the bottom of the terminal that stderr is; None when it is none, or a dumb one."""
    global _screen
    with _lock:
        if _screen is None:
            if not is_capable(sys.stderr):
                return None
            _screen = _Screen(sys.stderr)
        area = Area(_screen)
        _screen.areas.append(area)
        return area


@contextlib.contextmanager
def lent() -> Generator[None]:
    """Leave the terminal to somebody else: the rows are gone meanwhile, and what is printed comes afterwards
    (of much, the end).
    """
    with _lock:
        screen = _screen
        if screen is not None:
            screen.paint(bare=True)
            screen.is_lent = True
    try:
        yield
    finally:
        with _lock:
            if screen is not None:
                screen.is_lent = False
                screen.paint()


def is_capable(stream: TextIO | None) -> bool:
    """Return whether ``stream`` is a terminal that can move its cursor."""
    try:
        if stream is None or not stream.isatty():
            return False
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False  # closed, or a stand-in without a file descriptor
    if os.name == "nt":
        return bool(os.environ.get("WT_SESSION"))  # the old console window prints escapes as they are
    return os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def write_line(stream: TextIO, line: str) -> bool:
    """Write one line to a stream that is no terminal, flushed; return whether somebody still reads it."""
    try:
        try:
            stream.write(line + "\n")
        except UnicodeEncodeError:
            stream.write(_encodable(line, stream) + "\n")
        stream.flush()
    except (OSError, ValueError):
        return False  # closed, or the reader of the pipe left
    return True


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class _Screen:
    """The one owner of the terminal. All its methods but ``user`` are called with the lock held."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.areas: list[Area] = []
        self.pid = os.getpid()
        self.is_lent = False
        self._pending: list[str] = []
        self._pending_size = 0
        self._tail = ""
        self._painted: list[str] = []
        self._painted_at = 0.0
        self._columns: int = 0
        self._proxies: dict[str, _Through] = {}
        for name in ("stdout", "stderr"):
            original: TextIO = getattr(sys, name)
            if self._is_ours(original):
                original.flush()
                self._proxies[name] = _Through(self, original)
                setattr(sys, name, self._proxies[name])
        self._rebind_logging({id(proxy.original): proxy for proxy in self._proxies.values()})
        atexit.register(self._at_exit)

    def _is_ours(self, stream: Any) -> bool:
        if not is_capable(stream):
            return False
        return stream is self.stream or os.path.sameopenfile(stream.fileno(), self.stream.fileno())

    def leave(self) -> None:
        self.paint(last=True)
        for name, proxy in self._proxies.items():
            if getattr(sys, name) is proxy:  # the user may have put something else there meanwhile
                setattr(sys, name, proxy.original)
        self._rebind_logging({id(proxy): proxy.original for proxy in self._proxies.values()})
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        if os.getpid() != self.pid:
            return
        with _lock:
            for area in list(self.areas):
                area.close()

    @staticmethod
    def _rebind_logging(streams: dict[int, Any]) -> None:
        # A handler made before the pool holds the stream itself and would write into the rows.
        logging = sys.modules.get("logging")
        if logging is None:
            return
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            for handler in getattr(logger, "handlers", ()):
                stream = streams.get(id(getattr(handler, "stream", None)))
                if stream is not None:
                    handler.setStream(stream)

    # ── what comes in ──

    def user(self, text: str, original: TextIO) -> None:
        """Take what was printed to one of the user's streams."""
        # A forked child inherits the lock as it happened to be, and shows nothing of its own.
        if os.getpid() != self.pid:
            original.write(text)
            return
        with _lock:
            if not self.areas:
                original.write(text)
                return
            whole, newline, tail = text.rpartition("\n")
            if newline:
                whole, self._tail = self._tail + whole, ""
            self._tail = _last_state(self._tail + tail)
            if newline:
                self.add(whole + newline)
            elif len(self._tail) > _PENDING_LIMIT:
                whole, self._tail = self._tail, ""
                self.add(whole + "\n")
            # Else it waits for the next frame: print() writes its text and its newline apart.

    def add(self, text: str) -> None:
        if text:
            self._pending.append(text)
            self._pending_size += len(text)
            self.paint_when_due()

    # ── what goes out ──

    def size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return size.columns or 80, size.lines or 24  # some serial and container terminals say 0 × 0

    def paint_when_due(self) -> None:
        if time.monotonic() - self._painted_at >= FRAME or self._pending_size > _PENDING_LIMIT:
            self.paint()

    def paint(self, last: bool = False, *, bare: bool = False) -> None:
        if self.is_lent and not last:
            while self._pending_size > _PENDING_LIMIT and len(self._pending) > 1:
                self._pending_size -= len(self._pending.pop(0))
            return
        columns, lines = self.size()
        rows: list[str] = []
        if not (last or bare):
            # The end of an unfinished line is what the user looks at. Two lines of the terminal stay free:
            # the one the cursor rests on, and one to scroll through.
            tail = [_end(clean(self._tail), columns - 1)] if self._tail.strip() else []
            rows = [*tail, *(row for area in self.areas for row in area.rows)][: max(lines - 2, 1)]
        if not (self._pending or last) and rows == self._painted and columns == self._columns:
            return
        up = self._height_now(columns)
        out = [f"\r\x1b[{up}A" if up else ""]
        if self._pending or last or len(rows) < up:
            # Row by row: tmux keeps a whole screen that is erased from its top in the history.
            out += ["\x1b[2K\n" * up, f"\x1b[{up}A" if up else "", *self._pending]
        if last:
            out.append(self._tail)
            self._tail = ""
        elif self._pending and "\x1b" in self._pending[-1]:
            out.append("\x1b[0m")  # a colour that the user left on must not spill into the rows
        out += [f"{row}\x1b[K\n" for row in rows]
        out.append("\x1b[J" if rows else "")  # what was typed meanwhile
        # Recorded before the write: a Ctrl-C between the two then costs a blank line, not a broken frame.
        self._painted, self._columns, self._painted_at = rows, columns, time.monotonic()
        self._pending, self._pending_size = [], 0
        self._write("".join(out))

    def _height_now(self, columns: int) -> int:
        # A terminal that became narrower has wrapped the rows it still shows.
        return sum(max(-(-cell_width(row) // columns), 1) for row in self._painted)

    def _write(self, text: str) -> None:
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.stream.write(_encodable(text, self.stream))
            self.stream.flush()
        except (OSError, ValueError):
            pass  # the terminal went away; whoever prints next is told by the stream itself


def _last_state(text: str) -> str:
    """Return what is left visible of an unfinished line after its carriage returns."""
    body = text.rstrip("\r")
    start = body.rfind("\r") + 1
    return text[start:] if start else text


def _end(text: str, width: int) -> str:
    return text if cell_width(text) <= width else fit(text[::-1], width)[::-1]


class _Through(io.TextIOBase):
    """Stands in for ``sys.stdout`` or ``sys.stderr`` while an area is open; afterwards passes through."""

    def __init__(self, screen: _Screen, original: TextIO) -> None:
        self.original = original
        self._screen = screen

    def write(self, text: str, /) -> int:
        self._screen.user(text, self.original)
        return len(text)

    def flush(self) -> None:
        self.original.flush()

    # The base class answers these two with None, so __getattr__ is never asked.
    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has an attribute
        return self.original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.original.errors

    def isatty(self) -> bool:
        return self.original.isatty()

    def fileno(self) -> int:
        return self.original.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing: closing the terminal's stream is its owner's business, and ours ends with the area."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)
