"""What hosts have, and the one offer that they make together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from skyward.hooks.hardware import Hardware, read_cards
from skyward.hooks.values import Offer

from skyward_ssh.trouble import refused

if TYPE_CHECKING:
    from skyward.hooks.values import Wanted

    from skyward_ssh.remote import Answer, Remote

OFFER_ID = "hosts"


def read(remote: Remote, answer: Answer) -> Hardware:
    """Read what ``probe`` printed. Raises ProviderError for a host that can't be a node."""

    def number(key: str) -> int:
        text = answer.get(key, [""])[0]
        if not text.isdigit():
            raise refused(remote.label, f"it does not say how much {key} it has ({text!r})")
        return int(text)

    system = answer.get("system", ["an unknown system"])[0]
    if system != "Linux":
        raise refused(remote.label, f"it runs {system}; nodes need Linux")
    return Hardware(
        machine=answer.get("machine", [""])[0],
        vcpus=number("cpus"),
        memory_gb=number("memory") * 1024 / 1e9,
        disk_gb=number("disk") * 1024 / 1e9,
        cards=read_cards("\n".join(answer.get("card", []))),
    )


def offer(wanted: Wanted, found: Mapping[Remote, Hardware]) -> Offer | None:
    """Return the hosts that satisfy all of ``wanted`` as one offer, at the least that each of them has."""
    fit = {
        remote: hardware
        for remote, hardware in found.items()
        if hardware.satisfies(wanted, remote.host.usd_per_hour)
    }
    if not fit:
        return None
    kinds = {hardware.architecture for hardware in fit.values()}
    cards = [hardware.cards_for(wanted) for hardware in fit.values()]
    return Offer(
        id=OFFER_ID,
        provider="ssh",
        instance_type="1 host" if len(fit) == 1 else f"{len(fit)} hosts",
        usd_per_hour=max(remote.host.usd_per_hour for remote in fit),
        accelerator=wanted.accelerator.name if wanted.accelerator else "",
        accelerator_count=min(map(len, cards)),
        accelerator_memory_gb=min((card.memory_gb for few in cards for card in few), default=0.0),
        vcpus=min(hardware.vcpus for hardware in fit.values()),
        memory_gb=min(hardware.memory_gb for hardware in fit.values()),
        disk_gb=min(hardware.disk_gb for hardware in fit.values()),
        architecture=kinds.pop() if len(kinds) == 1 else "",
        specific={"hosts": tuple(remote.label for remote in fit)},
    )
