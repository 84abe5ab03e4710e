# ruff: noqa: TID252  (relative imports are what this is about)
"""Imports ``two``, which imports this."""

from __future__ import annotations

from . import two


def up(x: int) -> int:
    return two.down(x) + 2


def ground() -> int:
    return 100
