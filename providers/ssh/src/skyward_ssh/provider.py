"""The live provider: a machine is the lease of a host, and ending one ends what runs in it.

A claim is looked for on every offered host before a free one is taken, so that launching it again, from
wherever, finds its machine. Once the command that takes a host is on its way it is seen through, whatever
becomes of the caller; so a cancelled launch either happened or did not when the next call looks.

A host that can't be reached when its machine is to be ended is no error: it is logged, tried once more at the
pool's release, and the agent there ends the machine ``ttl`` seconds after its client's last word.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING, Any, cast

from skyward.errors import CapacityError, ProviderError

from skyward_ssh import hardware, leases, scripts
from skyward_ssh.remote import Remote, ask_all
from skyward_ssh.trouble import PROVIDER, none_left

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skyward.hooks.hardware import Hardware
    from skyward.hooks.values import Claim, Machine, Offer, PoolRef, Wanted

    from skyward_ssh.config import SSH
    from skyward_ssh.leases import Look
    from skyward_ssh.remote import Answer

    type Looks = dict[Remote, Look | ProviderError]

_log = logging.getLogger("skyward")


class SSHProvider:
    """Leases the hosts of one ``SSH`` value. Connections are opened when needed and kept until ``aclose``."""

    def __init__(self, config: SSH) -> None:
        self._remotes = {host.label: Remote(host, endpoint) for host, endpoint in config.endpoints()}
        self._claims: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._takes: dict[asyncio.Task[Answer], str] = {}
        """Commands on their way that lease a host, by claim."""
        self._awaited: dict[tuple[Remote, ...], asyncio.Task[Looks]] = {}
        """Looks at hosts that have not begun."""
        self._looking: set[asyncio.Task[Looks]] = set()
        self._held: dict[str, PoolRef] = {}
        """Machines that this provider launched, or may have, and that are not known to have ended."""

    async def offers(self, wanted: Wanted) -> Sequence[Offer]:
        """The hosts that fit, as one offer. Raises ProviderError when no host at all can be used."""
        cards = wanted.accelerator is not None
        answers = await ask_all(
            (remote, scripts.probe(remote.host.folder, cards=cards)) for remote in self._remotes.values()
        )
        found: dict[Remote, Hardware] = {}
        problems: list[ProviderError] = []
        for remote, answer in answers.items():
            try:
                found[remote] = hardware.read(remote, _answer(answer))
            except ProviderError as error:
                problems.append(error)
        if not found:
            count = f"none of the {len(problems)} hosts" if len(problems) > 1 else "the host"
            verb = "can be used" if len(problems) > 1 else "can't be used"
            raise none_left(f"{count} {verb}", problems)
        for problem in problems:
            _log.warning("left out: %s", problem)
        offer = hardware.offer(wanted, found)
        return [] if offer is None else [offer]

    async def prepare(self, pool: PoolRef) -> None:
        """Nothing: the hosts are there."""

    async def launch(self, pool: PoolRef, offer: Offer, claim: Claim) -> Machine:
        """Lease the first of the offer's hosts that is free. Raises CapacityError, naming why each is not."""
        remotes = self._offered(offer)
        alone = self._claims.setdefault(claim.id, asyncio.Lock())
        async with alone:
            await self._settled(claim.id)
            looks = await self._look_together(remotes)
            for remote, look in looks.items():
                if not isinstance(look, ProviderError) and look.holds(claim.id):
                    return self._launched(remote, look, pool)
            return await self._first_free(looks, pool, claim)

    async def machines(self, pool: PoolRef) -> Sequence[Machine]:
        """The pool's machines on hosts that answer; without those whose agent has died."""
        return [
            leases.machine(remote, look)
            for remote, look in await self._leased(self._remotes.values(), says=False)
            if look.lease and look.lease.pool == pool.id and look.agent != "dead"
        ]

    async def terminate(self, ids: Sequence[str]) -> None:
        outcomes = await asyncio.gather(*map(self._end, dict.fromkeys(ids)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def release(self, pool: PoolRef) -> None:
        await self._settled()
        found = await self._leased(self._remotes.values(), says=False)
        mine = [
            leases.machine_id(remote, look.lease.claim)
            for remote, look in found
            if look.lease and look.lease.pool == pool.id
        ]
        held = [name for name, owner in self._held.items() if owner.id == pool.id]
        await self.terminate([*mine, *held])
        for name in held:
            self._held.pop(name, None)

    async def owned(self) -> Sequence[Machine]:
        """Every lease on hosts that answer, dead or alive: what is listed is what there is to clean."""
        return [
            leases.machine(remote, look)
            for remote, look in await self._leased(self._remotes.values(), says=True)
        ]

    async def aclose(self) -> None:
        tasks: list[asyncio.Task[Any]] = [*self._takes, *self._looking]
        self._awaited.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for remote in self._remotes.values():
            remote.close()
        # A closed connection's socket goes in the loop's next turns, which may be its last.
        for _ in range(3):
            await asyncio.sleep(0)

    # launching

    def _offered(self, offer: Offer) -> list[Remote]:
        labels = offer.specific.get("hosts")
        if offer.id == hardware.OFFER_ID and isinstance(labels, tuple):
            names = cast("tuple[str, ...]", labels)
            remotes = [self._remotes[name] for name in names if name in self._remotes]
            if remotes:
                return remotes
        raise ProviderError(f"the offer {offer.id!r} is not one of these hosts'", provider=PROVIDER)

    async def _first_free(self, looks: Looks, pool: PoolRef, claim: Claim) -> Machine:
        reasons: dict[Remote, str] = {}
        is_final = True
        left: list[Remote] = []
        for remote, look in looks.items():
            if isinstance(look, ProviderError):
                reasons[remote], is_final = str(look), False
            elif look.may_be_free:
                left.append(remote)
            else:
                reasons[remote] = leases.why_busy(remote, look, pool)
                is_final = is_final and _is_of(look, pool)
        while left:
            # Those that nobody in this process is about to take come first.
            remote = next((other for other in left if not other.taking.locked()), left[0])
            left.remove(remote)
            async with remote.taking:
                try:
                    answer = await self._take(remote, pool, claim)
                except ProviderError as error:
                    reasons[remote], is_final = str(error), False
                    continue
            look = leases.seen(answer)
            if "taken" in answer:
                return self._launched(remote, look, pool)
            reasons[remote] = leases.why_busy(remote, look, pool)
            is_final = is_final and _is_of(look, pool)
        told = "; ".join(reasons[remote] for remote in looks)
        some = "the host is not free" if len(looks) == 1 else f"none of the {len(looks)} hosts is free"
        # Where the pool has them all, waiting gives it no more.
        raise CapacityError(f"{some}: {told}", provider=PROVIDER, retryable=not is_final)

    async def _take(self, remote: Remote, pool: PoolRef, claim: Claim) -> Answer:
        """Have the host leased. Cancelled, it goes on; ``_settled`` waits for it."""
        name = leases.machine_id(remote, claim.id)
        self._held[name] = pool  # from now on it may be ours, whatever we hear
        script = scripts.take(remote.host.folder, leases.written(pool, claim))
        task = asyncio.get_running_loop().create_task(remote.ask(script))
        self._takes[task] = claim.id

        def done(task: asyncio.Task[Answer]) -> None:
            self._takes.pop(task, None)
            if not task.cancelled() and task.exception() is None and "taken" not in task.result():
                self._held.pop(name, None)

        task.add_done_callback(done)
        return await asyncio.shield(task)

    async def _settled(self, claim: str | None = None) -> None:
        """Wait for commands on their way that lease a host: those for one claim, or all."""
        tasks = [task for task, other in self._takes.items() if claim in (None, other)]
        if tasks:
            await asyncio.wait(tasks)

    def _launched(self, remote: Remote, look: Look, pool: PoolRef) -> Machine:
        found = leases.machine(remote, look)
        self._held[found.id] = pool
        return found

    # looking

    async def _look_together(self, remotes: Sequence[Remote]) -> Looks:
        """As ``_look``, but those who ask before a look begins share it: a pool's launches come together."""
        key = tuple(remotes)

        async def look() -> Looks:
            self._awaited.pop(key, None)
            return await self._look(key)

        task = self._awaited.get(key)
        if task is None:
            task = self._awaited[key] = asyncio.get_running_loop().create_task(look())
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        return await asyncio.shield(task)

    async def _look(self, remotes: Iterable[Remote]) -> Looks:
        answers = await ask_all((remote, scripts.look(remote.host.folder)) for remote in remotes)
        return {
            remote: answer if isinstance(answer, ProviderError) else leases.seen(answer)
            for remote, answer in answers.items()
        }

    async def _leased(self, remotes: Iterable[Remote], *, says: bool) -> list[tuple[Remote, Look]]:
        """Return the leases there are, each claim once. ``says``: log which hosts could not be asked."""
        found: dict[str, tuple[Remote, Look]] = {}
        for remote, look in (await self._look(remotes)).items():
            if isinstance(look, ProviderError):
                if says:
                    _log.warning("not asked for its machines: %s", look)
            elif look.lease is not None and not look.is_elsewhere:
                found.setdefault(look.lease.claim, (remote, look))  # two names may lead to one host
        return list(found.values())

    # ending

    async def _end(self, name: str) -> None:
        label, _, claim = name.rpartition("/")
        remote = self._remotes.get(label)
        if remote is None or not claim:
            return
        try:
            answer = await remote.ask(scripts.end(remote.host.folder, claim), anew=True)
        except ProviderError as error:
            self._could_not_end(name, error)
            return
        if "stuck" in answer or "busy" in answer:
            what = f"process {answer['stuck'][0]} does not end" if "stuck" in answer else answer["busy"][0]
            raise ProviderError(
                f"{label}: the machine {name} can't be ended ({what}); try again",
                provider=PROVIDER,
                retryable=True,
            )
        self._held.pop(name, None)

    def _could_not_end(self, name: str, error: ProviderError) -> None:
        pool = self._held.get(name)
        when = f"within {pool.ttl} s" if pool is not None and pool.ttl else "as soon as it misses its client"
        _log.warning("machine %s could not be told to end (%s); it ends itself %s", name, error, when)


def _answer(answer: Answer | ProviderError) -> Answer:
    if isinstance(answer, ProviderError):
        raise answer
    return answer


def _is_of(look: Look, pool: PoolRef) -> bool:
    return look.lease is not None and look.lease.pool == pool.id
