"""What a computer's tools say is read right, and compared with what was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from skyward import accelerators
from skyward.accelerators import Accelerator
from skyward.hooks.hardware import Card, Hardware, is_a, read_cards
from skyward.hooks.values import Wanted

BOX = Hardware(machine="aarch64", vcpus=8, memory_gb=32.0, disk_gb=100.0, cards=(Card("Tesla T4", 16.1),) * 2)


def test_the_architecture_has_one_name() -> None:
    assert [replace(BOX, machine=machine).architecture for machine in ("aarch64", "x86_64", "AMD64")] == [
        "arm64", "x86_64", "x86_64",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({}, True),
        ({"vcpus": 8, "memory_gb": 32, "disk_gb": 100}, True),
        ({"vcpus": 9}, False),
        ({"memory_gb": 33}, False),
        ({"disk_gb": 101}, False),
        ({"architecture": "arm64"}, True),
        ({"architecture": "x86_64"}, False),
        ({"region": "anywhere"}, False),
        ({"allocation": "spot"}, False),
        ({"allocation": "on-demand"}, True),
        ({"max_hourly_cost": 0.5}, True),
        ({"max_hourly_cost": 0.4}, False),
        ({"accelerator": accelerators.from_name("T4")}, True),
        ({"accelerator": accelerators.from_name("T4").with_count(0.5)}, True),
        ({"accelerator": accelerators.from_name("T4").with_count(3)}, False),
        ({"accelerator": accelerators.H100()}, False),
    ],
)
def test_it_has_all_that_is_wanted_or_it_does_not_do(wanted: dict[str, Any], fits: bool) -> None:
    assert BOX.satisfies(Wanted(**wanted), usd_per_hour=0.5) is fits


def test_what_is_no_card_is_no_card() -> None:
    assert read_cards("No devices were found\n\n") == ()
    assert read_cards("NVIDIA GB10, [N/A]\n") == (Card("NVIDIA GB10", 0.0),)


@pytest.mark.parametrize(
    ("report", "accelerator", "is_one"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920", accelerators.A100(), True),
        ("NVIDIA A100-SXM4-40GB, 40960", accelerators.A100(), False),
        ("NVIDIA A100-SXM4-40GB, 40960", accelerators.A100(memory="40GB"), True),
        ("NVIDIA H100 80GB HBM3, 81559", accelerators.H100(form_factor="SXM"), True),
        ("NVIDIA H100 PCIe, 81559", accelerators.H100(form_factor="SXM"), False),
        ("NVIDIA H100 PCIe, 81559", accelerators.H100(form_factor="PCIe"), True),
        ("NVIDIA H100 NVL, 95830", accelerators.H100(form_factor="NVL"), True),
        ("NVIDIA H200, 143771", accelerators.H200(), True),
        ("NVIDIA H200, 143771", accelerators.H100(), False),
        ("NVIDIA L40S, 46068", accelerators.from_name("L4"), False),
        ("NVIDIA L40S, 46068", accelerators.from_name("L40"), False),
        ("NVIDIA L4, 23034", accelerators.from_name("L4"), True),
        ("Tesla T4, 15360", accelerators.from_name("T4"), True),
        ("Tesla K80, 11441", accelerators.from_name("K80"), True),
        ("Tesla V100-SXM2-16GB, 16160", accelerators.V100(memory="16GB"), True),
        ("NVIDIA GeForce RTX 4070 Ti SUPER, 16376", accelerators.from_name("RTX 4070"), False),
        ("NVIDIA GeForce RTX 4070 Ti SUPER, 16376", accelerators.from_name("RTX 4070 Ti"), False),
        ("NVIDIA GeForce RTX 4070 Ti SUPER, 16376", accelerators.from_name("RTX 4070 Ti Super"), True),
        ("NVIDIA GeForce RTX 4090, 24564", accelerators.from_name("RTX 4090"), True),
        ("NVIDIA RTX 6000 Ada Generation, 49140", accelerators.from_name("RTX 6000 Ada"), True),
        ("NVIDIA RTX A6000, 49140", accelerators.from_name("RTX 6000 Ada"), False),
        ("NVIDIA GB10, [N/A]", accelerators.Custom("GB10", memory="128GB"), True),
    ],
)
def test_a_card_is_known_by_its_driver_name(report: str, accelerator: Accelerator, is_one: bool) -> None:
    (card,) = read_cards(report)
    assert is_a(card, accelerator) is is_one
