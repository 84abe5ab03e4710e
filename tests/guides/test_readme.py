"""What the READMEs and docs/ show is run, and what they print is what they say.

The ``python`` blocks of a page are one script, run from top to bottom in an empty folder. ``text`` blocks are
its standard output, in order. A ``toml`` block that begins with a comment naming a file is that file. Blocks
of any other language are for reading only.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house import ROOT, members

PAGES = sorted(
    [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(member.folder / "README.md" for member in members() if member.name != "testing"),
    ]
)
"""testing/README.md shows tests, for pytest to run: its own test is below."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """Yield the line at which each block of a language begins, and its text."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found[1] == language:
            yield text[: found.start(2)].count("\n"), found[2]


def script(page: Path) -> str:
    """Return a page's Python blocks as one script; its line numbers are the page's, for tracebacks."""
    lines: list[str] = []
    for line, block in blocks(page, "python"):
        lines += [""] * (line - len(lines))
        lines += block.splitlines()
    return "\n".join(lines) + "\n"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=name)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, run_script: Callable[[Path], str]) -> None:
    for _, block in blocks(page, "toml"):
        tomllib.loads(block)
        if block.startswith("# skyward.toml"):
            (tmp_path / "empty" / "skyward.toml").write_text(block, encoding="utf-8")
    path = tmp_path / "page.py"
    path.write_text(script(page), encoding="utf-8")
    assert run_script(path) == "".join(block for _, block in blocks(page, "text"))


def test_the_readme_shows_code_and_both_commands() -> None:
    page = ROOT / "README.md"
    assert any(blocks(page, "python"))
    shell = "".join(block for _, block in blocks(page, "sh"))
    assert "pip install uv && uv run guides/01_hello.py\n" in shell
    assert "pip install uv && uv run nox\n" in shell


def test_the_readme_lists_every_distribution() -> None:
    rows = re.findall(
        r"^\| \[`([\w-]+)`\]\(([\w/]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    there = {member.distribution: str(member.folder.relative_to(ROOT)) for member in members()}
    assert dict(rows) == there
    assert len(rows) == len(there)


def test_the_testing_readme_names_every_suite() -> None:
    source = ROOT / "testing" / "src" / "skyward_testing"
    suites = {
        f"skyward_testing.{path.stem}.{suite}"
        for path in source.glob("*.py")
        for suite in re.findall(r"^class (\w+Contract)\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(
        re.findall(r"skyward_testing\.\w+\.\w+", (ROOT / "testing" / "README.md").read_text(encoding="utf-8"))
    )
    assert suites
    assert suites == named


def test_the_suite_of_the_testing_readme_passes(tmp_path: Path, run_script: Callable[[Path], str]) -> None:
    """The block is run as the author of a provider would run it: by pytest, in a folder of its own."""
    (tmp_path / "empty" / "test_mine.py").write_text(script(ROOT / "testing" / "README.md"), encoding="utf-8")
    driver = tmp_path / "driver.py"
    driver.write_text("import pytest\nraise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider']))\n")
    assert re.search(r"\d+ passed", run_script(driver))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
