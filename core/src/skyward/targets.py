"""What may stand on the right of an operator, and which pool it means."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from skyward.active import ActivePool, active_pool
from skyward.errors import NoActivePoolError, UsageError

if TYPE_CHECKING:
    from skyward.pool import Pool

type Target = Pool | ActivePool | ModuleType


def resolve(target: Any) -> Pool:
    """Return the pool that a target means. Raises NoActivePoolError, or UsageError for what is no target."""
    from skyward.pool import Pool

    if isinstance(target, Pool):
        return target
    if isinstance(target, ActivePool) or (isinstance(target, ModuleType) and target.__name__ == "skyward"):
        pool = active_pool.get()
        if pool is None:
            raise NoActivePoolError(
                "no pool is open here: use `with sky.Compute(nodes=...):` around it, "
                "or give the pool itself as target"
            )
        return pool
    if type(target).__module__ == "skyward.aio":
        hint = "in coroutines it is awaited: `await pool.run(task(...))`"
    elif isinstance(target, type) or callable(target) or hasattr(target, "__enter__"):
        hint = "open it first: `with sky.Compute(...) as pool:`"
    else:
        hint = "write `task(...) >> pool`, with the pool of `with sky.Compute(...) as pool:`, or `>> sky`"
    raise UsageError(f"a task can't be sent to {_shown(target)}: {hint}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
