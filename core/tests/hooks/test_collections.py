"""``sky.dict`` and its kin, as far as they go: they say why not, and where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from skyward import collections
from skyward.active import active_pool
from skyward.errors import (
    CollectionsUnavailableError,
    ConfigError,
    NoActivePoolError,
    NotOnNodeError,
    UsageError,
)
from skyward.hooks import registry

REASON = registry.find(registry.TOPOLOGIES, "standalone")().collections_error()
EVERY: dict[str, tuple[Any, ...]] = {
    "dict": ("d",), "set": ("s",), "counter": ("c",), "queue": ("q",), "barrier": ("b", 4), "lock": ("l", 5),
}  # fmt: skip


@pytest.fixture
def on_node(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    monkeypatch.setattr(collections, "_on_node", False)
    monkeypatch.setattr(collections, "_reason", None)
    return collections.set_unavailable


@pytest.mark.parametrize("kind", EVERY)
def test_on_a_node_the_reason_and_the_way_out_are_named(
    kind: str, on_node: Callable[[str | None], None]
) -> None:
    on_node(REASON)
    with pytest.raises(CollectionsUnavailableError) as caught:
        getattr(collections, kind)(*EVERY[kind])
    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == f"sky.{kind}() can't be shared: {REASON}"
    assert "Options(cluster=True)" in str(caught.value)


@pytest.mark.parametrize("kind", EVERY)
def test_without_a_pool_it_says_so(kind: str, on_node: Callable[[str | None], None]) -> None:
    with pytest.raises(NoActivePoolError, match=rf"sky\.{kind}\(\) .* no pool is open here"):
        getattr(collections, kind)(*EVERY[kind])


@pytest.mark.parametrize("kind", EVERY)
def test_beside_an_open_pool_it_says_whom_to_ask(kind: str, on_node: Callable[[str | None], None]) -> None:
    name, pool = EVERY[kind][0], object()
    given: Any = pool
    token = active_pool.set(given)
    try:
        with pytest.raises(NotOnNodeError, match=rf"ask the pool: pool\.{kind}\('{name}'\)"):
            getattr(collections, kind)(*EVERY[kind])
    finally:
        active_pool.reset(token)


def test_without_an_engine_the_error_says_so(on_node: Callable[[str | None], None]) -> None:
    on_node(None)
    with pytest.raises(
        CollectionsUnavailableError, match=r"sky\.dict\(\) can't be shared: no collections engine"
    ):
        collections.dict("d", consistency="strong")


@pytest.mark.parametrize("kind", EVERY)
def test_a_collection_needs_a_name(kind: str) -> None:
    with pytest.raises(ConfigError, match="name must not be empty"):
        getattr(collections, kind)("", *EVERY[kind][1:])


def test_wrong_arguments_are_refused_everywhere() -> None:
    wrong: Any = "strongly"
    with pytest.raises(ConfigError, match=r"consistency must be .* did you mean 'strong'"):
        collections.counter("c", consistency=wrong)
    with pytest.raises(ConfigError, match="n must be a whole number of 1 or more"):
        collections.barrier("b", 0)
    with pytest.raises(ConfigError, match="timeout must be a number above 0"):
        collections.lock("l", timeout=0)
    with pytest.raises(UsageError, match="name must be a string"):
        collections.queue(wrong and 3)  # type: ignore[arg-type]


def test_they_hang_off_the_root_and_hide_no_builtin() -> None:
    code = (
        "import skyward as sky, skyward.collections as c\n"
        "assert sky.dict is c.dict and sky.set is c.set and sky.lock is c.lock\n"
        "assert dict(a=1) == {'a': 1} and set('a') == {'a'}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
