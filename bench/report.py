"""The table: medians by metric and system, how we stand to the best peer, and which budgets are met.

Reads ``budgets.toml``, or what else a run names; nothing here or elsewhere knows a number that a run could
answer.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

OURS = "skyward"

type Medians = Mapping[str, Mapping[str, float]]
"""By system, then by metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How a metric is read, and what we want of it."""

    title: str
    unit: str
    better: Literal["less", "more"]
    at_most: float | None = None
    at_least: float | None = None
    ahead: bool = False
    compare: bool = True

    def times_as_good(self, ours: float, theirs: float) -> float:
        """Above 1: we are ahead, by that factor."""
        good, bad = (theirs, ours) if self.better == "less" else (ours, theirs)
        return good / bad if bad else float("inf")

    def is_met(self, ours: float, ratio: float | None) -> bool | None:
        """None: nothing is asked. Being ahead of nobody is being ahead."""
        if self.at_most is None and self.at_least is None and not self.ahead:
            return None
        within = (self.at_most is None or ours <= self.at_most) and (
            self.at_least is None or ours >= self.at_least
        )
        return within and not (self.ahead and ratio is not None and ratio < 1)

    def text(self) -> str:
        """What is asked, in one cell."""
        parts = [
            f"{sign} {number(limit)}"
            for sign, limit in (("≤", self.at_most), ("≥", self.at_least))
            if limit is not None
        ]
        return ", ".join([*parts, *(["ahead"] if self.ahead else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where we stand in one metric. ``ratio``: times as good as the peer; ``met``: None without a budget."""

    best_peer: str | None
    ratio: float | None
    met: bool | None


OF_ALL = "budgets.toml"
"""The targets of a run against all peers."""


def budgets(name: str) -> dict[str, Budget]:
    """A table of targets, in its order."""
    path = Path(__file__).resolve().parent / name
    return {name: Budget(**table) for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()}


def verdicts(medians: Medians, targets: str = OF_ALL) -> dict[str, Verdict]:
    """Judge each metric that we were measured in."""
    found: dict[str, Verdict] = {}
    for name, budget in budgets(targets).items():
        ours = medians.get(OURS, {}).get(name)
        if ours is None:
            continue
        ratios = {
            system: budget.times_as_good(ours, metrics[name])
            for system, metrics in medians.items()
            if budget.compare and system != OURS and name in metrics
        }
        best = min(ratios, key=ratios.__getitem__, default=None)
        ratio = None if best is None else ratios[best]
        found[name] = Verdict(best_peer=best, ratio=ratio, met=budget.is_met(ours, ratio))
    return found


def table(medians: Medians, targets: str = OF_ALL) -> str:
    """Everything, a metric a line."""
    judged = verdicts(medians, targets)
    rows = [["", "unit", *medians, "against the best peer", "budget", ""]]
    for name, budget in budgets(targets).items():
        values = [metrics.get(name) for metrics in medians.values()]
        if all(value is None for value in values):
            continue
        cells = ["–" if value is None else number(value) for value in values]
        verdict = judged.get(name)
        rows.append([budget.title, budget.unit, *cells, *_judgement(verdict, budget)])
    return _aligned(rows)


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 or value <= 0 else f"{value:.2g}"


def _judgement(verdict: Verdict | None, budget: Budget) -> list[str]:
    if verdict is None:
        return ["", budget.text(), ""]
    stand = "" if verdict.ratio is None else f"{number(verdict.ratio)}× {verdict.best_peer}"
    return [stand, budget.text(), {None: "", True: "met", False: "MISSED"}[verdict.met]]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = len(widths) - 3  # the columns between the second and the last three are numbers
    lines = (
        "  ".join(
            cell.rjust(width) if 2 <= place < text else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)
