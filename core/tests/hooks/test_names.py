"""The root module: what ``sky`` offers, lazily, and the same to type checkers as at run time."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
import skyward
from skyward.errors import MissingExtraError
from skyward.hooks import registry

REPOSITORY = Path(__file__).resolve().parents[3]
SKY: Any = skyward


def block(package: str) -> dict[str, str]:
    """The names that the block for type checkers gives: name -> module, 'module as name' is the module."""
    path = importlib.import_module(package).__file__
    assert path is not None
    names: dict[str, str] = {}
    for node in _type_checking_body(Path(path)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname in (alias.name, None), f"{alias.name} is not re-exported"
                names[alias.name] = (
                    f"{node.module}.{alias.name}" if node.module == package else str(node.module)
                )
        elif isinstance(node, ast.Import):
            names |= {alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            (target,) = node.targets
            assert isinstance(target, ast.Name)
            names[target.id] = names.pop(node.value.id)
    return names


def _type_checking_body(path: Path) -> Iterator[ast.stmt]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from node.body


def table(home: dict[str, str], package: str) -> dict[str, str]:
    return {name: f"{package}.{module}" for name, module in home.items()}


OURS = {name: module for name, module in block("skyward").items() if module.partition(".")[0] == "skyward"}


def test_type_checkers_and_the_program_see_the_same_names() -> None:
    modules = {name: f"skyward.{module}" for name, module in SKY._MODULES.items()}
    assert table(SKY._HOME, "skyward") | modules == OURS


def test_type_checkers_and_authors_see_the_same_names_in_hooks() -> None:
    hooks: Any = importlib.import_module("skyward.hooks")
    seen = block("skyward.hooks")
    assert seen == table(hooks._HOME, "skyward.hooks")


@pytest.mark.parametrize("name", sorted(importlib.import_module("skyward.hooks").__dir__()))
def test_every_name_of_hooks_exists(name: str) -> None:
    hooks: Any = importlib.import_module("skyward.hooks")
    assert getattr(hooks, name) is getattr(
        importlib.import_module(f"skyward.hooks.{hooks._HOME[name]}"), name
    )


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_public_name_exists_and_is_what_its_module_has(name: str) -> None:
    home = importlib.import_module(OURS[name])
    is_module = OURS[name].rpartition(".")[2] == SKY._MODULES.get(name)
    assert getattr(SKY, name) is (home if is_module else getattr(home, name))


def test_type_checkers_see_exactly_the_first_party_providers() -> None:
    """The one place where the kernel names providers; it follows from the folders in ``providers/``."""
    declared: dict[str, str] = {}
    for project in REPOSITORY.glob("providers/*/pyproject.toml"):
        groups = tomllib.loads(project.read_text())["project"].get("entry-points", {})
        for own_name, value in groups.get(registry.PROVIDERS, {}).items():
            module, _, name = value.partition(":")
            declared |= {name: module, own_name: module}
    seen = {name: module for name, module in block("skyward").items() if name not in OURS}
    assert declared
    assert seen == declared


def test_importing_it_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import skyward; print(*sorted(set(sys.modules) - before))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert {name for name in loaded if name.startswith("skyward")} == {"skyward"}
    small = {"skyward", "__future__", "importlib", "types", "warnings", "_warnings"}
    assert {name.partition(".")[0] for name in loaded} <= small


@pytest.mark.parametrize("first", ["function", "shard"])
def test_a_public_name_wins_over_the_submodule_it_lives_in(first: str) -> None:
    code = (
        f"import importlib, skyward as sky\n"
        f"home = importlib.import_module('skyward.{first}')\n"
        f"assert sky.{first} is home.{first}, sky.{first}\n"
        f"from skyward.{first} import {first}\n"
        f"assert sky.{first} is {first}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_functions_that_refer_to_it_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(skyward)) is skyward
    loose: Any = eval("lambda: sky.dict", {"sky": skyward})
    again: Any = pickle.loads(cloudpickle.dumps(loose))
    assert again() is SKY.dict


def test_other_submodules_are_bound_as_ever() -> None:
    importlib.import_module("skyward.durations")
    assert isinstance(SKY.durations, ModuleType)


def test_dir_lists_the_names_and_loads_nothing() -> None:
    assert set(dir(skyward)) == set(OURS) | {"__version__"}


def test_the_version_is_that_of_the_installed_core() -> None:
    project = tomllib.loads((REPOSITORY / "core" / "pyproject.toml").read_text())["project"]
    assert skyward.__version__ == project["version"]


@pytest.mark.parametrize(
    ("slip", "right"),
    [("fuction", "sky.function"), ("instance_inf", "sky.Instance"), ("acelerators", "sky.accelerators")],
)
def test_a_misspelt_name_is_told_the_nearest(slip: str, right: str) -> None:
    with pytest.raises(
        AttributeError, match=f"module 'skyward' has no attribute '{slip}': did you mean .*{right}"
    ):
        getattr(SKY, slip)


@pytest.mark.parametrize(
    ("slip", "right"), [("Computee", "sky.Compute"), ("TaskTimeoutEror", "sky.TaskTimeoutError")]
)
def test_a_misspelt_class_is_not_taken_for_a_provider_to_install(slip: str, right: str) -> None:
    with pytest.raises(AttributeError, match=f"did you mean {right}"):
        getattr(SKY, slip)


def test_what_tools_probe_for_is_simply_absent() -> None:
    for name in ("_repr_html_", "__wrapped__", "_ipython_display_"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'$"):
            getattr(SKY, name)
    assert not hasattr(SKY, "nonsense")


def test_a_providers_own_name_is_its_package() -> None:
    """For what else it has, such as ``sky.ssh.Host``; nothing of ours is hidden by it."""
    for name in registry.names(registry.PROVIDERS):
        found = registry.find(registry.PROVIDERS, name)
        assert getattr(SKY, name.lower()) is sys.modules[found.__module__.partition(".")[0]]
    for name in ("engine", "spec"):  # rooms of the kernel are asked for like this when they are imported
        if name not in vars(SKY):
            with pytest.raises(AttributeError):
                SKY.__getattr__(name)


def test_a_package_of_ours_that_is_missing_is_told_how_to_get(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(group: str, name: str) -> object:
        raise MissingExtraError(f"no provider {name!r} is installed: pip install 'skyward[moon]'")

    monkeypatch.setattr(registry, "find", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'skyward\[moon\]'$"):
        _ = SKY.moon
    with pytest.raises(AttributeError, match="has no attribute 'mars'"):
        _ = SKY.mars


VENDORS = (
    "AWS", "GCP", "RunPod", "VastAI", "Hyperstack", "TensorDock", "Verda", "Novita", "Lambda", "Container",
    "SSH", "Kubernetes", "Slurm",
)  # fmt: skip


@pytest.mark.parametrize("name", VENDORS)
def test_a_vendors_name_is_a_provider_or_the_line_that_installs_it(name: str) -> None:
    """None of them may look like a slip in one of our own names."""
    if any(registry.fold(name) == registry.fold(known) for known in registry.names(registry.PROVIDERS)):
        assert getattr(SKY, name) is registry.find(registry.PROVIDERS, name)
    else:
        with pytest.raises(MissingExtraError, match=f"^no provider '{name}' is installed: .*pip install "):
            getattr(SKY, name)
