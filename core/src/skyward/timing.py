"""Where the time went until a pool's nodes were ready: what ``pool.timing()`` returns, and prints."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_BAR = 40
_SLIT = 0.0005
"""Seconds between two phases that are not worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One thing that was done. ``begin``: seconds after the pool was opened; ``seconds``: its length."""

    name: str
    begin: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTiming:
    """One node's phases, without gaps: they add up to ``seconds``."""

    rank: int
    phases: tuple[Phase, ...]

    @property
    def begin(self) -> float:
        """When the node was wanted, in seconds after the pool was opened."""
        return self.phases[0].begin if self.phases else 0.0

    @property
    def seconds(self) -> float:
        """How long it took until the node was ready."""
        return sum(phase.seconds for phase in self.phases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The nodes of a pool by rank; those that are ready. Printed, it is a waterfall."""

    nodes: tuple[NodeTiming, ...]

    @property
    def seconds(self) -> float:
        """How long it took from the opening of the pool until the last of these nodes was ready."""
        return max((node.begin + node.seconds for node in self.nodes), default=0.0)

    def __str__(self) -> str:
        scale = _BAR / self.seconds if self.seconds else 0.0
        lines: list[str] = []
        for node in self.nodes:
            lines.append(f"node {node.rank}  ready after {node.begin + node.seconds:.2f} s")
            for phase in node.phases:
                start = round(phase.begin * scale)
                bar = "█" * max(1, round(phase.seconds * scale))
                lines.append(f"  {phase.name:<12}{phase.seconds:8.3f} s  {' ' * start}{bar}")
        return "\n".join(lines)


def without_gaps(
    phases: Iterable[tuple[str, float, float]], opened: float, begun: float
) -> tuple[Phase, ...]:
    """Return what was measured, by name with begin and end, as phases since ``begun`` without a gap.

    What lies between two of them is ``other``. All times are of one clock.
    """
    found: list[Phase] = []
    last = begun
    for name, begin, end in sorted(phases, key=lambda phase: phase[1]):
        if begin - last > _SLIT:
            found.append(Phase(name="other", begin=last - opened, seconds=begin - last))
            last = begin
        found.append(Phase(name=name, begin=last - opened, seconds=max(0.0, end - last)))
        last = max(last, end)
    return tuple(found)
