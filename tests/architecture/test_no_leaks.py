"""The repository says nothing about the machine it was written on, the kernel nothing about any vendor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from house import ROOT, files, members

CORE = ROOT / "core" / "src" / "skyward"

# Put together here, so that this file does not trip over itself.
CHECKOUT = "/" + "work"
HOME = (
    "/" + "root"
)  # bare, it is a mount point that the API forbids; with something below it, somebody's home
MACHINE_PATHS = (rf"(?<![\w.~/-]){CHECKOUT}(?=/|$|[\s\"'`])", rf"(?<![\w.~-]){HOME}/", "/[.]pyenv/")
REGISTRY_HOSTS = ("pypi[.]org", "pythonhosted[.]org", "registry[.]npmjs", "deb[.]debian")

# Modules that are lists of the outside world's products, and the table behind ``sky.AWS``.
PRODUCT_LISTS = frozenset({"__init__", "accelerators", "containers", "storage"})

# Vendors of the public API; their distributions come one by one, the rule holds from the start.
VENDORS = frozenset(
    {"aws", "gcp", "runpod", "vastai", "hyperstack", "tensordock", "verda", "novita", "kubernetes", "slurm"}
)
VENDOR_PHRASES = (r"lambda\s*(?:labs|cloud)", r"vast\.ai", r"google\s+cloud", r"amazon")
# Providers whose name is also a plain word of the kernel's own language.
PLAIN_WORDS = frozenset({"local", "ssh", "container", "lambda"})


def hits(pattern: re.Pattern[str], paths: Iterable[Path]) -> list[str]:
    """Where the pattern stands, as ``path:line: what``. A file that is no text holds nothing."""
    found: list[str] = []
    for path in paths:
        lines = path.read_bytes().decode(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            found += [f"{path.relative_to(ROOT)}:{number}: {hit[0]}" for hit in pattern.finditer(line)]
    return found


def machine_pattern() -> re.Pattern[str]:
    """The places we know, and wherever this checkout lies (unless that is too short to mean anything)."""
    own = [re.escape(str(ROOT)) + r"\b"] if len(ROOT.parts) > 2 else []
    return re.compile("|".join([*MACHINE_PATHS, *own]))


def provider_pattern() -> re.Pattern[str]:
    """Whole words of a sentence or of an identifier: ``aws_client`` and ``RunPodOffer``, not ``laws``."""
    folders = {member.name for member in members() if member.kind == "providers"}
    names = "|".join(re.escape(name) for name in sorted((folders | VENDORS) - PLAIN_WORDS))
    return re.compile(rf"(?<![A-Za-z])(?i:{names})(?![a-z])|(?i:{'|'.join(VENDOR_PHRASES)})")


def test_no_path_of_this_machine() -> None:
    assert not hits(machine_pattern(), files())


def test_no_registry_host() -> None:
    assert not hits(re.compile("|".join(REGISTRY_HOSTS)), files())


def test_the_kernel_names_no_provider() -> None:
    kernel = (
        path
        for path in files(below=CORE)
        if path.relative_to(CORE).parts[0].split(".")[0] not in PRODUCT_LISTS
    )
    assert not hits(provider_pattern(), kernel)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"see {CHECKOUT}/main/x", True),
        (f"'{CHECKOUT}'", True),
        (f"https://example.org{CHECKOUT}/1", False),
        (f"/opt{CHECKOUT}/x", False),
        (f"{HOME}/.ssh", True),
        (f'never "{HOME}", "/tmp"', False),
        (f"{ROOT}/core", True),
    ],
)
def test_what_counts_as_a_machine_path(text: str, found: bool) -> None:
    assert bool(machine_pattern().search(text)) is found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("aws_client", True),
        ("AWSOffer", True),
        ("for Vast.ai", True),
        ("the laws of", False),
        ("lambda x: x", False),
        ("Lambda Cloud", True),
        ("an ssh connection to a local container", False),
    ],
)
def test_what_counts_as_naming_a_provider(text: str, found: bool) -> None:
    assert bool(provider_pattern().search(text)) is found
