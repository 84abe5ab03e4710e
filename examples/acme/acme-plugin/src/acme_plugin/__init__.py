"""Acme's plugin: tells every task its project, and prints how long a slow task took.

The object travels to the nodes by name and parameters, so it holds nothing but parameters.
"""

from __future__ import annotations

import functools
import inspect
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from skyward.errors import ConfigError
from skyward.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from skyward.hooks import Cluster
    from skyward.image import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Acme:
    """``project``: the name in the environment variable ACME_PROJECT. ``slow_after``: seconds."""

    project: str
    slow_after: float = 60.0

    def __post_init__(self) -> None:
        if not self.project:
            raise ConfigError("project must not be empty")

    @hookimpl
    def skyward_image(self, image: Image, cluster: Cluster) -> Image:
        mine = {"ACME_PROJECT": self.project, "ACME_POOL": cluster.name}
        return replace(image, env={**image.env, **mine})

    @hookimpl
    def skyward_task(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            return fn  # a stream takes as long as whoever reads it
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def timed_coroutine(*args: Any, **kwargs: Any) -> Any:
                with self._timed(fn):
                    return await fn(*args, **kwargs)

            return timed_coroutine

        @functools.wraps(fn)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._timed(fn):
                return fn(*args, **kwargs)

        return timed

    @contextmanager
    def _timed(self, fn: Callable[..., Any]) -> Generator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            if seconds >= self.slow_after:
                print(f"{getattr(fn, '__name__', 'task')} took {seconds:.1f} s")
