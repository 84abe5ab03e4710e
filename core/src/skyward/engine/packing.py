"""Turning calls into what crosses: on the caller's thread, each function and each large value only once.

A function is pickled when it is first dispatched, and again when something it refers to has changed: a global or a
captured variable was rebound, or a list, dict or set among them was changed. What hides deeper (an attribute
of an object, an element of an array) is not noticed: functions capture such things as they were.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from skyward.link.modules import Project, Source
from skyward.link.pickling import Pickled, dumps, dumps_call, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skyward.link.blobs import Blob, BlobStore

CODES_KEPT = 1000
"""Distinct functions that a node keeps; a script that makes lambdas in a loop must not fill its memory."""


class Code:
    """One function as nodes know it, under a number. Equal pickles are one Code."""

    __slots__ = ("blobs", "data", "data_is_blob", "ema_micros", "id", "modules", "name", "users")

    def __init__(self, number: int, name: str, data: bytes, blobs: tuple[Blob, ...], data_is_blob: bool) -> None:
        self.id = number
        self.name = name
        self.data = data
        self.blobs = blobs
        self.data_is_blob = data_is_blob
        self.modules: dict[str, Source] = {}
        self.ema_micros: float | None = None
        """How long its tasks took of late; None before the first."""
        self.users = 0
        """Tasks that are not over: while there are any, nodes keep it."""


class Packer:
    """One pool's. Thread-safe. ``on_drop`` is told of codes that nodes may forget."""

    def __init__(self, blobs: BlobStore, project: Project, on_drop: Callable[[int], None]) -> None:
        self._blobs = blobs
        self._project = project
        self._on_drop = on_drop
        self._lock = threading.RLock()
        self._by_function: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], Code]] = weakref.WeakKeyDictionary()
        self._by_digest: OrderedDict[bytes, Code] = OrderedDict()
        self._next = 1

    def code(self, function: Any) -> Code:
        """Return the code of a decorated function. Raises SerializationError naming what can't be pickled."""
        name, key = function.name, function._skyward_body
        plain = isinstance(key, FunctionType)
        now = fingerprint(key) if plain else ()
        if plain:
            known = self._by_function.get(key)
            if known is not None and known[0] == now:
                return known[1]
        code = self._pack(function, name)
        if plain:
            with self._lock:
                self._by_function[key] = (now, code)
        return code

    def _pack(self, function: Any, name: str) -> Code:
        self._project.forget()
        try:
            pickled = dumps(function, is_project_module=self._project.is_project_module)
        except Exception as error:
            raise explain(error, function._skyward_body, name, name, "the function") from error
        modules = self._project.closure({*pickled.modules, *self._project.imported_by(function._skyward_body)})
        state = hashlib.blake2b(pickled.data, digest_size=16)
        for source in sorted(modules.values(), key=lambda source: source.name):
            state.update(source.digest.encode())
        blobs = [self._blobs.intern(buffer) for buffer in pickled.buffers]
        for blob in blobs:
            state.update(blob.id.to_bytes(8, "little"))
        digest = state.digest()
        with self._lock:
            code = self._by_digest.get(digest)
            if code is not None:
                self._by_digest.move_to_end(digest)
                dropped_blobs = blobs
            else:
                dropped_blobs = []
                data, all_blobs, is_blob = self.store(pickled, blobs)
                code = Code(self._next, name, data, all_blobs, is_blob)
                code.modules = modules
                self._next += 1
                self._by_digest[digest] = code
        for blob in dropped_blobs:
            self._blobs.release(blob)
        return code

    def acquire(self, code: Code) -> None:
        """Note that one more task uses ``code``; ``release`` when it is over."""
        with self._lock:
            code.users += 1

    def release(self, code: Code) -> None:
        with self._lock:
            code.users -= 1
            if len(self._by_digest) <= CODES_KEPT:
                return
            oldest = next(iter(self._by_digest.items()))
            if oldest[1].users:
                return
            del self._by_digest[oldest[0]]
            self._by_function = weakref.WeakKeyDictionary(
                {key: entry for key, entry in self._by_function.items() if entry[1] is not oldest[1]}
            )
        self._on_drop(oldest[1].id)
        for blob in oldest[1].blobs:
            self._blobs.release(blob)

    def store(self, pickled: Pickled, blobs: Iterable[Blob]) -> tuple[bytes, tuple[Blob, ...], bool]:
        """Move a long pickle into a blob too. Return its data, all its blobs, and whether the first is the data."""
        if len(pickled.data) < 1 << 20:
            return pickled.data, tuple(blobs), False
        return b"", (self._blobs.intern(pickled.data), *blobs), True

    def arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> tuple[bytes, tuple[Blob, ...], bool, dict[str, Source]]:
        """Pickle a call's arguments. Raises SerializationError naming the path, such as ``args[0]['lock']``."""
        try:
            pickled = dumps_call(args, kwargs, is_project_module=self._project.is_project_module)
        except Exception as error:
            raise self._explain(error, args, kwargs, name) from error
        modules = self._project.closure(pickled.modules) if pickled.modules else {}
        if not pickled.buffers and len(pickled.data) < 1 << 20:
            return pickled.data, (), False, modules
        data, blobs, is_blob = self.store(pickled, [self._blobs.intern(buffer) for buffer in pickled.buffers])
        return data, blobs, is_blob, modules

    @staticmethod
    def _explain(error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Exception:
        for index, value in enumerate(args):
            if not _crosses(value):
                return explain(error, value, f"args[{index}]", name, "the arguments of")
        for key, value in kwargs.items():
            if not _crosses(value):
                return explain(error, value, f"kwargs[{key!r}]", name, "the arguments of")
        return explain(error, args, "args", name, "the arguments of")


def _crosses(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def fingerprint(function: Any) -> tuple[Any, ...]:
    """Describe what a function refers to, so that a change of it shows. Cheap: run at every dispatch."""
    if not isinstance(function, FunctionType):
        return (Same(function),)
    parts: list[Any] = []
    _describe_function(function, parts, set())
    return tuple(parts)


def _describe_function(function: FunctionType, parts: list[Any], seen: set[int]) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    parts.append(function.__code__)
    parts.append(tuple(map(Same, function.__defaults__ or ())))
    for cell in function.__closure__ or ():
        try:
            _describe(cell.cell_contents, parts, seen, 0)
        except ValueError:  # not filled yet
            parts.append(None)
    if function.__module__ == "__main__" or "<locals>" in function.__qualname__:
        for name in _global_names(function.__code__):
            if name in function.__globals__:
                _describe(function.__globals__[name], parts, seen, 0)


def _describe(value: Any, parts: list[Any], seen: set[int], depth: int) -> None:
    kind = type(value)
    if kind in (int, float, str, bytes, bool, type(None)):
        parts.append(value)
    elif kind is FunctionType:
        _describe_function(value, parts, seen)
    elif kind in (list, tuple, set, frozenset, dict) and depth < 3 and len(value) <= 1000:
        parts.append((kind, len(value)))
        for item in value.items() if kind is dict else value:
            _describe(item, parts, seen, depth + 1)
    elif kind is ModuleType:
        parts.append(value.__name__)
    elif hasattr(kind, "_skyward_decorated"):  # a decorated function among the globals
        body = value._skyward_body
        if isinstance(body, FunctionType):
            _describe_function(body, parts, seen)
    else:
        parts.append(Same(value))


class Same:
    """Equal to another of the same living object, and to nothing once it is gone: an id alone may be used again."""

    __slots__ = ("_get",)

    def __init__(self, value: Any) -> None:
        try:
            self._get: Callable[[], Any] = weakref.ref(value)
        except TypeError:  # holds it: what has no weak references is small
            self._get = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._get()
        return isinstance(other, Same) and mine is not None and mine is other._get()

    def __hash__(self) -> int:
        return 0


_names: weakref.WeakKeyDictionary[CodeType, tuple[str, ...]] = weakref.WeakKeyDictionary()


def _global_names(code: CodeType) -> tuple[str, ...]:
    names = _names.get(code)
    if names is None:
        found = set(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                found.update(_global_names(constant))
        names = _names[code] = tuple(sorted(found))
    return names
