"""Every check there is, one session each: ``uv run nox`` runs them all, ``uv run nox -s lint types`` some.

``uv run`` has prepared .venv with the whole workspace; all sessions but the tests add the tools and run in
it. The tests have an environment for each Python, made from the same cache. Interpreters are looked for,
never downloaded: one that is missing is a skipped session, and a failed one where CI=true (nox's own
default).
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests" / "architecture"))

import contracts  # noqa: E402 - found by the line above
from house import Member, members, toml  # noqa: E402

nox.needs_version = ">=2025.10"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"  # `uv sync` makes an old environment equal to a new one

MEMBERS = members()
PYTHONS = ("3.12", "3.13")
BIN = Path(sys.executable).parent
GUIDE = ROOT / "guides" / "01_hello.py"
THIRD_PARTY = ROOT / "examples" / "acme"

LOAD_ENTRY_POINTS = """
from importlib.metadata import entry_points
found = [e for e in entry_points() if e.group.startswith("skyward.") or e.name == "skyward_testing"]
for entry in found:
    entry.load()
print(len(found), "entry points load:", *sorted(entry.name for entry in found))
"""


def check(session: nox.Session, *commands: list[str]) -> None:
    """Run tools of the environment that nox itself runs in: all of them, even if one finds something."""
    uv(session, "sync", "--inexact", "--all-packages", "--group", "checks")
    failed: list[str] = []
    for name, *arguments in commands:
        try:
            session.run(str(BIN / name), *arguments, external=True)
        except CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"{' and '.join(dict.fromkeys(failed))} found something")


def uv(session: nox.Session, *arguments: str, quiet: bool = True) -> None:
    """Run uv, which never fetches an interpreter for us."""
    session.run("uv", *arguments, external=True, silent=quiet, env={"UV_PYTHON_DOWNLOADS": "never"})


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """ruff's rules and its format."""
    check(session, ["ruff", "check"], ["ruff", "format", "--check"])


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy and pyright, both strict, over every source; then what they must say about the public API."""
    sources = [str((member.sources / member.package).relative_to(ROOT)) for member in MEMBERS]
    check(
        session,
        ["mypy", *sources, "guides", "noxfile.py", "tests/architecture", "tests/typing/test_types.py"],
        ["pyright", "--pythonpath", sys.executable],
        ["pytest", "tests/typing"],
    )


@nox.session(venv_backend="none")
def imports(session: nox.Session) -> None:
    """The import contracts."""
    config = Path(session.create_tmp()) / "pyproject.toml"
    config.write_text(contracts.as_toml(), encoding="utf-8")
    cache = str(ROOT / ".nox" / "import_linter_cache")
    check(session, ["lint-imports", "--config", str(config), "--cache-dir", cache, "--no-logo"])


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """pytest over every distribution, what crosses them, and the guides. Words after -- go to pytest.

    Behaviour over SSH does not depend on the Python: it is tested on the newest.
    """
    machines, left_out = {}, []
    if session.python != PYTHONS[-1]:
        machines = {"SKYWARD_TEST_MACHINES": "local"}
        left_out = ["--ignore-glob=*/test_ssh_*", "--ignore-glob=*/test_testbed*"]
    python = str(Path(session.bin) / "python")
    uv(session, "sync", "--active", "--python", python, "--all-packages", "--group", "tests")
    # The types session runs tests/typing: its answers don't depend on the Python that asks.
    cache = f"cache_dir={session.create_tmp()}/pytest"
    # Most tests wait for processes, so four fit on two cores; a file's tests share pools and stay together.
    spread = ["-n", "4", "--dist", "loadfile"]
    words = ["--ignore=tests/typing", *left_out, "-o", cache, *spread, *session.posargs]
    session.run("python", "-m", "pytest", *words, env=machines)


@nox.session(venv_backend="none")
def wheels(session: nox.Session) -> None:
    """Build all distributions and use them as a user would: from an empty environment, in an empty folder.

    uv takes workspace members whatever their version, so this is where a range that its neighbour does not
    meet comes out: the installs see the built wheels and what they need of others, and no index.
    """
    tmp = fresh(Path(session.create_tmp()).resolve())
    built, fetched = tmp / "dist", tmp / "wheelhouse"
    uv(session, "build", "--all-packages", "--python", sys.executable, "--out-dir", str(built))
    for member in MEMBERS:
        check_wheel(session, member, built)
    uv(session, "build", "--wheel", "--python", sys.executable, "--out-dir", str(built), str(ROOT))
    fetch(session, tmp / "requirements.txt", fetched)

    python = tmp / "venv" / "bin" / "python"
    uv(session, "venv", "--python", sys.executable, str(tmp / "venv"))
    # No cache: uv takes a wheel of the same name and place for the one it saw there last time.
    install = ["pip", "install", "--no-cache", "--python", str(python), "--no-index"]
    install += ["--find-links", str(built), "--find-links", str(fetched)]
    uv(session, *install, "skyward", quiet=False)
    with session.chdir(fresh(tmp / "empty")):
        session.run(str(python), str(GUIDE), external=True)
        for project in third_party():
            uv(
                session,
                "build",
                "--python",
                sys.executable,
                "--out-dir",
                str(tmp / "acme"),
                str(project.parent),
            )
        every = [str(path) for folder in ("dist", "acme") for path in sorted((tmp / folder).glob("*.whl"))]
        uv(session, *install, *every, quiet=False)
        session.run(str(python), "-c", LOAD_ENTRY_POINTS, external=True)


def check_wheel(session: nox.Session, member: Member, built: Path) -> None:
    """A wheel carries its licence, and its types for those who check theirs against them."""
    stem = member.distribution.replace("-", "_")
    (path,) = built.glob(f"{stem}-*.whl")
    names = zipfile.ZipFile(path).namelist()
    for wanted in (f"{member.package}/py.typed", ".dist-info/licenses/LICENSE"):
        if not any(name.endswith(wanted) for name in names):
            session.error(f"{path.name} has no {wanted}")


def fetch(session: nox.Session, requirements: Path, fetched: Path) -> None:
    """Download the wheels of what ours need. Ours are never asked for: on the index the names are others'."""
    selection = ["--all-packages", "--all-extras", "--no-dev", "--no-emit-workspace", "--no-hashes"]
    uv(session, "export", "--quiet", *selection, "--output-file", str(requirements))
    asked = [name for project in third_party() for name in toml(project)["project"].get("dependencies", [])]
    with requirements.open("a", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in asked if not name.startswith("skyward"))
    # uv downloads only into environments; pip, from a throw-away one, also into a folder.
    pip = [
        "run",
        "--isolated",
        "--no-project",
        "--python",
        sys.executable,
        "--with",
        "pip",
        "python",
        "-m",
        "pip",
    ]
    uv(
        session,
        *pip,
        "download",
        "--quiet",
        "--only-binary",
        ":all:",
        "--dest",
        str(fetched),
        "-r",
        str(requirements),
    )


def third_party() -> list[Path]:
    """The pyproject.toml of each example distribution that lives outside the workspace."""
    return sorted([*THIRD_PARTY.glob("pyproject.toml"), *THIRD_PARTY.glob("*/pyproject.toml")])
