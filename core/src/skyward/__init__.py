"""Skyward: write a plain function, decorate it, run it on rented machines as if it ran here.

Everything public hangs off this module, and nothing is loaded until it is asked for: names are found in a
table of strings, and a name in CamelCase that is in none is a provider, found by its entry point
(``sky.AWS`` is the one called ``aws``); that entry point's own name is the package it lives in, for what else
the package has. The only place in the kernel that spells a provider's name is the block for type checkers
below; a test proves it equal to the providers there are.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    import skyward_local
    import skyward_ssh
    from skyward_local import Local as Local
    from skyward_ssh import SSH as SSH

    from skyward import accelerators as accelerators
    from skyward import aio as aio
    from skyward import config as config
    from skyward import containers as containers
    from skyward import durations
    from skyward import errors as errors
    from skyward import events as events
    from skyward import metrics as metrics
    from skyward import plugins as plugins
    from skyward import storage as storage
    from skyward.active import sky as sky
    from skyward.collections import barrier as barrier
    from skyward.collections import counter as counter
    from skyward.collections import dict as dict
    from skyward.collections import lock as lock
    from skyward.collections import queue as queue
    from skyward.collections import set as set
    from skyward.compute import Compute as Compute
    from skyward.compute import Pool as Pool
    from skyward.compute import Session as Session
    from skyward.containers import DockerImage as DockerImage
    from skyward.errors import AmbiguousNameError as AmbiguousNameError
    from skyward.errors import BootstrapError as BootstrapError
    from skyward.errors import CapacityError as CapacityError
    from skyward.errors import CollectionsUnavailableError as CollectionsUnavailableError
    from skyward.errors import ConfigError as ConfigError
    from skyward.errors import ConnectError as ConnectError
    from skyward.errors import CredentialsError as CredentialsError
    from skyward.errors import HostKeyError as HostKeyError
    from skyward.errors import InternalError as InternalError
    from skyward.errors import MissingExtraError as MissingExtraError
    from skyward.errors import NoActivePoolError as NoActivePoolError
    from skyward.errors import NodeError as NodeError
    from skyward.errors import NodeLostError as NodeLostError
    from skyward.errors import NoOffersError as NoOffersError
    from skyward.errors import NotOnNodeError as NotOnNodeError
    from skyward.errors import PluginApiError as PluginApiError
    from skyward.errors import PluginError as PluginError
    from skyward.errors import PluginLoadError as PluginLoadError
    from skyward.errors import PoolStateError as PoolStateError
    from skyward.errors import ProviderError as ProviderError
    from skyward.errors import ProviderProtocolError as ProviderProtocolError
    from skyward.errors import ProvisioningError as ProvisioningError
    from skyward.errors import QuotaError as QuotaError
    from skyward.errors import RateLimitError as RateLimitError
    from skyward.errors import RemoteError as RemoteError
    from skyward.errors import SerializationError as SerializationError
    from skyward.errors import SkywardError as SkywardError
    from skyward.errors import TaskError as TaskError
    from skyward.errors import TaskLostError as TaskLostError
    from skyward.errors import TaskTimeoutError as TaskTimeoutError
    from skyward.errors import UnknownNameError as UnknownNameError
    from skyward.errors import UsageError as UsageError
    from skyward.events import ClusterDestroyed as ClusterDestroyed
    from skyward.events import ClusterProvisioned as ClusterProvisioned
    from skyward.events import ClusterReady as ClusterReady
    from skyward.events import ClusterRequested as ClusterRequested
    from skyward.events import Error as Error
    from skyward.events import Event as Event
    from skyward.events import Instance as Instance
    from skyward.events import InstanceBootstrapped as InstanceBootstrapped
    from skyward.events import InstanceDestroyed as InstanceDestroyed
    from skyward.events import InstancePhase as InstancePhase
    from skyward.events import InstancePreempted as InstancePreempted
    from skyward.events import InstanceProvisioned as InstanceProvisioned
    from skyward.events import InstanceReplaced as InstanceReplaced
    from skyward.events import InstanceRequested as InstanceRequested
    from skyward.events import Log as Log
    from skyward.events import Metric as Metric
    from skyward.events import ScalingChanged as ScalingChanged
    from skyward.events import TaskCompleted as TaskCompleted
    from skyward.events import TaskStarted as TaskStarted
    from skyward.events import WorkerDied as WorkerDied
    from skyward.forwards import Forward as Forward
    from skyward.function import PendingFunction as PendingFunction
    from skyward.function import PendingFunctionGroup as PendingFunctionGroup
    from skyward.function import function as function
    from skyward.function import gather as gather
    from skyward.futures import InheritedFuture as InheritedFuture
    from skyward.hooks.plugin import Plugin as Plugin
    from skyward.image import DEFAULT_IMAGE as DEFAULT_IMAGE
    from skyward.image import Image as Image
    from skyward.image import PipIndex as PipIndex
    from skyward.output import CallbackWriter as CallbackWriter
    from skyward.output import redirect_output as redirect_output
    from skyward.output import silent as silent
    from skyward.output import stderr as stderr
    from skyward.output import stdout as stdout
    from skyward.runtime import InstanceInfo as InstanceInfo
    from skyward.runtime import instance_info as instance_info
    from skyward.runtime import is_head as is_head
    from skyward.shard import shard as shard
    from skyward.spec import AllocationStrategy as AllocationStrategy
    from skyward.spec import HealthChecker as HealthChecker
    from skyward.spec import LogConfig as LogConfig
    from skyward.spec import Nodes as Nodes
    from skyward.spec import Options as Options
    from skyward.spec import PoolSpec as PoolSpec
    from skyward.spec import PoolState as PoolState
    from skyward.spec import SelectionStrategy as SelectionStrategy
    from skyward.spec import Spec as Spec
    from skyward.spec import Worker as Worker
    from skyward.storage import Storage as Storage
    from skyward.storage import Volume as Volume
    from skyward.subscriptions import subscribe as subscribe
    from skyward.timing import Timing as Timing
    from skyward.transfers import Transfer as Transfer

    time = durations
    local = skyward_local
    ssh = skyward_ssh
    __version__: str

# Where each public name is, by module of this package.
_TABLE = {
    "active": "sky",
    "collections": "barrier counter dict lock queue set",
    "compute": "Compute Pool Session",
    "containers": "DockerImage",
    "errors": "AmbiguousNameError BootstrapError CapacityError CollectionsUnavailableError ConfigError"
    " ConnectError CredentialsError HostKeyError InternalError MissingExtraError NoActivePoolError"
    " NoOffersError NodeError NodeLostError NotOnNodeError PluginApiError PluginError PluginLoadError"
    " PoolStateError ProviderError ProviderProtocolError ProvisioningError QuotaError RateLimitError"
    " RemoteError SerializationError SkywardError TaskError TaskLostError TaskTimeoutError UnknownNameError"
    " UsageError",
    "events": "ClusterDestroyed ClusterProvisioned ClusterReady ClusterRequested Error Event Instance"
    " InstanceBootstrapped InstanceDestroyed InstancePhase InstancePreempted InstanceProvisioned"
    " InstanceReplaced InstanceRequested Log Metric ScalingChanged TaskCompleted TaskStarted WorkerDied",
    "forwards": "Forward",
    "function": "PendingFunction PendingFunctionGroup function gather",
    "futures": "InheritedFuture",
    "hooks.plugin": "Plugin",
    "image": "DEFAULT_IMAGE Image PipIndex",
    "output": "CallbackWriter redirect_output silent stderr stdout",
    "runtime": "InstanceInfo instance_info is_head",
    "shard": "shard",
    "spec": "AllocationStrategy HealthChecker LogConfig Nodes Options PoolSpec PoolState SelectionStrategy"
    " Spec Worker",
    "storage": "Storage Volume",
    "subscriptions": "subscribe",
    "timing": "Timing",
    "transfers": "Transfer",
}
_HOME = {name: module for module, names in _TABLE.items() for name in names.split()}

# Public names that are whole modules.
_WHOLE = "accelerators aio config containers errors events metrics plugins storage"
_MODULES = {name: name for name in _WHOLE.split()} | {"time": "durations"}


def _resolve(name: str) -> object:
    if name in _MODULES:
        value: object = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name == "__version__":
        from importlib_metadata import version

        value = version("skyward-core")
    elif name[0].isupper():
        return _provider(name)  # not kept: the registry keeps it, and knows when to look again
    elif name.islower() and not name.startswith("_") and not _is_submodule(name):
        return _package(name)
    else:
        raise AttributeError(_unknown(name))
    globals()[name] = value
    return value


if not TYPE_CHECKING:
    # Hidden, because a checker that sees it takes every misspelt name for a good one.
    __getattr__ = _resolve


def __dir__() -> list[str]:
    return sorted(_HOME.keys() | _MODULES.keys() | {"__version__"})


def _provider(name: str) -> object:
    from skyward.errors import MissingExtraError
    from skyward.hooks import registry

    try:
        return registry.find(registry.PROVIDERS, name)
    except MissingExtraError as error:
        from difflib import get_close_matches

        # A slip in one of our own names must not send the user to an index to install it.
        if get_close_matches(name, [known for known in __dir__() if known[0].isupper()], cutoff=0.75):
            raise AttributeError(_unknown(name)) from error
        raise


def _is_submodule(name: str) -> bool:
    """Whether an import of ``skyward.<name>`` is what asks: it first asks for an attribute of that name."""
    from importlib.util import find_spec

    return find_spec(f"{__name__}.{name}") is not None


def _package(name: str) -> object:
    """Return the top-level package of the provider that is called exactly ``name``."""
    from skyward.errors import MissingExtraError
    from skyward.hooks import registry

    try:
        provider = registry.find(registry.PROVIDERS, name)
    except MissingExtraError as error:
        if f"'{__name__}[{name}]'" in str(error):  # one of ours, which is not installed
            raise
        raise AttributeError(_unknown(name)) from None
    if provider.provider_name != name:
        raise AttributeError(_unknown(name))
    return importlib.import_module(provider.__module__.partition(".")[0])


def _unknown(name: str) -> str:
    message = f"module {__name__!r} has no attribute {name!r}"
    if name.startswith("_"):
        return message  # probed for by tools all the time; nobody reads it
    from skyward.errors import nearest

    near = nearest(name, __dir__())
    return message + (f": did you mean {' or '.join(f'sky.{known}' for known in near)}?" if near else "")


class _Root(ModuleType):
    """This module's class: keeps ``sky.function`` and ``sky.shard`` what they are.

    Importing a submodule binds it to its name in the package, which here would hide the public name that
    lives in it: after ``from skyward.function import gather`` somewhere, ``sky.function`` would be a module.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and value is sys.modules.get(f"{__name__}.{name}"):
            return
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[object, ...]:
        # Tasks refer to `sky` all the time, and picklers know modules by their exact class.
        return importlib.import_module, (__name__,)


sys.modules[__name__].__class__ = _Root
