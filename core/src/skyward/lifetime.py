"""A pool's insides from before it opens until nothing of it is left; whoever opens it holds one of these.

``close`` is safe at any time, from any thread, and ends whatever was started by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypedDict

from skyward.calls import Calls
from skyward.engine import host, ledger, memento
from skyward.engine.pool import PoolEngine
from skyward.engine.screens import Screen
from skyward.errors import UnknownNameError, UsageError
from skyward.link.modules import Project

if TYPE_CHECKING:
    from skyward.engine.ledger import Estate, Ledger
    from skyward.opening import Plan
    from skyward.options import LogConfig
    from skyward.pool import Pool

_project = Project()


class AttachKwargs(TypedDict, total=False):
    """Which options may be others for whoever attaches to a pool: those that concern the client only."""

    console: bool | str
    logging: bool | LogConfig
    shutdown_timeout: float


class Lifetime:
    """See the module. Made on any thread; waits and works on the thread that calls."""

    def __init__(self, plan: Plan, inheritance: tuple[Estate, Ledger] | None = None) -> None:
        self.plan = plan
        self.loop = host.acquire()
        self.is_over = False
        self._lock = threading.Lock()
        self._reporters: list[Any] = []
        self._around = contextlib.ExitStack()
        self._stopping: Future[Any] | None = None
        self._is_draining = False
        try:
            self.engine = PoolEngine(
                plan.name,
                plan.specs,
                plan.options.selection,
                plan.topology,
                self.loop,
                _project,
                memento.pack([spec for spec, _, _ in plan.specs], plan.options, _project),
                inheritance,
            )
            self.calls = Calls(self.engine, self.loop, _project)
        except BaseException:
            host.release()
            raise

    @classmethod
    def attached(cls, name: str, options: AttachKwargs) -> Lifetime:
        """Have a pool whose client is gone. ``options`` replace those that it was opened with.

        Raises PoolStateError where there is none, or nobody of it answers; then it is left as it is.
        """
        from skyward.engine.adoption import opened_with
        from skyward.opening import plan_of

        for given in options:
            if given not in AttachKwargs.__annotations__:
                known = AttachKwargs.__annotations__
                raise UsageError(str(UnknownNameError("argument", given, known, where="attach(...)")))
        estate, file = ledger.take_over(name)
        loop = host.acquire()
        asking = loop.start(opened_with(estate))
        try:
            specs, before = asking.result()
            plan = plan_of(estate.pool.name, specs, dataclasses.replace(before, **options))
            return cls(plan, (estate, file))
        except BaseException:
            asking.cancel()
            file.close(ended=False)
            raise
        finally:
            host.release()

    def open(self, pool: Pool) -> None:
        """Provision, and return when usable; on failure or Ctrl-C, end whatever was started."""
        self.guard()
        try:
            self.report(pool)
            self.provision().result()
            self.enter(pool)
        except BaseException:
            self.close(drain=False)
            raise

    def guard(self) -> None:
        """Have the pool closed with the process. Only on the main thread does that include SIGTERM."""
        host.guard.add(id(self), lambda: self.close(drain=False))

    def report(self, pool: Pool) -> None:
        """Start the log file and the console."""
        logging = self.plan.options.logging
        if logging is not False:
            from skyward.engine.logfile import LogFile
            from skyward.options import LogConfig

            self._reporters.append(LogFile(LogConfig() if logging is True else logging, pool.name))
        if self.plan.console is not None:
            self._reporters.insert(0, Screen(self.plan.console, pool))

    def provision(self) -> Future[Any]:
        """Begin to provision. The future is done when the pool is usable."""
        return self.loop.start(self.engine.start())

    def enter(self, pool: Pool) -> None:
        """Enter the plugins' contexts around the pool."""
        self._around.enter_context(self.engine.hooks.client(pool, self.engine.cluster()))

    def close(self, *, drain: bool) -> None:
        """Tear down, with ``drain`` once the tasks under way are done. Idempotent.

        Ctrl-C meanwhile ends the waiting for tasks, and is raised when everything is gone.
        """
        deferral = host.Deferral(self.hurry)
        with deferral:
            with self._lock:
                if self.is_over:
                    return
                self.is_over = True
                self.calls.close()
            problem = self._leave()
            try:
                self._stop(drain and problem is None)
            finally:
                self.calls.end_callbacks()
                for reporter in self._reporters:
                    reporter.close()
                host.guard.remove(id(self))
                host.release()
        deferral.replay()
        if problem is not None:
            raise problem

    def _leave(self) -> BaseException | None:
        """Leave the plugins' contexts; return what one of them raised."""
        try:
            self._around.close()
        except BaseException as error:
            return error
        return None

    def _stop(self, drain: bool) -> None:
        self._is_draining = drain
        self._stopping = self.loop.start(self.engine.stop(drain=drain))
        try:
            self._stopping.result()
        except CancelledError:  # by ``hurry``
            self._is_draining = False
            self._stopping = self.loop.start(self.engine.stop(drain=False))
            self._stopping.result()

    def hurry(self) -> None:
        """Wait for tasks no longer, if ``close`` is doing that, on whatever thread."""
        if self._is_draining and self._stopping is not None:
            self._stopping.cancel()
