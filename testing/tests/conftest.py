"""Runs the specimens: tests of which most must fail, in a pytest of their own, so that suites are tested."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SPECIMENS = Path(__file__).with_name("specimens")

type Outcomes = Mapping[str, Mapping[str, str]]
"""By class (without ``Test``, stripped) and test: "passed", "skipped", or the message of its failure."""


@pytest.fixture(scope="session")
def run_specimens(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcomes]:
    def run(name: str) -> Outcomes:
        folder = tmp_path_factory.mktemp(name)
        command = [
            *(sys.executable, "-m", "pytest", os.fspath(SPECIMENS / f"{name}.py")),
            *(
                "-c",
                os.devnull,
                f"--rootdir={folder}",
                "--import-mode=importlib",
                f"--junitxml={folder / 'xml'}",
            ),
            *("-p", "no:cacheprovider", "-p", "no:skyward_testing", "-p", "skyward_testing.pytest_plugin"),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process:
            output, _ = process.communicate()
        end_group(process.pid)
        assert process.returncode == 1, output
        found: dict[str, dict[str, str]] = {}
        for case in ElementTree.parse(folder / "xml").iter("testcase"):
            kind = case.attrib["classname"].rpartition("Test")[2].strip()
            tests = found.setdefault(kind, {})
            tests[case.attrib["name"]] = next(
                (
                    "skipped" if part.tag == "skipped" else f"{part.attrib.get('message')}\n{part.text}"
                    for part in case
                ),
                tests.get(case.attrib["name"], "passed"),
            )
        return found

    return run


def end_group(leader: int) -> None:
    """End what the specimens left on purpose."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
