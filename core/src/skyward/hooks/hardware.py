"""What one computer has, and whether that is what was asked for: for providers that have to look themselves.

A vendor's catalog says what a machine is; one's own computer only has its tools' answers. Pure: whoever asks
the computer passes the answers in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from skyward.accelerators import Accelerator
    from skyward.hooks.values import Wanted

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
"""The command whose output ``read_cards`` takes."""

MEMORY_TOLERANCE = 0.05
"""Drivers report less than the printed size: they keep some, and error correction takes more."""

_ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}

_SIBLING = frozenset({"ti", "super", "laptop", "ada", "pro"})
"""Words that make it another card of the name before them: a ``4070 Ti`` is no ``4070``."""


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card. ``memory_gb``: 0 where it shares the computer's memory and reports none."""

    name: str
    memory_gb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One computer. ``disk_gb``: what is free where its machines live. ``machine``: as ``uname -m`` says."""

    machine: str
    vcpus: int
    memory_gb: float
    disk_gb: float
    cards: tuple[Card, ...] = ()

    @property
    def architecture(self) -> str:
        """The name that ``Wanted`` and ``Offer`` use."""
        return _ARCHITECTURES.get(self.machine.lower(), self.machine)

    def cards_for(self, wanted: Wanted) -> tuple[Card, ...]:
        """Return the cards that are what is wanted; none where none is."""
        if wanted.accelerator is None:
            return ()
        return tuple(card for card in self.cards if is_a(card, wanted.accelerator))

    def satisfies(self, wanted: Wanted, usd_per_hour: float = 0.0) -> bool:
        """Whether it has all that is wanted, standing in no region and belonging to no spot market."""
        return (
            (wanted.vcpus or 0) <= self.vcpus
            and (wanted.memory_gb or 0) <= self.memory_gb
            and (wanted.disk_gb or 0) <= self.disk_gb
            and wanted.architecture in (None, self.architecture)
            and not wanted.region
            and wanted.allocation != "spot"
            and (wanted.max_hourly_cost is None or wanted.max_hourly_cost >= usd_per_hour)
            and (wanted.accelerator is None or len(self.cards_for(wanted)) >= wanted.accelerator.count)
        )


def read_cards(report: str) -> tuple[Card, ...]:
    """Read the lines ``<name>, <MiB>`` that ``NVIDIA_SMI`` prints; skip what is no such line."""
    cards: list[Card] = []
    for line in report.splitlines():
        name, comma, mebibytes = line.rpartition(",")
        if comma:
            number = mebibytes.strip()
            cards.append(Card(name.strip(), int(number) * 2**20 / 1e9 if number.isdigit() else 0.0))
    return tuple(cards)


def is_a(card: Card, accelerator: Accelerator) -> bool:
    """Whether ``card`` is what ``accelerator`` names: its words in a row, its board, at least its memory."""
    have, want = _words(card.name), _words(accelerator.name)
    places = [start for start in range(len(have)) if have[start : start + len(want)] == want]
    named = any(not _SIBLING.intersection(have[start + len(want) :][:1]) for start in places)
    # A name without a board is an SXM module's: "H100 80GB HBM3", but "H100 PCIe".
    board = "pcie" if "pcie" in have else "nvl" if "nvl" in have else "sxm"
    enough = not card.memory_gb or card.memory_gb >= accelerator.memory_gb * (1 - MEMORY_TOLERANCE)
    return named and accelerator.form_factor.lower() in ("", board) and enough


def _words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())
