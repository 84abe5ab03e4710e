"""Which files go along, judged by git itself, and that the stream carries them whole."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from skyward.engine.includes import Bundle, Patterns, bundle_of
from skyward.errors import ConfigError


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}\n")


def names(bundle: Bundle | None) -> list[str]:
    assert bundle is not None
    return [item.name for item in bundle.items]


def unpacked(bundle: Bundle, folder: Path) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(bundle.tar()))) as archive:
        archive.extractall(folder, filter="data")
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(found)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_files_and_folders_keep_their_paths(project: Path, tmp_path: Path) -> None:
    write(project, "src/pack/one.py", "src/pack/deep/er.txt", "data.csv", "other.txt")
    bundle = bundle_of(["./src", "data.csv"])
    assert bundle is not None
    expected = ["data.csv", "src/pack/deep/er.txt", "src/pack/one.py"]
    assert names(bundle) == expected
    assert unpacked(bundle, tmp_path / "there") == expected
    assert (tmp_path / "there/src/pack/one.py").read_text() == "this is src/pack/one.py\n"
    assert bundle.size == sum((project / name).stat().st_size for name in expected)


def test_what_no_node_needs_stays_unless_it_is_asked_for(project: Path) -> None:
    write(
        project, "a.py", ".git/config", "__pycache__/a.pyc", "p/.venv/bin/x", "p/__pycache__/b.pyc", "p/b.py"
    )
    assert names(bundle_of(["."])) == ["a.py", "p/b.py"]
    assert names(bundle_of(["."], ["!.git/"])) == [".git/config", "a.py", "p/b.py"]


TREE = (
    "a.txt",
    "b.log",
    "doc/a.txt",
    "doc/b.log",
    "doc/deep/a.txt",
    "doc/deep/c.md",
    "build/out.bin",
    "src/build/out.bin",
    "src/x1.py",
    "src/x2.py",
    "src/xa.py",
    "src/[odd].py",
    "src/#hash",
    "src/!bang",
    "src/new\nline.txt",
    "logs/2024/one.log",
    "logs/2024/keep.log",
)

PATTERNS = [
    ["*.log"],
    ["*.log", "!keep.log"],
    ["/a.txt"],
    ["a.txt"],
    ["doc/a.txt"],
    ["doc/*"],
    ["doc/**"],
    ["doc/*", "!doc/deep/"],
    ["doc/", "!doc/a.txt"],
    ["**/out.bin"],
    ["build/"],
    ["/build/"],
    ["src/build"],
    ["doc/**/a.txt"],
    ["**/deep/**"],
    ["src/x[0-9].py"],
    ["src/x[!0-9].py"],
    ["src/x?.py"],
    ["\\#hash", "\\!bang"],
    ["src/\\[odd\\].py"],
    ["# a comment", "", "*.md   "],
    ["logs/**", "!logs/**/", "!keep.log"],
    ["a.txt/"],
    ["*"],
    ["/*", "!/src"],
    ["do*/dee?"],
    ["***.log"],
    ["src/x[a-z1].py", "!x1.py"],
]


@pytest.mark.skipif(shutil.which("git") is None, reason="git judges")
@pytest.mark.parametrize("patterns", PATTERNS, ids=repr)
def test_patterns_mean_what_they_mean_to_git(project: Path, patterns: list[str]) -> None:
    write(project, *TREE)
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", "."], check=True, env=quiet)
    (project / ".git/info/exclude").write_text("\n".join(patterns) + "\n")
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, env=quiet).stdout
    left = [name for name in listed.split("\0") if name]
    bundle = bundle_of(["."], patterns)
    assert sorted(left) == (names(bundle) if bundle else [])


@pytest.mark.parametrize("pattern", ["[z-a]"])
def test_a_pattern_that_can_match_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="excludes: "):
        Patterns([pattern])


def test_the_digest_tells_contents_names_and_modes_apart(project: Path) -> None:
    write(project, "a.py", "b.py")

    def digest(includes: Iterable[str] = ("a.py",)) -> str:
        bundle = bundle_of(includes)
        assert bundle is not None
        return bundle.digest

    first = digest()
    os.utime(project / "a.py", (1, 1))
    assert digest() == first
    (project / "a.py").chmod(0o755)
    assert digest() != first
    (project / "a.py").chmod(0o644)
    assert digest() == first
    assert digest(["b.py"]) != first
    (project / "a.py").write_text("other\n")
    assert digest() != first


def test_links_are_followed_and_loops_end(project: Path, tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/one.py")
    write(project, "pack/two.py")
    (project / "pack/linked").symlink_to(tmp_path / "elsewhere")
    (project / "pack/loop").symlink_to(project / "pack")
    (project / "pack/three.py").symlink_to("two.py")
    assert names(bundle_of(["pack"])) == ["pack/linked/one.py", "pack/three.py", "pack/two.py"]
    (project / "pack/broken").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="broken is a link to nothing: put it into excludes"):
        bundle_of(["pack"])


def test_what_lies_outside_keeps_its_last_part(project: Path, tmp_path: Path) -> None:
    write(tmp_path, "shared/x.py", "more/shared/x.py")
    assert names(bundle_of(["../shared"])) == ["shared/x.py"]
    assert names(bundle_of([str(tmp_path / "shared")])) == ["shared/x.py"]
    with pytest.raises(ConfigError, match=r"would both be shared/x\.py on the node"):
        bundle_of(["../shared", "../more/shared"])


def test_what_is_not_here_is_looked_for_beside_the_script(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "scripts/main.py", "scripts/helper.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "scripts/main.py"), raising=False)
    assert names(bundle_of(["helper.py"])) == ["helper.py"]
    with pytest.raises(ConfigError, match=r"includes: there is no 'nothing.py' in .*project and .*scripts"):
        bundle_of(["nothing.py"])


def test_nothing_is_no_bundle(project: Path) -> None:
    write(project, "a.log")
    assert bundle_of([]) is None
    assert bundle_of(["a.log"], ["*.log"]) is None


def test_folders_that_are_imported_from_here_are_there(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "src/pack/one.py", "lib/two.py")
    monkeypatch.syspath_prepend(str(project / "lib"))
    monkeypatch.syspath_prepend(str(project / "src"))
    bundle = bundle_of(["."])
    assert bundle is not None
    assert bundle.paths == ("", "src", "lib")


def test_a_file_that_changes_while_it_is_sent_is_an_error(project: Path) -> None:
    write(project, "a.txt")
    bundle = bundle_of(["a.txt"])
    assert bundle is not None
    (project / "a.txt").write_text("longer than it was before\n")
    with pytest.raises(ConfigError, match="changed while it was sent"):
        b"".join(bundle.tar())


def test_large_files_and_long_names_go_in_pieces(project: Path, tmp_path: Path) -> None:
    long = "/".join(["folder-with-a-long-name"] * 8) + "/" + "f" * 120
    write(project, long)
    (project / "big").write_bytes(os.urandom(1_000_003))
    bundle = bundle_of(["."])
    assert bundle is not None
    assert max(len(piece) for piece in bundle.tar()) < 300_000
    assert unpacked(bundle, tmp_path / "there") == sorted(["big", long])
    assert (tmp_path / "there/big").read_bytes() == (project / "big").read_bytes()
