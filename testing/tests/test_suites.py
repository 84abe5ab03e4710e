"""The suites find what they are for: a defect fails the test that is about it, and the sound passes all."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("providers", "topologies", "plugins", "consoles")


@cache
def specimens(kind: str) -> dict[str, str]:
    """Defect: the test that must fail."""
    path = Path(__file__).with_name("specimens") / f"{kind}.py"
    spec = importlib.util.spec_from_file_location(f"specimens_{kind}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    defects: dict[str, Any] = module.DEFECTS
    return {name: value if isinstance(value, str) else value[1] for name, value in defects.items()}


@pytest.fixture(scope="session")
def outcomes(run_specimens: Callable[[str], Any]) -> Callable[[str], Any]:
    return cache(run_specimens)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_one_passes(outcomes: Callable[[str], Any], kind: str) -> None:
    results = outcomes(kind)[""]
    assert len(results) > 8
    assert {name: result for name, result in results.items() if result not in ("passed", "skipped")} == {}
    assert list(results.values()).count("passed") > len(results) / 2


@pytest.mark.parametrize(("kind", "defect"), [(kind, defect) for kind in KINDS for defect in specimens(kind)])
def test_the_defect_is_found(outcomes: Callable[[str], Any], kind: str, defect: str) -> None:
    results = outcomes(kind)[defect]
    result = results[specimens(kind)[defect]]
    assert result not in ("passed", "skipped"), results


@pytest.mark.parametrize("kind", KINDS)
def test_every_test_of_a_suite_fails_for_some_defect_or_is_listed(
    outcomes: Callable[[str], Any], kind: str
) -> None:
    """A test that no specimen makes fail may be one that can't fail."""
    failed: set[str] = set()
    for defect, results in outcomes(kind).items():
        fails = {name for name, result in results.items() if result not in ("passed", "skipped")}
        # What the façade refuses to begin with fails every test, and so proves only the one about that.
        failed |= fails & {specimens(kind)[defect]} if defect == "does nothing" else fails
    assert set(outcomes(kind)[""]) - failed == UNPROVEN[kind]


UNPROVEN = {
    "consoles": {"test_an_entry_point_gives_the_class"},
    # Static facts of a class, an installed distribution, or a repetition of a scenario that others prove.
    "providers": {
        "test_the_config_is_a_frozen_value_with_a_name",
        "test_the_entry_point_gives_the_config_class",
    },
    "topologies": {"test_it_is_a_topology_with_a_name", "test_the_entry_point_gives_the_class"},
    "plugins": {"test_the_entry_point_finds_it", "test_the_client_is_left_as_it_was_found"},
}
