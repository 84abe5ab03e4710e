"""Whether a function still refers to the same: what tells that it must be pickled again.

Noticed are globals and captured variables that were rebound, and changes inside them: of lists, dicts and
sets, of the attributes of objects and of the user's own classes, of the elements of arrays and tensors. The
search is bounded, because it runs at every dispatch: what lies beyond ``PARTS_MAX`` parts, between the
samples of a long array, or inside an object that shows no attributes may change unnoticed; a function
captures such things as they were.

Imported by ``skyward.engine.packing``; runs on the caller's thread.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import weakref
from collections import deque
from itertools import islice
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from skyward.link.identity import global_names, is_dynamic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PARTS_MAX = 2000
"""Parts that are looked at: about a millisecond."""
DEPTH_MAX = 10
"""Enough for the parameters of a nested model, which lie six deep."""
SAMPLES = 16
SAMPLE_BYTES = 1024
"""An array is known by 16 pieces of 1 KiB: hashing those takes 20 µs, hashing 200 MB a tenth of a second."""

_ATOMS: frozenset[type] = frozenset({int, float, str, bytes, bool, type(None), complex, range})
_CONTAINERS = (list, tuple, set, frozenset, deque)
_CLASS_MACHINERY = frozenset(
    {"__dict__", "__weakref__", "__module__", "__doc__", "_abc_impl", "__annotations__"}
)


def fingerprint(value: object) -> list[object]:
    """Describe a function, or a class, and what it refers to: equal to an earlier one if nothing changed."""
    search = _Search()
    search.look_at(value, 0)
    return search.parts


class _Search:
    """Walks what hangs on a value and writes down what it finds, in an order that is always the same."""

    def __init__(self) -> None:
        self.parts: list[object] = []
        self._seen: set[int] = set()

    def look_at(self, value: Any, depth: int) -> None:
        known: object = value  # the type of Any is known to nobody
        kind = type(known)
        parts = self.parts
        if kind in _ATOMS:
            parts.append(kind)
            parts.append(value)
            return
        if id(value) in self._seen or len(parts) > PARTS_MAX or depth > DEPTH_MAX:
            parts.append(Same(value))
            return
        self._seen.add(id(value))
        if kind is FunctionType:
            self._function(value, depth)
        elif kind is ModuleType:
            parts.append(value.__name__)
        elif issubclass(kind, dict):
            self._items(kind, len(value), (part for item in list(value.items()) for part in item), depth)
        elif issubclass(kind, _CONTAINERS):
            self._items(kind, len(value), list(islice(value, PARTS_MAX)), depth)
        elif issubclass(kind, functools.partial):
            self._items(kind, 3, (value.func, value.args, value.keywords), depth)
        elif kind is MethodType:
            self._items(kind, 2, (value.__func__, value.__self__), depth)
        else:
            parts.append(Same(value))
            if issubclass(kind, type):
                if is_dynamic(value):
                    self._class(value, depth)
            else:
                self._object(value, depth)

    def _items(self, kind: Any, size: int, values: Iterable[Any], depth: int) -> None:
        self.parts.append(kind)
        self.parts.append(size)
        for value in values:
            if len(self.parts) > PARTS_MAX:
                return
            self.look_at(value, depth + 1)

    def _function(self, function: FunctionType, depth: int) -> None:
        self.parts.append(function.__code__)
        if function.__defaults__:
            self.look_at(function.__defaults__, depth + 1)
        if function.__kwdefaults__:
            self.look_at(function.__kwdefaults__, depth + 1)
        for cell in function.__closure__ or ():
            try:
                self.look_at(cell.cell_contents, depth + 1)
            except ValueError:  # not filled yet
                self.parts.append(None)
        if function.__module__ == "__main__" or "<locals>" in function.__qualname__:
            known = function.__globals__
            for name in global_names(function.__code__):
                if name in known:
                    self.look_at(known[name], depth + 1)

    def _class(self, kind: type, depth: int) -> None:
        for base in kind.__bases__:
            self.look_at(base, depth + 1)
        for name, value in list(vars(kind).items()):
            if name not in _CLASS_MACHINERY:
                self.parts.append(name)
                self.look_at(getattr(value, "__func__", value), depth + 1)

    def _object(self, value: Any, depth: int) -> None:
        known: object = value  # the type of Any is known to nobody
        kind = type(known)
        if hasattr(kind, "_skyward_decorated"):
            self.look_at(value._skyward_body, depth + 1)
            return
        try:
            sample = _sample(value)
            if sample is not None:
                self.parts.append(sample)
            else:
                self._attributes(kind, value, depth)
        except Exception:  # an object that can't stand being looked at, such as a proxy of something closed
            return

    def _attributes(self, kind: type, value: Any, depth: int) -> None:
        module = kind.__module__.partition(".")[0]
        if module in sys.stdlib_module_names and kind.__qualname__ not in ("SimpleNamespace", "Namespace"):
            return  # loggers and the like, which hold half the world
        if hasattr(kind, "_version"):  # how tensors count changes in place
            self.parts.append(value._version)
        attributes: Any = getattr(value, "__dict__", None)
        if issubclass(type(attributes), dict):
            items: list[tuple[str, Any]] = list(attributes.items())
            self._items(kind, len(items), (part for item in items for part in item), depth)
        if is_dynamic(kind):
            self.look_at(kind, depth + 1)
            for name in _slots(kind):
                self.look_at(getattr(value, name, None), depth + 1)


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return found


def _sample(value: Any) -> bytes | None:
    """Hash pieces of what consists of bytes; None for what does not."""
    try:
        flat = pickle.PickleBuffer(value).raw()
    except (TypeError, ValueError, BufferError):
        return None
    state = hashlib.blake2b(f"{len(flat)} {getattr(value, 'shape', '')}".encode(), digest_size=16)
    step = max(SAMPLE_BYTES, (len(flat) - SAMPLE_BYTES) // (SAMPLES - 1))
    for start in range(0, len(flat), step):
        state.update(flat[start : start + SAMPLE_BYTES])
    return state.digest()


class Same:
    """Equal to another of the same living object, to nothing once it is gone: ids are used again."""

    __slots__ = ("_get",)

    def __init__(self, value: Any) -> None:
        try:
            self._get: Callable[[], Any] = weakref.ref(value)
        except TypeError:  # holds it: what has no weak references is small, or it is many parts long
            self._get = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._get()
        return isinstance(other, Same) and mine is not None and mine is other._get()

    def __hash__(self) -> int:
        return 0
