"""What this computer has, as the one offer of the provider.

Processors and memory are those that this process may use. Graphics cards are asked for only when a pool wants
some: ``nvidia-smi`` takes up to seconds, and a computer without it has none that we know of.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skyward.hooks.values import Offer

if TYPE_CHECKING:
    from skyward.accelerators import Accelerator
    from skyward.hooks.values import Wanted

OFFER_ID = "this-computer"

SMI_SECONDS = 20.0
"""A cold driver without persistence mode needs several seconds per card to answer."""

MEMORY_TOLERANCE = 0.05
"""Drivers report less than the printed size: they keep some, and error correction takes more."""

_ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}

_SIBLING = frozenset({"ti", "super", "laptop", "ada", "pro"})
"""Words that make it another card of the name before them: a ``4070 Ti`` is no ``4070``."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics card. ``memory_gb``: 0 where it shares the computer's memory and reports none."""

    name: str
    memory_gb: float


async def offer(wanted: Wanted, base: str) -> Offer | None:
    """This computer as an offer, or None if it does not satisfy all of ``wanted``.

    ``base`` is where the machines would live: its file system is the disk that counts.
    """
    cpus, memory_gb, disk_gb = cpu_count(), memory_bytes() / 1e9, free_bytes(base) / 1e9
    architecture = _ARCHITECTURES.get(os.uname().machine.lower(), os.uname().machine)
    fits = (
        (wanted.vcpus or 0) <= cpus
        and (wanted.memory_gb or 0) <= memory_gb
        and (wanted.disk_gb or 0) <= disk_gb
        and wanted.architecture in (None, architecture)
        and not wanted.region  # it stands in none
        and wanted.allocation != "spot"
        and (wanted.max_hourly_cost is None or wanted.max_hourly_cost >= 0)
    )
    if not fits:
        return None
    cards: list[Gpu] = []
    if wanted.accelerator is not None:
        cards = [card for card in await gpus() if is_a(card, wanted.accelerator)]
        if len(cards) < wanted.accelerator.count:
            return None
    return Offer(
        id=OFFER_ID,
        provider="local",
        instance_type=f"{cpus} processors",
        accelerator=wanted.accelerator.name if wanted.accelerator else "",
        accelerator_count=len(cards),
        accelerator_memory_gb=min((card.memory_gb for card in cards), default=0.0),
        vcpus=cpus,
        memory_gb=memory_gb,
        disk_gb=disk_gb,
        architecture=architecture,
    )


def cpu_count() -> int:
    """Processors this process may run on; a container or ``taskset`` may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Return how much memory this computer has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_bytes(base: str) -> int:
    """Free space where ``base`` is or will be."""
    place = base
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return shutil.disk_usage(place).free


async def gpus() -> list[Gpu]:
    """The NVIDIA cards of this computer; none without a driver that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    try:
        process = await asyncio.create_subprocess_exec(
            program, *query, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return []
    try:
        async with asyncio.timeout(SMI_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return []
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return parse(output.decode(errors="replace")) if process.returncode == 0 else []


def parse(report: str) -> list[Gpu]:
    """Read the lines ``<name>, <MiB>`` of ``nvidia-smi``."""
    cards: list[Gpu] = []
    for line in report.splitlines():
        name, comma, mebibytes = line.rpartition(",")
        if comma:
            number = mebibytes.strip()
            cards.append(Gpu(name.strip(), int(number) * 2**20 / 1e9 if number.isdigit() else 0.0))
    return cards


def is_a(card: Gpu, accelerator: Accelerator) -> bool:
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
