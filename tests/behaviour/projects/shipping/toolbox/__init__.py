# ruff: noqa: TID252  (relative imports are what this is about)
from __future__ import annotations

from .one import up as up
