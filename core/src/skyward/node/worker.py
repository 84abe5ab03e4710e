"""A worker: one process that runs tasks. Started by the agent, spoken to by the client over its own socket.

``python -m skyward.node.worker <root> <index> <generation>``. Its configuration comes from the agent over the
agent's socket; when that connection closes, the agent is dead, and the worker and whatever its tasks started
are ended: by the kernel where it can do that, since a task may hold the interpreter's lock for ever. Index -1
is the process that only holds the plugins' worker contexts when tasks run in processes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from skyward import runtime
from skyward.link import frames
from skyward.link.agentconfig import AGENT_SOCKET, AgentConfig, worker_socket
from skyward.link.frames import Splitter, TaskFrame
from skyward.link.pickling import Pickled, loads
from skyward.node.answers import Answers
from skyward.node.channel import Channel
from skyward.node.executor import Executor
from skyward.node.heritage import bequeath, definitions
from skyward.node.shelf import Functions, Shelf
from skyward.output import TaskStream

HOLDER = -1
RETURN = 10.0
"""Seconds that a process for one task waits for the word that its result has arrived."""


class AgentLink:
    """The worker's connection to its agent: our lifeline."""

    def __init__(self, root: str, index: int, generation: int) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.connect(os.path.join(root, AGENT_SOCKET))
        self.index = index
        self.generation = generation
        self._splitter = Splitter()

    def tell(self, event: str, **fields: Any) -> None:
        message = {"event": event, "index": self.index, "generation": self.generation, **fields}
        self._sock.sendall(frames.json_frame(frames.NOTICE, message))

    def configuration(self) -> AgentConfig:
        while data := self._sock.recv(1 << 16):
            for _, body in self._splitter.feed(data):
                return AgentConfig.from_json(frames.read_json(body)["config"])
        os._exit(1)

    def watch(self) -> None:
        """End this process, and all it started, when the agent is gone. It has nothing more to say: only to
        close.
        """
        if sys.platform == "linux":
            fcntl.fcntl(self._sock, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(self._sock, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(self._sock, fcntl.F_SETFL, fcntl.fcntl(self._sock, fcntl.F_GETFL) | os.O_ASYNC)

        def wait() -> None:
            with contextlib.suppress(OSError):
                while self._sock.recv(1 << 12):
                    pass
            os.killpg(0, signal.SIGKILL)

        threading.Thread(target=wait, name="skyward-lifeline", daemon=True).start()


class Worker:
    """Connects a channel to an executor: what the client's frames do."""

    def __init__(
        self, root: str, listener: socket.socket, config: AgentConfig, agent: AgentLink, hooks: Any
    ) -> None:
        self._config = config
        self._agent = agent
        self._channel = Channel(listener, self._on_frame, self._on_heir)
        self._answers = Answers(root, agent.index, agent.generation, self._channel)
        self.output = (TaskStream("stdout", self._emit(0), 1), TaskStream("stderr", self._emit(1), 2))
        self._shelf = Shelf(root)
        self._modules: Any = None
        self._functions = Functions(
            self._shelf, hooks.task if hooks is not None else lambda function: function
        )
        self.executor = Executor(
            config.slots_per_process,
            self._channel.send,
            self._answers.send_pickle,
            self._answers.send,
            self._functions.get,
            self._functions.name,
            self._shelf.views,
            self._after_task,
            self._channel.lead,
            self._finish_output,
        )
        self._handlers: dict[int, Callable[[memoryview], None]] = {
            frames.TASK: lambda body: self.executor.submit(TaskFrame.unpack(body)),
            frames.CODE: self._functions.on_code,
            frames.MODULES: self._on_modules,
            frames.BLOB: lambda body: self._shelf.on_blob(body, self._channel.take_fd),
            frames.BLOB_CHUNK: self._shelf.on_chunk,
            frames.DROP: self._on_drop,
            frames.CANCEL: lambda body: self.executor.cancel(frames.CANCEL_BODY.unpack(body)[0]),
            frames.RECALL: self._on_recall,
            frames.FACTS: lambda body: set_facts(frames.read_json(body)),
            frames.ITEMS: self._on_items,
            frames.CREDIT: self._on_credit,
            frames.STREAM_END: self._on_stream_end,
            frames.STREAM_CLOSE: self._on_stream_close,
        }

    def start(self) -> None:
        threading.Thread(target=self._channel.serve, name="skyward-reader", daemon=True).start()

    def _emit(self, stream: int) -> Callable[[str, bool], None]:
        """Return what the standard stream ``stream`` (0: stdout, 1: stderr) calls with each line."""
        send = self._channel.send

        def line(text: str, overwrite: bool) -> None:
            head = frames.OUTPUT_HEAD.pack(0, stream, overwrite)
            send(frames.frame(frames.OUTPUT, head + text.encode(errors="surrogateescape")))

        return line

    def _finish_output(self) -> None:
        """Have what a task printed without a newline sent."""
        for stream in self.output:
            stream.finish()

    def _on_frame(self, kind: int, body: memoryview) -> None:
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(body)

    def _on_heir(self, push: Callable[[bytes, tuple[int, ...]], int]) -> None:
        bequeath(self.executor, self._functions, self._answers, push)

    def _on_modules(self, body: memoryview) -> None:
        if self._modules is None:
            self._modules = shipped_modules()
        self._modules.add(frames.read_json(body)["sources"])

    def _on_drop(self, body: memoryview) -> None:
        message = frames.read_json(body)
        self._shelf.drop(message.get("blobs", ()))
        self._functions.drop(message.get("codes", ()))
        if "below" in message:  # what a client had sent that is gone
            self._shelf.drop(self._shelf.below(message["below"]))
            self._functions.drop(self._functions.below(message["below"]))

    def _on_recall(self, body: memoryview) -> None:
        back = self.executor.recall(frames.read_ids(body))
        self._channel.send(frames.ids_frame(frames.RECALLED, back))

    def _on_items(self, body: memoryview) -> None:
        number, count, blobs = frames.ITEMS_HEAD.unpack_from(body)
        start = frames.ITEMS_HEAD.size
        views = self._shelf.views(frames.read_ids(body[start : start + 8 * blobs])) if blobs else []
        data = bytes(body[start + 8 * blobs :])
        stream = self.executor.in_stream(number)
        if stream is not None:
            size = len(data) + sum(len(view) for view in views)
            if not data:  # it was long enough to be a blob itself
                data, views = bytes(views[0]), views[1:]
            stream.add(Pickled(data, views), count, size)

    def _on_credit(self, body: memoryview) -> None:
        number, items, size = frames.CREDIT_BODY.unpack(body)
        stream = self.executor.out_stream(number)
        if stream is not None:
            stream.credit(items, size)

    def _on_stream_end(self, body: memoryview) -> None:
        number, status = frames.STREAM_END_HEAD.unpack_from(body)
        stream = self.executor.in_stream(number)
        if stream is not None:
            stream.end(bytes(body[frames.STREAM_END_HEAD.size :]) if status == frames.RAISED else None)

    def _on_stream_close(self, body: memoryview) -> None:
        stream = self.executor.out_stream(frames.U64.unpack(body)[0])
        if stream is not None:
            stream.close()

    def _after_task(self) -> None:
        if self._config.executor == "process" and not self._config.reuse:
            received = self._channel.wait_until_received(RETURN)
            answers = self._answers.left_behind()
            classes = definitions() if answers else []
            self._agent.tell("done", received=received, answers=answers, classes=classes)
            sys.stdout.flush()
            os._exit(0)


def shipped_modules() -> Any:
    from skyward.link.modules import ShippedModules

    return ShippedModules()


def set_facts(facts: dict[str, Any]) -> None:
    runtime.set_facts(facts)
    os.environ.update(runtime.environment(facts))


def load_hooks(config: AgentConfig) -> Any:
    """Return the plugins' hooks, or None when there are no plugins."""
    if not config.plugins:
        return None
    from skyward.hooks.facade import PoolHooks

    if config.sources:
        shipped_modules().add(config.sources)
    return PoolHooks(loads(base64.b64decode(config.plugins)))


def enter_contexts(stack: contextlib.ExitStack, hooks: Any, config: AgentConfig, index: int) -> None:
    if hooks is None:
        return
    info = runtime.instance_info()
    if index == HOLDER or config.executor != "process":
        stack.enter_context(hooks.worker(info))
    if index != HOLDER:
        stack.enter_context(hooks.process(info))


def leave_on_sigterm(stack: contextlib.ExitStack) -> None:
    """Leave the plugins' contexts when the agent asks us to go, then go, whatever a task is doing."""

    def leave(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(BaseException):
            stack.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who sees us die shall see of what
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)


def main() -> None:
    root, index, generation = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    agent = AgentLink(root, index, generation)
    agent.tell("started")
    config = agent.configuration()
    agent.watch()
    stack = contextlib.ExitStack()
    try:
        set_facts(config.facts)
        if config.no_collections:
            from skyward.collections import set_unavailable

            set_unavailable(config.no_collections)
        hooks = load_hooks(config)
        leave_on_sigterm(stack)
        path = os.path.join(root, worker_socket(index))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(4)
        enter_contexts(stack, hooks, config, index)
    except BaseException as error:
        from skyward.node.failures import remote_text

        agent.tell("failed", what=remote_text(error))
        os._exit(1)
    if index == HOLDER:
        agent.tell("ready", env=dict(os.environ))
        threading.Event().wait()
    worker = Worker(root, listener, config, agent, hooks)
    sys.stdout, sys.stderr = worker.output
    worker.start()
    agent.tell("ready")
    worker.executor.run()


if __name__ == "__main__":
    main()
