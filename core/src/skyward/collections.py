"""State that nodes share: ``sky.dict``, ``set``, ``counter``, ``queue``, ``barrier`` and ``lock``.

Sharing needs nodes that know each other. Where they don't, or outside a task, each of these raises at once,
saying why and what to do instead; a wrong argument is an error everywhere. The node's side tells this module
once per process that runs tasks what its topology can do (``set_unavailable``).
"""

from __future__ import annotations

from skyward import _check
from skyward.errors import CollectionsUnavailableError, NoActivePoolError, NotOnNodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    type Consistency = Literal["strong", "eventual"]

_on_node = False
_reason: str | None = None


def dict(name: str, *, consistency: Consistency | None = None) -> Any:
    """Return the pool's dictionary called ``name``; it has no ``keys`` and no ``len``."""
    return _open("dict", name, consistency)


def set(name: str, *, consistency: Consistency | None = None) -> Any:
    """Return the pool's set called ``name``."""
    return _open("set", name, consistency)


def counter(name: str, *, consistency: Consistency | None = None) -> Any:
    """Return the pool's counter called ``name``; it starts at 0."""
    return _open("counter", name, consistency)


def queue(name: str) -> Any:
    """Return the pool's first-in-first-out queue called ``name``."""
    return _open("queue", name)


def barrier(name: str, n: int) -> Any:
    """Return the pool's barrier called ``name``, which lets go when ``n`` wait at it; reusable."""
    _check.whole("n", n, least=1)
    return _open("barrier", name)


def lock(name: str, timeout: float = 30) -> Any:
    """Return the pool's lock called ``name``. ``timeout``: seconds to wait for it."""
    _check.number("timeout", timeout, above=0)
    return _open("lock", name)


def set_unavailable(reason: str | None) -> None:
    """Say that this process runs tasks, and why its nodes can't share state; None where they could.

    Called by the node's side at the start of each process that runs tasks, with what the topology's
    ``collections_error()`` gave: the reason, and the way out.
    """
    global _on_node, _reason
    _on_node, _reason = True, reason


def _open(kind: str, name: str, consistency: str | None = None) -> Any:
    _check.text("name", name)
    if consistency is not None:
        _check.choice("consistency", consistency, ("strong", "eventual"))
    from skyward import active, runtime

    if _on_node or runtime.facts() is not None:
        why = _reason or "no collections engine is installed for this pool"
        raise CollectionsUnavailableError(f"sky.{kind}() can't be shared: {why}")
    if active.active_pool.get() is not None:
        raise NotOnNodeError(f"sky.{kind}() is for tasks; here, ask the pool: pool.{kind}({name!r})")
    raise NoActivePoolError(f"sky.{kind}() belongs to the tasks of a pool, and no pool is open here")
