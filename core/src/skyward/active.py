"""Which pool ``sky`` means: the innermost one opened in this context."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import ModuleType
from typing import TYPE_CHECKING, Any

from skyward.errors import NoActivePoolError, UsageError

if TYPE_CHECKING:
    from skyward.pool import Pool

active_pool: ContextVar[Pool | None] = ContextVar("skyward_pool", default=None)


class ActivePool:
    """The value ``sky.sky``: as a target, it stands for the pool opened in this context."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "sky.sky"


sky = ActivePool()


def activate(pool: Pool) -> Token[Pool | None]:
    """Make ``pool`` what ``sky`` means in this context; give the answer to ``deactivate``."""
    return active_pool.set(pool)


def deactivate(token: Token[Pool | None]) -> None:
    """Undo that. In another context, such as another thread's, there is nothing to undo."""
    try:
        active_pool.reset(token)
    except ValueError:
        return


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
