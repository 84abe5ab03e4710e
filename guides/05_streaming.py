"""Streaming: values that flow while a task runs, out of it, into it, or both.

Nobody runs far ahead. A side that is slower makes the other wait, so a stream may be longer than memory, or
have no end at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator

import skyward as sky


# Out: a generator function. Each item arrives when it is yielded, not when the function is done, so this one,
# which never is, works too: the reader decides when to stop.
@sky.function
def fibonacci() -> Generator[int]:
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b


# In: a parameter annotated as an Iterator, given an iterator. The task pulls; the client produces on demand.
@sky.function
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)


# Both at once: what goes in comes out changed, while more goes in.
@sky.function
def running_mean(numbers: Iterator[float]) -> Iterator[float]:
    seen = 0.0
    for count, number in enumerate(numbers, start=1):
        seen += number
        yield seen / count


with sky.Compute(nodes=1) as pool:
    # Whoever stops reading early closes the stream: that ends the generator on its node, where a `finally` of
    # it runs, and frees the slot for the next task.
    stream = fibonacci() >> pool
    print(list(itertools.islice(stream, 10)))
    stream.close()

    print(total(iter(range(100_000))) >> pool)

    for mean in running_mean(iter([2.0, 4.0, 9.0])) >> pool:
        print(mean)

    # A generator is fed lazily whatever the annotation says: it could not be sent in any other way.
    print(total(n * n for n in range(10)) >> pool)

# Prints:
#
#   [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]
#   4999950000
#   2.0
#   3.0
#   5.0
#   285
