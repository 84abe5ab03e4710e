"""From what the user wrote to what a pool is opened with.

Every mistake that can be seen is raised here, before anything starts.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import stat
import sys
from typing import TYPE_CHECKING, Any

from skyward.errors import ConfigError, UnknownNameError, UsageError
from skyward.hooks import registry
from skyward.options import LogConfig, OptionKwargs, Options
from skyward.spec import PoolSpec, Spec, SpecKwargs

if TYPE_CHECKING:
    from skyward.hooks.ports import Console, ProviderConfig, Topology

DEFAULT_PROVIDER = "local"
"""What a pool without a provider runs on: processes of this computer, part of the default installation."""

_SPEC_FIELDS = frozenset(SpecKwargs.__annotations__)
_OPTION_FIELDS = frozenset(OptionKwargs.__annotations__)


class PoolKwargs(SpecKwargs, OptionKwargs, total=False):
    """Everything ``Compute`` takes as a keyword beside its specs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A pool that could be opened."""

    name: str
    specs: tuple[tuple[Spec, PoolSpec, ProviderConfig], ...]
    options: Options
    topology: Topology
    console: Console | None


def plan(specs: tuple[Spec, ...], name: str | None, options: Options | None, fields: dict[str, Any]) -> Plan:
    """Resolve one of the three forms: flat fields, positional specs, or the name of a configured pool."""
    _check_forms(specs, name, fields)
    _check_options(options)
    chosen_options = options if options is not None else Options()
    if name is not None:
        specs, configured = _named(name)
        chosen_options = configured if options is None else options
    elif not specs:
        specs = (Spec(**{key: value for key, value in fields.items() if key in _SPEC_FIELDS}),)
    flat = {key: value for key, value in fields.items() if key in _OPTION_FIELDS}
    if flat:
        chosen_options = dataclasses.replace(chosen_options, **flat)
    return plan_of(name or f"pool-{secrets.token_hex(2)}", specs, chosen_options)


def plan_of(name: str, specs: tuple[Spec, ...], options: Options) -> Plan:
    """Resolve what a pool of that name is opened with."""
    resolved = tuple(_resolved(spec, options, name) for spec in specs)
    topology = registry.find(registry.TOPOLOGIES, "cluster" if resolved[0][1].cluster else "standalone")
    return Plan(name, resolved, options, topology(), console(options))


def _check_options(options: object) -> None:
    if options is not None and not isinstance(options, Options):
        raise UsageError(f"options takes sky.Options(...), not {options!r}")


def _check_forms(specs: tuple[object, ...], name: object, fields: dict[str, Any]) -> None:
    for spec in specs:
        if not isinstance(spec, Spec):
            raise UsageError(
                f"Compute takes sky.Spec(...) values, or fields by name such as nodes=4; not {spec!r}"
            )
    for field in fields:
        if field not in _SPEC_FIELDS | _OPTION_FIELDS:
            raise UsageError(
                str(UnknownNameError("argument", field, _SPEC_FIELDS | _OPTION_FIELDS, where="Compute(...)"))
            )
    of_spec = sorted(_SPEC_FIELDS & fields.keys())
    if name is not None and not isinstance(name, str):
        raise UsageError(f"name is that of a pool in skyward.toml, not {name!r}: nodes are nodes={name!r}")
    if name is not None and (specs or of_spec):
        raise UsageError(
            f"Compute(name={name!r}) opens a pool of skyward.toml and can't be mixed with "
            f"{'Spec objects' if specs else ', '.join(of_spec)}: put them into the file, or leave name out"
        )
    if specs and of_spec:
        raise UsageError(
            f"Compute takes either Spec objects or fields, not both: move {', '.join(of_spec)} into the Spec"
        )


def _named(name: str) -> tuple[tuple[Spec, ...], Options]:
    from skyward import config

    loaded = config.load(
        provider_class=lambda kind: registry.find(registry.PROVIDERS, kind),
        plugin_factory=lambda kind: registry.find(registry.PLUGINS, kind),
    )
    return loaded.pool(name)


def _resolved(spec: Spec, options: Options, name: str) -> tuple[Spec, PoolSpec, ProviderConfig]:
    if spec.provider is None:
        spec = _with_provider(spec, default_provider())
    resolved = PoolSpec.resolve(spec, options, name)
    assert spec.provider is not None
    if (
        resolved.worker.executor == "process"
        and resolved.worker.buffer
        and not resolved.worker.reuse_processes
    ):
        raise ConfigError(
            "Worker(buffer=...) sends tasks ahead to a process, which reuse_processes=False ends after one"
        )
    return spec, resolved, spec.provider


def default_provider() -> ProviderConfig:
    """Return the provider of a spec that names none."""
    config: ProviderConfig = registry.find(registry.PROVIDERS, DEFAULT_PROVIDER)()
    return config


def _with_provider(spec: Spec, provider: ProviderConfig) -> Spec:
    fields: dict[str, Any] = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    fields["provider"] = provider
    return Spec(**fields)


def console(options: Options) -> Console | None:
    """Make the console that the options ask for; plain lines where a live display would end up in a file."""
    wish = options.console
    if wish is False or wish == "silent":
        return None
    name = "rich" if wish is True else str(wish)
    if name == "rich" and not _can_draw():
        name = "log"
    if wish is True and name not in registry.names(registry.CONSOLES):
        name = "log"
    if (
        wish is True
        and name == "log"
        and isinstance(options.logging, LogConfig)
        and not options.logging.console
    ):
        return None
    return registry.find(registry.CONSOLES, name)()


def _can_draw() -> bool:
    """Whether a live display has its terminal to itself: what a pipe takes may be shown there by another."""
    if not sys.stderr.isatty():
        return False
    try:
        return not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (
        OSError,
        ValueError,
        AttributeError,
    ):  # a stdout without a descriptor is not shown by anybody else
        return True
