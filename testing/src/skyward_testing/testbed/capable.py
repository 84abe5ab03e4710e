"""What this machine can do for the testbed, and what to install where it can't."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from skyward_testing.testbed import groups

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ip": "iproute2",
    "ss": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "bash": "bash",
}
"""Command -> the Debian package that has it. ``sudo`` is asked for only by nodes whose user may use it."""

TIERS = ("network", "namespaces", "processes")
"""Kinds of nodes, best first: made by root; in a user namespace; an sshd on loopback."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where system commands are; an unprivileged user's PATH lacks half of them."""

TRIAL = """
mount -t tmpfs none /tmp
mount -t sysfs none /sys
for folder in usr etc; do
    mkdir -p /tmp/$folder/upper /tmp/$folder/work /tmp/$folder/root
    mount -t overlay -o lowerdir=/$folder,upperdir=/tmp/$folder/upper,workdir=/tmp/$folder/work \\
        none /tmp/$folder/root
done
"""
"""What ``userinit`` does that a machine may forbid users."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Why something can't be done here, as one line each; "" where it can."""

    tier: str
    """The best kind of node that can be made: one of ``TIERS``, or "" if none can."""
    nodes: str
    """Nodes of any kind. Without it the fixture skips."""
    sudo: str
    """Nodes whose user may become root."""
    limits: str
    """``memory_mb`` and ``cpus``."""
    freezing: str
    """``freeze()``."""
    shaping: str
    """``link()``."""


@cache
def capabilities() -> Capabilities:
    """Look once what this machine can do; costs some milliseconds."""
    kinds = groups.controllers()
    lacking = [name for name in ("memory", "cpu") if name not in kinds]
    tier = next((tier for tier in TIERS if not why_not(tier)), "")
    return Capabilities(
        tier=tier,
        nodes="" if tier else why_not("processes"),
        sudo="" if command("sudo") else "sudo is missing: apt-get install sudo",
        limits=f"no control group for {' and '.join(lacking)} can be made here" if lacking else "",
        freezing="" if "freezer" in kinds else "no control group that freezes can be made here",
        shaping="" if os.path.exists("/dev/net/tun") else "/dev/net/tun is missing: modprobe tun",
    )


@cache
def why_not(tier: str) -> str:
    """Why nodes of this kind can't be made here, and what to do; "" if they can."""
    if sys.platform != "linux":
        return "nodes are made of what Linux has: run this on Linux"
    if tier == "network":
        return _why_no_network()
    return _why_no_namespaces() if tier == "namespaces" else _missing(("sshd", "ssh", "ssh-keygen", "bash"))


def command(name: str) -> str | None:
    """The full path of a system command, or None."""
    return shutil.which(name, path=PATH)


@cache
def sshd_release() -> tuple[int, int]:
    """The release of OpenSSH, for options that not every sshd knows."""
    said = subprocess.run([command("ssh") or "ssh", "-V"], capture_output=True, text=True).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _why_no_network() -> str:
    if os.geteuid() != 0:
        return "run pytest as root"
    return _missing(PACKAGES) or _failed(
        ["unshare", "-n", "-m", "-p", "-f", "true"], "a container needs --privileged"
    )


def _why_no_namespaces() -> str:
    return _missing(("sshd", "ssh", "ssh-keygen", "bash", "nsenter")) or _failed(
        ["unshare", "-U", "-r", "-n", "-m", "-p", "-u", "-i", "-f", "--mount-proc", "sh", "-ec", TRIAL],
        "run pytest as root, or let users make them (sysctl kernel.apparmor_restrict_unprivileged_userns=0)",
    )


def _missing(names: Iterable[str]) -> str:
    if missing := [name for name in names if not command(name)]:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        return f"{', '.join(missing)} missing: apt-get install --no-install-recommends {packages}"
    return ""


def _failed(words: list[str], what_to_do: str) -> str:
    tried = subprocess.run(words, capture_output=True, text=True, env={"PATH": PATH, "LC_ALL": "C"})
    if tried.returncode:
        return f"namespaces can't be made here ({tried.stderr.strip()}): {what_to_do}"
    return ""
