"""``sky.Plugin``: a plugin put together from plain functions, without a class of one's own.

A frozen value with one optional function a hook; it implements the hooks by calling them. It travels to the
node by pickle, its functions by value when they belong to the user's project, so it is as picklable as they
are. Wrong functions are refused when the plugin is built. Imported by users and by authors of plugins.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass, replace

from skyward import _check
from skyward.errors import PluginApiError, UsageError
from skyward.hooks.specs import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from skyward.compute import Pool
    from skyward.hooks.values import Cluster, LaunchCommand, LaunchContext, Op
    from skyward.image import Image
    from skyward.runtime import InstanceInfo

    type Task = Callable[..., Any]
    type Around = Callable[[InstanceInfo], AbstractContextManager[object]]

# field: (hook, builder, the arguments its function takes)
_FIELDS = {
    "transform": ("skyward_image", "with_image_transform", ("image", "cluster")),
    "bootstrap": ("skyward_bootstrap", "with_bootstrap", ("cluster",)),
    "decorate": ("skyward_task", "with_decorator", ("fn",)),
    "around_app": ("skyward_worker", "with_around_app", ("info",)),
    "around_process": ("skyward_process", "with_around_process", ("info",)),
    "around_client": ("skyward_client", "with_around_client", ("pool", "cluster")),
    "launcher": ("skyward_launch", "with_launcher", ("command", "context")),
}
_FIELD_OF = {hook: field for field, (hook, _, _) in _FIELDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A named set of hooks. Begin with ``Plugin.create(name)``; each ``with_...`` returns a changed copy.

    Setting a hook again replaces it. What each is given, where it runs and when: ``skyward.hooks.specs``.
    """

    name: str
    transform: Callable[[Image, Cluster], Image | None] | None = None
    bootstrap: Callable[[Cluster], Sequence[Op]] | None = None
    decorate: Callable[[Task], Task] | None = None
    around_app: Around | None = None
    around_process: Around | None = None
    around_client: Callable[[Pool, Cluster], AbstractContextManager[object]] | None = None
    launcher: Callable[[LaunchCommand, LaunchContext], LaunchCommand] | None = None

    def __post_init__(self) -> None:
        _check.text("a plugin's name", self.name)
        for field, (_, builder, arguments) in _FIELDS.items():
            function = getattr(self, field)
            if function is not None:
                _check_function(function, f"plugin {self.name!r}: {builder}", arguments)

    @classmethod
    def create(cls, name: str) -> Plugin:
        """Begin a plugin that does nothing yet. ``name`` is how errors and logs call it."""
        return cls(name=name)

    def with_image_transform(self, fn: Callable[[Image, Cluster], Image | None]) -> Plugin:
        """Change the image, on the client, before machines are rented (``skyward_image``)."""
        return replace(self, transform=fn)

    def with_bootstrap(self, fn: Callable[[Cluster], Sequence[Op]]) -> Plugin:
        """Add commands to the set-up of each node (``skyward_bootstrap``)."""
        return replace(self, bootstrap=fn)

    def with_decorator(self, fn: Callable[[Task], Task]) -> Plugin:
        """Wrap each task's function, on the node (``skyward_task``)."""
        return replace(self, decorate=fn)

    def with_around_app(self, fn: Around) -> Plugin:
        """Wrap the life of each node's worker process (``skyward_worker``)."""
        return replace(self, around_app=fn)

    def with_around_process(self, fn: Around) -> Plugin:
        """Wrap the life of each process that runs tasks (``skyward_process``)."""
        return replace(self, around_process=fn)

    def with_around_client(self, fn: Callable[[Pool, Cluster], AbstractContextManager[object]]) -> Plugin:
        """Wrap the user's block, on the client (``skyward_client``)."""
        return replace(self, around_client=fn)

    def with_launcher(self, fn: Callable[[LaunchCommand, LaunchContext], LaunchCommand]) -> Plugin:
        """Change the command that starts a node's worker (``skyward_launch``)."""
        return replace(self, launcher=fn)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions it was given; where they come from is where the plugin comes from."""
        given = (getattr(self, field) for field in _FIELDS)
        return tuple(function for function in given if function is not None)

    def implements_hook(self, name: str) -> bool:
        """Say whether a function was given for the hook ``name``; asked by the façade when a pool opens."""
        return getattr(self, _FIELD_OF[name]) is not None

    @hookimpl
    def skyward_image(self, image: Image, cluster: Cluster) -> Image | None:
        return self.transform(image, cluster) if self.transform else None

    @hookimpl
    def skyward_bootstrap(self, cluster: Cluster) -> Sequence[Op]:
        return self.bootstrap(cluster) if self.bootstrap else ()

    @hookimpl
    def skyward_launch(self, command: LaunchCommand, context: LaunchContext) -> LaunchCommand:
        return self.launcher(command, context) if self.launcher else command

    @hookimpl
    def skyward_client(self, pool: Pool, cluster: Cluster) -> AbstractContextManager[object]:
        return self.around_client(pool, cluster) if self.around_client else nullcontext()

    @hookimpl
    def skyward_worker(self, info: InstanceInfo) -> AbstractContextManager[object]:
        return self.around_app(info) if self.around_app else nullcontext()

    @hookimpl
    def skyward_process(self, info: InstanceInfo) -> AbstractContextManager[object]:
        return self.around_process(info) if self.around_process else nullcontext()

    @hookimpl
    def skyward_task(self, fn: Task) -> Task:
        return self.decorate(fn) if self.decorate else fn


def _check_function(function: object, where: str, arguments: tuple[str, ...]) -> None:
    """Refuse what can't be called with ``arguments``, or would give an awaitable or a bare generator."""
    wanted = f"{where} takes a function of ({', '.join(arguments)})"
    if not callable(function):
        raise UsageError(f"{wanted}, not {type(function).__name__}")
    called = getattr(function, "__qualname__", None) or repr(function)
    if inspect.iscoroutinefunction(function):
        raise PluginApiError(f"{where}: {called} is a coroutine function, but hooks are synchronous")
    if inspect.isgeneratorfunction(function):
        # Wrong for every hook; around something, it is the decorator that was forgotten.
        instead = "decorate it with contextlib.contextmanager" if "around" in where else "return, don't yield"
        raise UsageError(f"{where}: {called} is a generator function; {instead}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some built-ins have none
    try:
        signature.bind(*arguments)
    except TypeError:
        raise UsageError(f"{wanted}, but {called} takes {signature}") from None
