"""Local keeps every promise of the provider port, and leaves nothing behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

import pytest
from skyward_local import Local
from skyward_testing.provider import ProviderContract

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("no_leftovers")
class TestLocal(ProviderContract):
    patience: ClassVar[float] = 0.0  # a folder is listed at once

    @pytest.fixture
    def config(self, base: Path) -> Local:
        return Local(root=os.fspath(base))


@pytest.mark.usefixtures("no_leftovers")
class TestLocalInItsDefaultPlace(ProviderContract):
    patience: ClassVar[float] = 0.0

    @pytest.fixture
    def config(self) -> Local:
        return Local()
