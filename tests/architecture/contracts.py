"""Who may import whom, as contracts for import-linter, derived from the folders.

Kept as code because import-linter wants every package by name, and a list of them would drift. What only a
type checker imports (``if TYPE_CHECKING``) does not count; an import inside a function counts like any other.
noxfile.py writes these to a file and runs ``lint-imports`` on it.
"""

from __future__ import annotations

import json
from typing import Any

from house import Member, members

# The kernel's floors, top first: each may import those to its right, and nothing to its left, not even by way
# of a module that users see. So what runs on a node never loads the client's engine.
FLOORS = ("skyward.engine", "skyward.node", "skyward.link", "skyward.hooks")
PRIVATE = FLOORS[:3]


def contracts(houses: tuple[Member, ...] = members()) -> list[dict[str, Any]]:
    """Every contract, as import-linter's own fields."""
    extensions = [house.package for house in houses if house.name != "core"]
    siblings = [package for package in extensions if package != "skyward_testing"]
    return [
        {
            "name": "the kernel imports no extension",
            "type": "forbidden",
            "source_modules": ["skyward"],
            "forbidden_modules": extensions,
        },
        {
            "name": "the kernel's imports go down its floors",
            "type": "layers",
            "layers": list(FLOORS),
            # What authors get of the link; nothing else of the hooks loads it.
            "ignore_imports": ["skyward.hooks.ssh -> skyward.link.ssh"],
        },
        {
            "name": "no extension imports another",
            "type": "independence",
            "modules": siblings,
        },
        {
            "name": "no extension needs the test suites to run",
            "type": "forbidden",
            "source_modules": siblings,
            "forbidden_modules": ["skyward_testing"],
        },
        {
            "name": "extensions use what the kernel shows, as a stranger's package must",
            "type": "forbidden",
            "source_modules": extensions,
            "forbidden_modules": [*PRIVATE, *hidden_modules(houses)],
            "allow_indirect_imports": True,
        },
        {
            "name": "pluggy is known to the hooks only",
            "type": "forbidden",
            "source_modules": ["skyward", *siblings],
            "forbidden_modules": ["pluggy"],
            "ignore_imports": ["skyward.hooks -> pluggy", "skyward.hooks.** -> pluggy"],
            "unmatched_ignore_imports_alerting": "none",
        },
    ]


def hidden_modules(houses: tuple[Member, ...]) -> list[str]:
    """The kernel's modules that begin with an underscore."""
    core = next(house for house in houses if house.name == "core")
    found = (path.stem for path in (core.sources / "skyward").glob("_*") if path.name.startswith("_"))
    return sorted(f"skyward.{name}" for name in found if not name.startswith("__"))


def as_toml() -> str:
    """The contracts as a file for ``lint-imports``. JSON's strings, lists and booleans are TOML's."""
    lines = [
        "[tool.importlinter]",
        f"root_packages = {json.dumps([house.package for house in members()])}",
        "include_external_packages = true",
        "exclude_type_checking_imports = true",
    ]
    for contract in contracts():
        lines.append("[[tool.importlinter.contracts]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in contract.items()]
    return "\n".join(lines) + "\n"
