"""Having a pool whose client is gone: what it was opened with, and its nodes as they are.

The ledger says where the machines are; what the pool was opened with is known by their agents. A machine that
does not answer is ended, as one that is lost, and another takes its rank.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from skyward.engine.agentline import AgentLine
from skyward.engine.memento import unpack
from skyward.errors import ConnectError, PoolStateError, SkywardError
from skyward.events import Error
from skyward.link.links import link_to
from skyward.subscriptions import publish

if TYPE_CHECKING:
    from skyward.engine.bringup import NodeFactory
    from skyward.engine.ledger import Estate
    from skyward.engine.market import Market
    from skyward.engine.reconcile import Reconciler
    from skyward.hooks.ports import Provider
    from skyward.hooks.values import Endpoint, Machine, PoolRef
    from skyward.options import Options
    from skyward.spec import Spec

ANSWER_SECONDS = 30.0
"""How long the first of the machines may take to say what the pool was opened with."""
RETRY_SECONDS = 1.0


async def opened_with(estate: Estate) -> tuple[tuple[Spec, ...], Options]:
    """Ask the machines what their pool was opened with. Raises PoolStateError when none answers."""
    asked = {
        asyncio.create_task(_memento(endpoint, estate.pythons.get(machine, ""))): machine
        for machine, endpoint in estate.machines.items()
        if endpoint is not None
    }
    problems: list[str] = []
    pending = set(asked)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    return unpack(task.result(), estate.digest)
                problems.append(f"{asked[task]}: {str(error) or type(error).__name__}")
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    told = "; ".join(problems) or "it had none"
    raise PoolStateError(f"no machine of the pool {estate.pool.name!r} answers any more: {told}")


async def _memento(endpoint: Endpoint, python: str) -> str:
    link = link_to(endpoint)
    link.python = python
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def on_message(message: dict[str, Any]) -> None:
        if message["event"] == "hello" and not told.done():
            told.set_result(message)

    def on_cut() -> None:
        if not told.done():
            told.set_exception(ConnectionResetError("cut off"))

    line = AgentLine(on_message, on_cut)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await link.reach(ANSWER_SECONDS, RETRY_SECONDS)
            await line.open(link, inherit=True)
            hello = await told
    except (ConnectionRefusedError, FileNotFoundError):
        raise ConnectError("its agent has ended") from None
    except TimeoutError:
        raise ConnectError(f"it did not answer within {ANSWER_SECONDS:g} s") from None
    finally:
        line.close()
        link.close()
    memento: str = json.loads(hello["config"])["memento"]
    return memento


async def adopt(
    estate: Estate, pool: PoolRef, market: Market, factory: NodeFactory, reconciler: Reconciler
) -> None:
    """Take over the pool's nodes. Raises PoolStateError when there is none that can be taken over."""
    by_rank: dict[int, tuple[Machine, Provider, str]] = {}
    strangers: list[Machine] = []
    seen: set[str] = set()
    for provider, name in market.named:
        for machine in await provider.machines(pool):
            if machine.id in seen:  # two specs may have one provider
                continue
            seen.add(machine.id)
            market.note(provider, machine)
            rank = estate.ranks.get(machine.claim, -1)
            if rank < 0 or rank in by_rank or machine.endpoint is None:
                strangers.append(machine)
            else:
                by_rank[rank] = machine, provider, name

    async def take(rank: int) -> str | None:
        machine, _, name = by_rank[rank]
        begun = time.monotonic()
        try:
            node, link = await factory.adopt(rank, machine, name, estate.pythons.get(machine.id, ""))
        except (SkywardError, OSError) as error:
            strangers.append(machine)
            return f"node {rank} ({machine.id}): {error}"
        finally:
            reconciler.phases.pop(rank, None)
        reconciler.take(node, link, begun)
        return None

    problems = [why for why in await asyncio.gather(*map(take, by_rank)) if why is not None]
    for machine in strangers:
        _ = factory.ended(machine)
    if not reconciler.nodes:
        raise PoolStateError(
            f"no node of the pool {pool.name!r} could be taken over: {'; '.join(problems) or 'there is none'}"
        )
    for problem in problems:
        publish(Error(pool=pool.name, message=f"not taken over: {problem}"))
    reconciler.scaler.desired = max(reconciler.scaler.desired, max(reconciler.nodes) + 1)
    reconciler.ready.set()
