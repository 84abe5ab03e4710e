"""Why a process died, in words and as a kind that the client acts on.

Kinds: ``requested`` (we ended it), ``oom`` (the kernel did, for memory), ``crash`` (its own doing: retrying
would do it again), ``killed`` (somebody else's doing: worth retrying).
"""

from __future__ import annotations

import os
import signal
import time

LEAST_BYTES = 1 << 26
"""A process that never had as much is not what the kernel kills for memory."""
ROUND = 2.0
"""Seconds between two looks at the kernel's count; reading it costs a tenth of a millisecond."""
_OWN_DOING = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
)
_WORDS = {signal.SIGSEGV: "segmentation fault", signal.SIGABRT: "abort", signal.SIGBUS: "bus error"}


class OomCounter:
    """Watches the kernel's count of out-of-memory kills, of the whole machine or container.

    The kernel does not say whom it killed, so a kill counts for a death only if it was a moment ago, and if
    the process had grown.
    """

    def __init__(self) -> None:
        self._before = self._latest = self._read()
        self._at = time.monotonic()

    @staticmethod
    def _read() -> int:
        try:
            with open("/proc/vmstat") as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
        except OSError:
            return 0

    def look(self) -> None:
        """Forget what is older than two rounds; call every now and then."""
        if time.monotonic() - self._at >= ROUND:
            self._at = time.monotonic()
            self._before, self._latest = self._latest, self._read()

    def explains(self, peak: int) -> bool:
        """Whether there was a kill in this round or the one before, that no death has been put down to.

        ``peak``: the most bytes of memory that the dead process had.
        """
        count = self._read()
        if count <= self._before or peak < LEAST_BYTES:
            return False
        self._before += 1
        self._latest = max(self._latest, self._before)
        return True


def describe_death(status: int, why: str, oom: OomCounter, peak: int) -> tuple[str, str]:
    """Return the kind and the cause of a death. ``status`` as from ``waitpid``; ``why``: our reason, if we
    did it; ``peak``: the most bytes of memory that it had.
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if why and why != "failed":
            return "requested", f"was ended: {why}"
        if number == signal.SIGKILL and oom.explains(peak):
            return "oom", "was killed by the kernel: out of memory"
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        words = _WORDS.get(signal.Signals(number)) if number in signal.valid_signals() else None
        text = f"was killed by {name}" + (f" ({words})" if words else "")
        return ("crash" if number in _OWN_DOING else "killed"), text
    code = os.WEXITSTATUS(status)
    return "crash", f"exited with status {code}"
