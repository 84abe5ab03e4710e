"""The console that appends one plain line an event, for files, pipes and CI."""

from __future__ import annotations

from skyward_log._console import LogConsole

__all__ = ["LogConsole"]
