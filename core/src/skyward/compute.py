"""The context managers that open pools and close them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from skyward.active import activate, deactivate
from skyward.engine.ledger import left_behind
from skyward.errors import PoolStateError
from skyward.executors import PoolExecutor
from skyward.lifetime import AttachKwargs, Lifetime
from skyward.opening import PoolKwargs, plan
from skyward.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType

    from skyward.options import LogConfig, Options
    from skyward.spec import Spec


class Compute:
    """Open a pool for a ``with`` block: provision on entry, tear down on exit, exceptions and Ctrl-C too.

    Three forms, never mixed: fields (``nodes=4, accelerator=...``), one or more ``sky.Spec``, or ``name=`` a
    pool of ``skyward.toml``. Fields of ``Options`` may be given beside the first two. Mistakes are raised
    here, before anything starts.
    """

    def __init__(
        self,
        *specs: Spec,
        name: str | None = None,
        options: Options | None = None,
        **fields: Unpack[PoolKwargs],
    ) -> None:
        planned = plan(specs, name, options, cast("dict[str, Any]", fields))
        self._begin: Callable[[], Lifetime] = lambda: Lifetime(planned)
        self._lifetime: Lifetime | None = None
        self._token: Token[Pool | None] | None = None

    @classmethod
    def attach(cls, name: str, **options: Unpack[AttachKwargs]) -> Self:
        """Have a pool again whose process was killed: ``with sky.Compute.attach(name) as pool:``.

        Its machines live for ``ttl`` seconds after that, and what they were doing goes on meanwhile: see
        ``Pool.inherited``. ``name``: the pool's, or its id. ``options`` replace those it was opened with; the
        specs are its own. At the end of the block it is torn down, as any pool.

        Raises PoolStateError if no such pool was left behind here, on entry also if none of its machines
        answers.
        """
        left_behind(name)
        compute = cls.__new__(cls)
        compute._begin = lambda: Lifetime.attached(name, options)
        compute._lifetime = None
        compute._token = None
        return compute

    def __enter__(self) -> Pool:
        if self._lifetime is not None:
            raise PoolStateError("this sky.Compute is open already; make another for another pool")
        lifetime = self._begin()
        pool = Pool(lifetime)
        lifetime.open(pool)
        self._lifetime = lifetime
        self._token = activate(pool)
        return pool

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lifetime, self._lifetime = self._lifetime, None
        if self._token is not None:
            deactivate(self._token)
        if lifetime is not None:
            lifetime.close(drain=error is None)


class Session:
    """Several pools whose lifetime is managed by hand; all that are open are closed with the session."""

    def __init__(
        self, console: bool | str = True, logging: bool | LogConfig = True, shutdown_timeout: float = 120.0
    ) -> None:
        self._defaults: dict[str, Any] = {
            "console": console, "logging": logging, "shutdown_timeout": shutdown_timeout
        }  # fmt: skip
        self._pools: dict[str, tuple[Pool, Lifetime]] = {}
        self._is_open = True

    def compute(
        self,
        *specs: Spec,
        name: str | None = None,
        options: Options | None = None,
        **fields: Unpack[PoolKwargs],
    ) -> Pool:
        """Open a pool and return it when it is usable. Arguments as for ``sky.Compute``."""
        self._check_open()
        given = cast("dict[str, Any]", fields)
        if options is None:
            given = {**self._defaults, **given}
        planned = plan(specs, name, options, given)
        if planned.name in self._pools:
            raise PoolStateError(f"the session has a pool {planned.name!r} already: stop_pool() ends it")
        return self._opened(Lifetime(planned))

    def attach(self, name: str, **options: Unpack[AttachKwargs]) -> Pool:
        """Have a pool again whose process was killed. Arguments as for ``sky.Compute.attach``."""
        self._check_open()
        return self._opened(Lifetime.attached(name, options))

    def _opened(self, lifetime: Lifetime) -> Pool:
        pool = Pool(lifetime)
        lifetime.open(pool)
        self._pools[pool.name] = pool, lifetime
        return pool

    def _check_open(self) -> None:
        if not self._is_open:
            raise PoolStateError("the session is closed: make another")

    @property
    def is_active(self) -> bool:
        """Whether pools can be opened."""
        return self._is_open

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The open pools, oldest first."""
        return tuple(pool for pool, _ in self._pools.values())

    def stop_pool(self, name: str) -> bool:
        """Tear one pool down, once its tasks are done. Returns whether there was one of that name."""
        entry = self._pools.pop(name, None)
        if entry is not None:
            entry[1].close(drain=True)
        return entry is not None

    def close(self) -> None:
        """Tear down every pool, once its tasks are done. Idempotent."""
        self._end(drain=True)

    def _end(self, *, drain: bool) -> None:
        """Close all; one that fails to close keeps none of the others open."""
        self._is_open = False
        errors: list[BaseException] = []
        while self._pools:
            _, lifetime = self._pools.popitem()[1]
            try:
                lifetime.close(drain=drain)
            except BaseException as error:
                drain = False
                errors.append(error)
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(drain=error is None)


__all__ = ["Compute", "Pool", "PoolExecutor", "Session"]
