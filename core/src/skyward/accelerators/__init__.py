"""Accelerators by name: ``sky.accelerators.A100(memory="40GB", count=2)``.

Every model of the catalogue is a name of this module, written out so that editors and type checkers know it.
The few that were sold in several forms are functions; all others take a count only. ``Custom`` describes what
the catalogue lacks. Pure values: nothing here asks a provider.
"""

from __future__ import annotations

import re

from skyward.accelerators.catalog import CATALOG, attribute
from skyward.accelerators.value import FORM_FACTORS, build
from skyward.accelerators.value import Accelerator as Accelerator
from skyward.accelerators.value import Factory as Factory
from skyward.errors import ConfigError, UnknownNameError, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

_MEMORY_SUFFIX = re.compile(r"(.+?)[-_ ]+(\d+) ?GB?", re.IGNORECASE)
_FORM_SUFFIX = re.compile(r"(.+?)[-_ ]+([A-Z]+)", re.IGNORECASE)


def H100(
    *,
    count: float = 1,
    memory: Literal["40GB", "80GB", "94GB"] | None = None,
    form_factor: Literal["SXM", "PCIe", "NVL"] | None = None,
) -> Accelerator:
    """Return H100s, with 80GB unless asked otherwise (NVL has 94GB); any board without ``form_factor``."""
    return build("H100", count=count, memory=memory, form_factor=form_factor)


def H200(
    *,
    count: float = 1,
    memory: Literal["141GB"] = "141GB",
    form_factor: Literal["SXM", "NVL"] | None = None,
) -> Accelerator:
    """Return H200s; any board without ``form_factor``."""
    return build("H200", count=count, memory=memory, form_factor=form_factor)


def A100(*, count: float = 1, memory: Literal["40GB", "80GB"] = "80GB") -> Accelerator:
    """Return A100s."""
    return build("A100", count=count, memory=memory)


def V100(*, count: float = 1, memory: Literal["16GB", "32GB"] = "32GB") -> Accelerator:
    """Return V100s."""
    return build("V100", count=count, memory=memory)


def Custom(
    name: str, *, memory: str = "", count: float = 1, cuda_min: str | None = None, cuda_max: str | None = None
) -> Accelerator:
    """Return an accelerator the catalogue lacks; ``name`` is compared with the names in providers' offers."""
    return Accelerator(name, memory, count, cuda_min, cuda_max)


def from_name(text: str) -> Accelerator:
    """Return the accelerator that a configuration file or a command line means.

    Case, spaces, ``-`` and ``_`` don't matter. A memory, a form factor and a count may follow:
    ``a100-40gb:8``, ``H100 SXM``, ``L4:0.5``.
    """
    base, colon, tail = text.strip().partition(":")
    count = _count(text, tail) if colon else 1
    name = _BY_FOLDED.get(_fold(base))
    if name is not None:
        return build(name, count=count)
    memory = form_factor = None
    if match := _MEMORY_SUFFIX.fullmatch(base):
        base, memory = match[1], f"{match[2]}GB"
    name = _BY_FOLDED.get(_fold(base))
    if name is None and (match := _FORM_SUFFIX.fullmatch(base)):
        name = _BY_FOLDED.get(_fold(match[1]))
        boards = {board.lower(): board for board in FORM_FACTORS.get(name or "", ())}
        form_factor = boards.get(match[2].lower())
        name = name if form_factor else None
    if name is None:
        raise UnknownNameError("accelerator", base, CATALOG)
    return build(name, count=count, memory=memory, form_factor=form_factor)


def expression(text: str) -> str:
    """Return the Python for ``from_name(text)``, or for the nearest name; empty if nothing comes close."""
    try:
        found = from_name(text)
    except UnknownNameError as unknown:
        return f"sky.accelerators.{attribute(unknown.nearest[0])}()" if unknown.nearest else ""
    except ConfigError:
        return ""
    given = {
        "memory": found.memory if found.memory_gb != CATALOG[found.name].memory_gb[0] else "",
        "form_factor": found.form_factor if found.form_factor != "NVL" else "",
    }
    arguments = [f'{key}="{value}"' for key, value in given.items() if value]
    if found.count != 1:
        arguments.append(f"count={found.count}")
    return f"sky.accelerators.{attribute(found.name)}({', '.join(arguments)})"


def _fold(text: str) -> str:
    return re.sub(r"[-_\s]", "", text).lower()


def _count(text: str, tail: str) -> float:
    try:
        number = float(tail)
    except ValueError:
        raise ConfigError(f"{text!r}: a count such as ':8' must follow the colon") from None
    return int(number) if number.is_integer() else number


_BY_FOLDED = {_fold(name): name for name in CATALOG}


K80: Factory = Factory("K80")
P100: Factory = Factory("P100")
P40: Factory = Factory("P40")
P4: Factory = Factory("P4")
Quadro_P4000: Factory = Factory("Quadro P4000")
Quadro_P2000: Factory = Factory("Quadro P2000")
GTX_1080_Ti: Factory = Factory("GTX 1080 Ti")
GTX_1080: Factory = Factory("GTX 1080")
GTX_1070_Ti: Factory = Factory("GTX 1070 Ti")
GTX_1070: Factory = Factory("GTX 1070")
GTX_1060: Factory = Factory("GTX 1060")
GTX_1050_Ti: Factory = Factory("GTX 1050 Ti")
GTX_1050: Factory = Factory("GTX 1050")
Titan_Xp: Factory = Factory("Titan Xp")
Titan_V: Factory = Factory("Titan V")
T4: Factory = Factory("T4")
T4G: Factory = Factory("T4G")
Titan_RTX: Factory = Factory("Titan RTX")
CMP_50HX: Factory = Factory("CMP 50HX")
Quadro_RTX_8000: Factory = Factory("Quadro RTX 8000")
Quadro_RTX_6000: Factory = Factory("Quadro RTX 6000")
Quadro_RTX_5000: Factory = Factory("Quadro RTX 5000")
Quadro_RTX_4000: Factory = Factory("Quadro RTX 4000")
RTX_2080_Ti: Factory = Factory("RTX 2080 Ti")
RTX_2080_Super: Factory = Factory("RTX 2080 Super")
RTX_2080: Factory = Factory("RTX 2080")
RTX_2070_Super: Factory = Factory("RTX 2070 Super")
RTX_2070: Factory = Factory("RTX 2070")
RTX_2060_Super: Factory = Factory("RTX 2060 Super")
RTX_2060: Factory = Factory("RTX 2060")
GTX_1660_Ti: Factory = Factory("GTX 1660 Ti")
GTX_1660_Super: Factory = Factory("GTX 1660 Super")
GTX_1660: Factory = Factory("GTX 1660")
GTX_1650: Factory = Factory("GTX 1650")
A100X: Factory = Factory("A100X")
A800: Factory = Factory("A800")
A30: Factory = Factory("A30")
A40: Factory = Factory("A40")
A16: Factory = Factory("A16")
A10: Factory = Factory("A10")
A10G: Factory = Factory("A10G")
A2: Factory = Factory("A2")
RTX_A6000: Factory = Factory("RTX A6000")
RTX_A5000: Factory = Factory("RTX A5000")
RTX_A5000_Pro: Factory = Factory("RTX A5000 Pro")
RTX_A4500: Factory = Factory("RTX A4500")
RTX_A4000: Factory = Factory("RTX A4000")
RTX_A2000: Factory = Factory("RTX A2000")
RTX_3090_Ti: Factory = Factory("RTX 3090 Ti")
RTX_3090: Factory = Factory("RTX 3090")
RTX_3080_Ti: Factory = Factory("RTX 3080 Ti")
RTX_3080: Factory = Factory("RTX 3080")
RTX_3070_Ti: Factory = Factory("RTX 3070 Ti")
RTX_3070: Factory = Factory("RTX 3070")
RTX_3060_Ti: Factory = Factory("RTX 3060 Ti")
RTX_3060: Factory = Factory("RTX 3060")
RTX_3060_Laptop: Factory = Factory("RTX 3060 Laptop")
RTX_3050: Factory = Factory("RTX 3050")
L40S: Factory = Factory("L40S")
L40: Factory = Factory("L40")
L4: Factory = Factory("L4")
RTX_6000_Ada: Factory = Factory("RTX 6000 Ada")
RTX_5880_Ada: Factory = Factory("RTX 5880 Ada")
RTX_5000_Ada: Factory = Factory("RTX 5000 Ada")
RTX_4500_Ada: Factory = Factory("RTX 4500 Ada")
RTX_4000_Ada: Factory = Factory("RTX 4000 Ada")
RTX_2000_Ada: Factory = Factory("RTX 2000 Ada")
RTX_4090: Factory = Factory("RTX 4090")
RTX_4090D: Factory = Factory("RTX 4090D")
RTX_4080_Super: Factory = Factory("RTX 4080 Super")
RTX_4080: Factory = Factory("RTX 4080")
RTX_4070_Ti_Super: Factory = Factory("RTX 4070 Ti Super")
RTX_4070_Ti: Factory = Factory("RTX 4070 Ti")
RTX_4070_Super: Factory = Factory("RTX 4070 Super")
RTX_4070: Factory = Factory("RTX 4070")
RTX_4070_Laptop: Factory = Factory("RTX 4070 Laptop")
RTX_4060_Ti: Factory = Factory("RTX 4060 Ti")
RTX_4060: Factory = Factory("RTX 4060")
H100_NVL: Factory = Factory("H100-NVL")
H200_NVL: Factory = Factory("H200-NVL")
GH200: Factory = Factory("GH200")
B100: Factory = Factory("B100")
B200: Factory = Factory("B200")
GB200: Factory = Factory("GB200")
RTX_PRO_6000: Factory = Factory("RTX PRO 6000")
RTX_PRO_6000_MaxQ: Factory = Factory("RTX PRO 6000 MaxQ")
RTX_PRO_6000_S: Factory = Factory("RTX PRO 6000 S")
RTX_PRO_6000_WK: Factory = Factory("RTX PRO 6000 WK")
RTX_PRO_6000_WS: Factory = Factory("RTX PRO 6000 WS")
RTX_PRO_Server_6000: Factory = Factory("RTX PRO Server 6000")
RTX_PRO_5000: Factory = Factory("RTX PRO 5000")
RTX_PRO_4500: Factory = Factory("RTX PRO 4500")
RTX_PRO_4000: Factory = Factory("RTX PRO 4000")
RTX_5090: Factory = Factory("RTX 5090")
RTX_5090_Laptop: Factory = Factory("RTX 5090 Laptop")
RTX_5080: Factory = Factory("RTX 5080")
RTX_5070_Ti: Factory = Factory("RTX 5070 Ti")
RTX_5070: Factory = Factory("RTX 5070")
RTX_5060_Ti: Factory = Factory("RTX 5060 Ti")
RTX_5060: Factory = Factory("RTX 5060")
B300: Factory = Factory("B300")
GB300: Factory = Factory("GB300")
MI355X: Factory = Factory("MI355X")
MI325X: Factory = Factory("MI325X")
MI300X: Factory = Factory("MI300X")
MI300B: Factory = Factory("MI300B")
MI300A: Factory = Factory("MI300A")
MI250X: Factory = Factory("MI250X")
MI250: Factory = Factory("MI250")
MI210: Factory = Factory("MI210")
MI100: Factory = Factory("MI100")
MI50: Factory = Factory("MI50")
Instinct_MI25: Factory = Factory("Instinct MI25")
RX_9070_XT: Factory = Factory("RX 9070 XT")
RX_9060_XT: Factory = Factory("RX 9060 XT")
RX_7900_XTX: Factory = Factory("RX 7900 XTX")
RX_7900_XT: Factory = Factory("RX 7900 XT")
RX_7800_XT: Factory = Factory("RX 7800 XT")
RadeonPro_V710: Factory = Factory("RadeonPro-V710")
RadeonPro_V520: Factory = Factory("RadeonPro-V520")
Trainium1: Factory = Factory("Trainium1")
Trainium2: Factory = Factory("Trainium2")
Trainium3: Factory = Factory("Trainium3")
Inferentia1: Factory = Factory("Inferentia1")
Inferentia2: Factory = Factory("Inferentia2")
Gaudi: Factory = Factory("Gaudi")
Gaudi2: Factory = Factory("Gaudi2")
Gaudi3: Factory = Factory("Gaudi3")
TPUv2: Factory = Factory("TPUv2")
TPUv3: Factory = Factory("TPUv3")
TPUv4: Factory = Factory("TPUv4")
TPUv5e: Factory = Factory("TPUv5e")
TPUv5p: Factory = Factory("TPUv5p")
TPUv6: Factory = Factory("TPUv6")
TPUv2_8: Factory = Factory("TPUv2-8")
TPUv3_8: Factory = Factory("TPUv3-8")
TPUv3_32: Factory = Factory("TPUv3-32")
TPUv4_64: Factory = Factory("TPUv4-64")
TPUv5e_4: Factory = Factory("TPUv5e-4")
TPUv5p_8: Factory = Factory("TPUv5p-8")


if not TYPE_CHECKING:  # a type checker that saw this would let every misspelt name pass

    def __getattr__(name: str) -> Accelerator:
        # AttributeError, not one of ours: hasattr, getattr's default and import machinery rely on it.
        near = nearest(name, [attribute(model) for model in CATALOG])
        hint = " or ".join(f"sky.accelerators.{close}" for close in near) or "sky.accelerators.Custom(name)"
        raise AttributeError(f"unknown accelerator {name!r}: did you mean {hint}?")
