"""Keeps a pool's SSH host entries as its nodes come and go, off the loop. Nothing for nodes that are here."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from skyward.hooks.values import LocalEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skyward.engine.node import Node
    from skyward.hooks.values import SSHEndpoint
    from skyward.link.sshentries import Entries


class Nameplate:
    """See the module. ``show`` returns at once; ``close`` waits until nothing is left."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._wanted: dict[int, SSHEndpoint] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._entries: Entries | None = None

    def show(self, nodes: Iterable[Node]) -> None:
        """Have these nodes be found."""
        wanted = {
            node.rank: node.machine.endpoint
            for node in nodes
            if node.machine.endpoint is not None and not isinstance(node.machine.endpoint, LocalEndpoint)
        }
        if not wanted and self._entries is None:
            return
        self._wanted = wanted
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Write what is wanted, until that is what is written."""
        from skyward.link.sshentries import Entries

        first = self._entries is None
        entries = self._entries = self._entries or Entries(self._pool)
        try:
            while (wanted := self._wanted) is not None:
                self._wanted = None
                await asyncio.to_thread(entries.write, wanted)
            if first:
                _say_how(entries)
        except OSError as error:  # a comfort: no reason to end a pool
            logging.getLogger("skyward").warning("no ssh entries for the pool %s: %s", self._pool, error)
        finally:
            self._writing = None

    async def close(self) -> None:
        """Remove the entries."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._entries is not None:
            try:
                await asyncio.to_thread(self._entries.remove)
            except OSError as error:
                logging.getLogger("skyward").warning("ssh entries are left: %s", error)


def _say_how(entries: Entries) -> None:
    from skyward.link.sshentries import folder

    logging.getLogger("skyward").info("`ssh -F %s %s` leads to the head", folder() / "config", entries.name)
