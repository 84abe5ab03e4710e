"""Which modules are the user's, what they import, and how another process imports them."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from skyward.link.modules import Definition, Listing, Project, ShippedModules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    "name", ["os", "json.decoder", "numpy", "pytest", "skyward", "skyward.link", "__main__", "no_such"]
)
def test_what_is_installed_or_ours_is_not_the_user_s(name: str) -> None:
    assert not Project().is_project_module(name)


def test_what_lies_beside_the_script_is(folder: Path) -> None:
    write(folder, beside_a="", beside_pkg__inner="")
    project = Project()
    assert project.is_project_module("beside_a")
    assert project.is_project_module("beside_pkg")
    assert project.is_project_module("beside_pkg.inner")


def test_a_module_that_can_t_be_read_as_text_is_left_alone(folder: Path) -> None:
    (folder / "beside_bytes.py").write_bytes(b"\xff\xfe")
    assert not Project().is_project_module("beside_bytes")


def test_the_closure_follows_every_import_and_runs_nothing(folder: Path) -> None:
    write(
        folder,
        clo_a="import clo_b\ndef late():\n    from clo_pkg.deep import x\nraise RuntimeError('was run')",
        clo_b="from clo_a import late",
        clo_c="",
        clo_pkg____init__="",
        clo_pkg__deep__er="from ..side import y\nfrom . import near",
        clo_pkg__deep__near="import json, numpy",
        clo_pkg__side="from clo_c import *",
        clo_unused="",
    )
    (folder / "clo_pkg" / "__init__.py").write_text("")
    (folder / "clo_pkg" / "deep" / "__init__.py").write_text("from .er import x")
    found = Project().closure(["clo_a"])
    assert sorted(found) == [
        "clo_a",
        "clo_b",
        "clo_c",
        "clo_pkg",
        "clo_pkg.deep",
        "clo_pkg.deep.er",
        "clo_pkg.deep.near",
        "clo_pkg.side",
    ]
    assert not any(name in sys.modules for name in found)


def test_a_broken_module_is_still_sent(folder: Path) -> None:
    """What it says when it is imported is for its importer."""
    write(folder, bro_a="def (")
    assert list(Project().closure(["bro_a"])) == ["bro_a"]


def test_a_function_s_own_imports_are_found(folder: Path) -> None:
    write(folder, own_a="", own_pkg__inner="")
    names: dict[str, Any] = {"__name__": "__main__", "__package__": "own_pkg"}
    exec("def f():\n    import own_a\n    def g():\n        from . import inner\n        import os", names)
    assert Project().imported_by(names["f"]) == {"own_a", "own_pkg", "own_pkg.inner"}


def test_a_changed_file_is_read_again_after_forget(folder: Path) -> None:
    write(folder, cha_a="x = 1")
    project = Project()
    first = project.source("cha_a")
    write(folder, cha_a="x = 2")
    assert project.source("cha_a") is first
    project.forget()
    second = project.source("cha_a")
    assert first is not None
    assert second is not None
    assert first.digest != second.digest


# the other side


@pytest.fixture
def shipped() -> Iterator[ShippedModules]:
    modules = ShippedModules()
    yield modules
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not modules]
    for name in [name for name in sys.modules if name.startswith("shi_")]:
        del sys.modules[name]


def source(name: str, text: str, *, package: bool = False) -> dict[str, Any]:
    path = f"/nowhere/{name.replace('.', '/')}{'/__init__' if package else ''}.py"
    return {"name": name, "origin": path, "package": package, "text": text}


def test_what_was_sent_is_imported(shipped: ShippedModules) -> None:
    shipped.add(
        [source("shi_p", "from .q import x", package=True), source("shi_p.q", "x = 5\ndef f():\n    1 / 0")]
    )
    module: Any = importlib.import_module("shi_p")
    assert module.x == 5
    assert module.__file__ == "/nowhere/shi_p/__init__.py"
    assert linecache.getline("/nowhere/shi_p/q.py", 3) == "    1 / 0"


def test_after_a_change_everything_is_imported_anew(shipped: ShippedModules) -> None:
    """Others may hold parts of what changed."""
    shipped.add([source("shi_a", "x = 1"), source("shi_b", "from shi_a import x")])
    first: Any = importlib.import_module("shi_b")
    shipped.add([source("shi_a", "x = 1")])
    assert importlib.import_module("shi_b") is first, "nothing has changed"
    shipped.add([source("shi_a", "x = 2")])
    second: Any = importlib.import_module("shi_b")
    assert (first.x, second.x) == (1, 2)


def test_listings_and_definitions_are_no_modules(shipped: ShippedModules) -> None:
    shipped.add([Listing("<cell 9>", "a\nb\n").to_json(), Definition("some number", b"pickle").to_json()])
    assert linecache.getline("<cell 9>", 2) == "b\n"
    assert shipped.find_spec("<cell 9>") is None


def test_the_text_of_a_cell_is_found_and_that_of_installed_code_is_not_sent() -> None:
    import json

    linecache.cache["<cell 8>"] = (2, None, ["x\n"], "<cell 8>")
    found = Project().listings(["<cell 8>", "<cell that nobody knows>", json.__file__])
    assert [listing.text for listing in found.values()] == ["x\n"]
