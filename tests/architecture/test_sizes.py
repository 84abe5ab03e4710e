"""Rooms stay small: files, functions, the kernel as a whole. An exception has a reason and an end."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest
from house import ROOT, files

FILE_LINES = 400
FUNCTION_LINES = 60
FLOORS = ("hooks", "engine", "link", "node")
KERNEL_LINES = 12_000  # of code that makes a pool run: by SSH, after a client that is gone, as a cluster
CORE_LINES = 18_000  # with what users touch: values, catalogues, words for consoles

# "path" or "path::function" -> why it may be longer.
EXCEPTIONS: dict[str, str] = {}


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, comments or docstrings, so that explaining costs nothing."""
    text = path.read_text(encoding="utf-8")
    nothing = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    )
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in nothing:
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            held.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(held)


def function_lines(path: Path) -> dict[str, int]:
    """Every function's length, from ``def`` to its last line, by dotted name."""
    lengths: dict[str, int] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}" if prefix else child.name
                if not isinstance(child, ast.ClassDef):
                    # Overloads and property setters share a name: the longest counts.
                    length = (child.end_lineno or child.lineno) - child.lineno + 1
                    lengths[name] = max(length, lengths.get(name, 0))
            walk(child, name)

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return lengths


def oversized() -> dict[str, str]:
    """What is too long, by the key that EXCEPTIONS uses, each with how long it is."""
    found: dict[str, str] = {}
    for path in files(".py"):
        key = path.relative_to(ROOT).as_posix()
        if (lines := line_count(path)) > FILE_LINES:
            found[key] = f"{lines} lines, a file has at most {FILE_LINES}"
        for function, lines in function_lines(path).items():
            if lines > FUNCTION_LINES:
                found[f"{key}::{function}"] = f"{lines} lines, a function has at most {FUNCTION_LINES}"
    return found


def test_files_and_functions_are_small() -> None:
    too_long = {key: why for key, why in oversized().items() if key not in EXCEPTIONS}
    assert not too_long


def test_every_exception_is_still_needed() -> None:
    assert not EXCEPTIONS.keys() - oversized().keys()
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_the_kernel_is_small() -> None:
    core = ROOT / "core" / "src" / "skyward"
    kernel = sum(code_lines(path) for floor in FLOORS for path in files(".py", below=core / floor))
    assert kernel <= KERNEL_LINES
    assert sum(code_lines(path) for path in files(".py", below=core)) <= CORE_LINES


@pytest.mark.parametrize("decorated", ["", "@staticmethod\n    "])
def test_the_ruler_measures(tmp_path: Path, decorated: str) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text(
        f"class A:\n    {decorated}def long():\n" + "        x = 1\n" * 70 + "\nasync def short(): ...\n"
    )
    assert function_lines(sample) == {"A.long": 71, "short": 1}
    sample.write_text('"""Doc."""\n\n# comment\nx = [  # comment\n    1,\n]\n')
    assert code_lines(sample) == 3
