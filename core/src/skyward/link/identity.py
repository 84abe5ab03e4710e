"""What stays itself on both sides: classes that can't be imported, functions of ``__main__``, exceptions.

- A class that goes by value has an id in every process; ``known_class`` finds it again, or makes it from its
  definition.
- A function of the client's ``__main__`` that a node sends back is found there by its name.
- An exception is put together without its own ``__init__``, which may want other arguments than it keeps.

Imported by ``skyward.link.pickling`` and ``skyward.link.modules``; safe from any thread.
"""

from __future__ import annotations

import pickle
import sys
import threading
import weakref
from collections import OrderedDict
from types import CodeType, FunctionType
from typing import Any

import cloudpickle.cloudpickle

_cloudpickle: Any = cloudpickle.cloudpickle
"""It comes without types, and keeps to itself what we share with it, such as which class has which id."""

CLASSES_KEPT = 1000
"""Classes that stay known after they were sent though nobody here uses them: a result may name them."""


def main_function(qualname: str, name: str, line: int) -> Any:
    """Find the function of the client's ``__main__`` that a node names, under whatever decorates it."""
    value: Any = sys.modules["__main__"]
    for part in qualname.split("."):
        value = getattr(value, part)
    outermost = value
    while value is not None:
        code = getattr(value, "__code__", None)
        if code is not None and (code.co_name, code.co_firstlineno) == (name, line):
            return value
        value = getattr(value, "_skyward_body", None) or getattr(value, "__wrapped__", None)
    return outermost


def global_names(code: CodeType) -> list[str]:
    """Return the names of the globals that ``code`` and the code inside it use."""
    return list(_cloudpickle._extract_code_globals(code))


# Classes that go by value. cloudpickle gives each an id and remembers both, weakly; the ids are ours to use
# too.

_kept: OrderedDict[type, None] = OrderedDict()
made_here: weakref.WeakSet[type] = weakref.WeakSet()
_definitions: dict[str, bytes] = {}
_changed: set[str] = set()
_definitions_lock = threading.RLock()


def is_dynamic(kind: type) -> bool:
    """Whether a class can't be imported: made in ``__main__`` or in a function."""
    return kind.__module__ == "__main__" or "<locals>" in kind.__qualname__


def class_id(kind: type) -> str:
    """Return the id under which every process knows ``kind``."""
    number: str = _cloudpickle._get_or_create_tracker_id(kind)
    return number


def sent_as(kind: type) -> str | None:
    """Return the id under which ``kind`` has crossed, in either direction; None if it never has."""
    number: str | None = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(kind)
    return number


def keep(kind: type) -> None:
    if kind in _kept:
        return
    with _definitions_lock:
        _kept[kind] = None
        if len(_kept) > CLASSES_KEPT:
            _kept.popitem(last=False)


def known_class(number: str, name: str) -> type:
    """Return the class with that id: the one that is here, or made from the definition that came before."""
    with _definitions_lock:
        kind: type | None = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(number)
        if kind is not None and number not in _changed:
            return kind
        _changed.discard(number)  # first, because the definition may name the class itself
        definition = _definitions.get(number)
        if definition is None:
            raise LookupError(f"the class {name!r}, which was sent earlier, is gone")
        made: type = pickle.loads(definition)
        keep(made)
        return made


def dynamic_classes() -> dict[str, type]:
    """Return every class that is known under an id here."""
    return dict(_cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID)


def add_definition(number: str, definition: bytes) -> None:
    """Take the pickle of a class; it is loaded when something names the class."""
    with _definitions_lock:
        if number in _definitions and _definitions[number] != definition:
            _changed.add(number)
        _definitions[number] = definition


def bare_exception(kind: Any, *args: object) -> Any:
    """Make an exception of a class without running any code of that class."""
    return _first_builtin(kind, "__new__")(kind, *args)


def _first_builtin(kind: type, method: str) -> Any:
    for base in kind.__mro__:
        found = base.__dict__.get(method)
        if found is not None and not isinstance(found, (FunctionType, staticmethod)):
            return found
    raise LookupError(method)  # not reached: object has both


def reduce_exception(error: BaseException) -> tuple[Any, ...] | None:
    """Take apart an exception whose ``__init__`` is the user's, so that it need not be called again."""
    kind: Any = type(error)
    if not isinstance(kind.__init__, FunctionType) and not isinstance(kind.__new__, FunctionType):
        return None
    if kind.__reduce_ex__ is not object.__reduce_ex__:
        return None
    if isinstance(kind.__reduce__, FunctionType):
        return None  # the user's own way to be pickled
    reduced: Any = error.__reduce__()
    return _make_exception, (kind, *reduced[1:])


def _make_exception(kind: Any, args: tuple[Any, ...], state: dict[str, Any] | None = None) -> BaseException:
    error: BaseException = bare_exception(kind, *args)
    _first_builtin(kind, "__init__")(error, *args)  # sets what is not in __dict__
    if state:
        error.__dict__.update(state)
    return error
