"""Tests that leave something behind, or rightly nothing, each under ``no_leftovers``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from skyward_testing import pytest_plugin

pytestmark = pytest.mark.usefixtures("no_leftovers")

pytest_plugin.GRACE_SECONDS = 1.0

KEPT: list[object] = []
RELEASE = threading.Event()

ORPHAN = "import os, subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True); os._exit(0)"


def test_process() -> None:
    KEPT.append(subprocess.Popen(["sleep", "20"]))


def test_orphan() -> None:
    subprocess.run([sys.executable, "-c", ORPHAN], check=True)


def test_thread() -> None:
    threading.Thread(target=RELEASE.wait, args=(20,), name="skyward-loop", daemon=True).start()


def test_socket() -> None:
    KEPT.append(socket.socket())


def test_file_in_the_runtime_folder() -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "skyward" / "machine"
    folder.mkdir(parents=True)
    (folder / "machine.json").write_text("{}")


def test_temporary_file() -> None:
    os.close(tempfile.mkstemp()[0])


def test_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "20"]) as process:
        process.kill()
    with socket.socket(), tempfile.TemporaryFile():
        pass
    (tmp_path / "of pytest").write_text("")
    (Path(os.environ["XDG_RUNTIME_DIR"]) / "skyward").mkdir()
    threading.Thread(target=RELEASE.wait, args=(20,), name="somebody's", daemon=True).start()


def test_what_ends_by_itself_soon() -> None:
    KEPT.append(subprocess.Popen(["sleep", "0.3"]))
    threading.Thread(target=time.sleep, args=(0.3,), name="skyward-late").start()


class TestKept:
    @pytest.fixture
    def kept_threads(self) -> frozenset[str]:
        return frozenset({"skyward-forever"})

    def test_a_thread_that_is_meant_to_stay(self) -> None:
        threading.Thread(target=RELEASE.wait, args=(20,), name="skyward-forever", daemon=True).start()
