"""Checks that a value's own constructor makes, so that a mistake is an error where it was written.

A wrong *type* is a ``UsageError`` (TypeError), a wrong *value* a ``ConfigError`` (ValueError). Every message
starts with the field's name, says what is right, then what was given; ``skyward.config`` relies on the name
coming first. Imported by the modules of values only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from skyward.errors import ConfigError, UsageError, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

type Many[T] = list[T] | tuple[T, ...]
"""What a caller may write where a tuple is kept. Not ``Iterable``: that would let a bare ``str`` through."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CUDA = re.compile(r"\d+\.\d+")


def wrong_type(field: str, wanted: str, value: object) -> NoReturn:
    """Raise the error for a value of another type than ``wanted``."""
    raise UsageError(f"{field} must be {wanted}, not {value!r}")


def number(field: str, value: object, *, least: float | None = None, above: float | None = None) -> None:
    """Require a finite number, at least ``least``, or more than ``above``."""
    bound = (
        f" of {least:g} or more" if least is not None else f" above {above:g}" if above is not None else ""
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(field, f"a number{bound}", value)
    # Written so that NaN, which compares false with everything, fails too.
    big_enough = value >= least if least is not None else value > above if above is not None else True
    if not (big_enough and abs(value) < float("inf")):
        raise ConfigError(f"{field} must be a number{bound}, not {value!r}")


def whole(field: str, value: object, *, least: int) -> None:
    """Require an ``int`` of at least ``least``; ``True`` is no number here."""
    if isinstance(value, bool) or not isinstance(value, int):
        wrong_type(field, f"a whole number of {least} or more", value)
    if value < least:
        raise ConfigError(f"{field} must be a whole number of {least} or more, not {value}")


def flag(field: str, value: object) -> None:
    """Require ``True`` or ``False``."""
    if not isinstance(value, bool):
        wrong_type(field, "True or False", value)


def text(field: str, value: object) -> None:
    """Require a string with something in it."""
    if not isinstance(value, str):
        wrong_type(field, "a string", value)
    if not value.strip():
        raise ConfigError(f"{field} must not be empty")


def choice(field: str, value: object, valid: Iterable[str]) -> None:
    """Require one of ``valid``; the message lists them and the nearest."""
    names = tuple(valid)
    listed = ", ".join(repr(name) for name in names)
    if not isinstance(value, str):
        wrong_type(field, f"one of {listed}", value)
    if value not in names:
        close = nearest(value, names, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{field} must be one of {listed}, not {value!r}{hint}")


def instance(field: str, value: object, kind: type, how: str) -> None:
    """Require an instance of ``kind``; ``how`` shows the user what to write."""
    if not isinstance(value, kind):
        wrong_type(field, how, value)


def strings(field: str, values: object) -> tuple[str, ...]:
    """Return a list or tuple of non-empty strings as a tuple."""
    result = sequence(field, values, "strings", '["…"]')
    for index, value in enumerate(result):
        text(f"{field}[{index}]", value)
    return tuple(str(value) for value in result)


def instances[T](field: str, values: object, kind: type[T], how: str) -> tuple[T, ...]:
    """Return a list or tuple of instances of ``kind`` as a tuple; ``how`` shows one."""
    result: list[T] = []
    for index, value in enumerate(sequence(field, values, f"{kind.__name__} values", f"[{how}]")):
        if not isinstance(value, kind):
            wrong_type(f"{field}[{index}]", how, value)
        result.append(value)
    return tuple(result)


def sequence(field: str, values: object, what: str, how: str) -> tuple[object, ...]:
    """Return a list or tuple as a tuple. A lone string or value is an error, never wrapped silently."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        wrong_type(field, f"a list or tuple of {what}, such as {how}", values)
    return tuple(values)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  # elements: checked by the caller


def environment(field: str, values: object) -> dict[str, str]:
    """Return a mapping of environment variables as a dict. Values may be secrets: no message shows one."""
    if not isinstance(values, Mapping):
        raise UsageError(f'{field} must be a mapping of strings, such as {{"NAME": "value"}}')
    result: dict[str, str] = {}
    for name, value in values.items():  # pyright: ignore[reportUnknownVariableType]  # checked right here
        if not isinstance(name, str) or not isinstance(value, str):
            kind = type(value).__name__  # pyright: ignore[reportUnknownArgumentType]  # any value has a type
            raise UsageError(f"{field}[{name!r}] must be a string, not of type {kind}")
        if not _ENV_NAME.fullmatch(name):
            raise ConfigError(
                f"{field}: {name!r} can't name a variable: letters, digits and _, no digit first"
            )
        if "\0" in value:
            raise ConfigError(f"{field}[{name!r}] contains a NUL character, which no environment can hold")
        result[name] = value
    return result


def cuda_version(field: str, value: object) -> tuple[int, int]:
    """Return ``"12.8"`` as ``(12, 8)``."""
    if not isinstance(value, str):
        wrong_type(field, "a string such as '12.8'", value)
    if not _CUDA.fullmatch(value):
        raise ConfigError(f"{field} must look like '12.8', not {value!r}")
    major, minor = value.split(".")
    return int(major), int(minor)


def assign(self: object, **values: object) -> None:
    """Set fields of a frozen dataclass from inside its own constructor."""
    for name, value in values.items():
        object.__setattr__(self, name, value)
