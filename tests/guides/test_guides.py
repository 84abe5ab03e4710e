"""Every guide runs as it stands and prints what it says it prints."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "guides").glob("*.py"))
LINES = range(30, 81)


def promised(guide: Path) -> str:
    """What the comment at a guide's end, after ``# Prints``, says it prints."""
    _, found, comment = guide.read_text(encoding="utf-8").rpartition("\n# Prints")
    assert found, f"{guide.name} does not end with what it prints"
    lines = comment.splitlines()[1:]
    assert all(line.startswith("#") for line in lines), f"{guide.name} has something after what it prints"
    return "".join(line.removeprefix("#   ") + "\n" for line in lines if line != "#")


def test_the_guides_are_numbered_without_gaps() -> None:
    assert [guide.name[:3] for guide in GUIDES] == [f"{number:02}_" for number in range(1, len(GUIDES) + 1)]
    assert len(GUIDES) >= 6


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_prints_what_it_says(guide: Path, run_script: Callable[[Path], str]) -> None:
    assert run_script(guide) == promised(guide)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_is_short_and_begins_with_what_it_is_about(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert len(text.splitlines()) in LINES
    assert ast.get_docstring(ast.parse(text))
