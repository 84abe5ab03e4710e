"""Turning calls into what crosses: on the caller's thread, each function and each large value only once.

A function is pickled when it is first dispatched, and again when something it refers to has changed: see
``skyward.engine.fingerprint``. Values in arguments are pickled at every dispatch.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import OrderedDict
from types import FunctionType
from typing import TYPE_CHECKING, Any

from skyward.engine.fingerprint import fingerprint
from skyward.errors import UsageError
from skyward.link import numbers
from skyward.link.identity import class_id
from skyward.link.modules import Definition, Project, Source
from skyward.link.pickling import Pickled, dumps, dumps_call, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skyward.link.blobs import Blob, BlobStore

CODES_KEPT = 1000
"""Distinct functions that a node keeps; a script that makes lambdas in a loop must not fill its memory."""


class Code:
    """One function as nodes know it, under a number. Equal pickles are one Code."""

    __slots__ = ("blobs", "data", "data_is_blob", "ema_micros", "id", "modules", "name", "tasks")

    def __init__(
        self, number: int, name: str, data: bytes, blobs: tuple[Blob, ...], data_is_blob: bool
    ) -> None:
        self.id = number
        self.name = name
        self.data = data
        self.blobs = blobs
        self.data_is_blob = data_is_blob
        self.modules: dict[str, Source] = {}
        self.ema_micros: float | None = None
        """How long its tasks took of late; None before the first."""
        self.tasks: set[int] = set()
        """Those that are not over: while there are any, nodes keep it."""


class Packer:
    """One pool's. Thread-safe. ``on_drop`` is told of codes that nodes may forget."""

    def __init__(self, blobs: BlobStore, project: Project, on_drop: Callable[[int], None]) -> None:
        self._blobs = blobs
        self._project = project
        self._on_drop = on_drop
        self._lock = threading.RLock()
        self._by_function: weakref.WeakKeyDictionary[Any, tuple[object, Code]] = weakref.WeakKeyDictionary()
        # What it looked like, its definition, and which classes and modules that names.
        self._by_class: weakref.WeakKeyDictionary[
            type, tuple[object, Definition, frozenset[weakref.ref[type]], frozenset[str]]
        ] = weakref.WeakKeyDictionary()
        self._by_digest: OrderedDict[bytes, Code] = OrderedDict()

    def code(self, function: Any) -> Code:
        """Return the code of a decorated function. Raises SerializationError naming what can't be pickled."""
        body = function._skyward_body
        # A plain function may be decorated anew for every call; bound methods are new objects every time.
        key = body if isinstance(body, FunctionType) else function
        now = fingerprint(body)
        known = self._by_function.get(key)
        if known is not None and known[0] == now:
            return known[1]
        code = self._pack(function, function.name)
        with self._lock:
            self._by_function[key] = (now, code)
        return code

    def _pack(self, function: Any, name: str) -> Code:
        self._project.forget()
        try:
            pickled = dumps(function, is_project_module=self._project.is_project_module)
        except Exception as error:
            raise explain(error, function._skyward_body, name, name, "the function") from error
        modules = self._project.closure(
            {*pickled.modules, *self._project.imported_by(function._skyward_body)}
        )
        modules.update(self._project.listings(pickled.files))
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
                code = Code(numbers.take(), name, data, all_blobs, is_blob)
                code.modules = modules
                self._by_digest[digest] = code
        for blob in dropped_blobs:
            self._blobs.release(blob)
        return code

    def release(self, code: Code, task: int) -> None:
        """Note that a task of ``code`` is over; nodes may forget the oldest when there are too many."""
        code.tasks.discard(task)
        if len(self._by_digest) <= CODES_KEPT:
            return
        with self._lock:
            oldest = next(iter(self._by_digest.items()))
            if oldest[1].tasks:
                return
            del self._by_digest[oldest[0]]
            self._by_function = weakref.WeakKeyDictionary(
                {key: entry for key, entry in self._by_function.items() if entry[1] is not oldest[1]}
            )
        self._on_drop(oldest[1].id)
        for blob in oldest[1].blobs:
            self._blobs.release(blob)

    def store(self, pickled: Pickled, blobs: Iterable[Blob]) -> tuple[bytes, tuple[Blob, ...], bool]:
        """Move a long pickle into a blob; return data, blobs, and whether the first is the data."""
        if len(pickled.data) < 1 << 20:
            return pickled.data, tuple(blobs), False
        return b"", (self._blobs.intern(pickled.data), *blobs), True

    def arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> tuple[bytes, tuple[Blob, ...], bool, dict[str, Source]]:
        """Pickle a call's arguments. Raises SerializationError naming the path to what can't be."""
        try:
            pickled = dumps_call(args, kwargs, is_project_module=self._project.is_project_module)
            modules = self.sources(pickled) if pickled.modules or pickled.classes else {}
        except UsageError:  # says what to do
            raise
        except Exception as error:
            raise self._explain(error, args, kwargs, name) from error
        if not pickled.buffers and len(pickled.data) < 1 << 20:
            return pickled.data, (), False, modules
        data, blobs, is_blob = self.store(pickled, [self._blobs.intern(buffer) for buffer in pickled.buffers])
        return data, blobs, is_blob, modules

    def sources(self, pickled: Pickled) -> dict[str, Source]:
        """Return the modules and classes that a pickle names, and all that those need."""
        modules = set(pickled.modules)
        found: dict[str, Source] = {}
        todo = list(pickled.classes)
        while todo:
            kind = todo.pop()
            number = class_id(kind)
            if number in found:
                continue
            now = fingerprint(kind)
            known = self._by_class.get(kind)
            if known is None or known[0] != now:
                whole = dumps(
                    kind, is_project_module=self._project.is_project_module, name_classes=True, in_band=True
                )
                needs = (frozenset(map(weakref.ref, whole.classes)), whole.modules)
                known = self._by_class[kind] = (now, Definition(number, whole.data), *needs)
            found[number] = known[1]
            todo += [other for ref in known[2] if (other := ref()) is not None]
            modules |= known[3]
        return {**found, **self._project.closure(modules)}

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
