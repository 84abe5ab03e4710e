"""What SSH says when a host can't be used, in the provider's terms and with what to do about it.

Login refused, or a key file that can't be used: CredentialsError. Unreachable or cut: ProviderError,
retryable. A host key that is not the known one: ProviderError, never retryable.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from skyward.errors import ConfigError, ConnectError, CredentialsError, HostKeyError, ProviderError

if TYPE_CHECKING:
    from skyward.hooks.values import SSHEndpoint

PROVIDER = "ssh"


def unreachable(label: str, reason: str) -> ProviderError:
    """Return the error about a host that does not answer now and may later."""
    return ProviderError(f"{label} can't be reached: {reason}", provider=PROVIDER, retryable=True)


def refused(label: str, reason: str) -> ProviderError:
    """Return the error about a host that answers, but can't be used as it is."""
    return ProviderError(f"{label} can't be used: {reason}", provider=PROVIDER)


def mapped(error: Exception, label: str, endpoint: SSHEndpoint) -> ProviderError:
    """Return what the connection raised in our terms."""
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, ConnectError) and error.__cause__ is None:  # it answered, and refused us
        return CredentialsError(str(error), provider=PROVIDER)
    if isinstance(error, HostKeyError):
        return ProviderError(str(error), provider=PROVIDER)
    if isinstance(error, ConfigError):
        return CredentialsError(str(error), provider=PROVIDER)
    cause = error.__cause__ or error
    if isinstance(cause, socket.gaierror):
        names = " or ".join(hop.host for hop in (*endpoint.jump, endpoint))
        where = ", nor is it a Host of ~/.ssh/config" if endpoint.config else ""
        return unreachable(label, f"no address is known for {names}{where}: is it spelt right?")
    if isinstance(cause, TimeoutError):
        return unreachable(label, "it does not answer: is it up, and is its SSH port open to this machine?")
    if isinstance(error, ConnectError):
        return ProviderError(str(error), provider=PROVIDER, retryable=True)
    return unreachable(label, f"the connection was cut ({error})")


def is_passing(error: Exception) -> bool:
    """Whether trying again at once may help: a busy server drops or refuses what it has no room for."""
    return isinstance(error.__cause__ or error, ConnectionError)


def none_left(what: str, problems: Iterable[ProviderError]) -> ProviderError:
    """Return one error that names every host with its own reason."""
    found = list(problems)
    text = f"{what}: " + "; ".join(str(problem) for problem in found)
    if all(isinstance(problem, CredentialsError) for problem in found):
        return CredentialsError(text, provider=PROVIDER)
    return ProviderError(text, provider=PROVIDER, retryable=any(problem.retryable for problem in found))
