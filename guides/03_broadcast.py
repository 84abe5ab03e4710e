"""Broadcast: the same call on every node, each knowing which one it is.

This is the shape of distributed training: every node runs the same program, takes its own part, and one of
them, the head, does what must happen once.
"""

from __future__ import annotations

import os

import skyward as sky


@sky.function
def introduce() -> str:
    info = sky.instance_info()
    role = "head" if sky.is_head(info) else "worker"
    return f"node {info.node} of {info.total_nodes}: {role}"


# Programs that were not written for Skyward read their place from the environment. These are always set,
# and again as SKYPILOT_*, for scripts that come from there.
@sky.function
def from_environment() -> tuple[str, str]:
    return os.environ["SKYWARD_NODE_RANK"], os.environ["SKYWARD_NUM_NODES"]


# What a task prints travels to the client line by line, labelled with its node. Four nodes that report the
# same progress are noise, so a task's output can be let through from the head alone, or from any choice of
# nodes, or not at all.
@sky.function
@sky.stdout(only="head")
def train(epochs: int) -> int:
    for epoch in range(epochs):
        print(f"epoch {epoch} done")
    return epochs


@sky.function
@sky.stdout(only=lambda info: info.node % 2 == 1)
def report() -> None:
    print("an odd node speaks")


@sky.function
@sky.silent
def chatty() -> str:
    print("nobody reads this")
    return "but the value arrives"


with sky.Compute(nodes=3) as pool:
    for line in introduce() @ pool:
        print(line)
    print(from_environment() @ pool)

    print(train(2) @ pool)
    _ = report() @ pool
    print(chatty() @ pool)

    # One chosen node instead of all: by rank, or "head".
    print(pool.run(introduce(), target=2))

    # The lines went to the console, on standard error. The pool also keeps the last ones.
    for log in sorted(pool.logs(), key=lambda log: log.instance.node):
        print(f"{log.instance.label}: {log.line}")

# Prints:
#
#   node 0 of 3: head
#   node 1 of 3: worker
#   node 2 of 3: worker
#   [('0', '3'), ('1', '3'), ('2', '3')]
#   [2, 2, 2]
#   ['but the value arrives', 'but the value arrives', 'but the value arrives']
#   node 2 of 3: worker
#   node 0: epoch 0 done
#   node 0: epoch 1 done
#   node 1: an odd node speaks
