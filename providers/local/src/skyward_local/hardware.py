"""What this computer has, as the one offer of the provider.

Processors and memory are those that this process may use. Graphics cards are asked for only when a pool wants
some: ``nvidia-smi`` takes up to seconds, and a computer without it has none that we know of.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

from skyward.hooks.hardware import NVIDIA_SMI, Card, Hardware, read_cards
from skyward.hooks.values import Offer

if TYPE_CHECKING:
    from skyward.hooks.values import Wanted

OFFER_ID = "this-computer"

SMI_SECONDS = 20.0
"""A cold driver without persistence mode needs several seconds per card to answer."""


async def offer(wanted: Wanted, base: str) -> Offer | None:
    """This computer as an offer, or None if it does not satisfy all of ``wanted``.

    ``base`` is where the machines would live: its file system is the disk that counts.
    """
    here = Hardware(
        machine=os.uname().machine,
        vcpus=cpu_count(),
        memory_gb=memory_bytes() / 1e9,
        disk_gb=free_bytes(base) / 1e9,
        cards=await cards() if wanted.accelerator is not None else (),
    )
    if not here.satisfies(wanted):
        return None
    found = here.cards_for(wanted)
    return Offer(
        id=OFFER_ID,
        provider="local",
        instance_type=f"{here.vcpus} processors",
        accelerator=wanted.accelerator.name if wanted.accelerator else "",
        accelerator_count=len(found),
        accelerator_memory_gb=min((card.memory_gb for card in found), default=0.0),
        vcpus=here.vcpus,
        memory_gb=here.memory_gb,
        disk_gb=here.disk_gb,
        architecture=here.architecture,
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


async def cards() -> tuple[Card, ...]:
    """The NVIDIA cards of this computer; none without a driver that answers."""
    program = shutil.which(NVIDIA_SMI[0])
    if program is None:
        return ()
    try:
        process = await asyncio.create_subprocess_exec(
            program, *NVIDIA_SMI[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ()
    try:
        async with asyncio.timeout(SMI_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return ()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return read_cards(output.decode(errors="replace")) if process.returncode == 0 else ()
