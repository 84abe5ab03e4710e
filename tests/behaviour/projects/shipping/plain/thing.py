"""In a folder without ``__init__.py``."""

from __future__ import annotations

N = 3
