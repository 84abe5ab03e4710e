"""Named providers and pools from ``~/.skyward/defaults.toml`` and, over it, ``./skyward.toml``.

What is written there becomes the same ``Spec`` and ``Options`` that Python code would make; nothing is
guessed and nothing ignored: each error names file and table. Reading is all the I/O there is. Which provider
types and plugins exist is asked of two functions that the caller passes in, and only for what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from skyward import metrics, storage
from skyward._tables import Table, keywords, read
from skyward.accelerators import Accelerator, from_name
from skyward.accelerators.catalog import CATALOG
from skyward.errors import ConfigError, MissingExtraError, PluginError, UnknownNameError, nearest
from skyward.image import Image, PipIndex
from skyward.options import LogConfig, Options, Worker
from skyward.spec import Nodes, Spec
from skyward.storage import Storage, Volume

if TYPE_CHECKING:
    from skyward.hooks.ports import ProviderConfig

    type ProviderClass = Callable[[str], type[Any]]
    type PluginFactory = Callable[[str], Callable[..., Any]]

_SPEC_KEYS = keywords(Spec)
# A health check is a Python function: it can't be written in a file.
_OPTION_KEYS = tuple(key for key in keywords(Options) if key != "health_checker")


def load(
    cwd: Path | None = None,
    home: Path | None = None,
    *,
    provider_class: ProviderClass,
    plugin_factory: PluginFactory,
) -> Configuration:
    """Read both files; either may be missing.

    ``provider_class`` returns the class for a provider's type, ``plugin_factory`` what makes a plugin of that
    name. Raises ConfigError if a file isn't TOML or has an unknown section.
    """
    paths = ((home or Path.home()) / ".skyward" / "defaults.toml", (cwd or Path.cwd()) / "skyward.toml")
    merged = Table("", {}, {}, ())
    for path in paths:
        table = read(path)
        if table is not None:
            for key in table.values:
                if key not in ("providers", "pools"):
                    raise UnknownNameError("section", key, ("providers", "pools"), where=str(path))
                _check_section(table, key, path)
            merged = merged.under(table)
    return Configuration(merged, paths, provider_class, plugin_factory)


class Configuration:
    """What the files say. Values are built, and so checked, when asked for; the repr shows names only."""

    def __init__(
        self,
        root: Table,
        paths: tuple[Path, ...],
        provider_class: ProviderClass,
        plugin_factory: PluginFactory,
    ) -> None:
        self.paths = paths
        self._provider_tables = _section(root, "providers")
        self._pool_tables = _section(root, "pools")
        self._provider_class = provider_class
        self._plugin_factory = plugin_factory
        self._readers: dict[str, Callable[[Table], object]] = {
            "provider": self._provider_of,
            "accelerator": _accelerator,
            "nodes": _nodes,
            "image": lambda table: _image(table.table("image")),
            "volumes": lambda table: tuple(_volume(entry) for entry in table.tables("volumes")),
            "plugins": lambda table: self._plugins(table.table("plugins")),
            "worker": lambda table: table.table("worker").fill(Worker),
            "logging": _logging,
        }

    def __repr__(self) -> str:
        return f"Configuration(providers={[*self._provider_tables]}, pools={list(self.pools)})"

    @property
    def pools(self) -> tuple[str, ...]:
        """The names of the pools."""
        return tuple(self._pool_tables)

    @property
    def providers(self) -> Mapping[str, ProviderConfig]:
        """All named providers, built. Raises like ``provider``."""
        return {name: self.provider(name) for name in self._provider_tables}

    def provider(self, name: str) -> ProviderConfig:
        """Return the value that ``[providers.<name>]`` describes.

        Raises UnknownNameError; ConfigError for a wrong key or value; PluginError if its type is missing.
        """
        if name not in self._provider_tables:
            raise UnknownNameError("provider", name, self._provider_tables, where=self._searched())
        table = self._provider_tables[name]
        if "type" not in table.values:
            raise table.error("the key 'type' is missing: it says which provider this is")
        kind = table.text("type", "local")
        cls = _find(self._provider_class, "provider type", kind, table.where("type"))
        return cast("ProviderConfig", table.fill(cls, without=("type",), frozen=True))

    def pool(self, name: str) -> tuple[tuple[Spec, ...], Options]:
        """Return the specs and the options that ``[pools.<name>]`` describes.

        There is one spec, or as many as the pool has ``specs``. What stands beside them holds for each.
        Raises as ``provider`` does.
        """
        if name not in self._pool_tables:
            raise UnknownNameError("pool", name, self._pool_tables, where=self._searched())
        table = self._pool_tables[name]
        table.only((*_SPEC_KEYS, *_OPTION_KEYS, "specs"))
        options = table.build(Options, self._read(table, _OPTION_KEYS))
        shared = self._read(table, _SPEC_KEYS)
        if "specs" not in table.values:
            return (table.build(Spec, shared),), options
        entries = table.tables("specs")
        if not entries:
            raise table.error("specs must have at least one entry", "specs")
        specs: list[Spec] = []
        for entry in entries:
            entry.only(_SPEC_KEYS)
            specs.append(entry.build(Spec, {**shared, **self._read(entry, _SPEC_KEYS)}))
        return tuple(specs), options

    def _read(self, table: Table, keys: tuple[str, ...]) -> dict[str, object]:
        """Return the values of those of ``keys`` that the table has, as Python code would write them."""
        plain = table.plain()
        return {
            key: self._readers[key](table) if key in self._readers else plain[key]
            for key in keys
            if key in table.values
        }

    def _provider_of(self, table: Table) -> object:
        name = table.text("provider", next(iter(self._provider_tables), "local"))
        if name in self._provider_tables:
            return self.provider(name)
        # No table of that name: a provider that is installed will do, with its defaults.
        where = table.where("provider")
        try:
            cls = _find(self._provider_class, "provider", name, where)
        except (MissingExtraError, ConfigError) as error:
            if nearest(name, tuple(self._provider_tables)):
                raise UnknownNameError("provider", name, self._provider_tables, where=where) from error
            raise
        # What it lacks belongs into a table of its own, not into the pool's.
        return Table(f"providers.{name}", {}, {}, table.files).build(cls, {})

    def _plugins(self, table: Table) -> tuple[object, ...]:
        """Return the plugins in the order of the file; ``false`` leaves one out that another file lists."""
        plugins: list[object] = []
        for name, value in table.values.items():
            if value is False:
                continue
            if value is not True and not isinstance(value, Table):
                raise table.error(f"{name} must be true, false or a table of its settings", name)
            make = _find(self._plugin_factory, "plugin", name, table.where(name))
            plugins.append(value.fill(make) if isinstance(value, Table) else table.build(make, {}))
        return tuple(plugins)

    def _searched(self) -> str:
        return " or ".join(f"{path}{'' if path.exists() else ' (no such file)'}" for path in self.paths)


def _section(root: Table, key: str) -> dict[str, Table]:
    if key not in root.values:
        return {}
    section = root.table(key)
    return {name: section.table(name) for name in section.values}


def _check_section(table: Table, key: str, path: Path) -> None:
    """Require tables of tables in each file, before merging hides in which it was otherwise."""
    section = table.values[key]
    if not isinstance(section, Table):
        raise ConfigError(f"{path}: {key} must hold tables such as [{key}.name]")
    for name, value in section.values.items():
        if not isinstance(value, Table):
            raise ConfigError(f"{path} [{key}]: {name} must be a table: [{key}.{name}]")


def _find[T](find: Callable[[str], T], what: str, name: str, where: str) -> T:
    """Look an extension up; say in which file and table its name stands when that fails."""
    try:
        return find(name)
    except UnknownNameError as error:
        if error.nearest:
            raise UnknownNameError(what, name, error.nearest, where=where) from error
        raise ConfigError(f"{where}: {error}") from error
    except MissingExtraError as error:
        raise MissingExtraError(f"{where}: {error}") from error
    except PluginError as error:
        error.add_note(f"asked for by {where}")
        raise


def _accelerator(table: Table) -> Accelerator:
    text = table.text("accelerator", "A100:8")
    try:
        return from_name(text)
    except UnknownNameError as error:
        where = table.where("accelerator")
        raise UnknownNameError("accelerator", error.name, CATALOG, where=where) from error
    except ConfigError as error:
        raise table.error(f"accelerator {text!r}: {error}", "accelerator") from error


def _nodes(table: Table) -> object:
    value = table.values["nodes"]
    if isinstance(value, Table):
        return value.fill(Nodes)
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _logging(table: Table) -> object:
    value = table.values["logging"]
    return value.fill(LogConfig) if isinstance(value, Table) else value


def _image(table: Table) -> Image:
    table.only(keywords(Image))
    arguments = table.plain()
    if "pip_indexes" in arguments:
        arguments["pip_indexes"] = [entry.fill(PipIndex) for entry in table.tables("pip_indexes")]
    if "metrics" in arguments:
        arguments["metrics"] = _image_metrics(table)
    return table.build(Image, arguments)


def _image_metrics(table: Table) -> tuple[metrics.Metric, ...]:
    """Read ``true`` (the default set), ``false`` (none), or an array of names and tables with a ``type``."""
    value = table.values["metrics"]
    if isinstance(value, bool):
        return metrics.Default() if value else ()
    if not isinstance(value, list):
        raise table.error("metrics must be true, false or an array such as ['CPU', 'GPU']", "metrics")
    result: list[metrics.Metric] = []
    for item in cast("list[object]", value):
        if isinstance(item, Table):
            result.append(_typed(item, "metric", metrics.FACTORIES))
        elif isinstance(item, str) and item in metrics.FACTORIES:
            result.append(table.build(metrics.FACTORIES[item], {}))
        else:
            raise UnknownNameError("metric", str(item), metrics.FACTORIES, where=table.where("metrics"))
    return tuple(result)


def _volume(table: Table) -> Volume:
    table.only(keywords(Volume))
    arguments = table.plain()
    if "storage" in arguments:
        given = table.table("storage")
        known = [key for key in keywords(Storage) if key != "exchange"]
        if "type" in given.values:
            arguments["storage"] = _typed(given, "storage type", storage.PRESETS)
        else:
            given.only(known)
            arguments["storage"] = given.fill(Storage)
    return table.build(Volume, arguments)


def _typed[T](table: Table, what: str, makers: Mapping[str, Callable[..., T]]) -> T:
    """Return what the maker named by ``type`` makes of the other keys."""
    if "type" not in table.values:
        raise table.error(f"the key 'type' is missing: one of {', '.join(makers)}")
    kind = table.text("type", next(iter(makers)))
    if kind not in makers:
        raise UnknownNameError(what, kind, makers, where=table.where("type"))
    return table.fill(makers[kind], without=("type",))
