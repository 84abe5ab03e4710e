"""Real SSH nodes for tests: OpenSSH servers with address, hostname, files and processes of their own.

    def test_it(testbed: Testbed) -> None:
        node = testbed.node(user="ubuntu")
        ...  # connect to node.url with node.key; node.host_key is what its sshd must show
        node.freeze()

The fixtures ``testbed`` and ``shared_testbed`` come with the distribution. They take Linux. As root, nodes
have all that a machine has; without, what a user can give them (``Testbed.tier``), and tests that ask for
more skip. Nothing of the host is changed, and nothing is left when pytest is killed. ``capabilities()`` says
what this machine can't do.
"""

from __future__ import annotations

from skyward_testing.testbed.bed import Testbed
from skyward_testing.testbed.capable import TIERS, Capabilities, capabilities, why_not
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.node import Node
from skyward_testing.testbed.relay import Relay

__all__ = ["TIERS", "BedError", "Capabilities", "Node", "Relay", "Testbed", "capabilities", "why_not"]
