"""The hooks: what a plugin may register or transform, where, and when. This file is their reference.

A plugin is any object with methods of these names, marked ``@hookimpl`` (``from skyward.hooks import
hookimpl``); it is listed in ``plugins=[...]``. What holds for every hook:

- Hooks are synchronous, quick, and do no I/O of their own on the client; a coroutine function is rejected.
- A method may leave out arguments it does not need, and takes those it names by position, without defaults.
- Order is the order in which the user listed the plugins, except where "outermost" says how they nest.
- An exception becomes a PluginError that names the plugin, its distribution and version, and the hook.
- The prefix ``skyward_`` is reserved: a method so named without ``@hookimpl``, or of another name than those
  below, is an error.
- A plugin whose hooks depend on its parameters may define ``implements_hook(name) -> bool``; False hides one.

The plugin object reaches the node by pickle: of an installed package by name (the package is installed there
too), of the user's script by value. So it holds parameters, not connections. Called only by the façade
(``skyward.hooks.facade``).
"""

from __future__ import annotations

import pluggy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from skyward.compute import Pool
    from skyward.hooks.values import Cluster, LaunchCommand, LaunchContext, Op
    from skyward.image import Image
    from skyward.runtime import InstanceInfo

hookspec = pluggy.HookspecMarker("skyward")
hookimpl = pluggy.HookimplMarker("skyward")


@hookspec
def skyward_image(image: Image, cluster: Cluster) -> Image | None:
    """Change what is installed on the nodes: packages, indexes, environment variables.

    Called by the engine on the client, once a pool, before offers are asked for; what comes out decides the
    environment's hash, so the same input must give the same output.

    ``image``: the user's image as the plugins listed before this one left it. It is frozen: return a changed
    copy (``dataclasses.replace``). ``cluster``: the pool this is for; no machine exists yet.

    Return the image to use, or None to leave it as it is.
    """
    raise NotImplementedError


@hookspec
def skyward_bootstrap(cluster: Cluster) -> Sequence[Op]:
    """Add commands to the set-up of each node, after the image's packages are installed.

    Called by the engine on the client, once a pool; the commands run on every node, as the user that runs
    tasks, those of the first listed plugin first. They must be idempotent: a set-up that was cut off is
    run again from the start. The first one that exits non-zero fails the node.

    ``cluster``: the pool this is for; no machine exists yet.

    Return the operations: a string is a shell line, a tuple of strings an argv that no shell sees. ``()`` for
    none.
    """
    raise NotImplementedError


@hookspec
def skyward_launch(command: LaunchCommand, context: LaunchContext) -> LaunchCommand:
    """Change the command that starts the worker of one node, for instance to start it through a launcher.

    Called by the engine on the client, for each node and each start of its worker, when the node is set up
    and its address is known. The first listed plugin is outermost: it is called last, so that what it puts
    in front stays in front.

    ``command``: the command as the plugins listed after this one left it. ``context``: the node it is for.

    Return the command to use; ``command`` itself to leave it as it is.
    """
    raise NotImplementedError


@hookspec
def skyward_client(pool: Pool, cluster: Cluster) -> AbstractContextManager[object]:
    """Wrap the time in which the user's program uses the pool, for instance to route a library's calls to it.

    Called on the client, once a pool, on the thread that opens it: entered when the pool is ready, before the
    user's block runs, and left after the block, before machines are released. Entered in listed order, left
    in reverse.

    ``pool``: the open pool; it may be used. ``cluster``: what the pool is.

    Return a context manager. It is left also when the block fails; the block's exception passes untouched,
    whatever the context manager makes of it.
    """
    raise NotImplementedError


@hookspec
def skyward_worker(info: InstanceInfo) -> AbstractContextManager[object]:
    """Wrap the life of a node's worker process: what is needed once a node, whatever runs the tasks.

    Called on the node, once a worker process, in its main thread: entered before the first task, left when
    the worker stops of its own accord; a worker that is killed leaves nothing. Entered in listed order, left
    in reverse.

    ``info``: this node's place in the pool, as at the start of the worker.

    Return a context manager.
    """
    raise NotImplementedError


@hookspec
def skyward_process(info: InstanceInfo) -> AbstractContextManager[object]:
    """Wrap the life of each process that runs tasks: environment variables, devices, process groups.

    Called on the node in the main thread of the process: once in the worker process when tasks run in
    threads, once in each child process when they run in processes. Entered before its first task, after
    ``skyward_worker``; left when the process ends in order. Entered in listed order, left in reverse.

    ``info``: this process's place in the pool; ``info.worker`` tells the processes of a node apart.

    Return a context manager.
    """
    raise NotImplementedError


@hookspec
def skyward_task(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap each function that runs as a task.

    Called on the node, once for each function in each process that runs it, when it first arrives; the result
    is kept and called for every task. The first listed plugin is outermost: it wraps what the others made.

    ``fn``: the user's function, or what the plugins listed after this one made of it. Keep its kind: a
    generator function must stay one and a coroutine function must stay one, for that decides how it is run.

    Return the function to call instead, with the same signature; ``fn`` itself to leave it as it is. What the
    returned function raises is the user's exception and passes untouched.
    """
    raise NotImplementedError
