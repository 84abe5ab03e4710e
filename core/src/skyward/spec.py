"""What a pool is made of: the hardware, the number of nodes, the environment. Frozen, and checked when built.

``Spec`` and ``Options`` are what a user writes; ``PoolSpec`` is both in one, with nothing left open, which is
what the engine reads. A value that exists is valid, so nobody checks it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from skyward import _check
from skyward._check import Many
from skyward.accelerators import Accelerator, expression
from skyward.errors import ConfigError, UsageError
from skyward.image import DEFAULT_IMAGE, Image
from skyward.options import (
    ConsoleMode,
    HealthChecker,
    LogConfig,
    OptionKwargs,
    Options,
    SelectionStrategy,
    Worker,
    WorkerExecutor,
)
from skyward.storage import Volume

if TYPE_CHECKING:
    from skyward.hooks.ports import ProviderConfig

__all__ = [
    "Spec", "SpecKwargs", "PoolSpec", "PoolState", "Nodes", "NodeSpec", "AllocationStrategy", "Architecture",
    # from skyward.options
    "Options", "OptionKwargs", "Worker", "WorkerExecutor", "HealthChecker", "LogConfig", "ConsoleMode",
    "SelectionStrategy",
]  # fmt: skip

AllocationStrategy = Literal["spot", "on-demand", "spot-if-available", "cheapest"]
"""On which market machines are rented; "cheapest" takes the cheaper of the two for each offer."""

Architecture = Literal["x86_64", "arm64"]


class PoolState(StrEnum):
    """Where a pool is in its life; it only moves down this list."""

    INIT = "init"
    REQUESTING = "requesting"
    PROVISIONING = "provisioning"
    READY = "ready"
    SHUTTING_DOWN = "shutting_down"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Nodes:
    """How many nodes: ``desired`` to start with, usable from ``min`` on, growing to ``max`` under load.

    Without ``min`` the pool is usable when all desired nodes are ready; without ``max`` it does not scale.
    Always ``1 <= floor <= desired <= ceiling``.
    """

    desired: int
    max: int | None = None
    min: int | None = None

    def __post_init__(self) -> None:
        _check.whole("nodes: desired", self.desired, least=1)
        if self.max is not None:
            _check.whole("nodes: max", self.max, least=1)
            if self.max < self.desired:
                raise ConfigError(f"nodes: max ({self.max}) must not be below desired ({self.desired})")
        if self.min is not None:
            _check.whole("nodes: min", self.min, least=1)
            if self.min > self.desired:
                raise ConfigError(f"nodes: min ({self.min}) must not be above desired ({self.desired})")

    @classmethod
    def from_spec(cls, spec: NodeSpec) -> Nodes:
        """Return what ``nodes=`` means: ``4``, ``(2, 8)`` (2 desired, 8 at most) or a ``Nodes``."""
        match spec:
            case Nodes():
                return spec
            case bool():
                pass
            case int():
                return cls(spec)
            case (desired, most):
                return cls(desired, most)
            case _:
                pass
        raise UsageError(f"nodes must be a number, a pair (desired, max) or sky.Nodes(...), not {spec!r}")

    @property
    def auto_scaling(self) -> bool:
        """Whether the number of nodes follows the load."""
        return self.max is not None

    @property
    def floor(self) -> int:
        """Ready nodes that make the pool usable; it never shrinks below."""
        return self.desired if self.min is None else self.min

    @property
    def ceiling(self) -> int:
        """Nodes the pool never has more of."""
        return self.desired if self.max is None else self.max


type NodeSpec = int | tuple[int, int] | Nodes


class SpecKwargs(TypedDict, total=False):
    """The fields of ``Spec`` as keywords, for ``Unpack``."""

    provider: ProviderConfig | None
    accelerator: Accelerator | None
    nodes: NodeSpec
    vcpus: float | None
    memory_gb: float | None
    disk_gb: int | None
    architecture: Architecture | None
    allocation: AllocationStrategy
    image: Image
    region: str | None
    max_hourly_cost: float | None
    ttl: float
    volumes: Many[Volume]
    plugins: Many[Any]


@dataclass(frozen=True, slots=True, init=False)
class Spec:
    """One kind of node and where to rent it. ``provider`` None means this computer.

    ``vcpus``, ``memory_gb`` and ``disk_gb`` are minima per node; ``max_hourly_cost`` is USD per node-hour.
    ``ttl``: seconds after which a machine that nobody talks to ends itself; 0 ends it as the pool closes.
    """

    provider: ProviderConfig | None
    accelerator: Accelerator | None
    nodes: NodeSpec
    vcpus: float | None
    memory_gb: float | None
    disk_gb: int | None
    architecture: Architecture | None
    allocation: AllocationStrategy
    image: Image
    region: str | None
    max_hourly_cost: float | None
    ttl: float
    volumes: tuple[Volume, ...]
    # What a plugin is, only its hooks say; the registry checks them when the pool opens.
    plugins: tuple[Any, ...]

    # Written out so that it takes lists and keeps tuples, and type checkers know both.
    def __init__(
        self,
        provider: ProviderConfig | None = None,
        accelerator: Accelerator | None = None,
        nodes: NodeSpec = 1,
        vcpus: float | None = None,
        memory_gb: float | None = None,
        disk_gb: int | None = None,
        architecture: Architecture | None = None,
        allocation: AllocationStrategy = "spot-if-available",
        image: Image = DEFAULT_IMAGE,
        region: str | None = None,
        max_hourly_cost: float | None = None,
        ttl: float = 600,
        volumes: Many[Volume] = (),
        plugins: Many[Any] = (),
    ) -> None:
        _check_provider(provider)
        _check_accelerator(accelerator)
        _check.number("ttl", ttl, least=0)
        _check.assign(
            self,
            provider=provider,
            accelerator=accelerator,
            nodes=tuple(nodes) if isinstance(nodes, list) else nodes,
            vcpus=vcpus,
            memory_gb=memory_gb,
            disk_gb=disk_gb,
            architecture=architecture,
            allocation=allocation,
            image=image,
            region=region,
            max_hourly_cost=max_hourly_cost,
            ttl=ttl,
            volumes=_check.instances("volumes", volumes, Volume, 'sky.Volume("bucket", "/data")'),
            plugins=_check_plugins(plugins),
        )
        Nodes.from_spec(self.nodes)
        self._check_hardware()
        _check_mounts(self.volumes)

    def _check_hardware(self) -> None:
        for name in ("vcpus", "memory_gb", "max_hourly_cost"):
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=0)
        if self.disk_gb is not None:
            _check.whole("disk_gb", self.disk_gb, least=1)
        if self.architecture is not None:
            _check.choice("architecture", self.architecture, get_args(Architecture))
        _check.choice("allocation", self.allocation, get_args(AllocationStrategy))
        _check.instance("image", self.image, Image, "a sky.Image(...)")
        if self.region is not None:
            _check.text("region", self.region)


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A spec and the options, resolved: what one pool of nodes is provisioned from.

    ``region`` empty: the provider's default. ``provider`` is its name; None means this computer. ``cluster``:
    whether the nodes form a cluster.
    """

    nodes: Nodes
    accelerator: Accelerator | None
    region: str
    vcpus: float | None = None
    memory_gb: float | None = None
    disk_gb: int | None = None
    architecture: Architecture | None = None
    allocation: AllocationStrategy = "spot-if-available"
    image: Image = DEFAULT_IMAGE
    ttl: int = 600
    worker: Worker = Worker()
    provider: str | None = None
    max_hourly_cost: float | None = None
    provision_timeout: float = 300.0
    ssh_timeout: float = 300.0
    bootstrap_timeout: float = 300.0
    ssh_retry_interval: float = 5.0
    provision_retry_delay: float = 10.0
    max_provision_attempts: int = 10
    volumes: tuple[Volume, ...] = ()
    autoscale_cooldown: float = 30.0
    autoscale_idle_timeout: float = 60.0
    reconcile_tick_interval: float = 15.0
    plugins: tuple[Any, ...] = ()
    cluster: bool = True
    retry_on_interruption: int = 3
    name: str = ""
    default_compute_timeout: float = 300.0
    shutdown_timeout: float = 120.0
    health_checker: HealthChecker | None = None

    @classmethod
    def resolve(cls, spec: Spec, options: Options, name: str) -> PoolSpec:
        """Return ``spec`` and ``options`` as one. What the options leave open falls back to the image, the
        provider, then the defaults of this class.
        """
        open_ended = (
            "worker", "provision_timeout", "ssh_timeout", "ssh_retry_interval", "provision_retry_delay",
            "max_provision_attempts",
        )  # fmt: skip
        chosen = {key: value for key in open_ended if (value := getattr(options, key)) is not None}
        provider = spec.provider
        reachable = True if provider is None else provider.cluster
        return cls(
            nodes=Nodes.from_spec(spec.nodes),
            accelerator=spec.accelerator,
            region=spec.region or "",
            vcpus=spec.vcpus,
            memory_gb=spec.memory_gb,
            disk_gb=spec.disk_gb,
            architecture=spec.architecture,
            allocation=spec.allocation,
            image=spec.image,
            # Rounded up: 0 would mean "at once", and half a second is not that.
            ttl=int(-(-spec.ttl // 1)),
            provider=None if provider is None else provider.provider_name,
            max_hourly_cost=spec.max_hourly_cost,
            bootstrap_timeout=options.bootstrap_timeout or spec.image.bootstrap_timeout,
            volumes=spec.volumes,
            autoscale_cooldown=options.autoscale_cooldown,
            autoscale_idle_timeout=options.autoscale_idle_timeout,
            reconcile_tick_interval=options.reconcile_tick_interval,
            plugins=spec.plugins,
            cluster=reachable if options.cluster is None else options.cluster,
            retry_on_interruption=options.retry_on_interruption,
            name=name,
            default_compute_timeout=options.default_compute_timeout,
            shutdown_timeout=options.shutdown_timeout,
            health_checker=options.health_checker,
            **chosen,
        )

    @property
    def accelerator_name(self) -> str | None:
        """The canonical name that offers are matched with."""
        return None if self.accelerator is None else self.accelerator.name

    @property
    def accelerator_count(self) -> float:
        """Accelerators per node; 0 without one."""
        return 0 if self.accelerator is None else self.accelerator.count

    @property
    def accelerator_memory_gb(self) -> float:
        """Memory of one accelerator in GB; 0 if any will do."""
        return 0 if self.accelerator is None else self.accelerator.memory_gb


def _check_provider(provider: object) -> None:
    if provider is None:
        return
    if isinstance(provider, type):
        raise UsageError(f"provider must be a value, not a class: write {provider.__name__}()")
    if isinstance(provider, str):
        raise UsageError(
            f"provider must be a value such as sky.Local(), not the string {provider!r}, "
            "which works only in skyward.toml"
        )
    if not isinstance(getattr(provider, "provider_name", None), str):
        _check.wrong_type("provider", "a provider's value such as sky.Local()", provider)


def _check_accelerator(accelerator: object) -> None:
    if accelerator is None or isinstance(accelerator, Accelerator):
        return
    if isinstance(accelerator, str):
        call = expression(accelerator) or f"sky.accelerators.Custom({accelerator!r})"
        raise UsageError(
            f"accelerator must be an object, not the string {accelerator!r}, "
            f"which works only in skyward.toml: use {call}"
        )
    if callable(accelerator):
        # One of sky.accelerators without its parentheses.
        name = str(getattr(accelerator, "model", "") or getattr(accelerator, "__name__", ""))
        raise UsageError(f"accelerator must be called: use {expression(name) or 'sky.accelerators.A100()'}")
    _check.wrong_type("accelerator", "such as sky.accelerators.A100()", accelerator)


def _check_plugins(plugins: object) -> tuple[object, ...]:
    result = _check.sequence("plugins", plugins, "plugins", "[sky.plugins.torch()]")
    for index, plugin in enumerate(result):
        if isinstance(plugin, str):
            raise UsageError(
                f"plugins[{index}] must be an object, not the string {plugin!r}: use sky.plugins.{plugin}()"
            )
        if isinstance(plugin, type | FunctionType):
            raise UsageError(f"plugins[{index}] must be called: use {plugin.__name__}()")
    return result


def _check_mounts(volumes: tuple[Volume, ...]) -> None:
    taken: dict[str, str] = {}
    for volume in volumes:
        if volume.mount in taken:
            raise ConfigError(
                f"volumes: {taken[volume.mount]!r} and {volume.bucket!r} "
                f"can't both be mounted at {volume.mount!r}"
            )
        taken[volume.mount] = volume.bucket
