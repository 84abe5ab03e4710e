"""The console with live panels and progress, for people at a terminal."""

from __future__ import annotations

from skyward_rich._console import RichConsole

__all__ = ["RichConsole"]
