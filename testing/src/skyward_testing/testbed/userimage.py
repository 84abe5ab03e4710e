"""What nodes are made of that no root makes: plans for ``userinit`` and ``procinit``.

The first has what root's nodes have (``image``), as far as a single user can have it. The second has a folder
with a home, settings of sshd and little else; what a session finds is decided by its environment.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward_testing.testbed import image
from skyward_testing.testbed.capable import PATH, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyward_testing.testbed.host import Host

SSHD_PORT = 2222
"""Inside a node: a user may not have the usual one. Clients see that of the front."""

WRITABLE = (
    *("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/etc/ssh", "/opt", "/var", "/var/lib"),
)
"""Folders of the system's in which a node may add, replace and remove files; in others it can't."""

INIT = """
trap : HUP
trap 'exit 0' TERM INT PWR
trap '/usr/sbin/sshd -E {log}' USR1
mkfifo /run/init.wait && exec 3<> /run/init.wait && rm /run/init.wait
/usr/sbin/sshd -E {log}
while :; do read -r -u 3 _; done
"""
"""As root's (``image.INIT``), and starts sshd again when it is told to."""

SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
LogLevel VERBOSE
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxStartups 200
MaxSessions 200
Subsystem sftp {sftp}
ForceCommand {folder}/session
"""

SESSION = """#!/bin/sh
# sshd would begin in the home of the user, whose home this node's is not.
cd "$HOME" || exit 1
[ -n "$SSH_ORIGINAL_COMMAND" ] || exec "$SHELL" -l
exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"
"""
NO_SWITCH = """#!/bin/sh
echo "${0##*/}: this node has no power switch; the computer it runs on must not be touched" >&2
exit 1
"""

SFTP_SERVERS = tuple(f"/usr/{folder}/sftp-server" for folder in ("lib/openssh", "libexec/openssh", "lib/ssh"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPlan(image.Plan):
    """A plan for ``userinit``."""

    user: str
    uid: int
    """What it is called inside, where there is no other."""
    system: Sequence[str]
    """Folders of the root that are overlays of the host's."""
    same_links: Sequence[tuple[str, str]]
    """Links of the root: path, where it leads."""
    writable: Sequence[str]
    control: int = -1
    """The keeper's end of a socket, as a file descriptor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """A plan for ``procinit``. Paths are the host's."""

    owner: int
    hostname: str
    """What the node is called; the host's name it can't change."""
    user: str
    wished_user: str
    home: str
    mark: str
    """The name of a variable that its processes have."""
    port: int
    """Where sshd listens."""
    variables: dict[str, str]
    """What every session has in its environment, besides the testbed's."""
    sshd: Sequence[str]
    environment: dict[str, str]
    """sshd's own."""
    host_key_file: str
    sshd_log: str


def user_plan(plan: image.Plan, wish: image.Wish) -> UserPlan:
    """The same node as far as it can be had in a user namespace."""
    system, links = _system()
    files = [_for_one_user(file, image.USERS[wish.user]) for file in plan.files if "sudoers" not in file[0]]
    binds = [bind for bind in plan.binds if bind[2] or bind[3] == os.geteuid()]  # uv's cache, if it is ours
    values: dict[str, Any] = asdict(plan)
    values |= {"files": files, "binds": binds, "init": INIT.format(log=image.SSHD_LOG)}
    return UserPlan(
        **values,
        user=wish.user,
        uid=image.USERS[wish.user],
        system=system,
        same_links=links,
        writable=[path for path in WRITABLE if os.path.isdir(path) and f"/{path.split('/')[1]}" in system],
    )


def inside(wish: image.Wish) -> image.Wish:
    """The wish as the node's own sshd hears it."""
    return replace(wish, port=SSHD_PORT)


def process_plan(
    wish: image.Wish, host: Host, *, folder: Path, port: int, variables: dict[str, str], client_key: str
) -> ProcessPlan:
    """Furnish ``folder``, which has the host's key, for a node that is processes."""
    home, programs, temporary = (folder / name for name in ("home", "bin", "tmp"))
    for path in (home, programs, temporary, home / ".ssh"):
        path.mkdir(mode=0o700)
    mark = f"SKYWARD_TESTBED_{os.getpid()}_{wish.name.upper().replace('-', '_')}"
    for name, target in _programs(host):
        (programs / name).symlink_to(target)
    for name in image.SWITCHES:
        (programs / name).write_text(NO_SWITCH)
        (programs / name).chmod(0o755)
    own = {"HOME": f"{home}", "PATH": f"{programs}:{PATH}", "TMPDIR": f"{temporary}", mark: "1"}
    (folder / "authorized_keys").write_text(client_key)
    (folder / "session").write_text(SESSION)
    (folder / "session").chmod(0o755)
    sftp = next(filter(os.path.exists, SFTP_SERVERS), "internal-sftp")
    settings = SSHD.format(port=port, folder=folder, sftp=sftp)
    settings += image.sshd_options(wish, variables | own)
    (folder / "sshd_config").write_text(settings)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    log = f"{folder}/sshd.log"
    return ProcessPlan(
        owner=os.getpid(),
        hostname=wish.name,
        user=pwd.getpwuid(os.geteuid()).pw_name,
        wished_user=wish.user,
        home=f"{home}",
        mark=mark,
        port=port,
        variables=own,
        sshd=[command("sshd") or "sshd", "-D", "-E", log, "-f", f"{folder}/sshd_config"],
        environment={"PATH": PATH},
        host_key_file=f"{folder}/host_key",
        sshd_log=log,
    )


def _system() -> tuple[list[str], list[tuple[str, str]]]:
    """The folders that can be overlays, and the links beside them."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split()[4] for line in file]
    folders: list[str] = []
    links: list[tuple[str, str]] = []
    for name in sorted(image.SYSTEM - {"dev", "proc", "sys"}):
        path = f"/{name}"
        if os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(path) and not any(mount.startswith(f"{path}/") for mount in mounts):
            folders.append(path)  # one with a mount below can't be the lower half of an overlay
    return folders, links


def _for_one_user(file: tuple[str, int, int, str], uid: int) -> tuple[str, int, int, str]:
    """Settings and accounts that sshd gets along with in a user namespace."""
    path, mode, owner, text = file
    lines = text.splitlines()
    if path == "/etc/ssh/sshd_config":  # other addresses of loopback are those of nodes behind this one
        text = text.replace("ListenAddress 0.0.0.0", "ListenAddress 127.0.0.1")
    if path == "/etc/passwd" and uid == 0:
        lines = [line for line in lines if not line.startswith("sshd:")]
        text = "\n".join([*lines, "sshd:x:0:0::/run/sshd:/usr/sbin/nologin"]) + "\n"
    if path == "/etc/group":  # terminals can't be given to a group that does not exist
        text = "\n".join(line for line in lines if not line.startswith("tty:")) + "\n"
    return path, mode, owner, text


def _programs(host: Host) -> list[tuple[str, str]]:
    found = [(f"python{python.version}", python.executable) for python in host.pythons]
    if host.uv:
        found.append(("uv", host.uv))
    return [(name, target) for name, target in found if shutil.which(name, path=PATH) is None or name == "uv"]
