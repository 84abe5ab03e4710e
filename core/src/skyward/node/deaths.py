"""Why a process died, in words and as a kind that the client acts on.

Kinds: ``requested`` (we ended it), ``oom`` (the kernel did, for memory), ``crash`` (its own doing: retrying would do it
again), ``killed`` (somebody else's doing: worth retrying).
"""

from __future__ import annotations

import os
import signal

_OWN_DOING = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS})
_WORDS = {signal.SIGSEGV: "segmentation fault", signal.SIGABRT: "abort", signal.SIGBUS: "bus error"}


class OomCounter:
    """Counts the kernel's out-of-memory kills, of this machine or this container."""

    def __init__(self) -> None:
        self._seen = self._read()

    @staticmethod
    def _read() -> int:
        try:
            with open("/proc/vmstat") as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
        except OSError:
            return 0

    def rose(self) -> bool:
        """Whether there was one since the last question."""
        before, self._seen = self._seen, self._read()
        return self._seen > before


def describe_death(status: int, why: str, oom: OomCounter) -> tuple[str, str]:
    """Return the kind and the cause of a death. ``status`` as from ``waitpid``; ``why``: our reason, if we did it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL and oom.rose():
            return "oom", "was killed by the kernel: out of memory"
        if why and why != "failed":
            return "requested", f"was ended: {why}"
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        words = _WORDS.get(signal.Signals(number)) if number in signal.valid_signals() else None
        text = f"was killed by {name}" + (f" ({words})" if words else "")
        return ("crash" if number in _OWN_DOING else "killed"), text
    code = os.WEXITSTATUS(status)
    return "crash", f"exited with status {code}"
