"""Parallel: many calls at once, five ways, each for a different shape of work.

All of them share the pool's slots: what does not fit at once waits in a queue, first come, first served.
"""

from __future__ import annotations

import time
from concurrent.futures import as_completed

import skyward as sky


@sky.function
def square(n: int) -> int:
    return n * n


@sky.function
def shout(word: str) -> str:
    return word.upper() + "!"


@sky.function
def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))


with sky.Compute(nodes=2) as pool:
    # A few different calls: `&` makes a group. The tuple keeps each one's type. The parentheses are needed,
    # because Python binds `>>` tighter than `&`.
    nine, hello = (square(3) & shout("hello")) >> pool
    print(nine, hello)

    # A group whose size only the program knows.
    print(sky.gather(*(square(n) for n in range(5))) >> pool)

    # Results as they come: with `stream=True` there is an iterator at once. `ordered=False` gives the quick
    # ones first; without it, they come in the order in which they were given.
    for seconds in sky.gather(wait(1.0), wait(0.1), stream=True, ordered=False) >> pool:
        print(f"waited {seconds} s")

    # One function over many items. `map` takes a plain function too, and keeps the order of the items.
    primes = pool.map(is_prime, range(20))
    print([n for n, prime in enumerate(primes) if prime])

    # `>` does not wait: it returns a `concurrent.futures.Future`, which the standard library knows what to
    # do with. Cancelling one reaches its task, also while it runs.
    futures = [square(n) > pool for n in (10, 20)]
    print(sorted(future.result() for future in as_completed(futures)))
    slow = wait(60.0) > pool
    print("cancelled:", slow.cancel())

    # Inside the block, `sky` itself stands for the pool: handy in a function that was not given one.
    print(square(12) >> sky)

# Prints:
#
#   9 HELLO!
#   (0, 1, 4, 9, 16)
#   waited 0.1 s
#   waited 1.0 s
#   [2, 3, 5, 7, 11, 13, 17, 19]
#   [100, 400]
#   cancelled: True
#   144
