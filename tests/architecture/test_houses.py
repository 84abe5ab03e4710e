"""Every distribution has the same rooms and one name: folder = distribution = package = entry point = extra.

The folders decide; every other list (extras, sources, groups, installed entry points) is compared with them.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from house import KINDS, LEFTOVERS, ROOT, SINGLE, Member, members, toml

RANGE = ">=0.1,<0.2"  # what every distribution of this repository asks of the others
MEMBERS = members()
EXTENSIONS = [member for member in MEMBERS if member.name != "core"]
ROOT_CONFIG = toml(ROOT / "pyproject.toml")

# `pip install skyward` brings these: one of each kind that a first script needs.
DEFAULTS = frozenset({"cluster", "core", "local", "log", "rich", "standalone"})

ROOMS = {"LICENSE", "README.md", "pyproject.toml", "src", "tests"}
# Equal in every pyproject.toml, word for word.
SAME = {
    "version": "0.1.0",
    "requires-python": ">=3.12",
    "license": "Apache-2.0",
    "license-files": ["LICENSE"],
    "readme": "README.md",
}


def visible(folder: Path) -> set[str]:
    """What people put into a folder: no caches, no tools' files."""
    return {
        path.name for path in folder.iterdir() if path.name not in LEFTOVERS and not path.name.startswith(".")
    }


def room_complaints(member: Member) -> Iterator[str]:
    """What is missing from the house or stands in it beyond the plan."""
    if (there := visible(member.folder)) != ROOMS:
        yield f"rooms: {sorted(there ^ ROOMS)} too few or too many"
    if (packages := visible(member.sources)) != {member.package}:
        yield f"src holds {sorted(packages)}, not just {member.package}"
    for name in ("__init__.py", "py.typed"):
        if not (member.sources / member.package / name).is_file():
            yield f"src/{member.package}/{name} is missing"
    if not any((member.folder / "tests").glob("**/test_*.py")):
        yield "tests/ holds no test"
    if (member.folder / "LICENSE").read_bytes() != (ROOT / "LICENSE").read_bytes():
        yield "LICENSE differs from the root's"


def name_complaints(member: Member) -> Iterator[str]:
    """Where the pyproject.toml says another name than the folder, or another word than its neighbours."""
    config = member.config
    project = config["project"]
    if project["name"] != member.distribution:
        yield f"the distribution is called {project['name']}, not {member.distribution}"
    yield from (
        f"{key} is {project.get(key)!r}, not {value!r}"
        for key, value in SAME.items()
        if project.get(key) != value
    )
    if config["build-system"] != ROOT_CONFIG["build-system"]:
        yield "the build-system differs from the root's"
    if config["tool"]["hatch"]["build"]["targets"]["wheel"] != {"packages": [f"src/{member.package}"]}:
        yield "the wheel holds something else than the package"
    for requirement in project["dependencies"]:
        if requirement.startswith("skyward") and not requirement.endswith(RANGE):
            yield f"asks for {requirement}, not for {RANGE}"
    if member.name != "core" and f"skyward-core{RANGE}" not in project["dependencies"]:
        yield f"does not ask for skyward-core{RANGE}"


def entry_point_complaints(member: Member) -> Iterator[str]:
    """Where the entry points are not exactly those that the folder's place demands."""
    given = member.config["project"].get("entry-points", {})
    modules = {
        group: {name: value.partition(":")[0] for name, value in names.items()}
        for group, names in given.items()
    }
    if modules != member.entry_points:
        yield f"entry points are {modules}, not {member.entry_points}"
    for group, names in given.items():
        for name, value in names.items():
            spelled = value.partition(":")[2].lower()
            if group != "pytest11" and not spelled.startswith(name.replace("-", "").replace("_", "")):
                yield f"{name} leads to {value}, which is not called so"


def complaints(member: Member) -> list[str]:
    return [*room_complaints(member), *name_complaints(member), *entry_point_complaints(member)]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.distribution)
def test_every_house_has_the_same_plan(member: Member) -> None:
    assert complaints(member) == []


def test_the_workspace_is_every_folder() -> None:
    globs = ROOT_CONFIG["tool"]["uv"]["workspace"]["members"]
    found = {folder for glob in globs for folder in ROOT.glob(glob) if folder.is_dir()}
    assert found == {member.folder for member in MEMBERS}
    assert set(globs) <= {*SINGLE, *(f"{kind}/*" for kind in KINDS)}


def test_names_are_unique() -> None:
    names = [member.name for member in MEMBERS]
    assert sorted(names) == sorted(set(names))


def test_there_is_an_extra_for_every_name() -> None:
    extras = ROOT_CONFIG["project"]["optional-dependencies"]
    assert extras == {member.name: [f"{member.distribution}{RANGE}"] for member in EXTENSIONS}


def test_the_workspace_is_developed_as_a_whole() -> None:
    distributions = {member.distribution for member in MEMBERS}
    assert set(ROOT_CONFIG["tool"]["uv"]["sources"]) == distributions
    assert set(ROOT_CONFIG["dependency-groups"]["workspace"]) == distributions


def test_the_root_is_a_list_of_dependencies() -> None:
    project = ROOT_CONFIG["project"]
    assert project["name"] == "skyward"
    assert {key: project[key] for key in SAME} == SAME
    assert set(project["dependencies"]) == {f"skyward-{name}{RANGE}" for name in DEFAULTS}
    assert ROOT_CONFIG["tool"]["hatch"]["build"]["targets"]["wheel"] == {"bypass-selection": True}


@pytest.mark.parametrize("group", [f"skyward.{kind}" for kind in KINDS])
def test_what_is_installed_is_what_the_folders_say(group: str) -> None:
    """Editable entry points appear only after a new ``uv sync``: run it if this fails."""
    ours = {member.distribution for member in MEMBERS}
    installed = {found.name for found in entry_points(group=group) if found.dist and found.dist.name in ours}
    assert installed == {member.name for member in MEMBERS if f"skyward.{member.kind}" == group}


@pytest.mark.parametrize("member", EXTENSIONS, ids=lambda member: member.distribution)
def test_entry_points_load(member: Member) -> None:
    for group, names in member.entry_points.items():
        for name in names:
            (found,) = [
                entry for entry in entry_points(group=group, name=name) if entry.value.startswith("skyward")
            ]
            assert found.load() is not None


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.distribution)
def test_the_environment_has_this_version(member: Member) -> None:
    assert version(member.distribution) == SAME["version"]


def test_type_checkers_know_the_providers_there_are() -> None:
    """``sky.Local`` is found by its entry point, but a checker needs an import: the kernel's only list."""
    source = (ROOT / "core" / "src" / "skyward" / "__init__.py").read_text(encoding="utf-8")
    told = {
        node.module: [alias.name for alias in node.names]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("skyward_")
    }
    there = [member for member in MEMBERS if member.kind == "providers"]
    values = [member.config["project"]["entry-points"]["skyward.providers"][member.name] for member in there]
    assert told == {value.partition(":")[0]: [value.partition(":")[2]] for value in values}


def move_in(folder: Path, *, name: str, kind: str) -> Member:
    """Do what the template's README tells: copy it, and put the new name everywhere."""
    shutil.copytree(ROOT / "_template", folder, ignore=shutil.ignore_patterns(*LEFTOVERS))
    package = folder / "src" / "skyward_template"
    package.rename(package.with_name(f"skyward_{name}"))
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        text = path.read_text(encoding="utf-8")
        text = text.replace("template", name).replace("Template", name.title())
        path.write_text(text.replace("skyward.plugins", f"skyward.{kind}"), encoding="utf-8")
    return Member(folder=folder, kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_is_such_a_house(tmp_path: Path, kind: str) -> None:
    assert complaints(move_in(tmp_path / "acme", name="acme", kind=kind)) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("pyproject.toml", '"skyward-acme"', '"skyward-acne"', "called skyward-acne"),
        ("pyproject.toml", '"skyward_acme:Acme"', '"skyward_acme:Other"', "not called so"),
        ("pyproject.toml", "acme = ", "acne = ", "entry points are"),
        ("pyproject.toml", "skyward.providers", "skyward.consoles", "entry points are"),
        ("pyproject.toml", '["src/skyward_acme"]', '["src"]', "the wheel holds"),
        ("pyproject.toml", RANGE, ">=0.1", "not for >=0.1,<0.2"),
        ("pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"', "version is '0.2.0'"),
        ("LICENSE", "Apache", "Apple", "LICENSE differs"),
    ],
)
def test_a_house_that_differs_is_noticed(
    tmp_path: Path, file: str, old: str, new: str, complaint: str
) -> None:
    member = move_in(tmp_path / "acme", name="acme", kind="providers")
    path = member.folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert any(re.search(re.escape(complaint), line) for line in complaints(member))


@pytest.mark.parametrize("room", sorted(ROOMS - {"pyproject.toml", "LICENSE", "src"}))
def test_a_missing_room_is_noticed(tmp_path: Path, room: str) -> None:
    member = move_in(tmp_path / "acme", name="acme", kind="providers")
    there = member.folder / room
    shutil.rmtree(there) if there.is_dir() else there.unlink()
    assert any(line.startswith("rooms:") for line in complaints(member))
