"""Which pool ``sky`` means: the innermost one opened in this context."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

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
