"""Who is in the pool, as a topology is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyward.hooks.values import Formation, Member

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyward.hooks.values import Machine, PoolRef
    from skyward.spec import PoolSpec


def form(
    pool: PoolRef,
    spec: PoolSpec,
    ready: Mapping[int, Machine],
    desired: int,
    rank: int,
    machine: Machine | None,
) -> Formation:
    """Return the formation of the nodes that are ready.

    ``machine``: that of ``rank`` while it is being set up; it is told of the pool that is asked for.
    """
    members = {number: _member(number, known) for number, known in ready.items()}
    if machine is not None:
        members = {**{number: Member(rank=number) for number in range(desired)}, **members}
        members[rank] = _member(rank, machine)
    return Formation(
        pool=pool.name,
        job_id=pool.id,
        members=tuple(members[number] for number in sorted(members)),
        accelerator=spec.accelerator,
    )


def _member(rank: int, machine: Machine) -> Member:
    return Member(rank=rank, private_ip=machine.private_ip, public_ip=machine.public_ip)
