"""How much of a stream may be under way: the same on both sides, so that memory stays flat on both."""

from __future__ import annotations

WINDOW_ITEMS = 1024
"""Items sent and not yet consumed."""
WINDOW_BYTES = 8 << 20
"""Bytes sent and not yet consumed; one batch may exceed it."""
BATCH = 128
"""Items gathered before the producer has to wait for the sender: batches beyond this gain nothing measurable.
"""
