"""Machines that are private folders of this computer: the provider of tests, tutorials and small jobs.

Public: ``Local``. Nothing here is imported before a pool uses it, and asyncio only by ``Local.connect``.
"""

from __future__ import annotations

from skyward_local.config import Local

__all__ = ["Local"]
