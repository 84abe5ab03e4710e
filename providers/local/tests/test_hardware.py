"""The one offer: what this computer has, and graphics cards only if a driver says so."""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from skyward import accelerators
from skyward.hooks.values import Offer, Wanted
from skyward_local import hardware

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skyward_local.provider import LocalProvider

H100S = "NVIDIA H100 80GB HBM3, 81559\n" * 2


def offers(provider: LocalProvider, wanted: Wanted) -> list[Offer]:
    async def ask() -> list[Offer]:
        return list(await provider.offers(wanted))

    return asyncio.run(ask())


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Install a program ``nvidia-smi`` that is this shell script."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_there_is_one_offer_and_it_is_free(provider: LocalProvider) -> None:
    (offer,) = offers(provider, Wanted())
    assert (offer.usd_per_hour, offer.spot, offer.accelerator, offer.accelerator_count) == (0, False, "", 0)
    assert offer.architecture == {"aarch64": "arm64"}.get(platform.machine(), platform.machine())


def test_just_what_there_is_fits_and_a_little_more_does_not(provider: LocalProvider) -> None:
    (offer,) = offers(provider, Wanted())
    assert offers(provider, Wanted(vcpus=offer.vcpus, memory_gb=offer.memory_gb))
    assert offers(provider, Wanted(vcpus=offer.vcpus + 1)) == []
    assert offers(provider, Wanted(memory_gb=offer.memory_gb * 1.01)) == []
    assert offers(provider, Wanted(disk_gb=int(offer.disk_gb * 2) + 1)) == []


def test_the_processors_are_those_we_may_use() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system confines no process to processors")
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from skyward_local.hardware import cpu_count; print(cpu_count())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"


def test_the_memory_is_what_the_kernel_says() -> None:
    try:
        with open("/proc/meminfo") as file:
            kibibytes = int(file.readline().split()[1])
    except OSError:
        pytest.skip("no /proc here")
    assert hardware.memory_bytes() == pytest.approx(kibibytes * 1024, rel=0.01)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(allocation="spot"),
        Wanted(region="us-east-1"),
        Wanted(architecture="arm64" if platform.machine() == "x86_64" else "x86_64"),
        Wanted(max_hourly_cost=-0.01),
    ],
)
def test_what_this_computer_is_not_gets_no_offer(provider: LocalProvider, wanted: Wanted) -> None:
    assert offers(provider, wanted) == []


def test_without_a_driver_there_are_no_cards(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert offers(provider, Wanted(accelerator=accelerators.H100())) == []


@pytest.mark.parametrize(
    "script", ["exit 9", "echo 'NVIDIA H100, 81559'; exit 9", "echo 'No devices were found'"]
)
def test_with_a_broken_driver_there_are_no_cards(
    provider: LocalProvider, driver: Callable[[str], None], script: str
) -> None:
    driver(script)
    assert offers(provider, Wanted(accelerator=accelerators.H100())) == []


def test_a_driver_that_hangs_is_given_up(
    provider: LocalProvider, driver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "SMI_SECONDS", 0.2)
    driver("exec sleep 600")
    assert offers(provider, Wanted(accelerator=accelerators.H100())) == []


def test_the_driver_is_not_asked_when_no_card_is_wanted(
    provider: LocalProvider, driver: Callable[[str], None], tmp_path: Path
) -> None:
    driver(f"touch {tmp_path}/asked")
    assert offers(provider, Wanted())
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(("count", "fits"), [(0.5, True), (1, True), (2, True), (3, False)])
def test_cards_are_offered_when_there_are_enough(
    provider: LocalProvider, driver: Callable[[str], None], count: float, fits: bool
) -> None:
    driver(f"printf '{H100S}'".replace("\n", "\\n"))
    found = offers(provider, Wanted(accelerator=accelerators.H100(count=count)))
    described = [
        (offer.accelerator, offer.accelerator_count, round(offer.accelerator_memory_gb)) for offer in found
    ]
    assert described == ([("H100", 2, 86)] if fits else [])
