"""What pytest loads when this distribution is installed: readable asserts for the suites, and the fixtures.

Named so because ``skyward_testing.plugin`` is the suite for Skyward's plugins. Imports nothing of Skyward:
pytest loads it in every run of every project of its environment.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from skyward_testing.testbed import Testbed

# Must come before anything imports them, or their asserts stay bare.
pytest.register_assert_rewrite(
    "skyward_testing.consoles",
    "skyward_testing.plugin",
    "skyward_testing.provider",
    "skyward_testing.topology",
)

GRACE_SECONDS = 3.0
"""How long what a test started may take to vanish after it."""

TESTBEDS = ("testbed", "shared_testbed")
TESTBED_VARIABLE = "SKYWARD_TESTBED"
"""Set to "required" (in CI), a machine that can't make nodes as root fails the tests that ask for them. Set
to a tier ("network", "namespaces", "processes"), nodes are of that kind."""


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of our marker."""
    config.addinivalue_line(
        "markers", "testbed: asks for SSH nodes while it runs (request.getfixturevalue), not by an argument"
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the testbed's network, if a test wants nodes, while no thread runs that would stay outside."""
    if session.config.option.collectonly or not any(_wants_nodes(item) for item in session.items):
        return
    from skyward_testing.testbed import lab

    if _tier() == "network":
        lab.enter()


def pytest_unconfigure() -> None:
    """Go back to the host's network."""
    if lab := sys.modules.get("skyward_testing.testbed.lab"):
        lab.leave()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the nodes' sshd logged to the report of a test that failed."""
    report = yield
    if report.failed and report.when != "teardown":
        given = getattr(item, "funcargs", {})
        for bed in (given[name] for name in TESTBEDS if name in given):
            report.sections += [(f"sshd of {node.label}", node.sshd_log) for node in bed.all_nodes]
    return report


@pytest.fixture
def testbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Give real SSH nodes, which end with the test. Skips, saying why, where none can be made."""
    yield from _testbed(request, tmp_path_factory)


@pytest.fixture(scope="module")
def shared_testbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Testbed]:
    """Give real SSH nodes that all tests of a module share: for those that do them no harm."""
    yield from _testbed(request, tmp_path_factory)


def _testbed(request: pytest.FixtureRequest, folders: pytest.TempPathFactory) -> Iterator[Testbed]:
    from skyward_testing import testbed as package
    from skyward_testing.testbed import host

    if os.environ.get(TESTBED_VARIABLE) == "required" and (why := package.why_not("network")):
        pytest.fail(f"no testbed: {why}", pytrace=False)
    tier = _tier()
    if not tier:
        pytest.skip(f"no testbed: {package.capabilities().nodes}")
    versions = host.versions_of(request.config.rootpath)
    bed = package.Testbed(folders.mktemp("testbed"), pythons=versions, tier=tier)
    try:
        yield bed
    finally:
        left = bed.close()
    if left:
        pytest.fail("the testbed left behind:\n  " + "\n  ".join(left), pytrace=False)


def _tier() -> str:
    from skyward_testing.testbed import TIERS, capabilities

    wanted = os.environ.get(TESTBED_VARIABLE)
    return wanted if wanted in TIERS else capabilities().tier


def _wants_nodes(item: pytest.Item) -> bool:
    names: list[str] = getattr(item, "fixturenames", [])
    return item.get_closest_marker("testbed") is not None or any(name in names for name in TESTBEDS)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A private folder for unix sockets, for which ``tmp_path`` is too long; removed afterwards."""
    root = tempfile.gettempdir()
    path = Path(tempfile.mkdtemp(prefix="sky-", dir=root if len(root) < 30 else "/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def kept_threads() -> frozenset[str]:
    """Names of threads that ``no_leftovers`` forgives, such as one that lives as long as the program."""
    return frozenset()


@pytest.fixture
def no_leftovers(
    short_folder: Path,
    kept_threads: frozenset[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Fail the test if a process, a thread named skyward..., a socket or a file of ours outlives it by 3 s.

    While the test runs, folders for temporary files, runtime files and state are its own and empty. Request
    it before fixtures that start things, so that it looks after they have cleaned up.
    """
    from skyward_testing import leftovers

    tmp_path_factory.getbasetemp()  # pytest's own folder, made on first use, must not be made in ours
    mark = uuid.uuid4().hex
    places = {"TMPDIR": "t", "XDG_RUNTIME_DIR": "r", "XDG_STATE_HOME": "s"}
    for variable, name in places.items():
        folder = short_folder / name
        folder.mkdir(0o700)
        monkeypatch.setenv(variable, os.fspath(folder))
    monkeypatch.setenv(leftovers.MARK, mark)
    monkeypatch.setattr(tempfile, "tempdir", None)
    root = os.fspath(short_folder)
    before = leftovers.take(mark, root)
    yield
    left = leftovers.wait_for_none(before, mark, root, GRACE_SECONDS)
    left = [line for line in left if line.removeprefix("thread ") not in kept_threads]
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
