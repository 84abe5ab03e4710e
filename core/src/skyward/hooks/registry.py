"""Finds what installed packages offer, by entry-point group and name, one at a time, when it is asked for.

No metadata is read before the first look-up; its answer is kept, and read anew only when a name is not found
(a notebook may have installed it since). A look-up imports exactly the package it names, so a broken package
breaks only itself. Names compare without case and separators. Two packages that give one name are an error,
never a silent choice. Used by ``skyward``, ``skyward.plugins``, the engine and conformance suites.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from functools import reduce

from skyward.errors import (
    AmbiguousNameError,
    MissingExtraError,
    PluginApiError,
    PluginLoadError,
    UnknownNameError,
    nearest,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final, Literal, overload

    from skyward.hooks.ports import Console, ProviderConfig, Topology

PROVIDERS: Final = "skyward.providers"
PLUGINS: Final = "skyward.plugins"
CONSOLES: Final = "skyward.consoles"
TOPOLOGIES: Final = "skyward.topologies"
COLLECTIONS: Final = "skyward.collections"

GROUPS: Final = (PROVIDERS, PLUGINS, CONSOLES, TOPOLOGIES, COLLECTIONS)

_KINDS = {
    PROVIDERS: "provider",
    PLUGINS: "plugin",
    CONSOLES: "console",
    TOPOLOGIES: "topology",
    COLLECTIONS: "collections engine",
}
_PORTS = {PROVIDERS: "ProviderConfig", CONSOLES: "Console", TOPOLOGIES: "Topology"}

type _Groups = dict[str, tuple[Entry, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name that one installed distribution offers. ``value``: ``module:attribute``, as it declares it."""

    group: str
    name: str
    value: str
    distribution: str
    version: str

    @property
    def module(self) -> str:
        return self.value.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        return self.value.partition(":")[2].partition("[")[0].strip()

    @property
    def source(self) -> str:
        """The distribution and its version, as errors name them."""
        return f"{self.distribution} {self.version}"


def fold(name: str) -> str:
    """``name`` as names are compared: without case and separators."""
    return name.lower().replace("_", "").replace("-", "").replace(".", "")


if TYPE_CHECKING:

    @overload
    def find(group: Literal["skyward.providers"], name: str) -> type[ProviderConfig]: ...
    @overload
    def find(group: Literal["skyward.plugins"], name: str) -> Callable[..., Any]: ...
    @overload
    def find(group: Literal["skyward.consoles"], name: str) -> type[Console]: ...
    @overload
    def find(group: Literal["skyward.topologies"], name: str) -> type[Topology]: ...
    @overload
    def find(group: str, name: str) -> Any: ...


def find(group: str, name: str) -> Any:
    """Return the object that the one installed package with this name offers, checked against its port.

    Imports that package and no other; safe from any thread.

    Raises MissingExtraError (not installed), AmbiguousNameError (installed twice), PluginLoadError (its
    import failed) and PluginApiError (it is not what the group takes).
    """
    found = _matching(group, name)
    if not found:
        forget()
        found = _matching(group, name)
    if not found:
        raise MissingExtraError(_how_to_get(group, name))
    if len(found) > 1:
        sources = " and ".join(f"{entry.source} ({entry.value})" for entry in found)
        raise AmbiguousNameError(
            f"{_KINDS[group]} {name!r} is offered by {sources}: uninstall all of these but one"
        )
    return _load(found[0])


def names(group: str) -> tuple[str, ...]:
    """Return the names that installed packages offer in ``group``, as they spell them, sorted."""
    return tuple(sorted({fold(entry.name): entry.name for entry in _entries(group)}.values()))


def distribution_of(obj: object) -> tuple[str, str] | None:
    """Return the name and version of the distribution that ``obj`` (or its class) comes from.

    None for what comes from no distribution: the user's own script, the standard library.
    """
    module = getattr(obj, "__module__", None) or type(obj).__module__
    root = str(module).partition(".")[0]
    # Entry points also know editable installs and shared top-level packages; the general answer does not.
    ours = [entry for group in GROUPS for entry in _entries(group) if _root(entry) == root]
    if ours:
        best = max(ours, key=lambda entry: _common_parts(entry.module, str(module)))
        return best.distribution, best.version
    import importlib_metadata

    if root == "skyward":
        return "skyward-core", importlib_metadata.version("skyward-core")
    with _lock:
        if not _packages:
            found = importlib_metadata.packages_distributions()
            _packages.update({package: tuple(owners) for package, owners in found.items()})
        owners = _packages.get(root)
    return (owners[0], importlib_metadata.version(owners[0])) if owners else None


def forget() -> None:
    """Drop every kept answer, so that the next look-up sees what is installed now."""
    with _lock:
        _kept.clear()
        _packages.clear()


_kept: _Groups = {}
_packages: dict[str, tuple[str, ...]] = {}
_lock = threading.Lock()


def _entries(group: str) -> tuple[Entry, ...]:
    if group not in GROUPS:
        raise UnknownNameError("entry-point group", group, GROUPS)
    with _lock:
        if not _kept:
            _kept.update(_scan())
        return _kept[group]


def _matching(group: str, name: str) -> list[Entry]:
    return [entry for entry in _entries(group) if fold(entry.name) == fold(name)]


def _scan() -> _Groups:
    """Read every installed distribution's entry points once.

    Not ``importlib_metadata.entry_points``: one unreadable file there fails the look-up of every other name.
    """
    import importlib_metadata

    importlib_metadata.MetadataPathFinder.invalidate_caches()
    found: dict[str, list[Entry]] = {group: [] for group in GROUPS}
    seen: set[str] = set()
    for distribution in importlib_metadata.Distribution.discover():  # pyright: ignore[reportUnknownMemberType]
        try:
            for entry in _entries_of(distribution, seen):
                found[entry.group].append(entry)
        except Exception:  # another package's broken metadata is not this look-up's business
            continue
    return {group: tuple(entries) for group, entries in found.items()}


def _entries_of(distribution: Any, seen: set[str]) -> Iterator[Entry]:
    text = distribution.read_text("entry_points.txt") or ""
    if "skyward." not in text:
        return
    name, version = str(distribution.metadata["Name"]), str(distribution.version)
    # Of two installs of one distribution Python imports the first on the path; so do we.
    if fold(name) in seen or _shadowed(name, text):
        return
    seen.add(fold(name))
    group = ""
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("["):
            group = line.strip("[] ")
        elif group in GROUPS and "=" in line:
            entry, _, value = line.partition("=")
            yield Entry(
                group=group, name=entry.strip(), value=value.strip(), distribution=name, version=version
            )


def _shadowed(name: str, text: str) -> bool:
    import importlib_metadata

    return importlib_metadata.distribution(name).read_text("entry_points.txt") != text


def _load(entry: Entry) -> object:
    what = f"{_KINDS[entry.group]} {entry.name!r} of {entry.source}"
    try:
        module = importlib.import_module(entry.module)
        loaded: object = reduce(getattr, filter(None, entry.attribute.split(".")), module)
    except (Exception, SystemExit) as error:
        raise PluginLoadError(
            f"{what} can't be loaded from {entry.value!r}: {type(error).__name__}: {error}"
        ) from error
    problem = _misfit(entry, loaded)
    if problem:
        raise PluginApiError(f"{what}: {entry.value} {problem}")
    return loaded


def _misfit(entry: Entry, loaded: object) -> str:
    """Say how ``loaded`` differs from what its group takes, or ''."""
    if entry.group not in _PORTS:
        return "" if callable(loaded) else f"must be callable, it is {type(loaded).__name__}"
    if not isinstance(loaded, type):
        return f"must be a class, it is {type(loaded).__name__}"
    port: Any = getattr(importlib.import_module("skyward.hooks.ports"), _PORTS[entry.group])
    methods = {name for name in dir(port) if not name.startswith("_") and callable(getattr(port, name))}
    for name in sorted(methods.union(port.__annotations__)):
        if not hasattr(loaded, name):
            return f"lacks {name!r}, which skyward.hooks.{port.__name__} asks for"
        if name in methods and not callable(getattr(loaded, name)):
            return f"has a {name!r} that is no method"
    own = getattr(loaded, "provider_name", entry.name)
    if entry.group == PROVIDERS and fold(str(own)) != fold(entry.name):
        return f"calls itself provider_name = {own!r}, but its entry point is {entry.name!r}"
    return ""


def _how_to_get(group: str, name: str) -> str:
    missing = f"no {_KINDS[group]} {name!r} is installed"
    for other in GROUPS:
        if other != group and _matching(other, name):
            return f"{missing}, but a {_KINDS[other]} of that name is"
    for extra in _own_extras():
        if fold(extra) == fold(name):
            return f"{missing}: pip install 'skyward[{extra}]'"
    installed = names(group)
    near = nearest(name, installed)
    line = f"pip install skyward-{name.lower().replace('_', '-')}"
    if near:
        return f"{missing}: did you mean {' or '.join(map(repr, near))}? If not: {line}"
    return f"{missing}: {line} (installed: {', '.join(installed) or 'none'})"


def _own_extras() -> list[str]:
    """The extras of the root distribution: which packages are ours is written there and nowhere else."""
    import importlib_metadata

    try:
        return importlib_metadata.metadata("skyward").get_all("Provides-Extra") or []
    except importlib_metadata.PackageNotFoundError:
        return []


def _root(entry: Entry) -> str:
    return entry.module.partition(".")[0]


def _common_parts(a: str, b: str) -> int:
    """How many leading dotted parts two module names share."""
    count = 0
    for x, y in zip(a.split("."), b.split("."), strict=False):
        if x != y:
            break
        count += 1
    return count
