"""Hello: a plain function, run on two nodes.

Run it with `uv run guides/01_hello.py`. The nodes are processes of this machine, so there is no account to
open and nothing to pay.
"""

from __future__ import annotations

import math

import skyward as sky


# The decorator changes one thing: calling the function no longer runs it. A call becomes a value that
# remembers the function and its arguments, and waits to be sent somewhere.
@sky.function
def area(radius: float) -> float:
    if radius < 0:
        raise ValueError(f"a circle has no radius of {radius}")
    return round(math.pi * radius**2, 2)


@sky.function
def where() -> str:
    info = sky.instance_info()
    return f"node {info.node} of {info.total_nodes}"


# Entering the block starts the nodes; leaving it ends them, also after an exception or Ctrl-C.
with sky.Compute(nodes=2) as pool:
    pending = area(1.0)
    print(pending)

    # `>>` sends the call to one node and waits. The value is what the function returned, with its own type.
    print(pending >> pool)

    # `@` sends it to every node. The list is in the order of the nodes.
    print(where() @ pool)

    # What the function raises is raised here, as the type it is, so `except` works as it always did.
    try:
        _ = area(-1.0) >> pool
    except ValueError as error:
        print("ValueError:", error)

# `.local` runs the plain function in this process: for a unit test, or to step through it in a debugger.
print(area.local(2.0))

# Prints (what the pool reports goes to standard error, so this is all there is on standard output):
#
#   <pending area(...): send it with `>> pool`>
#   3.14
#   ['node 0 of 2', 'node 1 of 2']
#   ValueError: a circle has no radius of -1.0
#   12.57
