"""What a workload asks of a system. What comes after ``System`` is offered by some only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

type Task = Callable[..., Any]


class System(Protocol):
    """A way of running functions on other processes. Making one imports the package, and starts nothing."""

    package: ClassVar[str]
    """What users import."""
    entrance: ClassVar[str]
    """The name in it that they begin with."""

    def start(self, workers: int) -> None:
        """Ask for this many workers of one slot each; called once."""
        ...

    def stop(self) -> None:
        """End them."""
        ...

    def call(self, task: Task, /, *arguments: Any) -> Any:
        """Run one task and wait for its value."""
        ...

    def burst(self, task: Task, n: int, /) -> Sequence[Any]:
        """Submit ``task()`` n times, each a task of its own, all at once; return all values."""
        ...


@runtime_checkable
class Broadcasts(Protocol):
    """Can hand one value to all workers."""

    def broadcast(self, task: Task, value: Any, /) -> Sequence[Any]:
        """Run ``task(value)`` once for each worker; return all values."""
        ...


@runtime_checkable
class Streams(Protocol):
    """Can run a generator function whose items come as they are made."""

    def stream(self, task: Task, n: int, /) -> Iterable[Any]:
        """Yield what ``task(n)`` yields."""
        ...


@runtime_checkable
class Listens(Protocol):
    """Brings what tasks print to the client."""

    def lines(self, task: Task, each: int, /) -> float:
        """Run ``task(each)`` on every worker; return the seconds until all its lines have come."""
        ...
