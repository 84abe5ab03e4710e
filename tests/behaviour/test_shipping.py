"""A user's script runs unchanged, whatever it is made of and however started; nothing large crosses twice."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skyward as sky

PROJECT = Path(__file__).parent / "projects" / "shipping"
SCRIPTS = ("main.py", "functions.py")
CASES = [
    name
    for script in SCRIPTS
    for name in re.findall(r"@case\ndef (\w+)\(", (PROJECT / script).read_text(encoding="utf-8"))
]

SCRIPT = """
import skyward as sky
from dataclasses import dataclass

@dataclass
class Row:
    a: int

def helper(x):
    return x.a + 1

@sky.function
def work(row):
    {inside}
    return Row(helper(row))

if __name__ == "__main__":
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        rows = work(Row(1)) @ pool
        assert rows == [Row(2), Row(2)] and type(rows[0]) is Row, rows
        print("fine")
"""


def start(arguments: list[str], folder: Path, *, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder`` as a user would."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def script_says(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each case of the scripts; "" if nothing did."""
    folder = tmp_path_factory.mktemp("user") / "project"
    shutil.copytree(PROJECT, folder)
    said: dict[str, str] = {}
    for script in SCRIPTS:
        done = start([script], folder)
        assert done.returncode == 0, done.stderr
        said.update(json.loads(line) for line in done.stdout.splitlines())
    return said


@pytest.mark.parametrize("case", CASES)
def test_a_script_may_be_made_of(case: str, script_says: dict[str, str]) -> None:
    assert script_says[case] == ""


def test_the_scripts_ran_every_case(script_says: dict[str, str]) -> None:
    assert list(script_says) == CASES


def test_a_module_that_is_run(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "near.py").write_text("def near():\n    return 1\n")
    inside = "from .near import near; from . import near as module; assert near() == module.near()"
    (package / "script.py").write_text("from . import near\n" + SCRIPT.format(inside=f"{inside}; near()"))
    done = start(["-m", "pkg.script"], tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_script_run_from_another_folder(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "beside.py").write_text("VALUE = 5\n")
    (tmp_path / "there" / "script.py").write_text(
        SCRIPT.format(inside="import beside; assert beside.VALUE == 5")
    )
    done = start(["there/script.py"], tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_code_on_standard_input(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 5\n")
    done = start(["-"], tmp_path, given=SCRIPT.format(inside="import beside; assert beside.VALUE == 5"))
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_code_on_the_command_line(tmp_path: Path) -> None:
    done = start(["-c", SCRIPT.format(inside="pass")], tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


CELLS = '''
import sys, types

# What a notebook's kernel does: the user's names live in a module of their own that is called __main__.
shell = types.ModuleType("__main__")
sys.modules["__main__"] = shell
run = lambda number, text: exec(compile(text, f"<cell {number}>", "exec"), vars(shell))

run(1, """
import skyward as sky
class Row:
    def __init__(self, a): self.a = a
@sky.function
def work(row): return Row(row.a + k)
k = 1
pool_of = sky.Compute(nodes=2, console=False, logging=False)
pool = pool_of.__enter__()
""")
run(2, """
row = work(Row(1)) >> pool
assert type(row) is Row and row.a == 2
old = Row
""")
run(3, """
class Row:
    def __init__(self, a): self.a = a * 10
k = 2
""")
run(4, """
row = work(Row(1)) >> pool
assert type(row) is Row and Row is not old and row.a == 120, row.a
assert type(pool.submit(lambda: old(1)).result()) is old
def broken(): raise ValueError("in a cell")
""")
run(5, """
try:
    pool.submit(broken).result()
except ValueError as error:
    assert "<cell 4>" in str(error.__cause__), error.__cause__
pool_of.__exit__(None, None, None)
print("fine")
""")
'''


def test_cells_of_a_notebook(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(CELLS)
    done = start(["kernel.py"], tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_a_traceback_shows_the_lines_of_a_cell(pool: sky.Pool) -> None:
    """A cell is no file: its text has to come along."""
    import linecache

    text = "def broken():\n    raise ValueError('in a cell')  # this line\n"
    linecache.cache["<cell 7>"] = (len(text), None, text.splitlines(True), "<cell 7>")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, "<cell 7>", "exec"), names)
    with pytest.raises(ValueError, match="in a cell") as caught:
        pool.submit(names["broken"]).result()
    assert "# this line" in str(caught.value.__cause__)


# modules that change


@pytest.fixture
def changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, ModuleType]]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "changing_module.py"
    file.write_text("def value():\n    return 1\n\n\ndef later():\n    return value() * 10\n")
    (tmp_path / "user_of_changing.py").write_text("from changing_module import value\n")
    yield file, importlib.import_module("changing_module")
    for name in ("changing_module", "user_of_changing"):
        sys.modules.pop(name, None)


def test_a_module_that_was_reloaded_is_imported_anew_on_the_nodes(
    pool: sky.Pool, changing: tuple[Path, ModuleType]
) -> None:
    file, module = changing
    user = importlib.import_module("user_of_changing")
    assert pool.submit(lambda: (module.value(), user.value())).result() == (1, 1)
    file.write_text("def value():\n    return 2\n\n\ndef later():\n    return value() * 10\n")
    importlib.reload(module)
    importlib.reload(user)
    assert pool.submit(lambda: (module.value(), user.value())).result() == (2, 2)
    assert pool.submit(module.later).result() == 20


# what is large


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        yield pool


def crossings(pool: sky.Pool) -> list[int]:
    """How many blobs each worker process was sent."""
    return [len(lane._blobs) for lane in pool._engine.dispatcher.lanes]


@pytest.fixture
def stored(pool: sky.Pool) -> Any:
    """Counts the bytes that were made into blobs since the test began."""
    before = pool._engine.blobs.bytes_stored
    return lambda: pool._engine.blobs.bytes_stored - before


def test_a_large_array_captured_by_a_thousand_tasks_crosses_once(pool: sky.Pool, stored: Any) -> None:
    big = np.arange(25_000_000, dtype=np.float64)
    before = crossings(pool)
    assert pool.map(lambda i: float(big[i]), range(1000)) == [float(i) for i in range(1000)]
    assert stored() == big.nbytes
    assert [now - then for now, then in zip(crossings(pool), before, strict=True)] == [1, 1]


def test_a_large_argument_of_many_tasks_crosses_once(pool: sky.Pool, stored: Any) -> None:
    big = np.full(2_500_000, 3.5)
    before = crossings(pool)
    futures = [pool.submit(lambda array, i: float(array[i]), big, i) for i in range(50)]
    assert [future.result() for future in futures] == [3.5] * 50
    assert stored() == big.nbytes
    assert [now - then for now, then in zip(crossings(pool), before, strict=True)] == [1, 1]


def test_a_large_array_behind_a_bound_method_or_a_partial_crosses_once(pool: sky.Pool, stored: Any) -> None:
    class Model:
        def __init__(self) -> None:
            self.weights = np.full(2_500_000, 0.5)

        def predict(self, x: int) -> float:
            return float(self.weights[x]) * x

    model = Model()
    packed = len(pool._engine.packer._by_digest)
    assert pool.map(model.predict, range(100)) == [i / 2 for i in range(100)]
    assert pool.map(functools.partial(Model.predict, model), range(100)) == [i / 2 for i in range(100)]
    assert stored() == model.weights.nbytes
    assert len(pool._engine.packer._by_digest) - packed == 2, "each was pickled once"


def test_items_of_a_class_cost_no_more_than_their_fields(pool: sky.Pool) -> None:
    """The class itself crosses once, not with every item."""

    class Item:
        def __init__(self, a: int) -> None:
            self.a = a

        def long_method(self) -> str:
            return "x" * self.a + "a constant that must not cross with every single item" * 1

    data, _, _, sources = pool._engine.packer.arguments((Item(1),), {}, "f")
    assert b"a constant" not in data
    assert [type(source).__name__ for source in sources.values()].count("Definition") == 1
    assert [item.a for item in pool.map(lambda item: item, [Item(i) for i in range(100)])] == list(range(100))
