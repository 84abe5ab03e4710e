"""Sets a machine up that is reached through a shell: asks what is there, sends what is missing, builds.

- One command when the machine holds the environment already; otherwise two, and files where it lacks uv, a
  Python or the included files.
- The work is done by ``remote.sh`` on the machine. An environment counts once it is whole: a set-up may be
  cut off anywhere and started again, by several clients at once.
- A set-up fails when nothing has happened for the image's timeout, not when all of it takes long.
- Variables and passwords go through the environment of commands only. What is shown of the output is rid of
  them.

Imported by ``skyward.engine.bringup``.
"""

from __future__ import annotations

import asyncio
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from skyward.engine import lending
from skyward.engine.mishaps import explain, without_secrets
from skyward.errors import BootstrapError

if TYPE_CHECKING:
    from typing import IO

    from skyward.engine.recipe import Recipe
    from skyward.hooks.values import Machine, Op
    from skyward.link.links import Remote

TAIL_LINES = 20
SHORTEST_SECRET = 6
"""Characters. Shorter values are words that output is full of, and nobody's password."""

_MARK = "::skyward "
_BUILD = "rm -rf setup && mkdir -m 700 setup && tar -xof - -C setup && exec sh setup/setup.sh build"
_QUIET = {"NO_COLOR": "1", "UV_NO_PROGRESS": "1"}


class Patient(Protocol):
    """A node as its set-up sees it."""

    @property
    def rank(self) -> int:
        """Its index in the pool."""
        ...

    @property
    def machine(self) -> Machine:
        """What it runs on."""
        ...

    def timed_phase(self, phase: str) -> AbstractContextManager[object]:
        """Report a phase: its start, its end, its duration."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A machine that is set up: what runs its workers, with which variables, and where (None: anywhere)."""

    python: str
    env: Mapping[str, str] = field(repr=False)
    cwd: str | None = None


async def set_up(node: Patient, shell: Remote, recipe: Recipe, ops: Iterable[Op] = ()) -> Prepared:
    """Bring a machine to what ``recipe`` describes, then run ``ops``; cancelled, it may be begun again.

    Raises BootstrapError with the phase and the end of the output; OSError when the connection is cut.
    """
    with ExitStack() as phases:
        setup = _SetUp(node, shell, recipe, phases)
        setup.phase("probe")
        await setup.run("sh -s ask", recipe.script.encode())
        if not setup.python:
            await setup.build()
        return Prepared(
            python=setup.python,
            env=await setup.finish(tuple(ops)),
            cwd=setup.facts["work"] if recipe.bundle else None,
        )


class _SetUp:
    """One set-up: what the machine said, and what it is doing."""

    def __init__(self, node: Patient, shell: Remote, recipe: Recipe, phases: ExitStack) -> None:
        self.facts: dict[str, str] = {}
        self.python = ""
        self._node = node
        self._shell = shell
        self._recipe = recipe
        self._phases = phases
        self._phase = ""
        self._command = ""
        self._refusal = ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        values = [*recipe.env.values(), *recipe.secrets.values()]
        self._secrets = sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len)[::-1]

    @property
    def lacks_python(self) -> bool:
        """Whether the machine gave up for want of a Python, which can be sent."""
        return self._refusal == "no-python"

    def phase(self, name: str) -> None:
        """End the phase that runs, begin another."""
        if name != self._phase:
            self._phases.close()
            self._phase = name
            if name:
                self._phases.enter_context(self._node.timed_phase(name))

    async def run(self, command: str, stdin: bytes) -> None:
        """Run a step of remote.sh. Raises BootstrapError, except for a Python that can be lent."""
        self._refusal = ""
        env = {**self._recipe.env, **self._recipe.secrets, **_QUIET}
        status, _ = await self._watched(command, env, stdin, self._on_line)
        if status and not self.lacks_python:
            raise self.error(status)
        if not status and command != "sh -s ask" and not self.python:
            raise self.error(status, "it ended without a word: look at what the login shell there does")

    async def build(self) -> None:
        """Send what is missing, and build. Phases: what remote.sh calls them."""
        recipe, facts = self._recipe, self.facts
        is_like_here = lending.is_like_here(facts.get("system", ""), facts.get("libc", ""))
        if is_like_here and "uv" not in facts and "environment" not in facts:
            self.phase("uv")
            await self._lend("uv.gz", await asyncio.to_thread(lending.uv_archive))
        if recipe.bundle and "files" not in facts:
            self.phase("ship")
            await self._put("files.tar", recipe.bundle.tar())
        await self.run(_BUILD, recipe.archive)
        if self.lacks_python:
            python = await asyncio.to_thread(lending.python_archive, recipe.python) if is_like_here else None
            if python is None:
                raise self.error(1)
            await self._lend("python.tar.gz", python)
            await self.run(_BUILD, recipe.archive)
            if self.lacks_python:
                raise self.error(1)

    async def finish(self, ops: tuple[Op, ...]) -> dict[str, str]:
        """Run what runs at each start; return the variables of the workers."""
        recipe = self._recipe
        venv = self.facts["venv"]
        env = {**recipe.env, "VIRTUAL_ENV": venv, "PATH": f"{venv}/bin:{self.facts['path']}"}
        if recipe.bundle:
            work = self.facts["work"]
            folders = [f"{work}/{path}".rstrip("/") for path in recipe.bundle.paths]
            env["PYTHONPATH"] = ":".join([*folders, *filter(None, [recipe.env.get("PYTHONPATH")])])
        if recipe.shell_vars:
            self.phase("shell_vars")
            env.update(await self._shell_vars(env))
        if ops:
            self.phase("bootstrap")
        for op in ops:
            self._begin(op if isinstance(op, str) else shlex.join(op))
            status, _ = await self._watched(op, env, b"", self._on_line)
            if status:
                raise self.error(status)
        self.phase("")
        return env

    async def _shell_vars(self, env: Mapping[str, str]) -> dict[str, str]:
        """Have the machine work out all variables in one go, each with those before it set."""
        script: list[str] = []
        for name, command in self._recipe.shell_vars.items():
            script += [
                f"printf '{_MARK}run %s\\n' {shlex.quote(' '.join(command.split()))}",
                f"{name}=$(sh -c {shlex.quote(command)} </dev/null) || exit",
                f"export {name}",
                f"printf '{_MARK}var {name}\\n%s\\n{_MARK}end\\n' \"${name}\"",
            ]
        values: dict[str, list[str]] = {}
        reading: list[str] | None = None

        def on_line(line: str) -> None:
            nonlocal reading
            if line.startswith(f"{_MARK}var "):
                reading = values.setdefault(line.removeprefix(f"{_MARK}var "), [])
            elif line == f"{_MARK}end":
                reading = None
            elif reading is None:
                self._on_line(line)
            else:
                reading.append(line)

        status, _ = await self._watched("sh -s", env, "\n".join(script).encode(), on_line)
        if status:
            raise self.error(status)
        return {name: "\n".join(lines).strip() for name, lines in values.items()}

    async def _lend(self, path: str, archive: IO[bytes] | None) -> None:
        if archive is not None:
            await self._put(path, lending.read(archive))

    async def _put(self, path: str, data: Iterable[bytes]) -> None:
        limit = self._recipe.timeout
        self._begin(f"write {path}")
        try:
            async with asyncio.timeout(limit) as clock:
                await self._shell.put(path, _moving(data, clock, limit))
        except TimeoutError:
            raise self._stuck() from None
        except OSError as error:
            # A full disk is told from a lost connection by its own words only.
            self._tail.append(str(error))
            known = explain("", self._tail, python="", apt=())
            if known == str(error).strip():
                raise
            raise self.error(1, known) from error

    async def _watched(
        self, command: Op, env: Mapping[str, str], stdin: bytes, on_line: Callable[[str], None]
    ) -> tuple[int, str]:
        """Run a command for as long as it says something from time to time."""
        limit = self._recipe.timeout
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit) as clock:

                def heard(line: str) -> None:
                    clock.reschedule(loop.time() + limit)
                    on_line(line)

                return await self._shell.run(command, env, stdin=stdin, on_line=heard)
        except TimeoutError:
            raise self._stuck() from None

    def _begin(self, command: str) -> None:
        self._command = without_secrets(command, self._secrets)
        self._tail.clear()

    def _on_line(self, line: str) -> None:
        if not line.startswith(_MARK):
            if line.strip():
                self._tail.append(without_secrets(line, self._secrets))
            return
        word, _, rest = line.removeprefix(_MARK).partition(" ")
        if word == "phase":
            self.phase(rest)
        elif word == "run":
            self._begin(rest)
        elif word == "fact":
            name, _, value = rest.partition(" ")
            self.facts[name] = value
        elif word == "failed":
            self._refusal = rest
        elif word == "ready":
            self.python = rest

    def _stuck(self) -> BootstrapError:
        seconds = f"{self._recipe.timeout:g} s"
        return self.error(None, f"nothing happened for {seconds}: Image(bootstrap_timeout=...) waits longer")

    def error(self, status: int | None, why: str = "") -> BootstrapError:
        """Return the error for what is running now; ``status`` None: it has not ended."""
        phase = self._phase
        why = why or explain(self._refusal, self._tail, python=self._recipe.python, apt=self._recipe.apt)
        ended = "" if status is None or self._refusal else f" ended with status {status}"
        command = f"`{self._command}`{ended}: " if self._command and not self._refusal else ""
        error = BootstrapError(
            f"node {self._node.rank}, phase {phase}: {command}{why}",
            phase=phase,
            tail="\n".join(self._tail),
            rank=self._node.rank,
            machine=self._node.machine.id,
        )
        if self._tail:
            error.add_note("It printed last:\n" + error.tail)
        return error


def _moving(data: Iterable[bytes], clock: asyncio.Timeout, limit: float) -> Iterable[bytes]:
    """Give ``data``, and start the clock again with each piece that is asked for."""
    loop = asyncio.get_running_loop()
    for chunk in data:
        clock.reschedule(loop.time() + limit)
        yield chunk
