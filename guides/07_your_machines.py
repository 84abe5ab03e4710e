"""Your machines: the same script, on hosts that you reach by SSH.

Run it with `uv run guides/07_your_machines.py HOST ...`. A host is `user@host:port` or an alias of your
`~/.ssh/config`. It takes Linux and an SSH server that knows your key; what else it needs is brought there.
"""

from __future__ import annotations

import socket
import sys
import tempfile
from pathlib import Path

import skyward as sky


@sky.function
def where() -> str:
    return socket.gethostname()


@sky.function
def reverse(source: str, target: str) -> int:
    lines = Path(source).read_text().splitlines()
    Path(target).write_text("\n".join(reversed(lines)))
    return len(lines)


hosts = sys.argv[1:]
if not hosts:
    sys.exit("name hosts that you reach by SSH: uv run guides/07_your_machines.py user@host ...")

# Keys, users, ports and jump hosts are those of your `ssh`. What differs is said here, for all hosts
# (`key=`, `jump=`) or for one: `sky.ssh.Host("gpu1", key="~/.ssh/lab")`. A host whose key nobody knows yet is
# trusted once and known from then on; one whose key has changed is refused.
lab = sky.SSH(hosts)

# The pool leases the hosts: nobody else's pool gets one until it is given back, at the end of the block.
with sky.Compute(provider=lab, nodes=len(hosts)) as pool:
    print(sorted(where() @ pool))

    # Where the time went until the nodes were ready. The first time, they are set up; after that, they are
    # found as they were left, and it is a fraction of that.
    print(pool.timing(), file=sys.stderr)

    # Arguments and results travel by themselves. Files that are there anyway go by `upload` and `download`,
    # relative to the folder that tasks run in; what a node has already is not sent again.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "log.txt").write_text("first\nsecond\nthird\n")
        _ = pool.upload(folder, "data")
        print(reverse("data/log.txt", "reversed.txt") @ pool)
        _ = pool.download("reversed.txt", folder)
        print(Path(folder, "reversed.txt").read_text().split())

# Prints, on two machines that call themselves ada and bob:
#
#   ['ada', 'bob']
#   [3, 3]
#   ['third', 'second', 'first']
