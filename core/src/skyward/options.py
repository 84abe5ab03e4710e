"""How a pool is run, as opposed to what it is made of: workers, time limits, retries, console, logging.

Frozen, and checked when built. All times are seconds. ``skyward.spec`` gives these names again; import them
from there or from ``sky``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from skyward import _check
from skyward.errors import ConfigError

if TYPE_CHECKING:
    from skyward.function import PendingFunction
    from skyward.runtime import InstanceInfo

SelectionStrategy = Literal["cheapest", "first"]
"""Among several specs: compare the offers of all, or take the specs in order."""

WorkerExecutor = Literal["auto", "thread", "process"]
"""What runs a node's tasks. "auto" is threads."""

ConsoleMode = Literal["rich", "minimal", "log", "silent"]
"""The consoles of our own; any other that is installed goes by its name."""

LogLevel = Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"]

_ROTATION = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SECONDS = {"minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}


@dataclass(frozen=True, slots=True)
class Worker:
    """How a node runs tasks: ``concurrency`` at once, ``buffer`` more sent ahead to wait there.

    ``reuse_processes=False`` gives every task a process of its own.
    """

    concurrency: int = 1
    buffer: int = 0
    executor: WorkerExecutor = "auto"
    reuse_processes: bool = True

    def __post_init__(self) -> None:
        _check.whole("concurrency", self.concurrency, least=1)
        _check.whole("buffer", self.buffer, least=0)
        _check.choice("executor", self.executor, get_args(WorkerExecutor))
        _check.flag("reuse_processes", self.reuse_processes)
        if not self.reuse_processes and self.executor != "process":
            raise ConfigError(
                f"reuse_processes=False needs executor='process': tasks of {self.executor!r} share a process"
            )


@dataclass(frozen=True, slots=True)
class HealthChecker:
    """A probe that runs on each node, every ``interval`` seconds, ``initial_delay`` after it is up.

    ``fn`` returns True for healthy; False, or a string that says what is wrong, for not. An exception, or no
    answer within ``timeout``, counts as not. After ``consecutive_failures`` in a row the node is replaced.
    It runs in a process of its own beside the workers; a node takes tasks once it was found healthy.
    """

    fn: Callable[[InstanceInfo], bool | str | PendingFunction[bool] | PendingFunction[str]]
    interval: float = 30.0
    timeout: float = 15.0
    consecutive_failures: int = 3
    initial_delay: float = 0.0

    def __post_init__(self) -> None:
        if not callable(self.fn):
            _check.wrong_type("fn", "a function of one InstanceInfo", self.fn)
        body = getattr(self.fn, "_skyward_body", None)
        if body is not None:  # a decorated function is meant as what it decorates
            object.__setattr__(self, "fn", body)
        _check.number("interval", self.interval, above=0)
        _check.number("timeout", self.timeout, above=0)
        _check.whole("consecutive_failures", self.consecutive_failures, least=1)
        _check.number("initial_delay", self.initial_delay, least=0)


@dataclass(frozen=True, slots=True)
class LogConfig:
    """Where Skyward's own log goes.

    ``console``: whether plain lines also go to stderr where no live console can be shown. ``rotation``: the
    size ("50 MB") or age ("1 day") at which a new file begins; ``retention``: files kept.
    """

    level: LogLevel = "INFO"
    file: str = "~/.skyward/logs/skyward.log"
    console: bool = True
    rotation: str = "50 MB"
    retention: int = 10

    def __post_init__(self) -> None:
        _check.choice("level", self.level, get_args(LogLevel))
        _check.text("file", self.file)
        _check.flag("console", self.console)
        _check.text("rotation", self.rotation)
        if self.rotation_bytes is None and self.rotation_seconds is None:
            raise ConfigError(
                f"rotation must be a size such as '50 MB' or an age such as '1 day', not {self.rotation!r}"
            )
        _check.whole("retention", self.retention, least=0)

    @property
    def rotation_bytes(self) -> int | None:
        """The size at which a new file is begun; None if ``rotation`` is an age."""
        amount, unit = self._rotation()
        factor = _BYTES.get(unit.upper())
        return int(amount * factor) or None if factor else None

    @property
    def rotation_seconds(self) -> float | None:
        """The age at which a new file is begun; None if ``rotation`` is a size."""
        amount, unit = self._rotation()
        factor = _SECONDS.get(unit.lower().removesuffix("s"))
        return amount * factor or None if factor else None

    def _rotation(self) -> tuple[float, str]:
        match = _ROTATION.fullmatch(self.rotation.strip())
        return (float(match[1]), match[2]) if match else (0.0, "")


class OptionKwargs(TypedDict, total=False):
    """The fields of ``Options`` as keywords, for ``Unpack``."""

    selection: SelectionStrategy
    worker: Worker | None
    provision_timeout: float | None
    ssh_timeout: float | None
    bootstrap_timeout: float | None
    provision_retry_delay: float | None
    max_provision_attempts: int | None
    ssh_retry_interval: float | None
    default_compute_timeout: float
    autoscale_cooldown: float
    autoscale_idle_timeout: float
    reconcile_tick_interval: float
    shutdown_timeout: float
    console: bool | ConsoleMode | str
    logging: bool | LogConfig
    cluster: bool | None
    retry_on_interruption: int
    health_checker: HealthChecker | None


@dataclass(frozen=True, slots=True)
class Options:
    """How a pool is run. What is None is decided when the pool is resolved (see ``PoolSpec``).

    The ``*_timeout`` of provisioning, SSH and bootstrap count from the last progress;
    ``default_compute_timeout`` is for a task that has none of its own. ``cluster``: whether nodes know each
    other. ``retry_on_interruption``: how often a task is run again because its node was lost.
    """

    selection: SelectionStrategy = "cheapest"
    worker: Worker | None = None
    provision_timeout: float | None = None
    ssh_timeout: float | None = None
    bootstrap_timeout: float | None = None
    provision_retry_delay: float | None = None
    max_provision_attempts: int | None = None
    ssh_retry_interval: float | None = None
    default_compute_timeout: float = 300.0
    autoscale_cooldown: float = 30.0
    autoscale_idle_timeout: float = 60.0
    reconcile_tick_interval: float = 15.0
    shutdown_timeout: float = 120.0
    console: bool | ConsoleMode | str = True
    logging: bool | LogConfig = True
    cluster: bool | None = None
    retry_on_interruption: int = 3
    health_checker: HealthChecker | None = None

    def __post_init__(self) -> None:
        _check.choice("selection", self.selection, get_args(SelectionStrategy))
        self._check_numbers()
        if self.worker is not None:
            _check.instance("worker", self.worker, Worker, "a Worker, such as sky.Worker(concurrency=4)")
        if not isinstance(self.console, bool) and self.console not in get_args(ConsoleMode):
            _check.choice("console", self.console, _console_names())
        if not isinstance(self.logging, bool):
            _check.instance("logging", self.logging, LogConfig, "True, False or a sky.LogConfig()")
        if self.cluster is not None:
            _check.flag("cluster", self.cluster)
        if self.health_checker is not None:
            _check.instance("health_checker", self.health_checker, HealthChecker, "a sky.HealthChecker(fn)")

    def _check_numbers(self) -> None:
        for name in ("provision_timeout", "ssh_timeout", "bootstrap_timeout", "ssh_retry_interval"):
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=0)
        if self.provision_retry_delay is not None:
            _check.number("provision_retry_delay", self.provision_retry_delay, least=0)
        if self.max_provision_attempts is not None:
            _check.whole("max_provision_attempts", self.max_provision_attempts, least=1)
        for name in ("default_compute_timeout", "reconcile_tick_interval"):
            _check.number(name, getattr(self, name), above=0)
        for name in ("autoscale_cooldown", "autoscale_idle_timeout", "shutdown_timeout"):
            _check.number(name, getattr(self, name), least=0)
        _check.whole("retry_on_interruption", self.retry_on_interruption, least=0)


def _console_names() -> list[str]:
    """Return our consoles and those of other packages. Reads metadata, so only asked about a strange name."""
    from skyward.hooks.registry import CONSOLES, names

    return list(dict.fromkeys((*get_args(ConsoleMode), *names(CONSOLES))))
