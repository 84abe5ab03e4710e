"""The value that stands for an accelerator, and the callable that makes the common ones."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from skyward import _check
from skyward.accelerators.catalog import CATALOG
from skyward.errors import ConfigError

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(GB|TB)")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """``count`` accelerators of one model in each node.

    ``memory`` is that of one of them, as "80GB"; empty means any. A ``count`` below 1 asks for a slice.
    ``cuda_min`` and ``cuda_max`` bound the CUDA toolkits it runs; None where that means nothing.
    ``form_factor`` is empty unless the user asked for one.
    """

    name: str
    memory: str = ""
    count: float = 1
    cuda_min: str | None = None
    cuda_max: str | None = None
    manufacturer: str = ""
    architecture: str = ""
    form_factor: str = ""

    def __post_init__(self) -> None:
        _check.text("name", self.name)
        _check.instance("memory", self.memory, str, "a string such as '48GB'")
        if self.memory and not _MEMORY.fullmatch(self.memory):
            raise ConfigError(f"memory must look like '48GB', not {self.memory!r}")
        _check.number("count", self.count, above=0)
        if self.count > 1 and self.count != int(self.count):
            raise ConfigError(
                f"count must be a whole number, or a fraction of one below 1, not {self.count!r}"
            )
        if self.count >= 1:
            _check.assign(self, count=int(self.count))
        low = None if self.cuda_min is None else _check.cuda_version("cuda_min", self.cuda_min)
        high = None if self.cuda_max is None else _check.cuda_version("cuda_max", self.cuda_max)
        if low is not None and high is not None and low > high:
            raise ConfigError(f"cuda_min ({self.cuda_min}) must not be above cuda_max ({self.cuda_max})")

    @property
    def memory_gb(self) -> float:
        """Memory of one accelerator in GB; 0 if any will do."""
        match = _MEMORY.fullmatch(self.memory)
        if match is None:
            return 0.0
        return float(match[1]) * (1024 if match[2] == "TB" else 1)

    def with_count(self, n: float) -> Accelerator:
        """Return the same accelerator, ``n`` in each node."""
        return replace(self, count=n)


@dataclass(frozen=True, slots=True)
class Factory:
    """Makes one model of the catalogue: ``L4(count=2)``."""

    model: str

    def __call__(self, *, count: float = 1) -> Accelerator:
        """Return ``count`` of them per node; a fraction below 1 asks for a slice."""
        return build(self.model, count=count)


def build(
    name: str, *, count: float = 1, memory: str | None = None, form_factor: str | None = None
) -> Accelerator:
    """Return a model of the catalogue in one of the forms it was sold in. ``name`` is canonical."""
    if form_factor is not None:
        _check.choice("form_factor", form_factor, FORM_FACTORS.get(name, ()))
        # The NVL boards have another memory and their own name in providers' lists; the others share one.
        name = f"{name}-NVL" if form_factor == "NVL" else name
    model = CATALOG[name]
    sizes = [f"{gb}GB" for gb in model.memory_gb]
    if memory is not None:
        _check.choice(f"memory of {name}", memory, sizes)
    return Accelerator(
        name=name,
        memory=memory or sizes[0],
        count=count,
        cuda_min=model.cuda_min,
        cuda_max=model.cuda_max,
        manufacturer=model.manufacturer,
        architecture=model.architecture,
        form_factor=form_factor or "",
    )


FORM_FACTORS: dict[str, tuple[str, ...]] = {"H100": ("SXM", "PCIe", "NVL"), "H200": ("SXM", "NVL")}
"""The boards that a model can be asked for by; the others are not told apart by providers."""
