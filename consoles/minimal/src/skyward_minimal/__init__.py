"""The console that says only what matters: ready, failed, done."""

from __future__ import annotations

from skyward_minimal._console import MinimalConsole

__all__ = ["MinimalConsole"]
