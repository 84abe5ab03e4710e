"""Every guide runs as it stands and prints what it says it prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from house import ROOT
from skyward_testing.testbed import Node, Testbed

GUIDES = sorted((ROOT / "guides").glob("*.py"))
WANT_HOSTS = [guide for guide in GUIDES if "user@host" in guide.read_text(encoding="utf-8")]
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
    assert len(GUIDES) >= 9


@pytest.mark.parametrize(
    "guide", [guide for guide in GUIDES if guide not in WANT_HOSTS], ids=lambda guide: guide.stem
)
def test_a_guide_prints_what_it_says(guide: Path, run_script: Callable[[Path], str]) -> None:
    assert run_script(guide) == promised(guide)


def aliases(home: Path, nodes: list[Node]) -> list[str]:
    """Have a home folder know nodes by their names, as people have their hosts in ~/.ssh/config."""
    entries = [
        f"Host {node.name}\n  HostName {node.address}\n  Port {node.port}\n  User {node.user}\n"
        f"  IdentityFile {node.key}\n"
        for node in nodes
    ]
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "config").write_text("".join(entries), encoding="utf-8")
    return [node.name for node in nodes]


@pytest.mark.parametrize("guide", WANT_HOSTS, ids=lambda guide: guide.stem)
def test_a_guide_that_wants_hosts_prints_what_it_says(
    guide: Path, run_script: Callable[..., str], home: Path, testbed: Testbed
) -> None:
    """They have no rights there, and the network they reach packages by."""
    nodes = [testbed.node(name=name, user="plain") for name in ("ada", "bob")]
    assert run_script(guide, *aliases(home, nodes)) == promised(guide)
    pinned = (home / ".local" / "state" / "skyward" / "known_hosts").read_text(encoding="utf-8")
    assert nodes[0].host_key in pinned
    for node in nodes:
        assert not node.exists("/home/plain/.skyward/machine")


@pytest.mark.parametrize("guide", WANT_HOSTS, ids=lambda guide: guide.stem)
def test_a_guide_that_wants_hosts_says_so(guide: Path) -> None:
    done = subprocess.run([sys.executable, str(guide)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert f"uv run guides/{guide.name} user@host" in done.stderr


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_is_short_and_begins_with_what_it_is_about(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    assert len(text.splitlines()) in LINES
    assert ast.get_docstring(ast.parse(text))
