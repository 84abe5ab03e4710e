"""What a node's agent is told when it starts, and how its command line looks.

The configuration goes over the agent's standard input, because environment variables and plugin parameters
may be secret: never through argv or a file. Used by the engine, which makes it, and the agent, which reads
it.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

AGENT_SOCKET = "agent.sock"
READY_LINE = b"skyward agent ready\n"
BRIDGED = b"skyward bridge\n"
"""What ``skyward.node.bridge`` says on its standard error once it is connected."""
MACHINE_MARK = "SKYWARD_MACHINE"
"""In the environment of all that runs on a machine: where its files are. What a task left behind is known
by it.
"""


def agent_argv(python: str, root: str) -> list[str]:
    """Return the command that starts an agent. ``-P``: the folder it starts in is no place to import from."""
    return [python, "-P", "-m", "skyward.node.agent", root]


def worker_socket(index: int) -> str:
    return f"w{index}.sock"


def blob_file(blob: int) -> str:
    """Return the name of the file in the machine's folder that holds one of the client's blobs."""
    return f"b{blob}"


def result_file(index: int, generation: int, number: int) -> str:
    """Return the name of the file that holds one of a worker's blobs, until the client has it."""
    return f"r{index}.{generation}.{number}"


def is_value_file(name: str) -> bool:
    """Whether it is the name of such a file."""
    return name[:1] in ("b", "r") and name[1:].replace(".", "").isdigit()


def is_result_file(name: str) -> bool:
    """Whether it is the name of such a file with a worker's value."""
    return name.startswith("r") and is_value_file(name)


def is_blob_below(name: str, number: int) -> bool:
    """Whether it is the name of a file with one of the client's blobs, of a lower number."""
    return name.startswith("b") and is_value_file(name) and int(name[1:]) < number


class AgentConfig:
    """Everything an agent needs to know. JSON on the wire; see ``to_json`` for the fields."""

    __slots__ = (
        "around_worker",
        "concurrency",
        "cwd",
        "env",
        "executor",
        "facts",
        "health",
        "launch",
        "memento",
        "metrics",
        "no_collections",
        "plugins",
        "reuse",
        "sources",
        "ttl",
    )

    def __init__(
        self,
        *,
        ttl: float,
        executor: str,
        concurrency: int,
        reuse: bool,
        launch: list[str],
        env: dict[str, str],
        facts: dict[str, Any],
        plugins: str = "",
        sources: list[dict[str, Any]] | None = None,
        around_worker: bool = False,
        no_collections: str | None = None,
        cwd: str | None = None,
        metrics: list[dict[str, Any]] | None = None,
        health: dict[str, Any] | None = None,
        memento: str = "",
    ) -> None:
        self.ttl = ttl
        """Seconds without a word from the client after which the agent ends the machine."""
        self.executor = executor
        self.concurrency = concurrency
        self.reuse = reuse
        self.launch = launch
        """The worker's command, without its own arguments."""
        self.env = env
        self.cwd = cwd
        """Where the workers run; None: in the machine's folder."""
        self.facts = facts
        self.plugins = plugins
        """The plugins, pickled, in base64; empty when there are none."""
        self.sources = sources or []
        """Project modules that the plugins need, as ``ShippedModules`` takes them."""
        self.around_worker = around_worker
        """Whether a plugin wraps the worker's life: then, with processes, one more process holds that."""
        self.no_collections = no_collections
        """Why distributed collections can't be used here, or None."""
        self.metrics = metrics or []
        """The fields of each ``skyward.metrics.Metric`` that is to be read."""
        self.health = health
        """The health check, or None: ``function`` as ``plugins`` are, its ``sources``, the times that
        ``skyward.node.checkup`` takes, and ``failures``, after which the node is given up.
        """

        self.memento = memento
        """What the pool was opened with, for a client that attaches to it: see ``skyward.engine.memento``."""

    def to_json(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes | str) -> AgentConfig:
        return cls(**json.loads(text))

    @property
    def processes(self) -> int:
        """How many processes run tasks."""
        return self.concurrency if self.executor == "process" else 1

    @property
    def slots_per_process(self) -> int:
        return 1 if self.executor == "process" else self.concurrency
