"""SSH keeps every promise of the provider port, on real hosts, and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from skyward_ssh import SSH, Host
from skyward_testing.provider import ProviderContract

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyward_testing.testbed import Node, Testbed


@pytest.fixture(scope="module")
def nodes(shared_testbed: Testbed) -> list[Node]:
    """As many as the suite has machines at once."""
    return shared_testbed.nodes(8, user="plain", python=False, uv=False)


@pytest.mark.usefixtures("no_leftovers")
class TestSSH(ProviderContract):
    patience: ClassVar[float] = 0.0  # a lease is read at once

    @pytest.fixture
    def config(self, nodes: list[Node], host_of: Callable[..., Host]) -> SSH:
        return SSH([host_of(node) for node in nodes], config=False)
