"""The reference pages name all there is, and nothing else: the code is the list, the page follows."""

from __future__ import annotations

import inspect
import re

import skyward.errors
from house import ROOT
from skyward.hooks import ports, registry, specs
from skyward.hooks.plugin import Plugin

DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def code_words(text: str) -> set[str]:
    """Everything a page sets in code type, cut into words: in backticks or in a fenced block."""
    inline = " ".join(re.findall(r"`([^`\n]+)`", text))
    fenced = " ".join(re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    return set(re.findall(r"\w+", f"{inline} {fenced}"))


def signature(function: object) -> str:
    assert callable(function)
    names = [name for name in inspect.signature(function).parameters if name != "self"]
    return f"{getattr(function, '__name__', '')}({', '.join(names)})"


def hook_specs() -> dict[str, object]:
    return {name: value for name, value in vars(specs).items() if name.startswith("skyward_")}


def port_classes() -> list[type]:
    return [
        value
        for value in vars(ports).values()
        if isinstance(value, type) and value.__module__ == ports.__name__
    ]


def test_every_hook_is_documented_with_its_arguments() -> None:
    text = page("extending.md")
    documented = set(re.findall(r"^\| `(skyward_\w+\([^)]*\))`", text, re.MULTILINE))
    assert documented == {signature(hook) for hook in hook_specs().values()}


def test_no_hook_is_mentioned_that_does_not_exist() -> None:
    # Packages are called so too, and have no other mark in a sentence than what stands behind them.
    mentioned = set(re.findall(r"`(skyward_\w+)(?:\([^)]*\))?`", page("extending.md")))
    assert mentioned <= hook_specs().keys()


def test_every_builder_of_a_plugin_is_documented() -> None:
    text = page("extending.md")
    builders = {name for name in vars(Plugin) if name.startswith("with_")}
    assert builders == set(re.findall(r"`(with_\w+)`", text))


def test_every_port_and_each_of_its_members_is_documented() -> None:
    words = code_words(page("extending.md"))
    classes = port_classes()
    assert len(classes) >= 5
    for port in classes:
        members = {name for name in (*vars(port), *port.__annotations__) if not name.startswith("_")}
        assert {port.__name__, *members} <= words, (
            f"docs/extending.md says nothing of some of {port.__name__}"
        )


def test_every_entry_point_group_is_documented() -> None:
    assert set(registry.GROUPS) <= set(re.findall(r"`(skyward\.\w+)`", page("extending.md")))


def test_the_tree_of_errors_is_the_tree() -> None:
    text = page("errors.md")
    classes = {
        name
        for name, value in vars(skyward.errors).items()
        if isinstance(value, type) and issubclass(value, skyward.errors.SkywardError)
    }
    (tree,) = re.findall(r"^```\n(SkywardError\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    in_tree = re.findall(r"^[│├└─ ]*(\w+)", tree, re.MULTILINE)
    assert sorted(in_tree) == sorted(classes)


def test_each_error_hangs_where_its_class_does() -> None:
    (tree,) = re.findall(r"^```\n(SkywardError\n.*?)^```$", page("errors.md"), re.MULTILINE | re.DOTALL)
    above: list[str] = []
    for line in tree.splitlines():
        found = re.match(r"([│├└─ ]*)(\w+)(?: \((\w+)\))?", line)
        assert found, line
        depth = len(found[1]) // 3
        del above[depth:]
        kind = getattr(skyward.errors, found[2])
        bases = {base.__name__ for base in kind.__bases__}
        told = {*above[-1:], found[3]} - {None}
        assert told == (bases if above else set()), line
        above.append(found[2])
