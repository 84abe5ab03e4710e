"""The lab: a private network in which this process and its nodes live, and nothing of the host's does.

``enter`` moves the calling thread into a new network namespace; threads and processes that it starts later
are born there. So it comes before any of them: pytest enters after collection, if a test asks for nodes. The
lab has a loopback, addresses for this process and for the relay, and no way out but the relay. When the
process dies, the kernel removes it all.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from itertools import count

from skyward_testing.testbed import groups
from skyward_testing.testbed.capable import command
from skyward_testing.testbed.errors import BedError
from skyward_testing.testbed.relay import Relay, variables

CLIENT = "10.66.0.1"
RELAY = "10.66.0.2"
RELAY_PORT = 3128
NODES = "10.77.0.0/16"
GATEWAY = "169.254.1.1"
"""The same on every node's card: routes are to single addresses, so it never has to be told apart."""
VOID = "void"
"""A network card that leads nowhere: what is sent to a node that is no more vanishes without an answer."""
GATEWAY_RULE, LOCAL_RULE = 5, 200
"""Rules between these numbers come before the kernel's own for local addresses: those of ``wires``."""

SYSTEM = (
    ("ip_forward", 1),
    # Packets of this process come back in through the tunnels of shaped links; and what is for this process
    # goes into them first, so it must not be taken for its sockets' (nor, then, dropped) before it is routed.
    ("conf/all/accept_local", 1),
    ("ip_early_demux", 0),
    ("conf/all/rp_filter", 0),
    ("conf/default/rp_filter", 0),
    ("conf/all/send_redirects", 0),
    ("conf/default/send_redirects", 0),
)

NAT = f"""
table ip bed {{
  chain arrive {{ type nat hook prerouting priority dstnat; }}
  chain leave {{ type nat hook output priority -100; }}
  chain after {{ type nat hook postrouting priority srcnat; ct status dnat ip saddr {NODES} masquerade; }}
  chain first {{ type filter hook prerouting priority raw; iifname "tu*" notrack; }}
}}
"""


@dataclass(slots=True, kw_only=True)
class Lab:
    """The lab of this process. Addresses are never used twice, so that no test meets another's node."""

    relay: Relay
    thread: int
    outside: int
    """The namespace that the process came from, as a file descriptor."""
    environment: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    """What variables were before the lab replaced them."""
    numbers: count[int] = field(default_factory=lambda: count(1))
    shared: count[int] = field(default_factory=lambda: count(1))

    def number(self) -> int:
        """The next node's number."""
        return next(self.numbers)

    def shared_address(self) -> str:
        """An address that leads nowhere but where rules for its ports say."""
        number = next(self.shared)
        if number == 1:
            nft(NAT)
        address = f"203.0.113.{number}"
        ip(f"route replace {address}/32 dev {VOID} src {CLIENT}")
        return address


_lab: Lab | None = None


def current() -> Lab:
    """The lab of this process; entered now if it was not and still can be. Raises ``BedError`` if not."""
    if _lab is not None:
        if not _inside(_lab.thread):
            raise BedError("this thread is older than the lab: ask for nodes in the test's own thread")
        return _lab
    if threading.active_count() > 1:
        raise BedError(
            "threads are already running, which would stay outside the lab: "
            "mark the test with @pytest.mark.testbed, or name the fixture among its arguments"
        )
    return enter()


def enter() -> Lab:
    """Move this thread into the lab. Does nothing the second time."""
    global _lab
    if _lab is not None:
        return _lab
    groups.sweep()
    relay = Relay()  # its thread has to be born outside
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    os.unshare(os.CLONE_NEWNET)
    _lab = lab = Lab(relay=relay, thread=threading.get_native_id(), outside=outside)
    for setting, number in SYSTEM:
        with open(f"/proc/sys/net/ipv4/{setting}", "w") as file:
            file.write(str(number))
    ip(
        "link set lo up",
        f"addr add {CLIENT}/32 dev lo",
        f"addr add {RELAY}/32 dev lo",
        f"link add {VOID} type veth peer name {VOID}0",
        f"link set {VOID} arp off",  # nobody answers there, and nobody is asked
        f"link set {VOID} up",
        f"link set {VOID}0 up",
        # Whatever befalls packets, a node's gateway answers for its own address, as a hypervisor's does.
        f"rule add pref {GATEWAY_RULE} to {GATEWAY} lookup local",
        f"rule add pref {LOCAL_RULE} lookup local",
        "rule del pref 0",
    )
    relay.serve(socket.create_server((RELAY, RELAY_PORT), backlog=256))
    for name, value in proxies().items():
        lab.environment[name] = os.environ.get(name)
        os.environ[name] = value
    return lab


def leave() -> None:
    """Go back to the host's network, for what pytest does after the last test."""
    global _lab
    lab, _lab = _lab, None
    if lab is None:
        return
    lab.relay.stop()
    os.setns(lab.outside, os.CLONE_NEWNET)
    os.close(lab.outside)
    for name, value in lab.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def proxies() -> dict[str, str]:
    """The variables that lead programs to the relay, in the lab and on nodes."""
    return variables(f"{RELAY}:{RELAY_PORT}", f"localhost,127.0.0.1,::1,{CLIENT},{NODES}")


def ip(*lines: str, force: bool = False) -> None:
    """Run commands of ip(8) in the lab. ``force``: all of them, whatever fails."""
    arguments = [command("ip") or "ip", *(["-force"] if force else []), "-batch", "-"]
    done = subprocess.run(arguments, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode and not force:
        raise BedError(f"ip: {done.stderr.strip()} (of: {'; '.join(lines)})")


def nft(rules: str) -> None:
    """Add rules of nft(8) in the lab."""
    done = subprocess.run([command("nft") or "nft", "-f", "-"], input=rules, capture_output=True, text=True)
    if done.returncode:
        raise BedError(f"nft: {done.stderr.strip()}")


def _inside(thread: int) -> bool:
    """Whether the calling thread is in the lab, as threads are that were started after it was entered."""
    mine, its = (os.stat(f"/proc/{name}/ns/net").st_ino for name in ("thread-self", f"self/task/{thread}"))
    return mine == its
