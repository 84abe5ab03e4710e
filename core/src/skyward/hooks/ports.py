"""The interfaces that extensions implement. Each sentence about behaviour is a conformance test.

A *port* does I/O, so its methods are ``async`` unless they say otherwise; they are called on the engine's
loop, one pool at a time, and may be cancelled at any await. What only registers or transforms is a hook
(``skyward.hooks.specs``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from skyward.events import Event
    from skyward.hooks.values import Claim, Formation, Machine, Offer, PoolRef, Wanted
    from skyward.snapshot import PoolSnapshot


@runtime_checkable
class ProviderConfig(Protocol):
    """What ``sky.<Provider>(...)`` makes: a frozen value with the user's settings, cheap to build, no I/O.

    The entry point in the group ``skyward.providers`` points at the class.
    """

    provider_name: ClassVar[str]
    """The entry point's name, in lower case."""

    cluster: ClassVar[bool]
    """Whether nodes of this provider can reach each other unless the user says otherwise."""

    here: ClassVar[bool]
    """Whether its machines are this computer: then nodes run in the script's own environment, as it is."""

    def connect(self) -> Provider:
        """Return the live provider. Called once a pool, on the engine's loop; opens nothing by itself."""
        ...


@runtime_checkable
class Provider(Protocol):
    """Who rents machines. Raises only ``ProviderError`` and its kin; a vendor's errors are mapped inside."""

    async def offers(self, wanted: Wanted) -> Sequence[Offer]:
        """Return what can be rented now and satisfies all of ``wanted``; empty when nothing does."""
        ...

    async def prepare(self, pool: PoolRef) -> None:
        """Make what the pool's machines need (networks, keys). Idempotent: called again after a crash."""
        ...

    async def launch(self, pool: PoolRef, offer: Offer, claim: Claim) -> Machine:
        """Rent one machine that carries ``claim``. The same claim launches at most one machine.

        Raises CapacityError or QuotaError when another offer may work.
        """
        ...

    async def machines(self, pool: PoolRef) -> Sequence[Machine]:
        """Return every machine of this pool that exists; one that died or was reclaimed is absent."""
        ...

    async def terminate(self, ids: Sequence[str]) -> None:
        """End machines. Ending one twice, or one that never was, is success."""
        ...

    async def release(self, pool: PoolRef) -> None:
        """Undo ``prepare`` and end what is left of the pool. Idempotent."""
        ...

    async def owned(self) -> Sequence[Machine]:
        """Return every machine of ours in this account, of any pool, of any process."""
        ...

    async def aclose(self) -> None:
        """Close connections. Ends no machine. Idempotent."""
        ...


class PoolView(Protocol):
    """What a console may ask of the pool it shows; safe from any thread, never blocks."""

    @property
    def name(self) -> str:
        """The pool's name, as its events carry it."""
        ...

    def snapshot(self) -> PoolSnapshot:
        """Return the pool as it is now."""
        ...


@runtime_checkable
class Console(Protocol):
    """Shows a pool to a person. Runs on a thread of its own, so it may block; it is never in the way.

    The entry point in the group ``skyward.consoles`` points at a class that is called without arguments.
    All four methods are called on the console's thread: ``start`` once, then ``handle`` for each event in
    order and ``tick`` every ``tick_interval`` seconds, then ``stop`` once, also after an error. An exception
    from any of them ends the console, is logged, and touches nothing else.
    """

    tick_interval: ClassVar[float | None]
    """Seconds between calls of ``tick``; None: never."""

    handles: ClassVar[tuple[type[Event], ...]]
    """The event types it wants; subclasses are included."""

    def start(self, view: PoolView) -> None:
        """Begin to show ``view``."""
        ...

    def handle(self, event: Event) -> None:
        """Show one event, of a type that ``handles`` names."""
        ...

    def tick(self) -> None:
        """Draw what changes with time."""
        ...

    def stop(self) -> None:
        """Show the end, and give the terminal back. Idempotent."""
        ...


@runtime_checkable
class Topology(Protocol):
    """Decides how nodes relate and what ``instance_info()`` says. Pure: called whenever membership changes.

    The entry point in the group ``skyward.topologies`` points at a class called without arguments.
    """

    topology_name: ClassVar[str]

    connected: ClassVar[bool]
    """Whether nodes must reach each other by their private addresses: found out before the pool is used."""

    def facts(self, formation: Formation, rank: int) -> Mapping[str, Any]:
        """Return the fields of ``InstanceInfo`` for the node ``rank``, JSON-able; ``rank`` is a member."""
        ...

    def collections_error(self) -> str | None:
        """Return why distributed collections can't work here, or None where they can."""
        ...
