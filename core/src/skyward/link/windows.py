"""How much of a stream may be under way: the same on both sides, so that memory stays flat on both."""

from __future__ import annotations

WINDOW_ITEMS = 2048
"""Items sent and not yet consumed."""
WINDOW_BYTES = 8 << 20
"""Bytes sent and not yet consumed; one batch may exceed it."""
BATCH = 512
"""Items gathered before the producer has to wait for the sender. A quarter of it halves the rate of small
items, because threads change places more often; twice as many gain nothing measurable.
"""
