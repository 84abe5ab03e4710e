"""Durations in words: ``sky.time.minutes(10)`` is 600.0. Every timeout of Skyward is a number of seconds."""

from __future__ import annotations


def minutes(n: float) -> float:
    """Return ``n`` minutes in seconds."""
    return n * 60.0


def hours(n: float) -> float:
    """Return ``n`` hours in seconds."""
    return n * 3600.0


def days(n: float) -> float:
    """Return ``n`` days of 24 hours in seconds."""
    return n * 86400.0
