"""Every error that Skyward raises of its own accord, one class per thing a caller can do about it.

    SkywardError
    ├─ ConfigError (ValueError)              nothing was started; fix the script or the file
    │  └─ UnknownNameError                   a name nobody knows; lists the nearest ones
    ├─ UsageError (TypeError)                an operator or a call used in a way it can't be
    ├─ NotOnNodeError (RuntimeError)         asked for something that exists only inside a task
    ├─ PluginError                           a package that extends Skyward is at fault
    │  ├─ MissingExtraError (ImportError)    not installed: the message is the pip line
    │  ├─ AmbiguousNameError                 two installed packages give the same name
    │  ├─ PluginLoadError                    the package is broken; names it and its version
    │  └─ PluginApiError                     the package's hooks or types don't fit this version
    ├─ ProviderError                         .provider .retryable: what a cloud answered
    │  ├─ CredentialsError
    │  ├─ CapacityError
    │  ├─ QuotaError
    │  ├─ RateLimitError                     .retry_after, seconds
    │  └─ ProviderProtocolError              .excerpt: an answer we could not understand
    ├─ ProvisioningError (RuntimeError)      .attempts: the pool never became usable
    │  └─ NoOffersError
    ├─ NodeError                             .rank .machine
    │  ├─ ConnectError
    │  ├─ HostKeyError
    │  ├─ BootstrapError                     .phase .tail
    │  └─ NodeLostError                      lost more often than the task may be retried
    ├─ TaskError                             .task .rank
    │  ├─ TaskTimeoutError (TimeoutError)
    │  ├─ TaskLostError                      its process died: segfault, exit, out of memory
    │  ├─ SerializationError (TypeError)     .path: what could not be pickled, and where it hangs
    │  └─ RemoteError                        stands in for a remote exception that can't be pickled
    ├─ PoolStateError (RuntimeError)         the pool is closed, closing or not there
    │  ├─ NoActivePoolError
    │  └─ CollectionsUnavailableError        this topology shares no state
    └─ InternalError                         our bug; the message says how to report it

A task's own exception is not in this tree: it is raised again as its own type. Several nodes failing
in one broadcast is an ``ExceptionGroup``. No message ever carries a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

ISSUES_HINT = "this is a bug in Skyward, please report it with the text above"


class SkywardError(Exception):
    """The root: catch it to catch everything that is ours."""


class ConfigError(SkywardError, ValueError):
    """A value the user wrote can't be right. Raised before anything starts or costs money."""


class UnknownNameError(ConfigError):
    """A name that nothing known answers to; ``nearest`` holds the closest known ones, best first."""

    def __init__(self, what: str, name: str, known: Iterable[str], *, where: str = "") -> None:
        names = sorted(known)
        self.name = name
        self.nearest: tuple[str, ...] = tuple(nearest(name, names))
        place = f" in {where}" if where else ""
        if self.nearest:
            hint = "did you mean " + " or ".join(repr(n) for n in self.nearest) + "?"
        elif names:
            hint = "known: " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        else:
            hint = "none is known here"
        super().__init__(f"unknown {what} {name!r}{place}: {hint}")


def nearest(name: str, known: Sequence[str], n: int = 2) -> list[str]:
    """The ``n`` known names most like ``name``, compared without case and separators."""

    def fold(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "").replace(" ", "")

    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(fold(candidate), candidate)
    return [folded[hit] for hit in difflib.get_close_matches(fold(name), list(folded), n=n, cutoff=0.6)]


class UsageError(SkywardError, TypeError):
    """An operator or a call used with something it does not take."""


class NotOnNodeError(SkywardError, RuntimeError):
    """Asked outside a task for what only a running task has."""


class PluginError(SkywardError):
    """A distribution that extends Skyward is missing, broken or in conflict."""


class MissingExtraError(PluginError, ImportError):
    """The extension is not installed; the message is the line that installs it."""


class AmbiguousNameError(PluginError):
    """Two installed distributions give the same name in the same group."""


class PluginLoadError(PluginError):
    """Importing an extension failed; its own exception is the ``__cause__``."""


class PluginApiError(PluginError):
    """An extension loaded, but what it gives is not what this version of Skyward takes."""


class ProviderError(SkywardError):
    """What a provider answered, in our terms. ``retryable``: the same call may work later."""

    def __init__(self, message: str, *, provider: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.provider = provider
        self.retryable = retryable


class CredentialsError(ProviderError):
    """Missing, wrong or insufficient credentials."""


class CapacityError(ProviderError):
    """The provider has none of these machines now; another offer may work, or the same one later."""

    def __init__(self, message: str, *, provider: str = "", retryable: bool = True) -> None:
        super().__init__(message, provider=provider, retryable=retryable)


class QuotaError(ProviderError):
    """The account may not have (more of) these machines."""


class RateLimitError(ProviderError):
    """Asked too often. ``retry_after``: seconds the provider asks us to wait, if it said."""

    def __init__(self, message: str, *, provider: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, provider=provider, retryable=True)
        self.retry_after = retry_after


class ProviderProtocolError(ProviderError):
    """The provider's answer does not have the form it documents."""

    def __init__(self, message: str, *, provider: str = "", excerpt: str = "") -> None:
        super().__init__(message, provider=provider)
        self.excerpt = excerpt


class ProvisioningError(SkywardError, RuntimeError):
    """The pool never became usable. ``attempts`` keeps the cause of each try, in order."""

    def __init__(self, message: str, attempts: Sequence[BaseException] = ()) -> None:
        super().__init__(message)
        self.attempts = tuple(attempts)


class NoOffersError(ProvisioningError):
    """No provider offers what the spec asks for."""


class NodeError(SkywardError):
    """Something is wrong with one node. ``rank``: its index, ``machine``: the provider's id."""

    def __init__(self, message: str, *, rank: int | None = None, machine: str = "") -> None:
        super().__init__(message)
        self.rank = rank
        self.machine = machine


class ConnectError(NodeError):
    """The node could not be reached in time."""


class HostKeyError(NodeError):
    """The node showed another host key than the one we know."""


class BootstrapError(NodeError):
    """Setting a node up failed in ``phase``; ``tail`` is the end of what it printed."""

    def __init__(
        self, message: str, *, phase: str, tail: str = "", rank: int | None = None, machine: str = ""
    ) -> None:
        super().__init__(message, rank=rank, machine=machine)
        self.phase = phase
        self.tail = tail


class NodeLostError(NodeError):
    """The node went away, and the task with it, more often than it may be retried."""


class TaskError(SkywardError):
    """A task ended without a value of its own. ``task``: the function's name, ``rank``: the node."""

    def __init__(self, message: str, *, task: str = "", rank: int | None = None) -> None:
        super().__init__(message)
        self.task = task
        self.rank = rank


class TaskTimeoutError(TaskError, TimeoutError):
    """The task ran longer than it may. The node stays usable."""


class TaskLostError(TaskError):
    """The process that ran the task died; the message names how."""


class SerializationError(TaskError, TypeError):
    """Something that had to cross to the node or back can't be pickled. ``path``: where it hangs."""

    def __init__(self, message: str, *, path: str = "", task: str = "", rank: int | None = None) -> None:
        super().__init__(message, task=task, rank=rank)
        self.path = path


class RemoteError(TaskError):
    """Stands in for a remote exception that can't cross. ``type_name``: what it was there."""

    def __init__(self, message: str, *, type_name: str = "", task: str = "", rank: int | None = None) -> None:
        super().__init__(message, task=task, rank=rank)
        self.type_name = type_name


class PoolStateError(SkywardError, RuntimeError):
    """The pool is not in a state in which this can be done."""


class NoActivePoolError(PoolStateError):
    """``sky`` was used as a target, but no pool is open in this context."""


class CollectionsUnavailableError(PoolStateError):
    """Distributed collections need nodes that know each other."""


class InternalError(SkywardError):
    """Something that must not happen did."""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} ({ISSUES_HINT})")


def unexpected(error: BaseException) -> InternalError:
    """Return an error that tells of one which nobody has foreseen, as its cause."""
    problem = InternalError(f"{type(error).__name__}: {error}")
    problem.__cause__ = error
    return problem
