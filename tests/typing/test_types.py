"""mypy and pyright, both strict, must understand the public API as we promise it.

A case is a module in ``cases/`` that is checked, never run. Its lines say what both checkers must answer:

    reveal_type(add(1, 2) >> pool)  # expect: int
    add("1", 2)  # error

A type is written without module names, as pyright spells it. Whatever else a checker reports about a case is
a failure too. ``broken/`` holds cases that this harness has to fail; its lines say with ``# fails:`` how.
Each checker runs once for all of them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

EXPECT = re.compile(r"#\s*expect:\s*(.+?)\s*(?:#|$)")
ERROR = re.compile(r"#\s*error\b")
FAILS = re.compile(r"#\s*fails:\s*(.+?)\s*$")

# What pyright says about a line that is merely useless: it must not pass for a rejection.
NO_REJECTION = frozenset({"reportUnusedExpression", "reportUnusedCoroutine", "reportUnknownVariableType"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One thing that a checker said about one line. ``revealed``: the type, if that is what it said."""

    checker: str
    file: Path
    line: int
    message: str
    revealed: str | None = None
    rule: str = ""


def plain(text: str) -> str:
    """A type as both checkers spell it: no module names, no ``def``, no mark for an inferred literal."""
    bare = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=\w)", "", text)
    return re.sub(r"\bdef (?=[\[(])", "", bare).replace("]?", "]")


def run_mypy(paths: list[Path]) -> Iterator[Report]:
    """mypy's notes and errors, by its own configuration of the repository."""
    command = [sys.executable, "-m", "mypy", "--output", "json", *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise AssertionError(f"mypy did not run: {done.stdout}{done.stderr}")
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        said = re.fullmatch(r'Revealed type is "(.*)"', entry["message"], re.DOTALL)
        yield Report(
            checker="mypy",
            file=(ROOT / entry["file"]).resolve(),
            line=entry["line"],
            message=entry["message"],
            revealed=plain(said[1]) if said else None,
            rule=entry["code"] or "",
        )


def run_pyright() -> Iterator[Report]:
    """pyright's answers about both folders, by the pyrightconfig.json beside this file."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--project", str(HERE)]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise AssertionError(f"pyright did not run: {done.stdout}{done.stderr}")
    for entry in json.loads(done.stdout)["generalDiagnostics"]:
        said = re.fullmatch(r'Type of ".*" is "(.*)"', entry["message"], re.DOTALL)
        yield Report(
            checker="pyright",
            file=Path(entry["file"]).resolve(),
            line=entry["range"]["start"]["line"] + 1,
            message=entry["message"].splitlines()[0],
            revealed=plain(said[1]) if said and entry["severity"] == "information" else None,
            rule=entry.get("rule", ""),
        )


def line_problems(text: str, reports: list[Report], checker: str) -> Iterator[str]:
    """Where one checker's reports on one line differ from what the line says."""
    own = [report for report in reports if report.checker == checker]
    revealed = [report.revealed for report in own if report.revealed is not None]
    rejected = [report for report in own if report.revealed is None and report.rule not in NO_REJECTION]
    expected = EXPECT.search(text)
    if expected and revealed != [expected[1]]:
        yield f"{checker} answers {' and '.join(revealed) or 'nothing'}"
    if not expected and revealed:
        yield f"{checker} answers {' and '.join(revealed)} where nothing is expected"
    if ERROR.search(text):
        if not rejected:
            yield f"{checker} does not object"
    else:
        yield from (f"{checker} objects: {report.message}" for report in own if report.revealed is None)


def problems(path: Path, reports: list[Report]) -> dict[int, list[str]]:
    """Everything about a case that is not as it says, by line."""
    found: dict[int, list[str]] = {}
    own = [report for report in reports if report.file == path]
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        here = [report for report in own if report.line == number]
        wrong = [line for checker in ("mypy", "pyright") for line in line_problems(text, here, checker)]
        if wrong:
            found[number] = wrong
    return found


def modules(folder: str) -> list[Path]:
    return sorted((HERE / folder).glob("*.py"))


@pytest.fixture(scope="session")
def reports() -> list[Report]:
    """What both checkers say about all cases, asked once."""
    return [*run_mypy(modules("cases") + modules("broken")), *run_pyright()]


@pytest.mark.parametrize("path", modules("cases"), ids=lambda path: path.stem)
@pytest.mark.timeout(300)  # the first run of both checkers has no cache to start from
def test_both_checkers_understand(path: Path, reports: list[Report]) -> None:
    assert problems(path, reports) == {}
    text = path.read_text(encoding="utf-8")
    assert EXPECT.search(text) or ERROR.search(text), "a case that expects nothing proves nothing"


@pytest.mark.parametrize("path", modules("broken"), ids=lambda path: path.stem)
def test_a_wrong_expectation_fails(path: Path, reports: list[Report]) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    marked = {number: said[1].split("; ") for number, text in lines if (said := FAILS.search(text))}
    found = problems(path, reports)
    assert marked.keys() == found.keys()
    for number, starts in marked.items():
        assert len(found[number]) == len(starts)
        assert all(
            said.startswith(start.strip()) for said, start in zip(found[number], starts, strict=True)
        ), number


@pytest.mark.parametrize(
    ("mypy", "pyright"),
    [
        ("def (int) -> str", "(int) -> str"),
        ("concurrent.futures._base.Future[typing.cases.basics.Box[int]]", "Future[Box[int]]"),
        ("Literal[1]?", "Literal[1]"),
    ],
)
def test_types_are_compared_by_one_spelling(mypy: str, pyright: str) -> None:
    assert plain(mypy) == plain(pyright) == pyright
