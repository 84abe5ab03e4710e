"""How Python objects cross: which code goes by value, which by name, and which bytes go beside the pickle.

- What lives in an installed package is pickled by name: the node has the package.
- What lives in ``__main__`` (a script, a notebook) or inside a function goes by value, through cloudpickle.
- What lives in a module of the user's project goes by name, and the module's source goes along
  (``skyward.link.modules``): the node imports the real module, once, so that its classes, its state and its
  relative imports are what they are here.
- On the way back, what came from the client's ``__main__`` is named, not sent: a class is the same class again.
- A buffer of 1 MiB or more (arrays, tensors, long bytes) is taken out of the pickle and becomes a blob.

Used by the engine and by the worker, on whatever thread holds the objects.
"""

from __future__ import annotations

import io
import pickle
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle

from skyward.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BLOB_MIN = 1 << 20
"""Smaller buffers stay in the pickle: a blob costs a descriptor and a system call or two, a copy of this much 0.1 ms."""

_ATOMS = frozenset({int, float, bool, type(None), str, bytes, complex})


class Pickler(cloudpickle.Pickler):
    """cloudpickle with our rules on modules. ``modules`` collects the project modules that were named."""

    def __init__(
        self,
        file: io.BytesIO,
        *,
        buffer_callback: Callable[[pickle.PickleBuffer], Any],
        is_project_module: Callable[[str], bool],
        modules: set[str],
        main_by_name: bool,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._is_project_module = is_project_module
        self._modules = modules
        self._main_by_name = main_by_name

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)):
            module = obj.__module__
            if self._main_by_name and module == "__main__" and "<locals>" not in obj.__qualname__:
                if obj.__name__ != "<lambda>":
                    return main_attribute, (obj.__qualname__,)
            elif module is not None and self._is_project_module(module):
                self._modules.add(module)
        elif hasattr(type(obj), "_skyward_decorated"):
            named = self._named_function(obj)
            if named is not None:
                return named
        elif isinstance(obj, ModuleType):
            if self._is_project_module(obj.__name__):
                self._modules.add(obj.__name__)
                return _import_module, (obj.__name__,)
        return super().reducer_override(obj)

    def _named_function(self, function: Any) -> Any:
        """Name a decorated function of a project module: there, the name means the wrapper, not the plain function."""
        module, qualname = function.__module__, function.__qualname__
        if module in (None, "__main__") or "<locals>" in qualname or not self._is_project_module(module):
            return None
        value: Any = sys.modules.get(module)
        for part in qualname.split("."):
            value = getattr(value, part, None)
        if value is not function:
            return None
        self._modules.add(module)
        return _module_attribute, (module, qualname)


def _module_attribute(module: str, qualname: str) -> Any:
    value: Any = _import_module(module)
    for part in qualname.split("."):
        value = getattr(value, part)
    return value


def _import_module(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(name)


def main_attribute(qualname: str) -> Any:
    """Find on the client what a node names in the client's ``__main__``."""
    value: Any = sys.modules["__main__"]
    for part in qualname.split("."):
        value = getattr(value, part)
    return value


class Bulk:
    """Carries long ``bytes`` or ``bytearray`` out of band; unpickles to the plain object, one copy."""

    __slots__ = ("value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _from_bulk, (type(self.value), pickle.PickleBuffer(self.value))


def _from_bulk(kind: type[bytes] | type[bytearray], buffer: Any) -> bytes | bytearray:
    return kind(buffer)


def is_atomic(value: object) -> bool:
    """Whether plain pickle does the same as ours for ``value``, and much faster."""
    kind = type(value)
    if kind in _ATOMS:
        return not isinstance(value, (bytes, str)) or len(value) < BLOB_MIN
    if isinstance(value, (tuple, list)) and (kind is tuple or kind is list):
        return len(value) < 16 and all(type(item) in _ATOMS for item in value) and len(str(value)) < BLOB_MIN
    return False


_EMPTY_CALL = pickle.dumps(((), {}), protocol=5)


def no_project_module(name: str) -> bool:
    """The answer where nothing is shipped: a node sends values, not code."""
    return False


class Pickled:
    """A pickle and what hangs on it. ``buffers``: taken out of band, in the order the unpickler wants them."""

    __slots__ = ("buffers", "data", "modules")

    def __init__(self, data: bytes, buffers: Sequence[memoryview] = (), modules: Iterable[str] = ()) -> None:
        self.data = data
        self.buffers = tuple(buffers)
        self.modules = frozenset(modules)


def dumps(
    value: object,
    *,
    is_project_module: Callable[[str], bool] = no_project_module,
    main_by_name: bool = False,
) -> Pickled:
    """Pickle ``value``. Raises whatever its classes raise; callers turn that into ``explain``."""
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
    modules: set[str] = set()
    pickler = Pickler(
        file,
        buffer_callback=take,
        is_project_module=is_project_module,
        modules=modules,
        main_by_name=main_by_name,
    )
    pickler.dump(value)
    return Pickled(file.getvalue(), buffers, modules)


def dumps_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, is_project_module: Callable[[str], bool]
) -> Pickled:
    """Pickle the arguments of a call; the common small ones without cloudpickle (2 µs instead of 30)."""
    if not args and not kwargs:
        return Pickled(_EMPTY_CALL)
    if all(map(is_atomic, args)) and all(map(is_atomic, kwargs.values())):
        return Pickled(pickle.dumps((args, kwargs), protocol=5))
    if any(type(a) in (bytes, bytearray) and len(a) >= BLOB_MIN for a in (*args, *kwargs.values())):
        args = tuple(map(_bulk, args))
        kwargs = {name: _bulk(value) for name, value in kwargs.items()}
    return dumps((args, kwargs), is_project_module=is_project_module)


def dumps_value(value: object) -> Pickled:
    """Pickle a result on the node, for the client."""
    if is_atomic(value):
        return Pickled(pickle.dumps(value, protocol=5))
    return dumps(_bulk(value), main_by_name=True)


def _bulk(value: Any) -> Any:
    return Bulk(value) if type(value) in (bytes, bytearray) and len(value) >= BLOB_MIN else value


def loads(data: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    return pickle.loads(data, buffers=buffers) if buffers else pickle.loads(data)


def explain(error: BaseException, value: object, root: str, task: str, doing: str) -> SerializationError:
    """Turn a pickling failure into one that names the path to the culprit, such as ``args[0]['lock']``."""
    path, culprit = _find_culprit(value, root, set(), 0) or (root, value)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    return SerializationError(
        f"can't send {doing} {task}(): {path} is a {kind}, which can't be pickled ({reason}); "
        "leave it out and make it inside the function",
        path=path,
        task=task,
    )


def _find_culprit(value: Any, path: str, seen: set[int], depth: int) -> tuple[str, Any] | None:
    """Depth-first search for the deepest part that fails on its own. Best effort: bounded in depth and size."""
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
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in list(value.items())[:limit])
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value[:limit]))
    elif isinstance(value, (set, frozenset)):
        yield from (("{…}", part) for part in list(value)[:limit])
    elif isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        for name, cell in zip(value.__code__.co_freevars, cells, strict=False):
            try:
                yield f".<{name}>", cell.cell_contents
            except ValueError:  # a cell that is not filled yet
                continue
        for name in value.__code__.co_names:
            if name in value.__globals__:
                yield f".<global {name}>", value.__globals__[name]
    elif getattr(value, "__self__", None) is not None and not isinstance(value.__self__, ModuleType):
        yield ".__self__", value.__self__
    else:
        yield from ((f".{name}", part) for name, part in list(getattr(value, "__dict__", {}).items())[:limit])
        for name in getattr(type(value), "__slots__", ()):
            if isinstance(name, str) and hasattr(value, name):
                yield f".{name}", getattr(value, name)
