"""The files of a machine that hold large values: the client's blobs, and what workers answer."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable

from skyward.link.agentconfig import is_blob_below, is_result_file, is_value_file

KEPT_BYTES = 1 << 28
"""Of results that the client has: another may come after it and want them. The oldest go first."""
KEPT_SHARE = 8
"""And no more than this part of what is free on the disk."""


class ValueFiles:
    """Those in one machine's folder."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._kept: deque[tuple[str, int]] = deque()
        self._kept_bytes = 0

    def remove(self, names: Iterable[str], *, below: int) -> None:
        """Let go of files that nobody needs any more, and of all blobs with numbers lower than ``below``:
        what a client had sent that is gone. The last results stay a while.
        """
        if below:
            names = [*names, *(name for name in os.listdir(self._root) if is_blob_below(name, below))]
        for name in names:
            path = os.path.join(self._root, name)
            with contextlib.suppress(OSError):
                if is_result_file(name):
                    self._keep(path)
                elif is_value_file(name):
                    os.unlink(path)

    def _keep(self, path: str) -> None:
        self._kept.append((path, os.path.getsize(path)))
        self._kept_bytes += self._kept[-1][1]
        disk = os.statvfs(self._root)
        limit = min(KEPT_BYTES, disk.f_bavail * disk.f_frsize // KEPT_SHARE)
        while self._kept_bytes > limit:
            oldest, size = self._kept.popleft()
            self._kept_bytes -= size
            with contextlib.suppress(OSError):
                os.unlink(oldest)
