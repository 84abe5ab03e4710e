"""Machines that one has: any Linux host with an SSH server becomes a node, one machine per user and host.

Public: ``SSH`` and ``Host``. Nothing else here is imported before a pool uses it.
"""

from __future__ import annotations

from skyward_ssh.config import SSH
from skyward_ssh.host import Host

__all__ = ["SSH", "Host"]
