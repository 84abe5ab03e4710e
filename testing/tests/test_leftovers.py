"""``no_leftovers`` sees what a test leaves behind, names it, and forgives what is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def results(run_specimens: Callable[[str], Any]) -> dict[str, str]:
    return {name: result for tests in run_specimens("leaving").values() for name, result in tests.items()}


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("test_process", "process "),
        ("test_orphan", "sleep 20"),
        ("test_thread", "thread skyward-loop"),
        ("test_socket", "socket socket:["),
        ("test_file_in_the_runtime_folder", "skyward/machine/machine.json"),
        ("test_temporary_file", "file /"),
    ],
)
def test_it_names_what_is_left(results: dict[str, str], test: str, named: str) -> None:
    assert "left behind" in results[test]
    assert named in results[test]


@pytest.mark.parametrize(
    "test", ["test_nothing", "test_what_ends_by_itself_soon", "test_a_thread_that_is_meant_to_stay"]
)
def test_it_lets_pass_what_leaves_nothing(results: dict[str, str], test: str) -> None:
    assert results[test] == "passed"
