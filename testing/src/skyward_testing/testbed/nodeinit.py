"""Becomes one node: run as ``python -I -S nodeinit.py``, with a ``Plan`` as one line of JSON on stdin.

The process stays outside as the node's keeper; its child becomes pid 1 of the node. The keeper prints the pid
of pid 1 and waits for a second line, which says that the node's network card is there. The node ends when
pid 1 does, when stdin closes, when the process that asked for it dies, or when the keeper dies: each of them
kills pid 1, and with it the kernel ends every process, mount and network card of the node.
Keys stand in the plan, so it must never come by argv. Imports the standard library only, and little of it:
this runs once a node.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import stat
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
# Numbers of calls newer than libc's wrappers; above 424 they are the same on every architecture.
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x100000
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse")
TERMINALS = "newinstance,ptmxmode=0666,mode=620,gid=5"
OURS = -1
"""For an owner: whoever makes it."""

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the plan, become keeper and node."""
    plan = json.loads(sys.stdin.readline())
    owner = os.pidfd_open(plan["owner"])
    os.unshare(os.CLONE_NEWUTS | os.CLONE_NEWIPC | os.CLONE_NEWPID | os.CLONE_NEWNET)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        become(plan, ready)
    os.close(ready)
    keep(child, owner, go, plan["groups"])
    remove_groups(plan["groups"])


def keep(child: int, owner: int, go: int, groups: list[str]) -> None:
    """Let the node start once it is plugged in; wait for its end, or bring it about."""
    gone = os.pidfd_open(child)
    print(child, flush=True)
    if sys.stdin.readline():
        os.write(go, b"g")
        os.close(go)
        poll = select.poll()
        for fd in (gone, owner, sys.stdin.fileno()):
            poll.register(fd, select.POLLIN | select.POLLHUP)
        poll.poll()  # whichever it is: the node ends
    for group in groups:
        thaw(group)
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)


def thaw(group: str) -> None:
    """Let a frozen node go on, for what is frozen does not die; harmless if it is gone."""
    for name, word in (
        ("freezer.state", "THAWED"),
        ("cgroup.freeze", "0"),
    ):  # versions 1 and 2 of the kernel's
        try:
            file = os.open(f"{group}/{name}", os.O_WRONLY)
        except OSError:
            continue
        try:
            os.write(file, word.encode())
        except OSError:
            pass
        finally:
            os.close(file)


def remove_groups(groups: list[str]) -> None:
    """Remove the control groups, so that nothing is left even if nobody who asked for the node lives."""
    for group in groups:
        for _ in range(200):
            try:
                os.rmdir(group)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.005)  # a group counts dead processes for a moment
            else:
                break


def become(plan: Mapping[str, Any], ready: int) -> NoReturn:
    """Turn into the node's pid 1."""
    try:
        call(libc.prctl, PR_SET_PDEATHSIG, int(signal.SIGKILL))
        for group in plan["groups"]:
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write("0")
        if os.read(ready, 1) != b"g":
            os._exit(1)
        os.umask(0o022)
        os.unshare(os.CLONE_NEWNS)
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        root = furnish(plan)
        move_in(root, plan["hostname"])
        start(plan)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def furnish(plan: Mapping[str, Any]) -> str:
    """Build the node's file system and return where its root lies."""
    base, options = plan["mount_point"], f"size={plan['disk_mb']}m,mode=755"
    mount("tmpfs", base, "tmpfs", 0, options)  # seen in this mount namespace only
    upper, work, root = (f"{base}/{name}" for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        os.mkdir(folder, 0o755)
    for path in plan["absent"]:
        os.makedirs(os.path.dirname(upper + path), exist_ok=True)
        os.mknod(upper + path, stat.S_IFCHR, 0)  # how an overlay says that a file is gone
    for path, mode in plan["emptied"]:
        os.makedirs(upper + path, exist_ok=True)
        os.chmod(upper + path, mode)
        os.setxattr(upper + path, "trusted.overlay.opaque", b"y")
    mount("overlay", root, "overlay", 0, f"lowerdir=/,upperdir={upper},workdir={work}")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", f"{root}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    mount("tmpfs", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=256m")
    devices(root)
    for path, mode, uid in plan["folders"]:
        os.makedirs(root + path, exist_ok=True)
        os.chmod(root + path, mode)
        os.chown(root + path, uid, uid)
    for source, path, readonly, owner, uid in plan["binds"]:
        bind(root, source, path, readonly=readonly, owner=owner, uid=uid)
    for path, mode, uid, text in plan["files"]:
        place(root + path, mode, uid, text)
    for path, target in plan["links"]:
        if not os.path.lexists(root + path):
            os.symlink(target, root + path)
    return root


def devices(root: str, *, terminals: str = TERMINALS) -> None:
    """Give the node a /dev of its own, with the devices that containers have."""
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in filter(lambda name: os.path.exists(f"/dev/{name}"), DEVICES):
        place(f"{root}/dev/{name}", 0o666, OURS, "")
        mount(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
    for name in ("pts", "shm"):
        os.mkdir(f"{root}/dev/{name}")
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, terminals)
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%")
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")
    os.symlink("/proc/self/fd", f"{root}/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")


def place(path: str, mode: int, uid: int, text: str) -> None:
    """Write a file of the node, whatever was there."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        os.unlink(path)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
    os.chown(path, uid, uid)


def bind(root: str, source: str, path: str, *, readonly: bool, owner: int, uid: int) -> None:
    """Show a file or folder of the host. What ``owner`` has on disk is ``uid``'s in the node."""
    target = root + path
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        place(target, 0o755, OURS, "")
    if owner == uid:
        mount(source, target, None, MS_BIND)
    else:
        bind_as(root, source, target, owner, uid)
    if readonly:
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)  # a user may not drop them
        mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def bind_as(root: str, source: str, target: str, owner: int, uid: int) -> None:
    """Bind with changed owners. The map is a user namespace, which needs a process for a moment."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.unshare(os.CLONE_NEWUSER)
        os.write(write, b"u")
        signal.pause()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    own = f"{root}/proc/{child}"  # the host's /proc knows the child by another number
    for name in ("uid_map", "gid_map"):
        with open(f"{own}/{name}", "w") as file:
            file.write(f"{owner} {uid} 1")
    with open(f"{own}/ns/user") as users:
        tree = call(libc.syscall, SYS_OPEN_TREE, AT_FDCWD, source.encode(), OPEN_TREE_CLONE)
        attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_IDMAP, 0, 0, users.fileno())
        call(libc.syscall, SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, ctypes.sizeof(attributes))
        call(libc.syscall, SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def move_in(root: str, hostname: str) -> None:
    """Make ``root`` the root and let go of the host's."""
    os.makedirs(f"{root}/.host", exist_ok=True)
    call(libc.pivot_root, root.encode(), f"{root}/.host".encode())
    os.chdir("/")
    call(libc.umount2, b"/.host", MNT_DETACH)
    os.rmdir("/.host")
    name = hostname.encode()
    call(libc.sethostname, name, len(name))


def start(plan: Mapping[str, Any]) -> NoReturn:
    """Run the node's init script, cut off from whatever this process had open."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open("/var/log/init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 1024)
    environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    os.execve("/bin/bash", ["init", "-c", plan["init"]], environment)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    words = [word.encode() if word is not None else None for word in (source, target, kind, data)]
    call(libc.mount, words[0], words[1], words[2], ctypes.c_ulong(flags), words[3], what=f"mount {target}")


def call(function: Callable[..., int], *arguments: object, what: str = "") -> int:
    """Call into libc; an error number becomes an OSError that says of what."""
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what or function}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()
