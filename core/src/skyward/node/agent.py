"""The agent: the one process that owns a node. It starts the workers, and ends with the machine.

Single-threaded and free of asyncio, because a node's start waits for it. It never imports what the user
wrote. It speaks JSON frames over ``<root>/agent.sock`` with the client and with its workers; tasks don't pass
through it.

- A worker that dies is started again; how it died is told to the client.
- Told to shut down, or without a word from the client for ``ttl`` seconds, it ends its workers, removes its
  folder and exits.
- Nothing that a task started outlives the node: the worker's process group ends with the worker, and what
  left that group, but not its environment, ends with the agent.
- When the agent itself dies, the kernel ends its workers: see ``skyward.node.worker``.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable

from skyward.link.agentconfig import AGENT_SOCKET, MACHINE_MARK, READY_LINE, AgentConfig
from skyward.link.frames import COMMAND, HELLO, NOTICE, json_frame
from skyward.node.checkup import CHECKER, Checkup, checker_argv
from skyward.node.connection import Connection
from skyward.node.deaths import OomCounter, describe_death
from skyward.node.gauges import Gauges
from skyward.node.notices import Notices
from skyward.node.process import Child, end_group, end_marked, is_over, process_identity
from skyward.node.reach import Reach
from skyward.node.valuefiles import ValueFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TICK = 0.5
"""Seconds between looks at the clock: the precision of ``ttl``."""
GRACE = 1.0
"""Seconds a worker has to leave its plugins' contexts after SIGTERM: less than providers wait for us."""
SILENCE = 60.0
"""The least silence that means anything while the client is connected, and may be busy, or not there yet."""
RETURN = 1.0
"""Seconds that a client whose connection was cut has to come back, however short ``ttl`` is."""
MAX_START_FAILURES = 3
BACKLOG = 1 << 16
"""Bytes that the client has not taken, from which on nothing is read for it: it has enough to catch up on."""


class Agent:
    """See the module. ``run`` returns when the node is to end."""

    def __init__(self, root: str, config: AgentConfig) -> None:
        self.root = root
        self.config = config
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, Child] = {}
        self._failures: dict[int, int] = {}
        self._notices = Notices()
        self._tell = self._notices.tell
        self._values = ValueFiles(root)
        self._reach = Reach(self._selector, self._tell)
        self._client_left = False
        self._last_word = time.monotonic()
        self._oom = OomCounter()
        self._ending = False
        self._abandoned = False
        self._env = {**os.environ, **config.env, MACHINE_MARK: root}
        self._gauges = Gauges(config.metrics, self._env, self._selector, self._tell, self._write_pids)
        self._checkup = Checkup(
            config.health,
            start=lambda: self._start(CHECKER),
            kill=lambda why: self._kill(self._children.get(CHECKER), why),
            ask=self._ask_checker,
            tell=self._tell,
        )

    def run(self) -> None:
        listener = self._listen()
        wakeup = self._signals()
        with open(os.path.join(self.root, "agent.pid"), "w") as file:
            file.write(process_identity(os.getpid()))
        if self.config.cwd is not None:
            os.chdir(self.config.cwd)
        if self.config.executor == "process" and self.config.around_worker:
            self._start(-1)
        else:
            self._start_workers()
        self._answer_client()
        pause = TICK
        while not self._ending:
            for key, events in self._selector.select(pause):
                handler: Callable[[int], None] = key.data
                handler(events)
            self._watch_clock()
            client = self._notices.client
            watched = client is not None and client.backlog < BACKLOG
            pause = min(TICK, self._gauges.turn(watched), self._checkup.turn(watched))
        self._gauges.end()
        self._selector.unregister(wakeup)
        listener.close()
        self._end_children()
        end_marked(self.root)
        if self._abandoned:
            remove(self.root)

    def _answer_client(self) -> None:
        """Say that we listen. Until the client has connected, the pipe that this goes through tells if it
        dies.
        """
        pipe = os.dup(1)
        devnull = os.open(os.devnull, os.O_RDWR)
        os.dup2(devnull, 0)
        os.dup2(devnull, 1)
        os.close(devnull)
        try:
            os.write(pipe, READY_LINE)
        except OSError:
            self._client_left = True

        def gone(events: int) -> None:
            self._client_left = self._client_left or self._notices.client is None
            self._selector.unregister(pipe)
            os.close(pipe)

        # There is nothing to read at this end: what wakes us is the error that nobody holds the other.
        self._on_readable(pipe, gone)

    def _on_readable(self, source: int | socket.socket, handler: Callable[[int], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, handler)

    def _listen(self) -> socket.socket:
        path = os.path.join(self.root, AGENT_SOCKET)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(128)
        listener.setblocking(False)
        self._on_readable(listener, lambda events: self._accept(listener))
        return listener

    def _signals(self) -> int:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._on_readable(read, lambda events: self._reap(read))
        return read

    def _on_signal(self, number: int, frame: object) -> None:
        self._ending = True

    # connections

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        Connection(sock, self._selector, self._on_message, self._on_left)

    def _on_left(self, connection: Connection) -> None:
        if connection.worker is not None:
            connection.worker.connection = None
        if connection is self._notices.client:
            self._notices.client, self._client_left = None, True
            self._last_word = time.monotonic()

    def _on_message(self, connection: Connection, kind: int, message: dict[str, Any]) -> None:
        if kind == HELLO:
            self._client_left = False
            self._notices.greet(connection, message, self._ready_workers(), self.config)
        if kind == HELLO or connection is self._notices.client:
            self._last_word = time.monotonic()
        if kind == COMMAND:
            self._obey(message)
        elif kind == NOTICE:
            self._on_worker_notice(connection, message)

    def _ready_workers(self) -> list[list[int]]:
        return [
            [child.index, child.generation]
            for child in self._children.values()
            if child.ready and child.index >= 0 and not child.reaped
        ]

    def _obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "shutdown":
                self._ending = self._abandoned = True
            case "facts":
                self.config.facts = command["facts"]
            case "remove":
                self._values.remove(command.get("names", ()), below=command.get("below", 0))
            case "listen":
                self._reach.listen(command["address"])
            case "listen-no-more":
                self._reach.stop()
            case "call":
                self._reach.call(command["targets"], command["seconds"])
            case "kill":
                child = self._children.get(command["index"])
                if child is not None and child.generation == command["generation"]:
                    self._kill(child, command["why"])
            case "ping":
                self._notices.acknowledge(command.get("received", 0))
            case _:
                pass  # whatever a newer client knows: hearing from it was the point

    # workers

    def _kill(self, child: Child | None, why: str) -> None:
        if child is not None and not child.reaped:
            child.why = why
            end_group(child.pid, signal.SIGKILL)

    def _ask_checker(self) -> None:
        connection = self._children[CHECKER].connection
        if connection is not None:
            connection.send(json_frame(COMMAND, {"do": "check", "facts": self.config.facts}))

    def _start_workers(self) -> None:
        for index in range(self.config.processes):
            if index not in self._children:  # the holder of the plugins' contexts may have come again
                self._start(index)

    def _start(self, index: int) -> None:
        previous = self._children.get(index)
        generation = previous.generation + 1 if previous else 1
        launch = checker_argv() if index == CHECKER else self.config.launch
        argv = [*launch, self.root, str(index), str(generation)]
        try:
            child = Child.spawn(argv, self._env, index, generation)
        except OSError as error:
            self._tell({"event": "failed", "index": index, "what": f"can't run {argv[0]}: {error.strerror}"})
            return
        self._children[index] = child
        for fd in child.outputs:
            self._on_readable(fd, self._output_reader(child, fd))
        self._write_pids()

    def _write_pids(self) -> None:
        """List our workers for whoever has to clean up after us, should we be killed."""
        path = os.path.join(self.root, "pids")
        lines = [child.identity for child in self._children.values()] + self._gauges.identities
        with open(path + "~", "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
        os.replace(path + "~", path)

    def _on_worker_notice(self, connection: Connection, message: dict[str, Any]) -> None:
        child = self._children.get(message["index"])
        if child is None or child.generation != message["generation"]:
            return
        connection.worker, child.connection = child, connection
        match message["event"]:
            case "started":
                config = self.config.to_json().decode()
                connection.send(json_frame(COMMAND, {"do": "start", "config": config}))
            case "ready":
                child.ready = True
                self._failures[child.index] = 0
                if child.index == CHECKER:
                    self._checkup.on_ready()
                elif child.index < 0:
                    self._env.update(message["env"])
                    self._start_workers()
                else:
                    generation = child.generation
                    self._tell({"event": "worker-ready", "index": child.index, "generation": generation})
            case "checked":
                self._checkup.on_answer(message["what"])
            case "done":
                child.why = "done"
                self._notices.on_answers(child.index, child.generation, message)
            case "failed":
                child.why = "failed"
                if child.index == CHECKER:
                    self._checkup.on_broken(message["what"])
                else:
                    self._tell({"event": "failed", "index": child.index, "what": message["what"]})
            case _:
                pass

    def _reap(self, wakeup: int) -> None:
        try:
            os.read(wakeup, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._gauges.on_exit(pid, status)
            for child in list(self._children.values()):
                if child.pid == pid:
                    self._on_death(child, status, usage.ru_maxrss << 10)

    def _on_death(self, child: Child, status: int, peak: int) -> None:
        child.reaped = True
        end_group(child.pid, signal.SIGKILL)  # what the task had started
        while child.connection is not None and child.connection.read():
            pass  # its last words, which may have come in the same turn
        for fd in list(child.outputs):
            self._on_output(child, fd)
        if self._ending:
            return
        if child.why == "done":  # one task a process: on to the next
            self._start(child.index)
            return
        kind, cause = describe_death(status, child.why, self._oom, peak)
        if child.index == CHECKER:
            self._checkup.on_death(cause)
            return
        self._tell(
            {
                "event": "worker-died",
                "index": child.index,
                "generation": child.generation,
                "kind": kind,
                "cause": cause,
                "was_ready": child.ready,
            }
        )
        if not child.ready:
            self._failures[child.index] = self._failures.get(child.index, 0) + 1
            if child.why == "failed" or self._failures[child.index] >= MAX_START_FAILURES:
                if child.why != "failed":
                    what = "\n".join([*child.tail, f"the worker {cause} while starting"])
                    self._tell({"event": "failed", "index": child.index, "what": what})
                return
        self._start(child.index)

    def _end_children(self) -> None:
        deadline = time.monotonic() + GRACE
        left = {child.pid for child in self._children.values() if not child.reaped}
        for pid in left:
            end_group(pid, signal.SIGTERM)
        while left and time.monotonic() < deadline:
            for pid in [pid for pid in left if is_over(pid)]:
                end_group(pid, signal.SIGKILL)  # what its tasks had started
                left.discard(pid)
            if left:
                time.sleep(0.005)
        for pid in left:
            end_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    # output that did not go through Python's sys.stdout

    def _output_reader(self, child: Child, fd: int) -> Callable[[int], None]:
        return lambda events: self._on_output(child, fd)

    def _on_output(self, child: Child, fd: int) -> None:
        if fd not in child.outputs:  # closed by what came before it in the same turn
            return
        stream, lines, is_over = child.read(fd)
        if lines:
            self._tell({"event": "output", "stream": stream, "lines": lines})
        if is_over:
            self._selector.unregister(fd)
            os.close(fd)

    def _watch_clock(self) -> None:
        self._oom.look()
        self._reach.look()
        limit = max(self.config.ttl, RETURN if self._client_left else SILENCE)
        if time.monotonic() - self._last_word > limit:
            self._ending = self._abandoned = True


def remove(folder: str) -> None:
    """Remove a folder, as far as that can be done."""
    import shutil  # not before an agent ends

    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    root = sys.argv[1]
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the client died while it was starting us
        remove(root)
        return
    config = AgentConfig.from_json(line)
    os.umask(0o077)
    Agent(root, config).run()


if __name__ == "__main__":
    main()
