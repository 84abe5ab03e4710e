"""What a node's environment is made of, as one immutable value with a stable hash.

Equal images have equal hashes, in every process and on every machine. What the hash leaves out is what the
environment does not depend on: the metrics that are read, and how long building may take.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args
from urllib.parse import urlsplit

from skyward import _check
from skyward import metrics as _metrics
from skyward._check import Many
from skyward.errors import ConfigError
from skyward.metrics import Metric

SkywardSource = Literal["auto", "pypi", "github", "local"]
"""Where a node gets Skyward from. "auto": exactly the distributions that this client runs."""

_PYTHON = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_OLDEST_PYTHON = (3, 12)  # what skyward-core, which every node runs, requires
_HASH_DIGITS = 12


class Environment(Mapping[str, str]):
    """A frozen copy of environment variables: hashable, picklable, equal to a dict of the same items.

    Its ``repr`` shows the names only, because values are often secrets.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: …" for name in self._values) + "}"


_NO_VARIABLES = Environment({})
_DEFAULT_METRICS = _metrics.Default()


@dataclass(frozen=True, slots=True, init=False)
class PipIndex:
    """A package index besides PyPI; ``packages`` come from it and from nowhere else."""

    url: str
    packages: tuple[str, ...]

    def __init__(self, url: str, packages: Many[str] = ()) -> None:
        _check.text("url", url)
        if not urlsplit(url).scheme:
            raise ConfigError("url must be a full URL such as 'https://host/simple'")
        _check.assign(self, url=url, packages=_check.strings("packages", packages))

    def __repr__(self) -> str:
        """Hide a user and password in the URL, which private indexes put there."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        shown = parts._replace(netloc=f"…@{host}" if "@" in parts.netloc else host).geturl()
        return f"PipIndex(url={shown!r}, packages={self.packages!r})"


@dataclass(frozen=True, slots=True, init=False)
class Image:
    """The environment of every node of a pool.

    ``python``: "auto" is the client's minor version. ``pip``: requirements; ``pip_indexes``: where some of
    them come from; ``apt``: system packages. ``env``: variables, taken literally; ``shell_vars``: variables
    whose value is what a shell line prints on the node. ``includes``: files and folders to bring along,
    ``excludes``: glob patterns among them to leave out. ``metrics``: None reads none. ``bootstrap_timeout``:
    seconds from the last progress.
    """

    python: str
    pip: tuple[str, ...]
    pip_indexes: tuple[PipIndex, ...]
    apt: tuple[str, ...]
    env: Mapping[str, str]
    shell_vars: Mapping[str, str]
    includes: tuple[str, ...]
    excludes: tuple[str, ...]
    skyward_source: SkywardSource
    metrics: tuple[Metric, ...]
    bootstrap_timeout: float

    # Written out so that it takes lists and keeps tuples, and type checkers know both.
    def __init__(
        self,
        python: str = "auto",
        pip: Many[str] = (),
        pip_indexes: Many[PipIndex] = (),
        apt: Many[str] = (),
        env: Mapping[str, str] = _NO_VARIABLES,
        shell_vars: Mapping[str, str] = _NO_VARIABLES,
        includes: Many[str] = (),
        excludes: Many[str] = (),
        skyward_source: SkywardSource = "auto",
        metrics: Many[Metric] | None = _DEFAULT_METRICS,
        bootstrap_timeout: float = 300.0,
    ) -> None:
        _check_python(python)
        _check.choice("skyward_source", skyward_source, get_args(SkywardSource))
        _check.number("bootstrap_timeout", bootstrap_timeout, above=0)
        _check.assign(
            self,
            python=python,
            pip=_check.strings("pip", pip),
            pip_indexes=_check.instances("pip_indexes", pip_indexes, PipIndex, 'sky.PipIndex("https://…")'),
            apt=_check.strings("apt", apt),
            env=Environment(_check.environment("env", env)),
            shell_vars=Environment(_check.environment("shell_vars", shell_vars)),
            includes=_check.strings("includes", includes),
            excludes=_check.strings("excludes", excludes),
            skyward_source=skyward_source,
            metrics=_check.instances(
                "metrics", () if metrics is None else metrics, Metric, "sky.metrics.CPU()"
            ),
            bootstrap_timeout=bootstrap_timeout,
        )

    def env_hash(self) -> str:
        """Return 12 hex digits for the environment, whatever version of Skyward runs in it."""
        return _digest(self._environment())

    def content_hash(self) -> str:
        """Return 12 hex digits for all that a baked machine image would hold, Skyward included."""
        return _digest({**self._environment(), "source": self.skyward_source, "skyward": _skyward_version()})

    def _environment(self) -> dict[str, object]:
        # "auto" is hashed as what it means here: clients of different Pythons must not share a node's venv.
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        return {
            "python": here if self.python == "auto" else self.python,
            "pip": self.pip,
            "pip_indexes": [[index.url, index.packages] for index in self.pip_indexes],
            "apt": self.apt,
            "env": dict(self.env),
            "shell_vars": dict(self.shell_vars),
            "includes": self.includes,
            "excludes": self.excludes,
        }


def _check_python(python: object) -> None:
    if not isinstance(python, str):
        _check.wrong_type("python", "a string such as '3.13', or 'auto'", python)
    if python == "auto":
        return
    match = _PYTHON.fullmatch(python)
    if match is None:
        raise ConfigError(f"python must be 'auto' or a version such as '3.13', not {python!r}")
    if (int(match[1]), int(match[2])) < _OLDEST_PYTHON:
        raise ConfigError(f"python must be '3.12' or newer, which Skyward needs on the node, not {python!r}")


def _digest(content: Mapping[str, object]) -> str:
    # Imported here: together they cost 18 ms, and most processes never hash an image.
    import hashlib
    import json

    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:_HASH_DIGITS]


@cache
def _skyward_version() -> str:
    from importlib.metadata import version

    return version("skyward-core")


DEFAULT_IMAGE = Image()
