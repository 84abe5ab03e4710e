"""What authors of extensions import: ports to implement, values that cross, hooks, the registry.

Lazy, because a node that runs tasks without plugins needs none of it. Users of Skyward need nothing of it.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyward.hooks.facade import PoolHooks as PoolHooks
    from skyward.hooks.facts import common_facts as common_facts
    from skyward.hooks.plugin import Plugin as Plugin
    from skyward.hooks.ports import Console as Console
    from skyward.hooks.ports import PoolView as PoolView
    from skyward.hooks.ports import Provider as Provider
    from skyward.hooks.ports import ProviderConfig as ProviderConfig
    from skyward.hooks.ports import Topology as Topology
    from skyward.hooks.registry import COLLECTIONS as COLLECTIONS
    from skyward.hooks.registry import CONSOLES as CONSOLES
    from skyward.hooks.registry import GROUPS as GROUPS
    from skyward.hooks.registry import PLUGINS as PLUGINS
    from skyward.hooks.registry import PROVIDERS as PROVIDERS
    from skyward.hooks.registry import TOPOLOGIES as TOPOLOGIES
    from skyward.hooks.registry import distribution_of as distribution_of
    from skyward.hooks.registry import find as find
    from skyward.hooks.registry import names as names
    from skyward.hooks.specs import hookimpl as hookimpl
    from skyward.hooks.ssh import SSHShell as SSHShell
    from skyward.hooks.values import Claim as Claim
    from skyward.hooks.values import Cluster as Cluster
    from skyward.hooks.values import Endpoint as Endpoint
    from skyward.hooks.values import Formation as Formation
    from skyward.hooks.values import LaunchCommand as LaunchCommand
    from skyward.hooks.values import LaunchContext as LaunchContext
    from skyward.hooks.values import LocalEndpoint as LocalEndpoint
    from skyward.hooks.values import Machine as Machine
    from skyward.hooks.values import Member as Member
    from skyward.hooks.values import Offer as Offer
    from skyward.hooks.values import Op as Op
    from skyward.hooks.values import PoolRef as PoolRef
    from skyward.hooks.values import SSHEndpoint as SSHEndpoint
    from skyward.hooks.values import Wanted as Wanted

_TABLE = {
    "facade": "PoolHooks",
    "facts": "common_facts",
    "plugin": "Plugin",
    "ports": "Console PoolView Provider ProviderConfig Topology",
    "registry": "COLLECTIONS CONSOLES GROUPS PLUGINS PROVIDERS TOPOLOGIES distribution_of find names",
    "specs": "hookimpl",
    "ssh": "SSHShell",
    "values": "Claim Cluster Endpoint Formation LaunchCommand LaunchContext LocalEndpoint Machine Member"
    " Offer Op PoolRef SSHEndpoint Wanted",
}
_HOME = {name: module for module, exported in _TABLE.items() for name in exported.split()}


def _resolve(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:
    # Hidden, because a checker that sees it takes every misspelt name for a good one.
    __getattr__ = _resolve


def __dir__() -> list[str]:
    return sorted(_HOME)
