from __future__ import annotations

import array
import itertools
import random
import subprocess
import sys
import tracemalloc
from collections import UserList, deque
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, assert_type, overload

import numpy as np
import pytest
import skyward.runtime as runtime
from hypothesis import given
from hypothesis import strategies as st
from skyward.errors import ConfigError, NotOnNodeError, UsageError
from skyward.shard import shard

options = {
    "length": st.integers(0, 60),
    "total": st.integers(1, 9),
    "shuffle": st.booleans(),
    "drop_last": st.booleans(),
    "seed": st.integers(-(2**70), 2**70),
}


class Windows(Sequence[int]):
    """A sequence of a user's: no slices, built from a list."""

    def __init__(self, items: list[int]) -> None:
        self.items = items

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Windows: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            raise TypeError("integers only")
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


class Counted(Windows):
    """Its constructor takes something else than its items."""

    def __init__(self, size: Any) -> None:
        super().__init__(list(range(size)))


class Pair(NamedTuple):
    x: int
    y: int


PLAIN: list[Callable[[list[int]], Any]] = [
    list,
    tuple,
    UserList,
    deque,
    Windows,
    lambda items: np.array(items, dtype=np.int64),
    lambda items: array.array("q", items),
]


@given(**options)
def test_parts_are_disjoint_and_together_the_whole(
    length: int, total: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    parts = [
        shard(list(range(length)), shuffle=shuffle, seed=seed, drop_last=drop_last, node=k, total_nodes=total)
        for k in range(total)
    ]
    dealt = [row for part in parts for row in part]
    assert len(set(dealt)) == len(dealt)
    sizes = {len(part) for part in parts}
    if drop_last:
        assert sizes == {length // total}
        assert set(dealt) <= set(range(length))
    else:
        assert sorted(dealt) == list(range(length))
        assert max(sizes) - min(sizes) <= 1


@given(make=st.sampled_from(PLAIN), **options)
def test_type_is_kept_and_all_types_get_the_same_rows(
    make: Callable[[list[int]], Any], length: int, total: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    data = [i * 10 for i in range(length)]
    node = length % total
    expected = shard(data, shuffle=shuffle, seed=seed, drop_last=drop_last, node=node, total_nodes=total)
    given_in = make(data)
    part = shard(given_in, shuffle=shuffle, seed=seed, drop_last=drop_last, node=node, total_nodes=total)
    assert type(part) is type(given_in)
    assert list(part) == expected


@given(**options)
def test_arguments_of_one_call_stay_aligned(
    length: int, total: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    xs = np.arange(length * 2).reshape(length, 2)
    ys = [f"label {i}" for i in range(length)]
    zs = range(length)
    x, y, z = shard(
        xs, ys, zs, shuffle=shuffle, seed=seed, drop_last=drop_last, node=total - 1, total_nodes=total
    )
    assert isinstance(x, np.ndarray)
    assert [(int(row[0]) // 2, f"label {i}") for row, i in zip(x, z, strict=True)] == [
        (i, label) for i, label in zip(z, y, strict=True)
    ]


def test_rows_are_strided_by_rank() -> None:
    assert shard(list(range(10)), node=1, total_nodes=4) == [1, 5, 9]
    assert shard(list(range(10)), node=3, total_nodes=4) == [3, 7]
    assert shard(list(range(10)), node=1, total_nodes=4, drop_last=True) == [1, 5]


def test_the_order_of_a_seed_is_fixed_for_good() -> None:
    """Computed from the documented algorithm alone; a change would mix up nodes with unlike versions."""
    draw = random.Random(42)
    keys = [draw.random() for _ in range(12)]
    expected = [i for _, i in sorted(zip(keys, range(12), strict=True))]
    assert shard(list(range(12)), shuffle=True, seed=42, node=0, total_nodes=1) == expected
    assert expected == [1, 9, 7, 10, 3, 2, 8, 11, 0, 5, 4, 6]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**40 + 3])
def test_numpy_gives_the_same_order_as_plain_python(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 5_000
    fast = shard(list(range(length)), shuffle=True, seed=seed, node=0, total_nodes=1)
    monkeypatch.setattr(sys.modules["skyward.shard"], "_NUMPY_PAYS_FROM", length + 1)
    assert shard(list(range(length)), shuffle=True, seed=seed, node=0, total_nodes=1) == fast
    assert fast != list(range(length))


def test_other_seeds_give_other_orders() -> None:
    orders = {tuple(shard(range(50), shuffle=True, seed=s, node=0, total_nodes=1)) for s in range(20)}
    assert len(orders) == 20


def test_ranges_stay_ranges_until_they_are_shuffled() -> None:
    assert shard(range(5, 50, 5), node=1, total_nodes=2) == range(10, 50, 10)
    shuffled: object = shard(range(5), shuffle=True, node=0, total_nodes=1)
    assert shuffled in [list(order) for order in itertools.permutations(range(5))]  # a list, that is


def test_a_huge_range_costs_nothing() -> None:
    assert len(shard(range(10**15), node=3, total_nodes=8)) == 10**15 // 8


def test_an_unshuffled_array_is_a_view() -> None:
    data = np.zeros((1_000_000, 2))
    tracemalloc.start()
    part = shard(data, node=1, total_nodes=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.shares_memory(part, data)
    assert peak < 100_000


def test_array_subclasses_and_memory_maps_stay_what_they_are(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "rows", dtype=np.int32, mode="w+", shape=(9, 2))
    mapped[:] = np.arange(18).reshape(9, 2)
    part = shard(mapped, node=2, total_nodes=3)
    assert isinstance(part, np.memmap)
    assert part[:, 0].tolist() == [4, 10, 16]
    masked = _library("numpy").ma.masked_greater(np.arange(6), 3)
    assert shard(masked, node=1, total_nodes=2).tolist() == [1, 3, None]
    shuffled: list[int | None] = shard(masked, shuffle=True, node=0, total_nodes=1).tolist()
    assert sorted(map(str, shuffled)) == [
        "0",
        "1",
        "2",
        "3",
        "None",
        "None",
    ]


def test_facts_of_the_task_are_the_default() -> None:
    runtime.set_facts({"node": 1, "total_nodes": 3})
    assert shard([10, 11, 12, 13, 14]) == [11, 14]
    assert shard([10, 11, 12, 13, 14], node=0) == [10, 13]
    assert shard([10, 11, 12, 13, 14], node=1, total_nodes=5) == [11]


def test_a_broadcast_to_some_nodes_still_covers_everything() -> None:
    """Ranks 0, 2 and 3 are up: the client says who is which of three."""
    dealt: list[int] = []
    for index, rank in enumerate([0, 2, 3]):
        runtime.set_facts({"node": rank, "total_nodes": 4})
        token = runtime.shard_place.set((index, 3))
        dealt += shard(list(range(10)))
        runtime.shard_place.reset(token)
    assert sorted(dealt) == list(range(10))


def test_off_a_node_the_pair_must_be_given() -> None:
    with pytest.raises(NotOnNodeError, match=r"node=0, total_nodes=4"):
        shard([1, 2, 3])
    with pytest.raises(NotOnNodeError, match="total_nodes="):
        shard([1, 2, 3], node=0)


@pytest.mark.parametrize(("node", "total"), [(4, 4), (-1, 4), (0, 0)])
def test_a_rank_that_does_not_fit_is_refused(node: int, total: int) -> None:
    with pytest.raises(ConfigError, match=f"part {node} of {total}"):
        shard([1], node=node, total_nodes=total)


def test_lengths_must_agree() -> None:
    with pytest.raises(ConfigError, match="equally long, not 3, 3, 2"):
        shard([1, 2, 3], np.zeros(3), (1, 2), node=0, total_nodes=2)


@pytest.mark.parametrize("text", ["abc", b"abc", bytearray(b"abc")])
def test_text_is_refused_and_says_why(text: Any) -> None:
    with pytest.raises(UsageError, match=f"argument 2 .* {type(text).__name__}, .*single characters"):
        shard([1, 2, 3], text, node=0, total_nodes=1)


@pytest.mark.parametrize("data", [{"a": 1}, {1, 2}, iter([1, 2]), (i for i in range(3)), 5, None, object()])
def test_what_has_no_rows_is_refused(data: Any) -> None:
    with pytest.raises(UsageError, match="no rows to deal out"):
        shard(data, node=0, total_nodes=1)


def test_an_array_without_dimensions_is_refused() -> None:
    with pytest.raises(UsageError, match="without dimensions"):
        shard(np.array(3), node=0, total_nodes=1)


@pytest.mark.parametrize("data", [Pair(1, 2), Counted(4)])
def test_a_sequence_that_cannot_be_rebuilt_is_refused(data: Any) -> None:
    with pytest.raises(UsageError, match=f"can't make a {type(data).__name__}"):
        shard(data, node=0, total_nodes=2)


def test_nothing_to_split_is_refused() -> None:
    nothing: Any = shard
    with pytest.raises(UsageError, match="needs the data"):
        nothing(node=0, total_nodes=1)


@pytest.mark.parametrize("seed", [1.5, "x", None])
def test_a_seed_is_an_int(seed: Any) -> None:
    with pytest.raises(UsageError, match="int as seed="):
        shard([1], shuffle=True, seed=seed, node=0, total_nodes=1)


def test_seeds_may_be_numpy_ints() -> None:
    seed: Any = np.int64(7)
    same = shard(range(20), shuffle=True, seed=7, node=0, total_nodes=1)
    assert shard(range(20), shuffle=True, seed=seed, node=0, total_nodes=1) == same


def test_static_types() -> None:
    assert_type(shard([1], node=0, total_nodes=1), list[int])
    assert_type(shard(tuple(range(2)), node=0, total_nodes=1), tuple[int, ...])
    assert_type(shard([1], ["a"], node=0, total_nodes=1), tuple[list[int], list[str]])
    assert_type(
        shard([1], ["a"], [b""], [1.0], [None], node=0, total_nodes=1),
        tuple[list[int], list[str], list[bytes], list[float], list[None]],
    )


@pytest.fixture
def pandas() -> ModuleType:
    return _library("pandas")


@pytest.fixture
def arrow() -> ModuleType:
    return _library("pyarrow")


def _library(name: str) -> ModuleType:
    module: ModuleType = pytest.importorskip(name)
    return module


@pytest.mark.parametrize("shuffle", [False, True])
def test_pandas(pandas: Any, shuffle: bool) -> None:
    frame = pandas.DataFrame({"x": range(10), "y": list("abcdefghij")}, index=range(100, 110))
    parts = [shard(frame, frame["x"], frame.index, shuffle=shuffle, node=k, total_nodes=3) for k in range(3)]
    for rows, column, index in parts:
        assert isinstance(rows, pandas.DataFrame)
        assert isinstance(column, pandas.Series)
        assert isinstance(index, pandas.Index)
        assert rows["x"].tolist() == column.tolist() == [i - 100 for i in index.tolist()]
        assert rows.index.tolist() == index.tolist()
        rows["z"] = 1  # a part is the task's own: pandas does not warn
    assert pandas.concat([rows for rows, _, _ in parts]).sort_index()["y"].tolist() == list("abcdefghij")
    assert "z" not in frame


@pytest.mark.parametrize("shuffle", [False, True])
def test_pyarrow(arrow: Any, shuffle: bool) -> None:
    table = arrow.table({"x": range(10), "y": [str(i) for i in range(10)]}).replace_schema_metadata(
        {"k": "v"}
    )
    chunked = arrow.chunked_array([[0, 1, 2], [3, 4, 5, 6], [7, 8, 9]])
    batch, single = table.to_batches()[0], arrow.array(range(10))
    parts: list[Any] = [
        shard(table, chunked, batch, single, shuffle=shuffle, node=k, total_nodes=3) for k in range(3)
    ]
    for rows, some, few, one in parts:
        assert isinstance(rows, arrow.Table)
        assert isinstance(some, arrow.ChunkedArray)
        assert isinstance(few, arrow.RecordBatch)
        assert isinstance(one, arrow.Array)
        assert rows.schema == table.schema
        assert rows["x"].to_pylist() == some.to_pylist() == few["x"].to_pylist() == one.to_pylist()
    assert sorted(i for rows, *_ in parts for i in rows["x"].to_pylist()) == list(range(10))


@pytest.mark.parametrize("shuffle", [False, True])
def test_torch(shuffle: bool) -> None:
    torch: Any = _library("torch")
    data = torch.arange(20).reshape(10, 2)
    parts = [shard(data, shuffle=shuffle, node=k, total_nodes=3) for k in range(3)]
    assert all(isinstance(part, torch.Tensor) for part in parts)
    assert sorted(torch.cat(parts)[:, 0].tolist()) == list(range(0, 20, 2))
    assert shard(data, shuffle=True, node=9, total_nodes=11).shape == (1, 2)
    assert shard(data, shuffle=True, node=10, total_nodes=11).shape == (0, 2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_hugging_face_datasets(shuffle: bool) -> None:
    datasets: Any = _library("datasets")
    data = datasets.Dataset.from_dict({"x": list(range(10))})
    parts = [shard(data, shuffle=shuffle, node=k, total_nodes=3) for k in range(3)]
    assert all(isinstance(part, datasets.Dataset) for part in parts)
    assert sorted(x for part in parts for x in part["x"]) == list(range(10))


def test_arrow_is_split_without_numpy_too() -> None:
    _library("pyarrow")
    script = (
        "import pyarrow, sys\n"
        "from skyward.shard import shard\n"
        "for name in [n for n in sys.modules if n.partition('.')[0] == 'numpy']: del sys.modules[name]\n"
        "part = shard(pyarrow.table({'x': [1, 2, 3]}), node=1, total_nodes=2, shuffle=False)\n"
        "assert 'numpy' not in sys.modules and part['x'].to_pylist() == [2]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
