"""Environments: what a node needs besides Python, said once, built once, kept on the machine.

Run it with `uv run guides/08_environments.py HOST`. Nodes of this computer use the script's own environment,
so what is shown here takes a machine: `user@host:port`, or an alias of your `~/.ssh/config`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import skyward as sky


# Imported where it is used: the node has the package, this computer need not.
@sky.function
def describe() -> str:
    import humanize

    return f"{humanize.intcomma(1234567)} for {os.environ['TEAM']} on {os.environ['KERNEL']}"


@sky.function
def title(path: str) -> str:
    return Path(path).read_text().splitlines()[0].strip('"')


def installed(pool: sky.Pool) -> bool:
    return any(phase.name == "packages" for node in pool.timing().nodes for phase in node.phases)


hosts = sys.argv[1:]
if not hosts:
    sys.exit("name a host that you reach by SSH: uv run guides/08_environments.py user@host")

image = sky.Image(
    python="auto",  # the one this script runs in; or "3.13": the machine needs to have none
    pip=["humanize>=4,<5"],  # `pip_indexes` names other indexes than PyPI, and what comes from them
    env={"TEAM": "the lab"},  # never in a list of processes, a log or a file
    shell_vars={"KERNEL": "uname -s"},  # what the node prints at each start is the value
    includes=["01_hello.py"],  # files and folders, from the folder you are in or beside this script
    excludes=["*.log"],  # as in a .gitignore
)
# `apt=["ffmpeg"]` installs system packages; that takes root, or a sudo that asks for no password.

# The first pool builds the environment. It is kept on the machine under a key made of all that is in it.
with sky.Compute(provider=sky.SSH(hosts[:1]), image=image) as pool:
    print(describe() >> pool)
    print(title("01_hello.py") >> pool)
    print("installed:", installed(pool))

# The second finds it. Another package, or another version of Skyward here, is another environment beside it;
# a change in the included files installs nothing again.
with sky.Compute(provider=sky.SSH(hosts[:1]), image=image) as pool:
    print(describe() >> pool)
    print("installed again:", installed(pool))

# Prints, on a Linux machine that has not run it before:
#
#   1,234,567 for the lab on Linux
#   Hello: a plain function, run on two nodes.
#   installed: True
#   1,234,567 for the lab on Linux
#   installed again: False
