"""One host as the provider sees it: a connection that is kept, scripts that run there, and answers read.

Every failure is a ``ProviderError`` that names the host. A host that could not be reached is not tried again
for a while, so that one that is switched off costs a pool its time once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from skyward.errors import ProviderError, SkywardError
from skyward.hooks.ssh import SSHShell

from skyward_ssh.trouble import is_passing, mapped, refused, unreachable

if TYPE_CHECKING:
    from skyward.hooks.values import SSHEndpoint

    from skyward_ssh.host import Host

type Answer = dict[str, list[str]]
"""The values that a script printed, by key, in their order."""

RETRY_DELAYS = (0.1, 0.3, 0.6)
"""Seconds before each new try to reach a host that has dropped or refused the connection."""

ASK_SECONDS = 40.0
"""The longest that a script may take; a cold driver of graphics cards takes half of it."""

DOWN_SECONDS = 15.0
"""How long a host that could not be reached is taken for down."""

STRAGGLER_SECONDS = 5.0
"""How much longer than the first host to answer any other may take to be reached."""

_MARK = "skyward:"


class Remote:
    """A host, and the connection to it that is opened when it is first needed. All on one loop."""

    def __init__(self, host: Host, endpoint: SSHEndpoint) -> None:
        self.host = host
        self.endpoint = endpoint
        self.label = host.label
        self.taking = asyncio.Lock()
        """Held while somebody in this process tries to lease it."""
        self._shell: SSHShell | None = None
        self._down: tuple[float, ProviderError] | None = None

    async def reach(self, *, anew: bool = False) -> None:
        """Connect, unless it is. ``anew``: also if it was down a moment ago. Raises ProviderError."""
        now = asyncio.get_running_loop().time()
        if self._down is not None and not anew and now - self._down[0] < DOWN_SECONDS:
            raise self._down[1]
        for delay in (*RETRY_DELAYS, None):
            shell = self._shell or SSHShell(self.endpoint)
            self._shell = shell
            try:
                await shell.reach(0.0, 1.0)  # one try: which failures may pass is decided here
            except (OSError, SkywardError) as error:
                if delay is None or not is_passing(error):
                    problem = mapped(error, self.label, self.endpoint)
                    self.is_down(problem)
                    raise problem from error
                await asyncio.sleep(delay)
            else:
                self._down = None
                return

    def is_down(self, problem: ProviderError) -> None:
        """Remember why it can't be reached."""
        self._down = asyncio.get_running_loop().time(), problem

    async def ask(self, script: str, *, anew: bool = False) -> Answer:
        """Run a script and return what it answers; once more if the connection is cut meanwhile.

        Every script may be run twice. Raises ProviderError.
        """
        for is_last in (False, True):
            await self.reach(anew=anew)
            assert self._shell is not None
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    _, output = await self._shell.run(script, {})
            except TimeoutError:
                raise unreachable(self.label, f"a command took over {ASK_SECONDS:g} s there") from None
            except (OSError, SkywardError) as error:
                if is_last or not is_passing(error):
                    raise mapped(error, self.label, self.endpoint) from error
            else:
                return self._read(output)
        raise AssertionError

    def _read(self, output: str) -> Answer:
        answer: Answer = {}
        for line in output.splitlines():
            if line.startswith(_MARK):
                key, _, value = line.removeprefix(_MARK).partition(" ")
                answer.setdefault(key, []).append(value)
        if "refused" in answer:
            raise refused(self.label, answer["refused"][0])
        if not answer:
            said = " ".join(output.split())[:100] or "nothing"
            raise refused(self.label, f"to a command it says {said!r}; may this user run commands?")
        return answer

    def close(self) -> None:
        """Let go of the connection. Idempotent; it is opened again when it is needed again."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None


async def reach_all(remotes: Sequence[Remote]) -> dict[Remote, ProviderError]:
    """Connect to all at once, and return those that can't be reached.

    Waits for the last only while none has answered, then for a moment longer.
    """
    loop = asyncio.get_running_loop()
    tasks = {loop.create_task(remote.reach()): remote for remote in remotes}
    problems: dict[Remote, ProviderError] = {}
    pending, deadline = set(tasks), None
    try:
        while pending:
            patience = None if deadline is None else max(0.0, deadline - loop.time())
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                error = task.exception()
                if isinstance(error, ProviderError):
                    problems[tasks[task]] = error
                elif error is not None:
                    raise error
                elif deadline is None:
                    deadline = loop.time() + STRAGGLER_SECONDS
        for task in pending:
            problems[tasks[task]] = unreachable(
                tasks[task].label, f"it took {STRAGGLER_SECONDS:g} s longer to answer than others"
            )
            tasks[task].is_down(problems[tasks[task]])
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return problems


async def ask_all(scripts: Iterable[tuple[Remote, str]]) -> dict[Remote, Answer | ProviderError]:
    """Run each script on its host, all at once; return each answer, or why there is none, in their order."""
    jobs = list(scripts)
    problems = await reach_all([remote for remote, _ in jobs])

    async def one(remote: Remote, script: str) -> Answer | ProviderError:
        if remote in problems:
            return problems[remote]
        try:
            return await remote.ask(script)
        except ProviderError as error:
            return error

    answers = await asyncio.gather(*(one(remote, script) for remote, script in jobs))
    return {remote: answer for (remote, _), answer in zip(jobs, answers, strict=True)}
