"""The only user of pluggy: the plugins of one pool, as typed calls in the order that the user listed them.

One ``PoolHooks`` lives on the client for each pool and one in each worker process. pluggy finds the hooks
and holds them to the specs; the order, the chaining and the blame for errors are ours, because a pluggy call
can neither hand one plugin's result to the next nor say which plugin failed. Without plugins, pluggy is not
even imported. Immutable after construction, so safe from any thread. Imported by the engine and the node.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from skyward.errors import ConfigError, InternalError, PluginApiError, PluginError, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import TracebackType
    from typing import Any

    import pluggy

    from skyward.compute import Pool
    from skyward.hooks.values import Cluster, LaunchCommand, LaunchContext, Op
    from skyward.image import Image
    from skyward.runtime import InstanceInfo

    type Task = Callable[..., Any]
    type Around = AbstractContextManager[object]

# Spelled out so that a pool without plugins need not import the specs; a test proves the two equal.
HOOKS = {
    "skyward_image": ("image", "cluster"),
    "skyward_bootstrap": ("cluster",),
    "skyward_launch": ("command", "context"),
    "skyward_client": ("pool", "cluster"),
    "skyward_worker": ("info",),
    "skyward_process": ("info",),
    "skyward_task": ("fn",),
}
_PREFIX = "skyward_"


class PoolHooks:
    """The hooks of ``plugins``, in that order.

    Raises PluginApiError for an object that is no fit plugin, ConfigError for one listed twice.
    """

    __slots__ = ("_hooks",)

    def __init__(self, plugins: Sequence[object] = ()) -> None:
        self._hooks: dict[str, tuple[_Hook, ...]] = _register(plugins) if plugins else {}

    def has(self, hook: str) -> bool:
        """Whether any plugin implements ``hook`` (its full name), so that a caller may skip the work."""
        if hook not in HOOKS:
            raise InternalError(f"there is no hook {hook!r}")
        return bool(self._hooks.get(hook))

    def image(self, image: Image, cluster: Cluster) -> Image:
        """Return ``image`` as the plugins change it, each given what those before it made of it."""
        for hook in self._hooks.get("skyward_image", ()):
            changed = hook(image=image, cluster=cluster)
            if changed is not None:
                # By the class of the image at hand, so that this module need not import it.
                hook.expect(changed, isinstance(changed, type(image)), "an Image or None")
                image = changed
        return image

    def bootstrap(self, cluster: Cluster) -> tuple[Op, ...]:
        """Return the commands of all plugins, in listed order."""
        ops: list[Op] = []
        for hook in self._hooks.get("skyward_bootstrap", ()):
            given = hook(cluster=cluster)
            hook.expect(given, isinstance(given, list | tuple), "a tuple of operations")
            for op in given:
                hook.expect(op, _is_op(op), "operations, each a str or a tuple of str")
                ops.append(op if isinstance(op, str) else tuple(op))
        return tuple(ops)

    def launch(self, command: LaunchCommand, context: LaunchContext) -> LaunchCommand:
        """Return ``command`` as the plugins change it; the first listed comes last, so it is outermost."""
        for hook in reversed(self._hooks.get("skyward_launch", ())):
            changed = hook(command=command, context=context)
            hook.expect(changed, isinstance(changed, type(command)), "a LaunchCommand")
            command = changed
        return command

    def client(self, pool: Pool, cluster: Cluster) -> Around:
        """Return what wraps the user's block: entered in listed order, left in reverse."""
        return self._around("skyward_client", pool=pool, cluster=cluster)

    def worker(self, info: InstanceInfo) -> Around:
        """Return what wraps a worker process's life: entered in listed order, left in reverse."""
        return self._around("skyward_worker", info=info)

    def process(self, info: InstanceInfo) -> Around:
        """Return what wraps the life of a process that runs tasks: in listed order, left in reverse."""
        return self._around("skyward_process", info=info)

    def task(self, fn: Task) -> Task:
        """Return ``fn`` as the plugins wrap it, the first listed outermost. Keep it: one call a function."""
        for hook in reversed(self._hooks.get("skyward_task", ())):
            wrapped = hook(fn=fn)
            hook.expect(wrapped, callable(wrapped), "a function")
            fn = wrapped
        return fn

    def _around(self, name: str, **arguments: object) -> Around:
        hooks = self._hooks.get(name, ())
        return _nested(hooks, arguments) if hooks else nullcontext()


class _Hook:
    """One plugin's implementation of one hook: calls it, checks what it gives, and names it when it fails."""

    __slots__ = ("_arguments", "_function", "_plugin", "name")

    def __init__(self, name: str, plugin: object, function: Task) -> None:
        self.name = name
        self._plugin = plugin
        self._function = function
        # From the signature, like the check of it; pluggy's own list goes by the code object.
        parameters = inspect.signature(function).parameters
        self._arguments = tuple(argument for argument in parameters if argument in HOOKS[name])

    def __call__(self, **arguments: object) -> Any:
        try:
            result = self._function(*[arguments[name] for name in self._arguments])
        except Exception as error:
            raise self.failed(error) from error
        if inspect.iscoroutine(result):
            result.close()
            raise self.misfit("gave a coroutine, but hooks are synchronous")
        return result

    def expect(self, value: object, fits: bool, wanted: str) -> None:
        if not fits:
            got = "None; is a `return` missing?" if value is None else type(value).__name__
            raise self.misfit(f"must return {wanted}, got {got}")

    def failed(self, error: BaseException, when: str = "") -> PluginError:
        what = f"failed in {self.name}{when}: {type(error).__name__}: {error}"
        return PluginError(f"{_label(self._plugin)} {what}")

    def misfit(self, what: str) -> PluginApiError:
        return PluginApiError(f"{_label(self._plugin)}: {self.name} {what}")


class _Guard:
    """A plugin's context manager that blames the plugin for its own errors and never touches the block's."""

    __slots__ = ("_hook", "_manager")

    def __init__(self, hook: _Hook, manager: Around) -> None:
        self._hook = hook
        self._manager = manager

    def __enter__(self) -> None:
        try:
            self._manager.__enter__()
        except Exception as error:
            raise self._hook.failed(error, ", on entering") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What __exit__ returns is dropped: a block that failed must not look as if it had not.
        try:
            self._manager.__exit__(kind, error, trace)
        except Exception as own:
            if own is error:
                return
            failure = self._hook.failed(own, ", on leaving")
            if error is None:
                raise failure from own
            error.add_note(f"After it, {failure}")


@contextmanager
def _nested(hooks: Sequence[_Hook], arguments: dict[str, object]) -> Generator[None]:
    with ExitStack() as stack:
        for hook in hooks:
            manager = hook(**arguments)
            hook.expect(manager, isinstance(manager, AbstractContextManager), "a context manager")
            stack.enter_context(_Guard(hook, manager))
        yield


def _register(plugins: Sequence[object]) -> dict[str, tuple[_Hook, ...]]:
    """Check every plugin, then let pluggy collect the hooks."""
    for index, plugin in enumerate(plugins):
        if any(_is_same(other, plugin) for other in plugins[:index]):
            raise ConfigError(f"{_label(plugin)} is listed twice: list it once")
        _check(plugin)
    manager = _manager()
    # pluggy calls what was registered last first; registered backwards, its order is the user's.
    for index, plugin in reversed(list(enumerate(plugins))):
        manager.register(plugin, name=f"{index}")
    return {
        name: tuple(
            _Hook(name, impl.plugin, impl.function)
            for impl in reversed(getattr(manager.hook, name).get_hookimpls())
        )
        for name in HOOKS
    }


def _is_same(a: object, b: object) -> bool:
    return a is b or (type(a) is type(b) and bool(a == b))


def _manager() -> pluggy.PluginManager:
    import pluggy

    from skyward.hooks import specs

    class Manager(pluggy.PluginManager):
        def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
            # pluggy may evaluate an attribute to look at it; ours are the only ones it need look at.
            return super().parse_hookimpl_opts(plugin, name) if _offers(plugin, name) else None

    manager = Manager("skyward")
    manager.add_hookspecs(specs)
    return manager


def _offers(plugin: object, name: str) -> bool:
    """Whether ``plugin`` has the hook ``name`` and does not hide it (``implements_hook``)."""
    if name not in HOOKS:
        return False
    implements = getattr(plugin, "implements_hook", None)
    return hasattr(plugin, name) and (implements is None or bool(implements(name)))


def _check(plugin: object) -> None:
    """Raise PluginApiError for what pluggy would take and then silently never call, or call wrongly."""
    if isinstance(plugin, type) or inspect.isroutine(plugin):
        name = plugin.__name__
        raise PluginApiError(f"plugins take {name}(...), not {name} itself: call it")
    for name in dir(plugin):
        found = inspect.getattr_static(plugin, name, None)  # runs no property
        function = getattr(found, "__func__", found)
        marks: dict[str, Any] | None = getattr(function, "skyward_impl", None) if callable(function) else None
        if marks is not None:
            _check_marks(plugin, name, marks)
            _check_signature(plugin, name)
        elif name.startswith(_PREFIX) and callable(function):
            raise PluginApiError(
                f"{_label(plugin)}: {name} is not marked @hookimpl (from skyward.hooks import hookimpl)"
            )
    if not any(_offers(plugin, name) for name in HOOKS):
        raise PluginApiError(f"{_label(plugin)} implements no hook: a plugin has methods like skyward_image")


def _check_marks(plugin: object, name: str, marks: dict[str, Any]) -> None:
    if name not in HOOKS:
        if marks.get("optionalhook"):
            return
        near = nearest(name, list(HOOKS))
        hint = f"did you mean {near[0]}?" if near else "hooks: " + ", ".join(HOOKS)
        raise PluginApiError(f"{_label(plugin)}: there is no hook {name}: {hint}")
    for mark in ("wrapper", "hookwrapper", "tryfirst", "trylast", "specname"):
        if marks.get(mark):
            raise PluginApiError(
                f"{_label(plugin)}: {name} uses hookimpl({mark}=...), but the order in plugins=[...] decides"
            )


def _check_signature(plugin: object, name: str) -> None:
    """Refuse a signature whose arguments pluggy would not fill: it passes by position, without defaults."""
    if name not in HOOKS:
        return
    function = getattr(plugin, name)
    where = f"{_label(plugin)}: {name}"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginApiError(f"{where} is a coroutine function, but hooks are synchronous")
    known = HOOKS[name]
    for parameter in inspect.signature(function).parameters.values():
        has_default = parameter.default is not parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise PluginApiError(
                f"{where} takes {stars}{parameter.name}; name the arguments {', '.join(known)}"
            )
        if parameter.name not in known:
            if not has_default:
                raise PluginApiError(f"{where} has no argument {parameter.name!r}; it has {', '.join(known)}")
        elif has_default or parameter.kind is parameter.KEYWORD_ONLY:
            raise PluginApiError(f"{where} must take {parameter.name!r} by position and without a default")


def _is_op(op: Any) -> bool:
    if isinstance(op, str):
        return True
    words: Sequence[object] = op if type(op) in (list, tuple) else ()
    return bool(words) and all(isinstance(word, str) for word in words)


def _label(plugin: object) -> str:
    """How errors name a plugin: its own name, and the distribution and version that it comes from."""
    from skyward.hooks.plugin import Plugin
    from skyward.hooks.registry import distribution_of

    # A built plugin is of our class, but the fault is where its functions are.
    origin = next(iter(plugin.functions), None) if isinstance(plugin, Plugin) else plugin
    given = getattr(plugin, "name", None) or getattr(plugin, "__name__", None)
    title = f"plugin {given if isinstance(given, str) else type(plugin).__name__!r}"
    try:
        found = distribution_of(origin) if origin is not None else None
    except Exception:  # naming the culprit must not hide what it did
        found = None
    if found:
        return f"{title} ({found[0]} {found[1]})"
    return f"{title} (from {getattr(origin, '__module__', None) or type(origin).__module__})"
