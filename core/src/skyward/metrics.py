"""What a node measures about itself while a pool is open; values only.

``sky.metrics.CPU(interval=1)`` describes a reading. The node's agent takes it: a built-in reading (``kind``)
straight from the kernel or the driver, without a process for each sample; a ``Custom`` one by running its
``command`` in a shell. Readings are streamed to the client as ``Metric`` events, one for a value.

In a container whose control group allows less than the machine has, CPU and memory are about what it allows.
A reading that the machine can't give, such as a GPU's where there is none, is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skyward import _check


@dataclass(frozen=True, slots=True)
class Metric:
    """One reading, taken every ``interval`` seconds.

    ``name`` labels the series. ``kind`` names a built-in reading and is empty for a custom one, whose
    ``command`` prints the number. ``target`` says of what: a GPU's index, a path, a network interface; empty
    means all GPUs, or the interface of the default route. ``multi``: a sample holds one value per device, and
    their events are named ``gpu:0``, ``gpu:1`` and so on. The least interval is 0.1 s.
    """

    name: str
    command: str = ""
    interval: float = 2.0
    multi: bool = False
    kind: str = ""
    target: str = ""

    def __post_init__(self) -> None:
        _check.text("name", self.name)
        _check.number("interval", self.interval, above=0)
        _check.flag("multi", self.multi)
        if not self.kind:
            _check.text("command", self.command)


def CPU(interval: float = 2.0) -> Metric:
    """Share of CPU time in use, percent of all cores."""
    return Metric("cpu", interval=interval, kind="cpu")


def Memory(interval: float = 2.0) -> Metric:
    """Share of RAM in use, percent."""
    return Metric("memory", interval=interval, kind="memory")


def MemoryUsed(interval: float = 2.0) -> Metric:
    """RAM in use, MiB."""
    return Metric("memory_used", interval=interval, kind="memory_used")


def MemoryTotal(interval: float = 60.0) -> Metric:
    """RAM of the node, MiB. Rare by default: it doesn't change."""
    return Metric("memory_total", interval=interval, kind="memory_total")


def GPU(index: int | None = None, interval: float = 3.0) -> Metric:
    """Utilisation of one GPU, or of each, percent."""
    return _gpu("gpu", index, interval)


def GPUMemory(index: int | None = None, interval: float = 3.0) -> Metric:
    """Memory in use on one GPU, or on each, MiB."""
    return _gpu("gpu_memory", index, interval)


def GPUMemoryTotal(index: int | None = None, interval: float = 60.0) -> Metric:
    """Memory of one GPU, or of each, MiB."""
    return _gpu("gpu_memory_total", index, interval)


def GPUTemp(index: int | None = None, interval: float = 3.0) -> Metric:
    """Temperature of one GPU, or of each, degrees Celsius."""
    return _gpu("gpu_temp", index, interval)


def Disk(path: str = "/", interval: float = 5.0) -> Metric:
    """Share of the file system that holds ``path`` in use, percent."""
    _check.text("path", path)
    name = "disk" if path == "/" else f"disk:{path}"
    return Metric(name, interval=interval, kind="disk", target=path)


def NetworkRx(interface: str | None = None, interval: float = 3.0) -> Metric:
    """Bytes received a second on ``interface``; by default the one that leads out."""
    return Metric("network_rx", interval=interval, kind="network_rx", target=interface or "")


def NetworkTx(interface: str | None = None, interval: float = 3.0) -> Metric:
    """Bytes sent a second on ``interface``; by default the one that leads out."""
    return Metric("network_tx", interval=interval, kind="network_tx", target=interface or "")


def Custom(name: str, command: str, interval: float = 3.0) -> Metric:
    """What ``command``, a shell line run on the node, prints: one number, within 10 s or the interval.

    It runs in the image's environment. If it prints anything else, or fails, an ``Error`` event says so once.
    """
    return Metric(name, command, interval)


def Default(
    *, cpu_interval: float = 2.0, memory_interval: float = 2.0, gpu_interval: float = 3.0
) -> tuple[Metric, ...]:
    """What is read unless the image says otherwise; the GPU readings yield nothing where there is none."""
    return (
        CPU(cpu_interval),
        MemoryUsed(memory_interval),
        MemoryTotal(),
        GPU(interval=gpu_interval),
        GPUMemory(interval=gpu_interval),
        GPUMemoryTotal(),
        GPUTemp(interval=gpu_interval),
    )


def _gpu(kind: str, index: int | None, interval: float) -> Metric:
    if index is None:
        return Metric(kind, interval=interval, multi=True, kind=kind)
    _check.whole("index", index, least=0)
    return Metric(f"{kind}:{index}", interval=interval, kind=kind, target=str(index))


FACTORIES: dict[str, Callable[..., Metric]] = {
    make.__name__: make
    for make in (
        CPU, Memory, MemoryUsed, MemoryTotal, GPU, GPUMemory, GPUMemoryTotal, GPUTemp, Disk,
        NetworkRx, NetworkTx, Custom,
    )
}  # fmt: skip
"""By the name that a configuration file uses."""
