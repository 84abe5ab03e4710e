"""How Python objects cross: which code goes by value, which by name, and which bytes go beside the pickle.

- What lives in an installed package is pickled by name: the node has the package.
- What lives in ``__main__`` (a script, a notebook) or inside a function goes by value, through cloudpickle.
- What lives in a module of the user's project goes by name, and the module's source goes along
  (``skyward.link.modules``): the node imports the real module, once, so that its classes, its state and its
  relative imports are what they are here.
- A class that goes by value has an id; among arguments only the id goes, and each process gets the class
  once. On the way back, too, it is named, not sent: a class is the same class again.
- An exception is taken apart and put together without its own ``__init__``, which may want other arguments.
- A buffer of 1 MiB or more (arrays, tensors, long bytes) is taken out of the pickle and becomes a blob.

Used by the engine and by the worker, on whatever thread holds the objects.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from skyward.errors import SerializationError
from skyward.link.identity import (
    class_id,
    global_names,
    is_dynamic,
    keep,
    known_class,
    made_here,
    main_function,
    reduce_exception,
    sent_as,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pickle import Pickler as _Base  # cloudpickle's is one, and comes without types
else:
    from cloudpickle import Pickler as _Base

BLOB_MIN = 1 << 20
"""Smaller buffers stay in the pickle: a blob costs a descriptor and system calls."""

_ATOMS: frozenset[type] = frozenset({int, float, bool, type(None), str, bytes, complex})


class Pickler(_Base):
    """cloudpickle with our rules. ``modules`` collects the project modules that were named, ``files`` where
    the functions that go by value were written, ``classes`` the classes that go by value, where only their
    ids are wanted.

    ``to_client``: what came from there is named.
    """

    def __init__(
        self,
        file: io.BytesIO,
        *,
        buffer_callback: Callable[[pickle.PickleBuffer], Any] | None,
        is_project_module: Callable[[str], bool],
        to_client: bool,
        name_classes: bool,
        root: Any,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.modules: set[str] = set()
        self.classes: set[type] = set()
        self.files: set[str] = set()
        self._is_project_module = is_project_module
        self._to_client = to_client
        self._name_classes = name_classes
        self._root = root

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            return self._reduce_class(obj)  # pyright: ignore[reportUnknownArgumentType]  (of an Any)
        if isinstance(obj, FunctionType):
            return self._reduce_function(obj)
        if isinstance(obj, BaseException):
            reduced = reduce_exception(obj)
            if reduced is not None:
                return reduced
        elif hasattr(obj.__class__, "_skyward_decorated"):
            named = self._named_function(obj)
            if named is not None:
                return named
        elif isinstance(obj, ModuleType) and self._is_project_module(obj.__name__):
            self.modules.add(obj.__name__)
            return _import_module, (obj.__name__,)
        return super().reducer_override(obj)

    def _reduce_class(self, obj: type) -> Any:
        if self._to_client:
            number = sent_as(obj) if obj not in made_here else None
            if number is not None:
                return known_class, (number, obj.__name__)
            made_here.add(obj)  # first, because cloudpickle is about to give it an id
        elif is_dynamic(obj):
            keep(obj)
            if self._name_classes and obj is not self._root:
                self.classes.add(obj)
                return known_class, (class_id(obj), obj.__name__)
        self._note(obj.__module__)
        return super().reducer_override(obj)

    def _reduce_function(self, obj: FunctionType) -> Any:
        if self._to_client and obj.__module__ == "__main__" and "<" not in obj.__qualname__:
            return main_function, (obj.__qualname__, obj.__code__.co_name, obj.__code__.co_firstlineno)
        self._note(obj.__module__)
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented:
            self.files.add(obj.__code__.co_filename)
        return reduced

    def _note(self, module: str | None) -> None:
        if module is not None and self._is_project_module(module):
            self.modules.add(module)

    def _named_function(self, function: Any) -> Any:
        """Name a decorated function of a project module: there, the name means the wrapper."""
        module = getattr(function, "__module__", None)
        qualname = getattr(function, "__qualname__", "<locals>")
        if module in (None, "__main__") or "<locals>" in qualname:
            return None
        if not self._to_client and not self._is_project_module(module):
            return None
        value: Any = sys.modules.get(module)
        for part in qualname.split("."):
            value = getattr(value, part, None)
        if value is not function:
            return None
        self._note(module)
        return _module_attribute, (module, qualname)


def _module_attribute(module: str, qualname: str) -> Any:
    value: Any = _import_module(module)
    for part in qualname.split("."):
        value = getattr(value, part)
    return value


def _import_module(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(name)


class Bulk:
    """Carries long ``bytes`` or ``bytearray`` out of band; unpickles to the plain object, one copy."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _from_bulk, (type(self.value), pickle.PickleBuffer(self.value))


def _from_bulk(kind: type[bytes] | type[bytearray], buffer: Any) -> bytes | bytearray:
    return kind(buffer)


def is_atomic(value: Any) -> bool:
    """Whether plain pickle does the same as ours for ``value``, and much faster."""
    known: object = value  # the type of Any is known to nobody
    kind = type(known)
    if kind in _ATOMS:
        return not isinstance(value, (bytes, str)) or len(value) < BLOB_MIN
    if kind is tuple or kind is list:
        return len(value) < 16 and all(type(item) in _ATOMS for item in value) and len(str(value)) < BLOB_MIN
    return False


_EMPTY_CALL = pickle.dumps(((), {}), protocol=5)


def no_project_module(name: str) -> bool:
    """The answer where nothing is shipped: a node sends values, not code."""
    return False


class Pickled:
    """A pickle and what hangs on it. ``buffers``: taken out of band, in the order the unpickler wants them.

    For the rest see ``Pickler``.
    """

    __slots__ = ("buffers", "classes", "data", "files", "modules")

    def __init__(self, data: bytes, buffers: Sequence[memoryview] = (), found: Pickler | None = None) -> None:
        self.data = data
        self.buffers = tuple(buffers)
        self.modules: frozenset[str] = frozenset(found.modules) if found else frozenset()
        self.classes: frozenset[type] = frozenset(found.classes) if found else frozenset()
        self.files: frozenset[str] = frozenset(found.files) if found else frozenset()


def dumps(
    value: object,
    *,
    is_project_module: Callable[[str], bool] = no_project_module,
    to_client: bool = False,
    name_classes: bool = False,
    in_band: bool = False,
) -> Pickled:
    """Pickle ``value``. Raises whatever its classes raise; callers turn that into ``explain``.

    ``name_classes``: classes that go by value are only named, other than ``value`` itself. ``in_band``: no
    buffer is taken out.
    """
    buffers: list[memoryview] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous: only the object itself knows how to flatten it
            return True
        if raw.nbytes < BLOB_MIN:
            return True
        buffers.append(raw)
        return False

    file = io.BytesIO()
    pickler = Pickler(
        file,
        buffer_callback=None if in_band else take,
        is_project_module=is_project_module,
        to_client=to_client,
        name_classes=name_classes,
        root=value,
    )
    pickler.dump(value)
    return Pickled(file.getvalue(), buffers, pickler)


def dumps_small(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle the arguments of a call that are all atomic: by plain pickle, which is quicker."""
    return pickle.dumps((args, kwargs), protocol=5) if args or kwargs else _EMPTY_CALL


def dumps_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, is_project_module: Callable[[str], bool]
) -> Pickled:
    """Pickle the arguments of a call."""
    if any(type(a) in (bytes, bytearray) and len(a) >= BLOB_MIN for a in (*args, *kwargs.values())):
        args = tuple(map(_bulk, args))
        kwargs = {name: _bulk(value) for name, value in kwargs.items()}
    return dumps((args, kwargs), is_project_module=is_project_module, name_classes=True)


def dumps_value(value: object) -> Pickled:
    """Pickle a result on the node, for the client."""
    if is_atomic(value):
        return Pickled(pickle.dumps(value, protocol=5))
    return dumps(_bulk(value), to_client=True)


def _bulk(value: Any) -> Any:
    return Bulk(value) if type(value) in (bytes, bytearray) and len(value) >= BLOB_MIN else value


def loads(data: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    return pickle.loads(data, buffers=buffers) if buffers else pickle.loads(data)


_HINTS = {"back the result of": "return what can be", "back an item of": "yield what can be"}


def explain(error: BaseException, value: object, root: str, task: str, doing: str) -> SerializationError:
    """Turn a pickling failure into one that names the path to the culprit, such as ``args[0]['lock']``."""
    path, culprit = _find_culprit(value, root, set(), 0) or (root, value)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    hint = _HINTS.get(doing, "leave it out and make it inside the function")
    return SerializationError(
        f"can't send {doing} {task}(): {path} is a {kind}, which can't be pickled ({reason}); {hint}",
        path=path,
        task=task,
    )


def _find_culprit(value: Any, path: str, seen: set[int], depth: int) -> tuple[str, Any] | None:
    """Search, depth first, for the deepest part that fails on its own. Bounded in depth and size."""
    if id(value) in seen or depth > 8 or _picklable(value):
        return None
    seen.add(id(value))
    for name, part in _parts(value):
        found = _find_culprit(part, path + name, seen, depth + 1)
        if found:
            return found
    return path, value


def _picklable(value: Any) -> bool:
    try:
        dumps(value)
    except Exception:
        return False
    return True


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    limit = 1000
    known: object = value  # the type of Any is known to nobody
    kind = type(known)
    if issubclass(kind, dict):
        for key, part in list(value.items())[:limit]:
            yield f"[{key!r:.40}]", part
            yield ".<key>", key
    elif issubclass(kind, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value[:limit]))
    elif issubclass(kind, (set, frozenset)):
        yield from (("{…}", part) for part in list(value)[:limit])
    elif issubclass(kind, FunctionType):
        yield from _parts_of_function(value)
    elif getattr(value, "_skyward_decorated", False):
        yield from _parts_of_function(value._skyward_body)
    elif issubclass(kind, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif getattr(value, "__self__", None) is not None and not isinstance(value.__self__, ModuleType):
        yield ".__self__", value.__self__
    elif not kind.__module__.startswith("skyward."):  # what hangs on ours is none of the user's business
        yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items())[:limit])
        for name in getattr(kind, "__slots__", ()):
            if isinstance(name, str) and hasattr(value, name):
                yield f".{name}", getattr(value, name)
        if is_dynamic(kind):
            yield f".<class {kind.__name__}>", kind


def _parts_of_function(function: Any) -> Iterable[tuple[str, Any]]:
    cells = getattr(function, "__closure__", None) or ()
    for name, cell in zip(function.__code__.co_freevars, cells, strict=False):
        try:
            yield f".<{name}>", cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    for name in global_names(function.__code__):
        if name in function.__globals__:
            yield f".<global {name}>", function.__globals__[name]
    yield ".<defaults>", function.__defaults__
    yield ".<defaults>", function.__kwdefaults__
