"""Commands and files on a machine reached by SSH, for providers that have to look or to clean up there.

The connection is the one that the engine uses for the same endpoint; its host keys are verified as there.
"""

from __future__ import annotations

from skyward.link.ssh import SSHShell

__all__ = ["SSHShell"]
