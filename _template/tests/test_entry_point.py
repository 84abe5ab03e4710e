"""The name that users write leads to what this package exports."""

from __future__ import annotations

from importlib.metadata import entry_points

import skyward_template


def test_the_entry_point_gives_what_the_package_exports() -> None:
    (found,) = entry_points(group="skyward.plugins", name="template")
    assert found.load() is skyward_template.Template
