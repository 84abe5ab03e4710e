"""How a node looks inside: the host's system under an overlay, without the host's people, data and names.

A node sees the host's /usr, /etc and their like, and writes beside them; homes, logs, temporary files and
every folder that is no system's are gone. All that the node writes outside /run and /dev counts against its
disk. What it has to see of the rest of the host (uv, interpreters) is mounted, read-only but for uv's cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from glob import glob
from typing import TYPE_CHECKING

from skyward_testing.testbed.capable import PATH, sshd_release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward_testing.testbed.host import Host

DISK_MB = 2048
USERS = {"root": 0, "ubuntu": 1500, "plain": 1501}
"""Who can own a node, by uid. Far from those of people, whose entries are taken out."""
PEOPLE = range(1000, 60_000)
HOST_KEY = "/etc/ssh/testbed_host_key"
SSHD_LOG = "/var/log/sshd.log"

SYSTEM = frozenset(
    {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "sbin", "sys", "usr", "var"}
)
"""Folders of the root that a node has in common with the host."""
EMPTY = {"/tmp": 0o1777, "/var/tmp": 0o1777, "/root": 0o711} | dict.fromkeys(
    ("/home", "/run", "/var/log", "/var/mail", "/mnt", "/srv", "/media"), 0o755
)
"""Folders that a node has to itself, with their modes. /root lets others pass to interpreters below it."""

SSHD = """
Port {port}
ListenAddress 0.0.0.0
HostKey {host_key}
PidFile /run/sshd.pid
LogLevel VERBOSE
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
Subsystem sftp internal-sftp
"""

INIT = """
trap : HUP
trap 'exit 0' TERM INT PWR
mkfifo /run/init.wait && exec 3<> /run/init.wait && rm /run/init.wait
ip -batch - << '.'
{network}
.
/usr/sbin/sshd -E {log}
while :; do read -r -u 3 _; done
"""
"""Ends when it is told to; until then it waits without a process, and buries orphans."""

SHUTDOWN = """#!/bin/sh
# shutdown [options] [now | +minutes], halt, poweroff, reboot: the machine's power switch.
[ "$(id -u)" = 0 ] || { echo "${0##*/}: must be root" >&2; exit 1; }
wait=0
for word in "$@"; do
    case $word in
        -c) [ ! -e /run/shutdown.pid ] || kill "$(cat /run/shutdown.pid)"; exit 0 ;;
        +*) wait=$((${word#+} * 60)) ;;
    esac
done
[ $wait = 0 ] && exec kill -TERM 1
setsid sh -c 'echo $$ > /run/shutdown.pid; sleep "$0"; kill -TERM 1' $wait > /dev/null 2>&1 < /dev/null &
"""
SWITCHES = ("shutdown", "poweroff", "halt", "reboot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a test asked of a node; see ``Testbed.node``."""

    name: str
    user: str
    python: bool
    uv: bool
    sudo: bool
    disk_mb: int
    forwarding: bool
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``nodeinit`` makes a node of, as it is sent there. Paths are the node's."""

    owner: int
    hostname: str
    mount_point: str
    disk_mb: int
    groups: Sequence[str]
    absent: Sequence[str]
    emptied: Sequence[tuple[str, int]]
    folders: Sequence[tuple[str, int, int]]
    """Path, mode, owner."""
    binds: Sequence[tuple[str, str, bool, int, int]]
    """On the host, in the node, whether read-only; owner on the host, owner in the node."""
    files: Sequence[tuple[str, int, int, str]]
    """Path, mode, owner, text."""
    links: Sequence[tuple[str, str]]
    """Path, where it leads."""
    init: str


def environment(host: Host, wish: Wish, proxies: dict[str, str]) -> dict[str, str]:
    """What every session on the node finds in its environment, besides what sshd sets."""
    found = host.environment | proxies
    return found | {"UV_LINK_MODE": "copy"} if wish.uv else found


def plan(
    wish: Wish, host: Host, *, variables: dict[str, str], mount_point: str, groups: Sequence[str],
    network: Sequence[str], address: str, host_key: str, client_key: str,
) -> Plan:  # fmt: skip
    """Draw up a node, whose sessions find ``variables`` in their environment."""
    uid, home = USERS[wish.user], home_of(wish.user)
    return Plan(
        owner=os.getpid(),
        hostname=wish.name,
        mount_point=mount_point,
        disk_mb=wish.disk_mb,
        groups=groups,
        absent=_absent(wish),
        emptied=[
            (path, mode) for path, mode in EMPTY.items() if os.path.isdir(path) or path in ("/run", "/home")
        ],
        folders=[
            *(("/home/" + name, 0o755, USERS[name]) for name in USERS if name != "root"),
            (f"{home}/.ssh", 0o700, uid),
            *((f"{home_of(user)}/.cache", 0o755, USERS[user]) for user in {"root", wish.user}),
            ("/run/sshd", 0o755, 0),
            ("/run/lock", 0o1777, 0),
        ],
        binds=_binds(wish, host),
        files=[
            ("/etc/hostname", 0o644, 0, f"{wish.name}\n"),
            ("/etc/hosts", 0o644, 0, f"127.0.0.1 localhost\n{address} {wish.name}\n"),
            # No name server: names are the relay's business, and asking in vain would take time.
            ("/etc/resolv.conf", 0o644, 0, ""),
            *_accounts(wish, variables),
            (HOST_KEY, 0o600, 0, host_key),
            (f"{home}/.ssh/authorized_keys", 0o600, uid, client_key),
            ("/etc/ssh/sshd_config", 0o600, 0, sshd_config(wish, variables)),
            ("/etc/apt/apt.conf.d/99testbed", 0o644, 0, _apt(variables)),
            *((f"/usr/sbin/{name}", 0o755, 0, SHUTDOWN) for name in SWITCHES),
            *((place, 0o644, 0, text) for text, place in host.settings),
        ],
        links=_links(wish, host),
        init=INIT.format(network="\n".join(network), log=SSHD_LOG),
    )


def home_of(user: str) -> str:
    """A user's home on a node."""
    return "/root" if user == "root" else f"/home/{user}"


def _absent(wish: Wish) -> list[str]:
    names = sorted(os.listdir("/"))
    gone = [f"/{name}" for name in names if name not in SYSTEM and f"/{name}" not in EMPTY]
    gone += glob("/etc/ssh/ssh_host_*")
    patterns = ["uv", "uvx"]
    patterns += [] if wish.python else ["python", "python[0-9]*", "pypy*"]
    patterns += [] if wish.sudo else ["sudo", "sudoedit"]
    # Merged /usr: a link like /bin is no folder of the overlay, what it leads to is.
    bins = dict.fromkeys(os.path.realpath(folder) for folder in PATH.split(":"))
    found = [path for folder in bins for name in patterns for path in glob(f"{folder}/{name}")]
    kept = {f"/usr/sbin/{name}" for name in SWITCHES}
    return [path for path in gone + found if path not in kept]


def _binds(wish: Wish, host: Host) -> list[tuple[str, str, bool, int, int]]:
    binds: list[tuple[str, str, bool, int, int]] = []
    if wish.uv and host.uv:
        binds.append((host.uv, "/usr/local/bin/uv", True, 0, 0))
        if host.uv_cache:
            owner = os.stat(host.uv_cache).st_uid
            # Each user's own place; uv would not write where it is not the owner.
            for user in {"root", wish.user}:
                place = f"{home_of(user)}/.cache/uv"
                binds.append((host.uv_cache, place, False, owner, USERS[user]))
    shown = [python.prefix for python in host.pythons if wish.python]
    shown += [value for name, value in host.environment.items() if "CERT" in name or "BUNDLE" in name]
    return binds + [(path, path, True, 0, 0) for path in dict.fromkeys(shown) if _is_hidden(path)]


def _is_hidden(path: str) -> bool:
    """Whether a node doesn't see this path of the host."""
    top = path.split("/")[1]
    return os.path.exists(path) and (
        top not in SYSTEM or any(path.startswith(f"{folder}/") for folder in EMPTY)
    )


def _links(wish: Wish, host: Host) -> list[tuple[str, str]]:
    pythons = host.pythons if wish.python else ()
    return [(f"/usr/local/bin/python{python.version}", python.executable) for python in pythons]


def _accounts(wish: Wish, variables: dict[str, str]) -> list[tuple[str, int, int, str]]:
    owners = {name: uid for name, uid in USERS.items() if uid}
    passwd = [f"{name}:x:{uid}:{uid}::{home_of(name)}:/bin/bash" for name, uid in owners.items()]
    shadow = [f"{name}:*:20000:0:99999:7:::" for name in owners]  # "!" would be locked to keys as well
    files = [
        ("/etc/passwd", 0o644, 0, _without_people("/etc/passwd", passwd)),
        (
            "/etc/group",
            0o644,
            0,
            _without_people("/etc/group", [f"{n}:x:{uid}:" for n, uid in owners.items()]),
        ),
        ("/etc/shadow", 0o600, 0, _without_people("/etc/shadow", shadow)),
    ]
    if wish.sudo:
        kept = " ".join(variables)
        rules = f'ubuntu ALL=(ALL) NOPASSWD:ALL\nDefaults env_keep += "{kept}"\n'
        files.append(("/etc/sudoers.d/testbed", 0o440, 0, rules))
    return files


def _without_people(path: str, added: list[str]) -> str:
    """A file of accounts with ours for those of people. The host's root password is nobody's business."""
    kept: list[str] = []
    for line in _lines(path):
        name, secret, *rest = line.split(":") if ":" in line else (line, "")
        if not rest or (name in USERS and name != "root"):
            continue
        if path == "/etc/shadow":
            kept.append(":".join((name, "*", *rest)))
        elif not rest[0].isdigit() or int(rest[0]) not in PEOPLE:
            kept.append(":".join((name, secret, *rest)))
    return "\n".join([*kept, *added]) + "\n"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except PermissionError:  # /etc/shadow, unless we are root
        return [f"{line.split(':')[0]}:*:20000:0:99999:7:::" for line in _lines("/etc/passwd")]


def sshd_config(wish: Wish, variables: dict[str, str]) -> str:
    """The settings of a node's sshd."""
    return SSHD.format(port=wish.port, host_key=HOST_KEY) + sshd_options(wish, variables)


def sshd_options(wish: Wish, variables: dict[str, str]) -> str:
    """Those that depend on the wish and on this machine."""
    lines: list[str] = []
    if not wish.forwarding:
        lines.append("DisableForwarding yes")
    if sshd_release() >= (9, 8):
        lines.append("PerSourcePenalties no")  # all clients come from one address here
    pairs = [f'{name}="{value}"' for name, value in variables.items() if '"' not in value]
    lines.append(f"SetEnv {' '.join(pairs)}")  # one line: sshd reads the first only
    return "\n".join(lines) + "\n"


def _apt(variables: dict[str, str]) -> str:
    words = [f'Acquire::{scheme}::Proxy "{variables[f"{scheme}_proxy"]}";' for scheme in ("http", "https")]
    # The relay takes one request a connection.
    return "\n".join([*words, 'Acquire::http::Pipeline-Depth "0";', 'Acquire::Languages "none";', ""])
