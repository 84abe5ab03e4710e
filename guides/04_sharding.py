"""Sharding: every node works on its own part of the data.

A broadcast gives every node the same arguments. `sky.shard` picks this node's rows out of them, so that the
parts are disjoint and together the whole.
"""

from __future__ import annotations

import statistics

import skyward as sky


# Node k of n gets the rows k, k + n, k + 2n, ...: parts differ in length by one row at most.
@sky.function
def part(rows: list[int]) -> list[int]:
    return sky.shard(rows)


# Several arguments are split by the same rows, so what belongs together stays together.
@sky.function
def pairs(names: list[str], ages: tuple[int, ...]) -> list[tuple[str, int]]:
    names, ages = sky.shard(names, ages)
    return list(zip(names, ages, strict=True))


# Shuffling needs no talk between nodes: the same seed gives the same order everywhere, and each node takes
# its rows of that order. `drop_last` leaves the tail out, for code in which all nodes must do as many steps.
@sky.function
def batches(rows: list[int], epoch: int) -> list[int]:
    return sky.shard(rows, shuffle=True, seed=epoch, drop_last=True)


# The usual pattern: each node reduces its part, and the client reduces what they return.
@sky.function
def summary(values: list[float]) -> tuple[float, int]:
    mine = sky.shard(values)
    return sum(mine), len(mine)


rows = list(range(10))
values = [float(n) for n in range(1000)]

with sky.Compute(nodes=3) as pool:
    print(part(rows) @ pool)
    print(pairs(["Ada", "Bob", "Cem", "Dee"], (36, 41, 29, 53)) @ pool)

    first, second = batches(rows, epoch=1) @ pool, batches(rows, epoch=2) @ pool
    print("rows for each node:", [len(mine) for mine in first])
    print("another order in the next epoch:", first != second)

    parts = summary(values) @ pool
    mean = sum(total for total, _ in parts) / sum(count for _, count in parts)
    print("mean:", mean, "as here:", mean == statistics.fmean(values))

# Outside a task nobody knows the place, so it is said: the same rows, for a test or a look at the data.
print(sky.shard(rows, node=0, total_nodes=3))

# Prints:
#
#   [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
#   [[('Ada', 36), ('Dee', 53)], [('Bob', 41)], [('Cem', 29)]]
#   rows for each node: [3, 3, 3]
#   another order in the next epoch: True
#   mean: 499.5 as here: True
#   [0, 3, 6, 9]
