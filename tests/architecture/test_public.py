"""What an author or a user can import says what it is for, and what goes in and out of it.

Read from the source, not by importing: a dataclass invents a ``__doc__`` of its own at run time.
"""

from __future__ import annotations

import ast
import importlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import KINDS, Member, files, members

# Rooms of the kernel that nobody outside it imports (the import contracts see to that).
PRIVATE_ROOMS = frozenset({"engine", "link", "node"})

EXTENSIONS = [member for member in members() if member.kind in KINDS]

# Methods whose contract is written elsewhere: in the standard library, or in the hook's own specification.
FILE_METHODS = frozenset(dir(io.TextIOBase))
HOOK = "skyward_"
# The implementation of overloads carries the text; an override's is its base's; a property's name is a noun.
SPEAK_FOR_THEMSELVES = frozenset({"overload", "override", "property", "cached_property", "setter", "deleter"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_modules(member: Member) -> Iterator[Path]:
    """The modules whose names others may use."""
    package = member.sources / member.package
    for path in files(".py", below=package):
        parts = path.relative_to(package).with_suffix("").parts
        if member.name == "core" and parts[0] in PRIVATE_ROOMS:
            continue
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            yield path


def missing_annotations(function: Function, *, bound: bool) -> list[str]:
    """The parameters without a type, and ``return``. ``bound``: the first parameter is self or cls."""
    arguments = function.args
    ordered = [*arguments.posonlyargs, *arguments.args][1 if bound else 0 :]
    extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    missing = [a.arg for a in (*ordered, *arguments.kwonlyargs, *extra) if a.annotation is None]
    return missing if function.returns or function.name == "__init__" else [*missing, "return"]


def decorators(function: Function) -> set[str]:
    """The last names of what decorates it: ``typing.overload`` is ``overload``."""
    names = (ast.unparse(decorator).split("(")[0] for decorator in function.decorator_list)
    return {name.rsplit(".", 1)[-1] for name in names}


def complaints(tree: ast.Module, *, methods: bool) -> Iterator[str]:
    """What the module's public names lack. ``methods``: their methods need a docstring too."""
    if not ast.get_docstring(tree):
        yield "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from about_class(node, methods=methods)
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield from about_function(node, node.name, documented=True, bound=False)


def about_class(node: ast.ClassDef, *, methods: bool) -> Iterator[str]:
    """The complaints about a class and its public methods, special ones among them."""
    if not ast.get_docstring(node):
        yield f"{node.name} has no docstring"
    for child in node.body:
        if not isinstance(child, Function):
            continue
        special = child.name.startswith("__")
        if special or not child.name.startswith("_"):
            elsewhere = special or child.name.startswith(HOOK) or child.name in FILE_METHODS
            documented = methods and not elsewhere
            yield from about_function(child, f"{node.name}.{child.name}", documented=documented, bound=True)


def about_function(node: Function, name: str, *, documented: bool, bound: bool) -> Iterator[str]:
    """The complaints about one function. ``documented``: it needs a docstring."""
    marks = decorators(node)
    if documented and not ast.get_docstring(node) and not marks & SPEAK_FOR_THEMSELVES:
        yield f"{name} has no docstring"
    if missing := missing_annotations(node, bound=bound and "staticmethod" not in marks):
        yield f"{name} has no annotation for {', '.join(missing)}"


@pytest.mark.parametrize("member", members(), ids=lambda member: member.distribution)
def test_public_names_are_documented_and_typed(member: Member) -> None:
    """In extensions methods may be silent: they fill in a port that is documented in the kernel."""
    found: list[str] = []
    for path in public_modules(member):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(member.folder)
        found += [f"{where}: {text}" for text in complaints(tree, methods=member.name == "core")]
    assert not found


@pytest.mark.parametrize("member", EXTENSIONS, ids=lambda member: member.distribution)
def test_an_extension_exports_what_its_entry_point_names(member: Member) -> None:
    package = importlib.import_module(member.package)
    exported: list[str] = getattr(package, "__all__", [])
    (value,) = member.config["project"]["entry-points"][f"skyward.{member.kind}"].values()
    assert value.partition(":")[2] in exported
    assert [name for name in exported if not hasattr(package, name)] == []


def test_every_name_of_the_root_is_there() -> None:
    """The kernel's root is a table of strings: a name in it may lead nowhere without anybody noticing."""
    package = importlib.import_module("skyward")
    lost = [name for name in dir(package) if not hasattr(package, name)]
    assert not lost
    assert "Compute" in dir(package)


def test_complaints_are_made() -> None:
    source = '''
class Silent:
    def run(self, a, *, b: int): ...
    def _hidden(self, a): ...
    def flush(self) -> None: ...
    @property
    def size(self): ...

def told(a: int) -> int:
    """Give ``a`` back."""
    return a

@typing.overload
def many(a: int) -> int: ...
'''
    assert list(complaints(ast.parse(source), methods=True)) == [
        "the module has no docstring",
        "Silent has no docstring",
        "Silent.run has no docstring",
        "Silent.run has no annotation for a, return",
        "Silent.size has no annotation for return",
    ]
