"""The user's own modules: which they are, what they import, and how a node gets to import them.

A module belongs to the project when its source file lies outside the standard library and site-packages, and
it is not one of ours. Its source is sent, with that of every project module it imports anywhere (also inside
functions), so that nothing has to be listed by hand. Nothing is imported or run here to find out.

Beside modules, the same way carries what else a process needs once: the definition of a class that goes by
value, and the text of a file whose functions do, for tracebacks.

``Project`` is the client's half, ``ShippedModules`` the node's.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.abc
import importlib.machinery
import linecache
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any

from skyward.link.identity import add_definition


def _installed_prefixes() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    found.update(site.getsitepackages())
    found.add(site.getusersitepackages())
    return tuple(os.path.realpath(path) + os.sep for path in found)


class Source:
    """One module's source as it is sent. ``digest`` tells a node whether it has this version."""

    __slots__ = ("digest", "is_package", "name", "origin", "text")

    def __init__(self, name: str, origin: str, is_package: bool, text: str) -> None:
        self.name = name
        self.origin = origin
        self.is_package = is_package
        self.text = text
        self.digest = hashlib.blake2b(f"{origin}\0{text}".encode(), digest_size=8).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "origin": self.origin, "package": self.is_package, "text": self.text}


class Definition(Source):
    """A pickled class, under its id."""

    __slots__ = ("pickle",)

    def __init__(self, class_id: str, pickle: bytes) -> None:
        self.name = class_id
        self.pickle = pickle
        self.digest = hashlib.blake2b(pickle, digest_size=8).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {"class": self.name, "pickle": base64.b64encode(self.pickle).decode()}


class Listing(Source):
    """The text of a file, or of a notebook's cell, that nobody imports."""

    __slots__ = ()

    def __init__(self, origin: str, text: str) -> None:
        super().__init__(f"<{origin}>", origin, False, text)

    def to_json(self) -> dict[str, Any]:
        return {"origin": self.origin, "text": self.text}


class Project:
    """Answers, for the client's process, which modules are the user's. Safe from any thread."""

    def __init__(self) -> None:
        self._prefixes = _installed_prefixes()
        self._known: dict[str, Source | None] = {}
        self._imports: dict[tuple[str, str], frozenset[str]] = {}
        self._lock = threading.RLock()

    def is_project_module(self, name: str) -> bool:
        if name in ("__main__", "__mp_main__", "builtins", "skyward") or name.startswith(
            ("skyward.", "skyward_")
        ):
            return False
        return self.source(name) is not None

    def source(self, name: str) -> Source | None:
        """Return the module's source if it is the user's, read again when its file has changed."""
        with self._lock:
            known = self._known.get(name)
            if name not in self._known:
                known = self._known[name] = self._find(name)
            return known

    def forget(self) -> None:
        """Read files again at the next question; called once a dispatch of a function not seen before."""
        with self._lock:
            self._known = {name: known for name, known in self._known.items() if known is None}

    def closure(self, names: Iterable[str]) -> dict[str, Source]:
        """Return every project module that the named ones need, parents and imports of imports included."""
        found: dict[str, Source] = {}
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in found or not name:
                continue
            source = self.source(name) if self.is_project_module(name) else None
            if source is None:
                continue
            found[name] = source
            todo.append(name.rpartition(".")[0])
            todo.extend(self._imported(source))
        return found

    def listings(self, files: Iterable[str]) -> dict[str, Source]:
        """Return the text of those files that are not modules of the project, as far as it is known."""
        found: dict[str, Source] = {}
        for file in files:
            if self._is_installed(file):
                continue
            linecache.checkcache(file)
            text = "".join(linecache.getlines(file))
            if text:
                listing = Listing(file, text)
                found[listing.name] = listing
        return found

    def imported_by(self, function: Any) -> frozenset[str]:
        """Return the project modules that a function's own code imports when it runs."""
        function = getattr(function, "__func__", function)
        if not isinstance(function, FunctionType):
            return frozenset()
        package = function.__globals__.get("__package__") or ""
        return frozenset(
            candidate
            for name, level, parts in _code_imports(function.__code__)
            for candidate in _candidates(name, level, parts, package)
            if self.is_project_module(candidate)
        )

    def _imported(self, source: Source) -> frozenset[str]:
        key = (source.name, source.digest)
        if key not in self._imports:
            package = source.name if source.is_package else source.name.rpartition(".")[0]
            self._imports[key] = frozenset(_ast_imports(source.text, package))
        return self._imports[key]

    def _find(self, name: str) -> Source | None:
        spec = self._spec(name)
        if spec is None:
            return None
        locations = list(spec.submodule_search_locations or ())
        origin = spec.origin if spec.has_location else None
        if origin is None:  # a folder without __init__.py
            outside = locations and not any(self._is_installed(place) for place in locations)
            return Source(name, "", True, "") if outside else None
        if not origin.endswith(".py") or self._is_installed(origin):
            return None
        try:
            with open(origin, encoding="utf-8") as file:
                return Source(name, origin, bool(locations), file.read())
        except (OSError, UnicodeDecodeError):
            return None

    def _spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        module = sys.modules.get(name)
        if module is not None:
            return getattr(module, "__spec__", None)
        parent, _, _ = name.rpartition(".")
        path: Sequence[str] | None = None
        if parent:
            above = self._spec(parent)
            if above is None or above.submodule_search_locations is None:
                return None
            path = list(above.submodule_search_locations)
        try:
            return importlib.machinery.PathFinder.find_spec(name, path)
        except (ImportError, ValueError):
            return None

    def _is_installed(self, path: str) -> bool:
        return (os.path.realpath(path) + os.sep).startswith(self._prefixes)


def _code_imports(code: CodeType) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    import dis

    recent: list[Any] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":  # preceded by the constants: level, names
            level, names = ([None, None, *recent])[-2:]
            yield str(instruction.argval), level if isinstance(level, int) else 0, names or ()
        recent = [*recent[-1:], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_imports(constant)


def _ast_imports(text: str, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _candidates(alias.name, 0, (), package)
        elif isinstance(node, ast.ImportFrom):
            yield from _candidates(node.module or "", node.level, tuple(a.name for a in node.names), package)


def _candidates(name: str, level: int, parts: Sequence[str], package: str) -> Iterator[str]:
    """Every module that an import statement may load: its parents, itself, and the names it takes from it."""
    if level:
        above = package.split(".")
        above = above[: len(above) - (level - 1)]
        name = ".".join([*above, name] if name else above)
    pieces = name.split(".") if name else []
    for end in range(1, len(pieces) + 1):
        yield ".".join(pieces[:end])
    yield from (f"{name}.{part}" for part in parts if name and part != "*")


def take_definitions(classes: Iterable[dict[str, Any]]) -> None:
    """Take classes that go by value, as ``Definition.to_json`` has them; loaded when something names them."""
    for item in classes:
        add_definition(item["class"], base64.b64decode(item["pickle"]))


class ShippedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets a worker import what the client sent. First on ``sys.meta_path``: the user's module wins."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[str, bool, str]] = {}

    def add(self, sources: Iterable[dict[str, Any]]) -> None:
        """Take new or changed sources.

        After a change every module is imported anew, because others may hold parts of the changed one.
        """
        changed = False
        for item in sources:
            if "class" in item:
                take_definitions([item])
                continue
            origin, text = item["origin"], item["text"]
            if origin:
                linecache.cache[origin] = (len(text), None, text.splitlines(True), origin)
            if "name" in item:
                entry = (origin, item["package"], text)
                changed |= self._sources.get(item["name"], entry) != entry
                self._sources[item["name"]] = entry
        if changed:
            for name in self._sources:
                sys.modules.pop(name, None)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        entry = self._sources.get(fullname)
        if entry is None:
            return None
        origin, is_package, _ = entry
        spec = importlib.machinery.ModuleSpec(fullname, self, origin=origin or None, is_package=is_package)
        if origin:
            spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [os.path.dirname(origin)] if origin else []
        return spec

    def exec_module(self, module: ModuleType) -> None:
        origin, _, text = self._sources[module.__name__]
        exec(compile(text, origin or f"<{module.__name__}>", "exec"), module.__dict__)

    def get_source(self, fullname: str) -> str:
        return self._sources[fullname][2]
