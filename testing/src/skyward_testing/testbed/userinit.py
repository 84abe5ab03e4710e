"""Becomes one node without root: run as ``python -I -S userinit.py``, with a plan as ``nodeinit`` gets it.

Differs in what a user may not do: the node lives in a user namespace that knows one user, who is the host's
user outside. The system's folders are overlays one by one (the whole of / is refused), of which what belongs
to the host's root can be read and in some folders replaced, not changed. The network has a loopback only; the
keeper, which is in it, makes sockets there for the test's process on request (``plan["control"]``). A filter
of system calls makes ``setgroups`` succeed without doing anything: sshd insists on it, and the kernel forbids
it here.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import select
import signal
import socket
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from skyward_testing.testbed import nodeinit
else:
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # it runs before any package can be found
    import nodeinit

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SETGROUPS = {"x86_64": 116, "aarch64": 159, "ppc64le": 81, "riscv64": 159, "s390x": 206}
REQUEST_BYTES = 4096


def main() -> None:
    """Read the plan, become keeper and node."""
    plan = json.loads(sys.stdin.readline())
    owner = os.pidfd_open(plan["owner"])
    control = socket.socket(fileno=plan["control"])
    become_user(plan["uid"])
    os.unshare(os.CLONE_NEWUTS | os.CLONE_NEWIPC | os.CLONE_NEWPID | os.CLONE_NEWNET)
    loopback_up()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        control.close()
        become(plan, ready)
    os.close(ready)
    keep(child, owner, go, control)


def become_user(uid: int) -> None:
    """Be ``uid``, and mighty, in a user namespace of our own."""
    outer_user, outer_group = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer_user} 1"),
        ("gid_map", f"{uid} {outer_group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def loopback_up() -> None:
    """Switch on the only network card there is."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def keep(child: int, owner: int, go: int, control: socket.socket) -> None:
    """Let the node start, make sockets, and wait for the node's end or bring it about."""
    gone = os.pidfd_open(child)
    print(child, flush=True)
    if sys.stdin.readline():
        os.write(go, b"g")
        os.close(go)
        ends = {gone, owner, sys.stdin.fileno()}
        poll = select.poll()
        for fd in (*ends, control.fileno()):
            poll.register(fd, select.POLLIN | select.POLLHUP)
        while not ends & {fd for fd, _ in poll.poll()}:
            if not serve(control):
                break
    try:
        os.kill(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(child, 0)


def serve(control: socket.socket) -> bool:
    """Make a socket in the node's network and hand it over; False if nobody asks any more."""
    request = control.recv(REQUEST_BYTES)
    if not request:
        return False
    what, address, port = json.loads(request)
    made = socket.socket()
    try:
        if what == "listen":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
            made.listen(256)
        else:
            made.setblocking(False)
            made.connect_ex((address, port))  # whether that succeeds, its user will see
        socket.send_fds(control, [b"ok"], [made.fileno()])
    except OSError as error:
        control.send(f"{error.errno}".encode())
    finally:
        made.close()
    return True


def become(plan: Mapping[str, Any], ready: int) -> NoReturn:
    """Turn into the node's pid 1."""
    try:
        nodeinit.call(nodeinit.libc.prctl, nodeinit.PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.read(ready, 1) != b"g":
            os._exit(1)
        os.umask(0o022)
        os.unshare(os.CLONE_NEWNS)
        nodeinit.mount(None, "/", None, nodeinit.MS_REC | nodeinit.MS_PRIVATE)
        nodeinit.move_in(furnish(plan), plan["hostname"])
        if plan["uid"] == 0:
            forgive_setgroups()
        nodeinit.start(plan)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def furnish(plan: Mapping[str, Any]) -> str:
    """Build the node's file system and return where its root lies."""
    base, mode = plan["mount_point"], nodeinit.MS_NOSUID | nodeinit.MS_NODEV
    nodeinit.mount("tmpfs", base, "tmpfs", 0, f"size={plan['disk_mb']}m,mode=755")
    root, upper = f"{base}/root", f"{base}/upper"
    os.mkdir(root, 0o755)
    nodeinit.mount(root, root, None, nodeinit.MS_BIND)  # a root has to be a mount of its own
    populate(plan, root, upper)
    for folder in plan["system"]:
        overlay(folder, base, root)
    nodeinit.mount("tmpfs", f"{root}/run", "tmpfs", mode, "mode=755,size=256m")
    nodeinit.mount("proc", f"{root}/proc", "proc", mode | nodeinit.MS_NOEXEC)
    nodeinit.mount("sysfs", f"{root}/sys", "sysfs", mode | nodeinit.MS_NOEXEC | nodeinit.MS_RDONLY)
    nodeinit.devices(root, terminals="newinstance,ptmxmode=0666,mode=620")
    for number, (path, bits) in enumerate(plan["emptied"]):
        if is_of(plan, path):
            empty = f"{base}/empty{number}"
            os.mkdir(empty)
            os.chmod(empty, bits)
            nodeinit.mount(empty, root + path, None, nodeinit.MS_BIND)
    for path, bits, _ in plan["folders"]:
        os.makedirs(root + path, exist_ok=True)
        os.chmod(root + path, bits)
    for source, path, readonly, _, _ in plan["binds"]:
        nodeinit.bind(root, source, path, readonly=readonly, owner=0, uid=0)
    for path, target in plan["links"]:
        if not os.path.lexists(root + path):
            os.symlink(target, root + path)
    for path, bits, _, text in plan["files"]:
        if not is_of(plan, path):
            nodeinit.place(root + path, bits, nodeinit.OURS, text)
    return root


def populate(plan: Mapping[str, Any], root: str, upper: str) -> None:
    """Make the folders of the root, and what lies over the host's in those that are overlays."""
    for folder in ("/run", "/proc", "/sys", "/dev"):
        os.mkdir(root + folder, 0o755)
    for path, mode in plan["emptied"]:
        if not is_of(plan, path):
            os.makedirs(root + path, exist_ok=True)
            os.chmod(root + path, mode)
    for path, target in plan["same_links"]:
        os.symlink(target, root + path)
    for folder in plan["writable"]:
        os.makedirs(upper + folder, exist_ok=True)
    for path in filter(lambda path: is_of(plan, path), plan["absent"]):
        os.makedirs(os.path.dirname(upper + path), exist_ok=True)
        os.mknod(upper + path, stat.S_IFCHR, 0)  # how an overlay says that a file is gone
    for path, mode, _, text in plan["files"]:
        if is_of(plan, path):
            nodeinit.place(upper + path, mode, nodeinit.OURS, text)


def is_of(plan: Mapping[str, Any], path: str) -> bool:
    """Whether a path lies in one of the system's folders."""
    return f"/{path.split('/')[1]}" in plan["system"]


def overlay(folder: str, base: str, root: str) -> None:
    """Show a folder of the host with what the node writes over it."""
    work = f"{base}/work{folder}"
    for path in (work, f"{base}/upper{folder}", root + folder):
        os.makedirs(path, exist_ok=True)
    options = f"lowerdir={folder},upperdir={base}/upper{folder},workdir={work}"
    nodeinit.mount("overlay", root + folder, "overlay", 0, options)


def forgive_setgroups() -> None:
    """Let setgroups(2) return 0 and do nothing, for this process and its children."""
    number = SETGROUPS[platform.machine()]
    program = (
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, number),  # another one: skip the next
        (0x06, 0, 0, 0x00050000),  # an error, of number 0
        (0x06, 0, 0, 0x7FFF0000),  # let it through
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    nodeinit.call(nodeinit.libc.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, what="seccomp")


if __name__ == "__main__":
    main()
