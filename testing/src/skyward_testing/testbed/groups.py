"""Control groups of a node: what it may use, and the brake. Versions 1 and 2 of the kernel's interface.

Version 1 has a tree for each controller, version 2 one for all. A node's groups carry the pid of the process
that asked for them, so that a later run can tell those of dead ones and remove them.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from skyward_testing.testbed import nodeinit
from skyward_testing.testbed.errors import BedError

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path("/sys/fs/cgroup")
PREFIX = "skyward-testbed"
CPU_PERIOD_US = 100_000  # the kernel's own default
FREEZE_SECONDS = 5.0


@cache
def controllers() -> dict[str, int]:
    """The controllers that can be used here, each with the version of its interface."""
    found = {name: 1 for name in ("freezer", "memory", "cpu") if (ROOT / name / "cgroup.procs").is_file()}
    if found or not (ROOT / "cgroup.controllers").is_file():
        return found
    if not os.access(ROOT, os.W_OK):
        return {}
    available = (ROOT / "cgroup.controllers").read_text().split()
    enabled = set((ROOT / "cgroup.subtree_control").read_text().split())
    for name in ("memory", "cpu"):
        if name in available and name not in enabled:
            try:
                (ROOT / "cgroup.subtree_control").write_text(f"+{name}")
            except OSError:
                continue  # a container that may not share its own out
            enabled.add(name)
    return {"freezer": 2} | {name: 2 for name in ("memory", "cpu") if name in enabled}


def sweep() -> None:
    """Remove the groups of runs that were killed with their keepers; what was frozen in them dies."""
    for tree in dict.fromkeys(_tree(name) for name in controllers()):
        for folder in tree.glob(f"{PREFIX}-*"):
            owner = re.fullmatch(rf"{PREFIX}-(\d+)-.*", folder.name)
            if owner and not os.path.exists(f"/proc/{owner[1]}"):
                nodeinit.thaw(os.fspath(folder))
                nodeinit.remove_groups([os.fspath(folder)])


class Groups:
    """The groups of one node. ``folders`` is where its pid 1 has to enrol before it does anything else."""

    def __init__(self, index: int, *, memory_mb: int | None, cpus: float | None) -> None:
        known = controllers()
        wanted = ["freezer"] * ("freezer" in known)
        wanted += ["memory"] * (memory_mb is not None) + ["cpu"] * (cpus is not None)
        if lacking := [name for name in wanted if name not in known]:
            raise BedError(f"no control group for {' and '.join(lacking)} can be made on this machine")
        name = f"{PREFIX}-{os.getpid()}-{index}"
        self.is_frozen = False
        self._at = {kind: _tree(kind) / name for kind in wanted}
        self.folders = [os.fspath(path) for path in dict.fromkeys(self._at.values())]
        for folder in self.folders:
            os.mkdir(folder)
        if memory_mb is not None:
            self._limit_memory(memory_mb * 1024 * 1024)
        if cpus is not None:
            self._limit_cpu(int(cpus * CPU_PERIOD_US))

    def freeze(self, frozen: bool) -> None:
        """Stop every process of the node between two instructions, or let them go on."""
        if "freezer" not in self._at:
            raise BedError("no control group that freezes can be made on this machine")
        self.is_frozen = frozen
        if controllers()["freezer"] == 1:
            state = self._at["freezer"] / "freezer.state"
            word = "FROZEN" if frozen else "THAWED"
            state.write_text(word)
            _wait(lambda: state.read_text().strip() == word)
        else:
            events = self._at["freezer"] / "cgroup.events"
            (self._at["freezer"] / "cgroup.freeze").write_text(str(int(frozen)))
            _wait(lambda: f"frozen {int(frozen)}" in events.read_text())

    def oom_kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        if "memory" not in self._at:
            return 0
        file = "memory.oom_control" if controllers()["memory"] == 1 else "memory.events"
        found = re.search(r"^oom_kill (\d+)", (self._at["memory"] / file).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def remove(self) -> None:
        """Remove the groups. The node's keeper does the same; whoever comes second finds nothing."""
        for folder in self.folders:
            _wait(partial(_removed, folder))

    def _limit_memory(self, size: int) -> None:
        group = self._at["memory"]
        if controllers()["memory"] == 1:
            (group / "memory.limit_in_bytes").write_text(str(size))
            swap = group / "memory.memsw.limit_in_bytes"
        else:
            (group / "memory.max").write_text(str(size))
            swap, size = group / "memory.swap.max", 0
        if swap.exists():
            swap.write_text(str(size))

    def _limit_cpu(self, quota_us: int) -> None:
        group = self._at["cpu"]
        if controllers()["cpu"] == 1:
            (group / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")


def _tree(controller: str) -> Path:
    return ROOT / controller if controllers()[controller] == 1 else ROOT


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _wait(holds: Callable[[], bool], seconds: float = FREEZE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise BedError(f"the kernel did not change a control group within {seconds} s")
        time.sleep(0.002)
