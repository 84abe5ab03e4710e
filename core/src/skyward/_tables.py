"""TOML tables that remember which file each key was written in, so that an error can say where to look.

Two files are merged key by key, the later one winning; arrays are replaced as a whole. Two tables whose
``type`` differs are two different things, so the later one replaces the earlier. Imported by ``config`` only.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from skyward.errors import ConfigError, UnknownNameError

_LINE = re.compile(r"\s*\(at line (\d+), column \d+\)$")
_FIRST_WORD = re.compile(r"\w+")


class Table:
    """One table. ``name`` is its heading, as ``pools.train.image``; ``files`` are those that wrote in it."""

    __slots__ = ("_origins", "files", "name", "values")

    def __init__(
        self, name: str, values: Mapping[str, object], origins: Mapping[str, str], files: tuple[str, ...]
    ) -> None:
        self.name = name
        self.values = dict(values)
        self.files = files
        self._origins = dict(origins)

    @classmethod
    def of(cls, name: str, raw: Mapping[str, object], file: str) -> Table:
        """Wrap what the TOML parser returned, tables in tables included."""
        prefix = f"{name}." if name else ""
        values = {key: _wrap(f"{prefix}{key}", value, file) for key, value in raw.items()}
        return cls(name, values, dict.fromkeys(values, file), (file,))

    def under(self, later: Table) -> Table:
        """Return this table with ``later`` merged over it."""
        if "type" in self.values and self.values["type"] != later.values.get("type", self.values["type"]):
            return later
        values = dict(self.values)
        for key, value in later.values.items():
            mine = values.get(key)
            if isinstance(mine, Table) and isinstance(value, Table):
                value = mine.under(value)
            values[key] = value
        files = tuple(dict.fromkeys((*self.files, *later.files)))
        return Table(self.name, values, {**self._origins, **later._origins}, files)

    def where(self, key: str = "") -> str:
        """Return file and heading, for messages; the file is the one that wrote ``key``, if that is known."""
        return f"{self._origins.get(key) or ' and '.join(self.files)} [{self.name}]"

    def error(self, message: str, key: str = "") -> ConfigError:
        """Return an error about this table, or about one key of it."""
        return ConfigError(f"{self.where(key)}: {message}")

    def refused(self, error: Exception) -> ConfigError:
        """Return what a constructor said as an error about this table.

        Our own constructors begin with the field's name; if it is a key here, its file is named.
        """
        word = _FIRST_WORD.match(str(error))
        return self.error(str(error), word[0] if word else "")

    def only(self, known: Iterable[str]) -> None:
        """Require that every key is one of ``known``."""
        names = tuple(known)
        for key in self.values:
            if key not in names:
                raise UnknownNameError("key", key, names, where=self.where(key))

    def table(self, key: str) -> Table:
        """Return the table under ``key``."""
        value = self.values[key]
        if not isinstance(value, Table):
            raise self.error(f"{key} must be a table", key)
        return value

    def tables(self, key: str) -> list[Table]:
        """Return the array of tables under ``key``."""
        value = self.values[key]
        items = cast("list[object]", value) if isinstance(value, list) else [None]
        if not all(isinstance(item, Table) for item in items):
            raise self.error(f"{key} must be an array of tables: [[{self.name}.{key}]]", key)
        return cast("list[Table]", items)

    def text(self, key: str, example: str) -> str:
        """Return the string under ``key``."""
        value = self.values[key]
        if not isinstance(value, str):
            raise self.error(f"{key} must be a string such as {example!r}", key)
        return value

    def plain(self, *, without: Collection[str] = ()) -> dict[str, Any]:
        """Return the contents as the TOML parser gave them."""
        return {key: _unwrap(value) for key, value in self.values.items() if key not in without}

    def build[T](self, make: Callable[..., T], arguments: Mapping[str, object]) -> T:
        """Call ``make``; what it refuses, or lacks, is an error about this table."""
        for name, parameter in _parameters(make).items():
            if parameter.default is parameter.empty and name not in arguments:
                raise self.error(f"the key {name!r} is missing")
        try:
            return make(**arguments)
        except (TypeError, ValueError) as error:
            raise self.refused(error) from error

    def fill[T](self, make: Callable[..., T], *, without: Collection[str] = (), frozen: bool = False) -> T:
        """Call ``make`` with the keys of this table; ``frozen``: arrays as tuples."""
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(make).parameters.values()):
            known = (*self.values,)
        else:
            known = (*_parameters(make), *without)
        self.only(known)
        arguments = self.plain(without=without)
        return self.build(make, _freeze(arguments) if frozen else arguments)


def read(path: Path) -> Table | None:
    """Return the contents of a TOML file, or None if it isn't there."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from error
    try:
        raw = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8, which TOML requires") from error
    except tomllib.TOMLDecodeError as error:
        at = _LINE.search(str(error))
        # Without a line, the parser ran into the end of the file.
        line = int(at[1]) if at else data.rstrip().count(b"\n") + 1
        what = _LINE.sub("", str(error)).replace(" (at end of document)", "")
        raise ConfigError(f"{path}, line {line}: {what}") from error
    return Table.of("", raw, str(path))


def keywords(make: Callable[..., object]) -> tuple[str, ...]:
    """Return the names that ``make`` takes as keywords; for a dataclass, its fields."""
    return tuple(_parameters(make))


def _parameters(make: Callable[..., object]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(make).parameters
    return {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _wrap(name: str, value: object, file: str) -> object:
    if isinstance(value, dict):
        return Table.of(name, cast("dict[str, object]", value), file)
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [_wrap(f"{name} {number}", item, file) for number, item in enumerate(items, 1)]
    return value


def _unwrap(value: object) -> object:
    if isinstance(value, Table):
        return value.plain()
    if isinstance(value, list):
        return [_unwrap(item) for item in cast("list[object]", value)]
    return value


def _freeze[T](value: T) -> T:
    """Return ``value`` with every array as a tuple."""
    if isinstance(value, dict):
        return cast("T", {key: _freeze(item) for key, item in cast("dict[str, object]", value).items()})
    if isinstance(value, list):
        return cast("T", tuple(_freeze(item) for item in cast("list[object]", value)))
    return value
