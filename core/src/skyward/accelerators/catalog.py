"""The accelerators that have a name of their own: data, one row a family.

Memory is in GB; where a model was sold with several, the first is what its bare name means. The CUDA range
says which toolkits a generation runs; outside NVIDIA there is none. A TPU named with a number is a whole
slice: its memory is that of all chips. Up to v5p that number counts cores, two to a chip.

The figures are from general knowledge, not held against a page. What decides: vendors' data sheets; the
release notes at https://docs.nvidia.com/cuda/; https://cloud.google.com/tpu/docs.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Model:
    """One row, spread out."""

    name: str
    memory_gb: tuple[int, ...]
    manufacturer: str
    architecture: str
    cuda_min: str | None
    cuda_max: str | None


type _Family = tuple[str, str, str | None, str | None, Mapping[str, int | tuple[int, ...]]]

_FAMILIES: tuple[_Family, ...] = (
    # manufacturer, architecture, oldest CUDA, newest CUDA, {name: memory}
    ("NVIDIA", "Kepler", "5.5", "10.2", {"K80": 12}),
    ("NVIDIA", "Pascal", "8.0", "12.6", {
        "P100": 16, "P40": 24, "P4": 8, "Quadro P4000": 8, "Quadro P2000": 5,
        "GTX 1080 Ti": 11, "GTX 1080": 8, "GTX 1070 Ti": 8, "GTX 1070": 8, "GTX 1060": 6, "GTX 1050 Ti": 4,
        "GTX 1050": 2, "Titan Xp": 12,
    }),
    ("NVIDIA", "Volta", "9.0", "12.6", {"V100": (32, 16), "Titan V": 12}),
    ("NVIDIA", "Turing", "10.0", "13.1", {
        "T4": 16, "T4G": 16, "Titan RTX": 24, "CMP 50HX": 10,
        "Quadro RTX 8000": 48, "Quadro RTX 6000": 24, "Quadro RTX 5000": 16, "Quadro RTX 4000": 8,
        "RTX 2080 Ti": 11, "RTX 2080 Super": 8, "RTX 2080": 8, "RTX 2070 Super": 8, "RTX 2070": 8,
        "RTX 2060 Super": 8, "RTX 2060": 6,
        "GTX 1660 Ti": 6, "GTX 1660 Super": 6, "GTX 1660": 6, "GTX 1650": 4,
    }),
    ("NVIDIA", "Ampere", "11.0", "13.1", {"A100": (80, 40), "A100X": 80, "A800": 80, "A30": 24}),
    # The smaller Ampere chips came one CUDA release later.
    ("NVIDIA", "Ampere", "11.1", "13.1", {
        "A40": 48, "A16": 16, "A10": 24, "A10G": 24, "A2": 16,
        "RTX A6000": 48, "RTX A5000": 24, "RTX A5000 Pro": 24, "RTX A4500": 20, "RTX A4000": 16,
        "RTX A2000": 12,
        "RTX 3090 Ti": 24, "RTX 3090": 24, "RTX 3080 Ti": 12, "RTX 3080": 10, "RTX 3070 Ti": 8, "RTX 3070": 8,
        "RTX 3060 Ti": 8, "RTX 3060": 12, "RTX 3060 Laptop": 6, "RTX 3050": 8,
    }),
    ("NVIDIA", "Ada", "11.8", "13.1", {
        "L40S": 48, "L40": 48, "L4": 24,
        "RTX 6000 Ada": 48, "RTX 5880 Ada": 48, "RTX 5000 Ada": 32, "RTX 4500 Ada": 24, "RTX 4000 Ada": 20,
        "RTX 2000 Ada": 16,
        "RTX 4090": 24, "RTX 4090D": 24, "RTX 4080 Super": 16, "RTX 4080": 16, "RTX 4070 Ti Super": 16,
        "RTX 4070 Ti": 12, "RTX 4070 Super": 12, "RTX 4070": 12, "RTX 4070 Laptop": 8, "RTX 4060 Ti": 8,
        "RTX 4060": 8,
    }),
    ("NVIDIA", "Hopper", "11.8", "13.1", {
        "H100": (80, 40), "H100-NVL": 94, "H200": 141, "H200-NVL": 141, "GH200": 96,
    }),
    ("NVIDIA", "Blackwell", "12.8", "13.1", {
        "B100": 192, "B200": 192, "GB200": 384,
        "RTX PRO 6000": 96, "RTX PRO 6000 MaxQ": 96, "RTX PRO 6000 S": 96, "RTX PRO 6000 WK": 96,
        "RTX PRO 6000 WS": 96, "RTX PRO Server 6000": 96, "RTX PRO 5000": 48, "RTX PRO 4500": 32,
        "RTX PRO 4000": 24,
        "RTX 5090": 32, "RTX 5090 Laptop": 24, "RTX 5080": 16, "RTX 5070 Ti": 16, "RTX 5070": 12,
        "RTX 5060 Ti": 16, "RTX 5060": 8,
    }),
    ("NVIDIA", "Blackwell Ultra", "12.9", "13.1", {"B300": 288, "GB300": 288}),
    ("AMD", "CDNA4", None, None, {"MI355X": 288}),
    ("AMD", "CDNA3", None, None, {"MI325X": 256, "MI300X": 192, "MI300B": 192, "MI300A": 128}),
    ("AMD", "CDNA2", None, None, {"MI250X": 128, "MI250": 128, "MI210": 64}),
    ("AMD", "CDNA", None, None, {"MI100": 32}),
    ("AMD", "GCN5", None, None, {"MI50": 16, "Instinct MI25": 16}),
    ("AMD", "RDNA4", None, None, {"RX 9070 XT": 16, "RX 9060 XT": 16}),
    ("AMD", "RDNA3", None, None, {
        "RX 7900 XTX": 24, "RX 7900 XT": 20, "RX 7800 XT": 16, "RadeonPro-V710": 16,
    }),
    ("AMD", "RDNA", None, None, {"RadeonPro-V520": 8}),
    ("AWS", "Trainium", None, None, {"Trainium1": 32, "Trainium2": 64, "Trainium3": 128}),
    ("AWS", "Inferentia", None, None, {"Inferentia1": 8, "Inferentia2": 32}),
    ("Intel", "Gaudi", None, None, {"Gaudi": 32, "Gaudi2": 96, "Gaudi3": 128}),
    ("Google", "TPU", None, None, {
        "TPUv2": 8, "TPUv3": 16, "TPUv4": 32, "TPUv5e": 16, "TPUv5p": 95, "TPUv6": 32,
        "TPUv2-8": 64, "TPUv3-8": 128, "TPUv3-32": 512, "TPUv4-64": 1024, "TPUv5e-4": 64, "TPUv5p-8": 380,
    }),
)  # fmt: skip


def _models() -> Iterator[Model]:
    for manufacturer, architecture, cuda_min, cuda_max, members in _FAMILIES:
        for name, memory in members.items():
            sizes = memory if isinstance(memory, tuple) else (memory,)
            yield Model(name, sizes, manufacturer, architecture, cuda_min, cuda_max)


CATALOG: dict[str, Model] = {model.name: model for model in _models()}
"""By canonical name: what an ``Accelerator`` is called, and what offers are matched with."""


def attribute(name: str) -> str:
    """Return the name under which ``skyward.accelerators`` has the model: ``RTX 4090`` is ``RTX_4090``."""
    return name.replace(" ", "_").replace("-", "_")
