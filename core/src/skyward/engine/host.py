"""The loop that all pools of this process share, and the way every one of them is ended with the process."""

from __future__ import annotations

import atexit
import signal
import threading
from typing import TYPE_CHECKING, Any

from skyward.engine.loop import LoopThread

if TYPE_CHECKING:
    from collections.abc import Callable

_lock = threading.Lock()
_loop: LoopThread | None = None
_users = 0


def acquire() -> LoopThread:
    """Return the loop, started if need be. Each call is paired with one of ``release``."""
    global _loop, _users
    with _lock:
        if _loop is None:
            _loop = LoopThread()
        _users += 1
        return _loop


def release() -> None:
    """The last one ends the loop's thread."""
    global _loop, _users
    with _lock:
        _users -= 1
        last = _loop if _users == 0 else None
        if last is not None:
            _loop = None
    if last is not None:
        last.stop()


class ExitGuard:
    """While pools are open, SIGTERM and SIGHUP (the terminal was closed) unwind the main thread as Ctrl-C
    does, and the interpreter's exit closes them.
    """

    def __init__(self) -> None:
        self._closers: dict[int, Callable[[], None]] = {}
        self._installed: list[int] = []

    def add(self, key: int, close: Callable[[], None]) -> None:
        if not self._closers:
            atexit.register(self._close_all)
            self._install()
        self._closers[key] = close

    def remove(self, key: int) -> None:
        self._closers.pop(key, None)
        if not self._closers:
            atexit.unregister(self._close_all)
            self._uninstall()

    def _close_all(self) -> None:
        for close in list(self._closers.values()):
            close()

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _terminate)
                self._installed.append(number)

    def _uninstall(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._installed:
            if signal.getsignal(number) is _terminate:
                signal.signal(number, signal.SIG_DFL)
        self._installed.clear()


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


guard = ExitGuard()


class Deferral:
    """While it lasts, a signal that would raise in the main thread is noted and ``on_signal`` called instead.

    What must not be left half done runs under it. ``replay`` then does what the first one would have done.
    """

    def __init__(self, on_signal: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self._handlers: dict[int, Callable[[int, Any], Any]] = {}
        self._noted: list[int] = []

    def __enter__(self) -> Deferral:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self._noted.append(number)
        self._on_signal()

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def replay(self) -> None:
        """Call the handler of the first signal noted, if there was one; it usually raises."""
        for number in self._noted[:1]:
            self._handlers[number](number, None)
