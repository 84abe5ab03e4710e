"""`shard()`: this node's part of some data, in the type the data came in.

Node ``k`` of ``n`` gets the rows ``k, k + n, k + 2n, …``. Invariants: the parts of all nodes are disjoint and
together the whole (less the trimmed tail under ``drop_last``); every argument of one call is split by the
same rows; the same seed and length give the same order on every node, Python version and machine, with or
without numpy. No array or table library is imported here that the caller has not imported before: they are
known by the names in the type's MRO.
"""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import skyward.runtime as runtime
from skyward.errors import ConfigError, NotOnNodeError, UsageError

__all__ = ["shard"]

# Below this, plain Python shuffles faster than numpy's generator can be set up.
_NUMPY_PAYS_FROM = 2_000


@overload
def shard[A](
    data: A,
    /,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    node: int | None = None,
    total_nodes: int | None = None,
) -> A: ...
@overload
def shard[A, B](
    a: A,
    b: B,
    /,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    node: int | None = None,
    total_nodes: int | None = None,
) -> tuple[A, B]: ...
@overload
def shard[A, B, C](
    a: A,
    b: B,
    c: C,
    /,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    node: int | None = None,
    total_nodes: int | None = None,
) -> tuple[A, B, C]: ...
@overload
def shard[A, B, C, D](
    a: A,
    b: B,
    c: C,
    d: D,
    /,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    node: int | None = None,
    total_nodes: int | None = None,
) -> tuple[A, B, C, D]: ...
@overload
def shard[A, B, C, D, E](
    a: A,
    b: B,
    c: C,
    d: D,
    e: E,
    /,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    node: int | None = None,
    total_nodes: int | None = None,
) -> tuple[A, B, C, D, E]: ...
def shard(
    *data: Any,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    node: int | None = None,
    total_nodes: int | None = None,
) -> Any:
    """Give this node's part of ``data``; several arguments give a tuple of parts with the same rows.

    Lists, tuples, ranges, arrays, tensors, any `Sequence`, pandas, pyarrow and Hugging Face datasets keep
    their type, with one exception: a shuffled range is a list. Unshuffled arrays and tensors are views of the
    argument: copy the part before changing it in place, if the whole is needed unchanged.

    shuffle: deal the rows in an order drawn from ``seed``, the same on all nodes.
    drop_last: leave out the last ``len % total_nodes`` rows of that order, so that all nodes get as many.
    node, total_nodes: this node's rank and the number of nodes; by default what the running task is told.

    Raises `UsageError` for what can't be split (text, iterators, mappings), `ConfigError` for lengths that
    differ or a rank that does not fit, `NotOnNodeError` outside a task without ``node`` and ``total_nodes``.
    """
    if not data:
        raise UsageError(
            "shard() needs the data to split: shard(rows), or shard(x, y) for rows that belong together"
        )
    rank, total = _place(node, total_nodes)
    length = _common_length(data)
    rows = _Rows(slice(rank, length - length % total if drop_last else length, total))
    if shuffle:
        rows = _Rows(rows.stride, _permutation(length, seed)[rows.stride])
    parts = tuple(_taker(item)(item, rows) for item in data)
    return parts[0] if len(parts) == 1 else parts


@dataclass(frozen=True, slots=True)
class _Rows:
    """One node's rows: every so many-th, or, where ``order`` is given, exactly those, in that order.

    ``order`` is a list, or an integer ndarray where numpy is at hand.
    """

    stride: slice
    order: Any = None

    def span(self) -> range:
        """The rows of an unshuffled part; ``stride`` never has open ends."""
        return range(self.stride.start, self.stride.stop, self.stride.step)

    def positions(self) -> Any:
        """All rows, as an ndarray where numpy is at hand: table libraries take that without a loop."""
        if self.order is not None:
            return self.order
        if "numpy" not in sys.modules:
            return self.span()
        import numpy

        return numpy.arange(self.stride.start, self.stride.stop, self.stride.step, dtype=numpy.int64)


def _place(node: int | None, total: int | None) -> tuple[int, int]:
    """Rank and number of nodes: what was given, completed by what the running task was told."""
    if node is None or total is None:
        facts = runtime.facts()
        if facts is None:
            raise NotOnNodeError(
                "shard() outside a running @sky.function task needs node= and total_nodes=, "
                "for example shard(data, node=0, total_nodes=4)"
            )
        told = runtime.shard_place.get() or (
            int(runtime.number(facts, "node")),
            int(runtime.number(facts, "total_nodes")),
        )
        node = told[0] if node is None else node
        total = told[1] if total is None else total
    if total < 1 or not 0 <= node < total:
        raise ConfigError(
            f"shard() can't give part {node} of {total}: node= counts from 0 and stays below total_nodes="
        )
    return node, total


def _common_length(data: tuple[Any, ...]) -> int:
    lengths = [_length(item, position) for position, item in enumerate(data, 1)]
    if len(set(lengths)) > 1:
        raise ConfigError(
            "shard() splits all its arguments by the same rows, so they must be equally long, "
            f"not {', '.join(map(str, lengths))}"
        )
    return lengths[0]


def _length(item: Any, position: int) -> int:
    """Number of rows of one argument, after making sure that it has rows."""
    name = type(item).__name__
    if isinstance(item, str | bytes | bytearray):
        raise UsageError(
            f"argument {position} of shard() is a {name}, which would be cut into single characters: "
            "pass a list, such as text.splitlines()"
        )
    if _taker_or_none(item) is None:
        raise UsageError(
            f"argument {position} of shard() is a {name}, which has no rows to deal out: pass a list, tuple, "
            "range, array, tensor or table, or take shard(range(len(data))) and pick those rows"
        )
    shape: Any = getattr(item, "shape", None)
    if isinstance(shape, tuple):
        if not shape:
            raise UsageError(f"argument {position} of shard() is a {name} without dimensions: it has no rows")
        return int(shape[0])  # pyright: ignore[reportUnknownArgumentType]  # whatever the library calls an int
    return len(item)


def _permutation(length: int, seed: int) -> Any:
    """``range(length)`` in the order of as many draws of `random.Random.random`.

    Of the generator's methods only ``random()`` is promised to stay as it is between Python versions, and
    numpy can continue from the same state, so that both branches give the same order.
    """
    try:
        source = random.Random(operator.index(seed))
    except TypeError:
        raise UsageError(f"shard() takes an int as seed=, not {seed!r}") from None
    if length < _NUMPY_PAYS_FROM or "numpy" not in sys.modules:
        keys = [source.random() for _ in range(length)]
        return sorted(range(length), key=keys.__getitem__)
    import numpy

    state = source.getstate()[1]
    twin = numpy.random.RandomState(0)
    twin.set_state(("MT19937", numpy.array(state[:-1], dtype=numpy.uint32), state[-1], 0, 0.0))
    return numpy.argsort(twin.random_sample(length), kind="stable")


def _listed(order: Any) -> list[int]:
    """``order`` with Python's own ints, which index a list faster than numpy's."""
    return order if isinstance(order, list) else order.tolist()  # pyright: ignore[reportUnknownVariableType]


def _take_list(data: Any, rows: _Rows) -> Any:
    if rows.order is None:
        return data[rows.stride]
    return [data[i] for i in _listed(rows.order)]


def _take_tuple(data: Any, rows: _Rows) -> Any:
    return data[rows.stride] if rows.order is None else tuple(_take_list(data, rows))


def _take_sequence(data: Any, rows: _Rows) -> Any:
    """Any other `Sequence`: its own slicing if that keeps the type, else its class called with the rows."""
    kind = _class_of(data)
    if rows.order is None:
        try:
            part = data[rows.stride]
        except (TypeError, ValueError, LookupError):  # the ABC does not ask for slices
            part = None
        if type(part) is kind:
            return part
    chosen = [data[i] for i in (rows.span() if rows.order is None else _listed(rows.order))]
    try:
        # array.array is the one Sequence of the standard library that wants more than its items.
        part = kind(data.typecode, chosen) if hasattr(data, "typecode") else kind(chosen)
        whole = len(part) == len(chosen)
    except Exception as error:  # a stranger's constructor may raise anything
        raise _not_rebuilt(kind) from error
    if not whole:
        raise _not_rebuilt(kind)
    return part


def _not_rebuilt(kind: type) -> UsageError:
    return UsageError(
        f"shard() can't make a {kind.__name__} from some of its items: give it slices or a constructor that "
        "takes a list, or take shard(range(len(data))) and pick those rows"
    )


def _take_rows(data: Any, rows: _Rows) -> Any:
    """Arrays in numpy's manner: ndarray and its subclasses, jax, cupy, scipy's sparse rows."""
    return data[rows.stride] if rows.order is None else data[rows.order]


def _take_torch(data: Any, rows: _Rows) -> Any:
    if rows.order is None:
        return data[rows.stride]
    torch: Any = sys.modules["torch"]
    return data[torch.as_tensor(rows.order, dtype=torch.int64, device=data.device)]


def _take_pandas(data: Any, rows: _Rows) -> Any:
    # Not iloc: its slices are views, which pandas 2 complains about when a column is added.
    return data.take(rows.positions())


def _take_arrow(data: Any, rows: _Rows) -> Any:
    arrow: Any = sys.modules["pyarrow"]
    return data.take(arrow.array(rows.positions(), type=arrow.int64()))


def _take_dataset(data: Any, rows: _Rows) -> Any:
    return data.select(rows.span() if rows.order is None else rows.order)


# (top-level module, class name) anywhere in the type's MRO.
_NAMED: dict[tuple[str, str], Callable[[Any, _Rows], Any]] = {
    ("torch", "Tensor"): _take_torch,
    ("pandas", "DataFrame"): _take_pandas,
    ("pandas", "Series"): _take_pandas,
    ("pandas", "Index"): _take_pandas,
    ("pyarrow", "Table"): _take_arrow,
    ("pyarrow", "RecordBatch"): _take_arrow,
    ("pyarrow", "Array"): _take_arrow,
    ("pyarrow", "ChunkedArray"): _take_arrow,
    ("datasets", "Dataset"): _take_dataset,
}


def _class_of(item: Any) -> type[Any]:
    return type(item)  # pyright: ignore[reportUnknownVariableType]  # of Any it knows no class


def _taker_or_none(item: Any) -> Callable[[Any, _Rows], Any] | None:
    kind = _class_of(item)
    if kind is list or kind is range:
        return _take_list
    if kind is tuple:
        return _take_tuple
    for base in kind.__mro__:
        named = _NAMED.get((base.__module__.partition(".")[0], base.__name__))
        if named is not None:
            return named
    if isinstance(item, Sequence):
        return _take_sequence
    if isinstance(getattr(item, "shape", None), tuple) and hasattr(kind, "__getitem__"):
        return _take_rows
    return None


def _taker(item: Any) -> Callable[[Any, _Rows], Any]:
    taker = _taker_or_none(item)
    assert taker is not None  # _length has refused everything else
    return taker
