"""What this machine can do for the testbed, and what to install where it can't."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from skyward_testing.testbed import groups

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

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where system commands are; an unprivileged user's PATH lacks half of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Why something can't be done here, as one line each; "" where it can."""

    nodes: str
    """Nodes with an address, processes and files of their own. Without it the fixture skips."""
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
    return Capabilities(
        nodes=_why_no_nodes(),
        sudo="" if command("sudo") else "sudo is missing: apt-get install sudo",
        limits=f"no control group for {' and '.join(lacking)} can be made here" if lacking else "",
        freezing="" if "freezer" in kinds else "no control group that freezes can be made here",
        shaping="" if os.path.exists("/dev/net/tun") else "/dev/net/tun is missing: modprobe tun",
    )


def command(name: str) -> str | None:
    """The full path of a system command, or None."""
    return shutil.which(name, path=PATH)


@cache
def sshd_release() -> tuple[int, int]:
    """The release of OpenSSH, for options that not every sshd knows."""
    said = subprocess.run([command("ssh") or "ssh", "-V"], capture_output=True, text=True).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _why_no_nodes() -> str:
    if sys.platform != "linux":
        return "nodes are made of Linux namespaces: run this on Linux"
    if os.geteuid() != 0:
        return "making nodes takes root: run pytest as root"
    if missing := [name for name in PACKAGES if not command(name)]:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        return f"{', '.join(missing)} missing: apt-get install --no-install-recommends {packages}"
    tried = subprocess.run(["unshare", "-n", "-m", "-p", "-f", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"namespaces can't be made here ({tried.stderr.strip()}): a container needs --privileged"
    return ""
