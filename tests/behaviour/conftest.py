"""Pools that several files of tests need. A file may have a ``pool`` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import skyward as sky

EXECUTORS = {
    "one thread": sky.Worker(),
    "threads": sky.Worker(concurrency=3, executor="thread"),
    "processes": sky.Worker(concurrency=3, executor="process"),
}


@pytest.fixture(scope="module", params=EXECUTORS)
def pool(request: pytest.FixtureRequest) -> Iterator[sky.Pool]:
    """A node with each kind of worker in turn."""
    worker = EXECUTORS[request.param]
    with sky.Compute(nodes=1, worker=worker, console=False, logging=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def wide() -> Iterator[sky.Pool]:
    """A node that runs eight tasks at once."""
    with sky.Compute(nodes=1, worker=sky.Worker(concurrency=8), console=False, logging=False) as opened:
        yield opened
