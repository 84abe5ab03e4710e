"""The values that cross between the kernel and its extensions. No behaviour, no I/O.

Imported by extension authors (through ``skyward.hooks``), by the engine and by the node.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from skyward.accelerators import Accelerator
    from skyward.spec import AllocationStrategy, Architecture, Nodes, Worker

type Op = str | tuple[str, ...]
"""One bootstrap operation: a shell line, or an argv that no shell sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a plugin may know of the pool it works in, before any machine exists."""

    name: str
    provider: str
    nodes: Nodes
    accelerator: Accelerator | None
    worker: Worker
    topology: str

    @property
    def num_nodes(self) -> int:
        return self.nodes.desired


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The hardware a spec asks a provider for; a provider returns only offers that satisfy all of it.

    ``vcpus``, ``memory_gb`` and ``disk_gb`` are minima per node; ``max_hourly_cost`` is USD per node.
    """

    accelerator: Accelerator | None = None
    vcpus: float | None = None
    memory_gb: float | None = None
    disk_gb: int | None = None
    architecture: Architecture | None = None
    region: str | None = None
    allocation: AllocationStrategy = "spot-if-available"
    max_hourly_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One machine type in one region on one market, at one price."""

    id: str
    provider: str
    instance_type: str
    region: str = ""
    usd_per_hour: float = 0.0
    spot: bool = False
    accelerator: str = ""
    accelerator_count: float = 0
    accelerator_memory_gb: float = 0
    vcpus: float = 0
    memory_gb: float = 0
    disk_gb: float = 0
    architecture: str = ""
    specific: Mapping[str, object] = field(default_factory=lambda: dict[str, object]())


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRef:
    """The pool as a provider knows it. ``id`` is unique for all time, ``name`` is for people."""

    id: str
    name: str
    ttl: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Written down before a launch and carried by the machine, so that a lost reply is found again.

    ``id`` is unique per launch attempt; ``deadline`` is seconds since the epoch.
    """

    id: str
    pool: str
    rank: int
    provider: str
    owner: str
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpoint:
    """A machine that is a private folder of this computer: commands are run in it as processes."""

    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SSHEndpoint:
    """A machine reached by SSH: who logs in where, with which keys, and which folder is the machine's.

    What is left out comes from ``~/.ssh/config``, the key agent and the default key files, if ``config``.
    """

    host: str
    """An address, or an alias of ``~/.ssh/config``."""
    port: int | None = None
    user: str | None = None
    keys: tuple[str, ...] = ()
    """Paths of private keys; none: those that the agent and the configuration offer."""
    key_data: str = field(default="", repr=False)
    """A private key itself, in OpenSSH's format, where it exists only for this pool."""
    host_keys: tuple[str, ...] = ()
    """The machine's public keys, ``type base64``, where they are known beforehand: no other is accepted."""
    first_contact: Literal["pin", "refuse"] = "pin"
    """What becomes of a host whose key nobody knows: it is trusted from then on, or refused."""
    jump: tuple[SSHEndpoint, ...] = ()
    """Hosts to go through, in this order."""
    config: bool = True
    """Whether ``~/.ssh/config`` and ``~/.ssh/known_hosts`` are read."""
    starting: bool = True
    """Whether it may not be up yet: then a refused connection or login is tried again."""
    folder: str = ".skyward/machine"
    """The machine's own folder: absolute, or below the user's home."""

    @property
    def address(self) -> str:
        """``user@host:port`` as far as it is known, for people."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}" + (f":{self.port}" if self.port else "")

    @property
    def command(self) -> str:
        """What a person types to get there."""
        words = ["ssh", *(["-p", str(self.port)] if self.port else []), *(f"-i {key}" for key in self.keys)]
        return " ".join([*words, f"{self.user}@{self.host}" if self.user else self.host])


type Endpoint = LocalEndpoint | SSHEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A provider's machine. One that is gone is absent from listings; there is no state for it.

    ``endpoint`` is None until the machine has an address that it could be reached at.
    """

    id: str
    claim: str
    pool: str
    endpoint: Endpoint | None = None
    public_ip: str = ""
    private_ip: str = ""
    region: str = ""
    usd_per_hour: float = 0.0
    spot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A ready node as a topology sees it."""

    rank: int
    private_ip: str = ""
    public_ip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formation:
    """The ready nodes of a pool at one moment, in rank order; what a topology turns into facts."""

    pool: str
    job_id: str
    members: tuple[Member, ...]
    accelerator: Accelerator | None = None
    workers_per_node: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchCommand:
    """The command that starts a worker: ``launcher`` words, then ``entrypoint``, then ``args``.

    A plugin that starts workers through another program puts that program's words into ``launcher``.
    """

    launcher: tuple[str, ...]
    entrypoint: tuple[str, ...]
    args: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        return (*self.launcher, *self.entrypoint, *self.args)

    def render(self) -> str:
        """The command as one shell line."""
        return shlex.join(self.argv)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContext:
    """What a launcher may look at: the node, its pool, and the interpreter that will run the worker."""

    node: int
    num_nodes: int
    head_addr: str
    private_ip: str
    python: str
    concurrency: int
    executor: str
