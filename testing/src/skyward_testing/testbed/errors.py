"""What goes wrong with the testbed itself.

None of Skyward's own errors: a test that expects one of those must not get it from here.
"""

from __future__ import annotations


class BedError(RuntimeError):
    """A node did not start, a command in it failed, or this machine can't do what a fault needs."""
