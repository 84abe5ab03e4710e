"""What pytest loads when this distribution is installed: readable asserts for the suites, and two fixtures.

Named so because ``skyward_testing.plugin`` is the suite for Skyward's plugins. Imports nothing of Skyward:
pytest loads it in every run of every project of its environment.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Must come before anything imports them, or their asserts stay bare.
pytest.register_assert_rewrite(
    "skyward_testing.consoles",
    "skyward_testing.plugin",
    "skyward_testing.provider",
    "skyward_testing.topology",
)

GRACE_SECONDS = 3.0
"""How long what a test started may take to vanish after it."""


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
