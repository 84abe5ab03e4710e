"""Mistakes: each is one line that says what to do, of a type that people catch, before anything starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import skyward as sky

STARTS = ("os.posix_spawn", "os.fork", "subprocess.Popen", "os.exec")
started: list[str] = []
sys.addaudithook(lambda event, _: started.append(event) if event in STARTS else None)


@sky.function
def f(x: int = 0) -> int:
    return x


@sky.function
def g(x: int = 0) -> int:
    return x


class SomeClass:
    pass


Local: Any = sky.Local
NO_POOL = "no pool is open here: use `with sky.Compute"
QUIET: Any = {"console": False, "logging": False}

# (expression, type, what the message must match from its first character on)
MISTAKES = [
    # operators
    ("f() >> sky", RuntimeError, NO_POOL),
    ("f() > sky", RuntimeError, NO_POOL),
    ("f() @ sky", RuntimeError, NO_POOL),
    ("f() >> sky.sky", RuntimeError, NO_POOL),
    ("f() >> None", TypeError, r"a task can't be sent to None: write `task\(\.\.\.\) >> pool`"),
    ("f() >> sky.Compute", TypeError, r"a task can't be sent to .*: open it first: `with sky\.Compute"),
    ("f() >> sky.Compute()", TypeError, r"a task can't be sent to .*: open it first: `with sky\.Compute"),
    ("f() & g() >> 3", TypeError, r"a task can't be sent to 3"),
    ("f() & 5", TypeError, r"`&` groups calls that have not run.* write `\(a & b\) >> pool`"),
    ("f() & g", TypeError, r"`&` groups calls, not <sky.function g>: call the function first"),
    ("f >> sky", TypeError, r"call it first: `f\(\.\.\.\) >> pool`"),
    ("(f() & g()) > sky", TypeError, r"a group goes to a pool with `>>`: `\(a & b\) >> pool`"),
    ("(f() & g()) @ sky", TypeError, r"a group goes to a pool with `>>`: `\(a & b\) >> pool`"),
    ("sky.gather(f(), stream=True) @ sky", TypeError, r"a group goes to a pool with `>>`"),
    ("bool(f())", TypeError, r"f\(\.\.\.\) has not run, so it is neither true nor false: send it first"),
    ("sky.gather()", TypeError, r"sky\.gather\(\) needs at least one pending call"),
    ("sky.gather(f)", TypeError, r".*call the function first"),
    # decorated functions
    ("sky.function(SomeClass)", TypeError, r"@sky\.function decorates a function, not <class"),
    ("sky.function(3)", TypeError, r"@sky\.function decorates a function, not 3"),
    ("sky.function(f)", TypeError, r"<sky\.function f> is decorated already"),
    ("sky.function(timeout=0)", ValueError, r"timeout must be above 0 seconds, not 0"),
    ("sky.function(timeout='5 s')", TypeError, r"timeout is a number of seconds, not '5 s'"),
    ("f().with_timeout(-1)", ValueError, r"timeout must be above 0 seconds, not -1"),
    # pools
    ("sky.Compute(nodes=0)", ValueError, r"nodes: desired must be a whole number of 1 or more, not 0"),
    ("sky.Compute(nodes='4')", TypeError, r"nodes must be a number, a pair \(desired, max\) or sky\.Nodes"),
    ("sky.Compute(nodes=(4, 2))", ValueError, r"nodes: max \(2\) must not be below desired \(4\)"),
    ("sky.Nodes(4, min=5)", ValueError, r"nodes: min .*5.* must not be above"),
    ("sky.Compute(accelerator='A100')", TypeError, r".*use sky\.accelerators\.A100\(\)$"),
    ("sky.Compute(accelerator='A10O')", TypeError, r".*use sky\.accelerators\.A10\(\)$"),
    (
        "sky.Compute(accelerator=sky.accelerators.A100)",
        TypeError,
        r"accelerator must be called: use .*A100\(\)$",
    ),
    (
        "sky.accelerators.A10O()",
        AttributeError,
        r"unknown accelerator 'A10O': did you mean sky\.accelerators\.A10",
    ),
    ("sky.accelerators.A100(count=0)", ValueError, r"count must be a number above 0, not 0"),
    (
        "sky.Compute(4)",
        TypeError,
        r"Compute takes sky\.Spec\(\.\.\.\) values, or fields by name such as nodes=4",
    ),
    ("sky.Compute(sky.Local())", TypeError, r"Compute takes sky\.Spec\(\.\.\.\) values"),
    (
        "sky.Compute(provider='local')",
        TypeError,
        r"provider must be a value such as sky\.Local\(\), not the string",
    ),
    ("sky.Compute(provider=sky.Local)", TypeError, r"provider must be a value, not a class: write Local\(\)"),
    (
        "sky.Compute(sky.Spec(), nodes=2)",
        TypeError,
        r"Compute takes either Spec objects or fields.* move nodes into",
    ),
    ("sky.Compute(name='x', nodes=2)", TypeError, r"Compute\(name='x'\) .* can't be mixed with nodes"),
    (
        "sky.Compute(sky.Spec(), name='x')",
        TypeError,
        r"Compute\(name='x'\) .* can't be mixed with Spec objects",
    ),
    ("sky.Compute(name='nowhere')", ValueError, r"unknown pool 'nowhere' in .*skyward\.toml"),
    (
        "sky.Compute(nods=2)",
        TypeError,
        r"unknown argument 'nods' in Compute\(\.\.\.\): did you mean 'nodes'\?",
    ),
    ("sky.Compute(options={})", TypeError, r"options takes sky\.Options\(\.\.\.\), not \{\}"),
    ("sky.Compute(console='rihc')", ValueError, r"console must be one of .*did you mean 'rich'\?"),
    ("sky.Compute(logging='INFO')", TypeError, r"logging must be True, False or a sky\.LogConfig\(\)"),
    ("sky.Compute(selection='cheap')", ValueError, r"selection must be one of .*did you mean 'cheapest'\?"),
    ("sky.Compute(allocation='spott')", ValueError, r"allocation must be one of .*did you mean 'spot'\?"),
    ("sky.Compute(plugins=['torch'])", TypeError, r"plugins\[0\] .*use sky\.plugins\.torch\(\)"),
    ("sky.Compute(plugins=sky.Plugin.create('x'))", TypeError, r"plugins must be a list or tuple of plugins"),
    ("sky.Compute(image='ubuntu')", TypeError, r"image must be a sky\.Image\(\.\.\.\), not 'ubuntu'"),
    ("sky.Compute(worker=4)", TypeError, r"worker must be a Worker, such as sky\.Worker\(concurrency=4\)"),
    ("sky.Compute(ttl='10m')", TypeError, r"ttl must be a number of 0 or more"),
    ("sky.Compute(volumes=['s3://x'])", TypeError, r"volumes\[0\] must be sky\.Volume\("),
    (
        "sky.Compute(default_compute_timeout=0)",
        ValueError,
        r"default_compute_timeout must be a number above 0",
    ),
    (
        "sky.Compute(worker=sky.Worker(executor='process', buffer=2, reuse_processes=False))",
        ValueError,
        r"Worker\(buffer=\.\.\.\) .*reuse_processes=False",
    ),
    # values
    ("sky.Image(python='2.7')", ValueError, r"python must be '3\.12' or newer"),
    ("sky.Image(pip='numpy')", TypeError, r"pip must be a list or tuple of strings"),
    ("sky.Worker(concurrency=0)", ValueError, r"concurrency must be a whole number of 1 or more"),
    ("sky.Worker(executor='threads')", ValueError, r"executor must be one of .*did you mean 'thread'\?"),
    ("sky.Volume('b', '/tmp')", ValueError, r"mount must not be '/tmp'"),
    ("sky.LogConfig(rotation='50')", ValueError, r"rotation must be a size such as '50 MB'"),
    ("sky.stdout(only='tail')", ValueError, r"sky\.stdout\(only=\.\.\.\) takes 'head' or a function"),
    (
        "sky.Plugin.create('x').with_decorator(3)",
        TypeError,
        r"plugin 'x': with_decorator takes a function of \(fn\)",
    ),
    # names
    ("sky.plugins.torhc", ImportError, r"no plugin 'torhc' is installed: pip install "),
    ("sky.AWS", ImportError, r"no provider 'AWS' is installed: pip install "),
    ("sky.Locl", (ImportError, AttributeError), r".*[Ll]ocal"),
    ("sky.Compure", AttributeError, r".*did you mean sky\.Compute\?"),
    ("sky.instance_info()", RuntimeError, r"instance_info\(\) has an answer only inside a running"),
    ("sky.shard([1])", RuntimeError, r"shard\(\) outside a running .* needs node= and total_nodes="),
    ("sky.dict('x')", RuntimeError, r"sky\.dict\(\) .*no pool is open here"),
]

# What only this computer, or the list of plugins, can tell: raised when the pool is opened.
MISTAKES_ON_OPENING = [
    (
        {"image": sky.Image(pip=["surely-not-installed>=2"])},
        ValueError,
        r".*pip install 'surely-not-installed>=2'",
    ),
    (
        {"image": sky.Image(python="3.99")},
        ValueError,
        r"image asks for Python 3\.99, but Local runs in .*'auto'",
    ),
    ({"plugins": [sky.Plugin.create("x").with_decorator(lambda fn: fn)] * 2}, ValueError, r".*'x'.*twice"),
    ({"plugins": [object()]}, sky.PluginError, r".*object.*plugin"),
]


def assert_helpful(error: BaseException, pattern: str) -> None:
    text = str(error)
    assert re.match(pattern, text), text
    assert "\n" not in text


@pytest.mark.parametrize(("expression", "kind", "pattern"), MISTAKES, ids=[case[0] for case in MISTAKES])
def test_a_mistake_says_what_to_do_before_anything_starts(
    expression: str, kind: Any, pattern: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    before, threads = len(started), threading.active_count()
    with pytest.raises(kind) as caught:
        eval(expression)
    assert_helpful(caught.value, pattern)
    assert started[before:] == []
    assert threading.active_count() == threads


@pytest.mark.parametrize(("fields", "kind", "pattern"), MISTAKES_ON_OPENING)
def test_what_is_found_on_opening_starts_nothing_either(fields: Any, kind: Any, pattern: str) -> None:
    before = len(started)
    with pytest.raises(kind) as caught, sky.Compute(**fields, **QUIET):
        pytest.fail("the pool opened")
    assert_helpful(caught.value, pattern)
    assert started[before:] == []


def test_the_hook_sees_a_pool_start() -> None:
    """What the tests above go by."""
    before = len(started)
    with sky.Compute(**QUIET):
        assert "os.posix_spawn" in started[before:] or "subprocess.Popen" in started[before:]


# on an open pool


@pytest.fixture(scope="module")
def pool(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=2, **QUIET) as pool:
        yield pool


ON_A_POOL = [
    ("pool.run(f)", TypeError, r"call it first: .*f.* makes the pending call"),
    ("pool.run(5)", TypeError, r"a pool runs pending calls, .*not 5"),
    ("pool.run(f(), target=7)", ValueError, r"target=7: the pool's nodes are 0 to 1"),
    ("pool.run(f(), target='tail')", TypeError, r"target is 'head' or a node's rank, not 'tail'"),
    ("pool.run_parallel([f()])", TypeError, r"run_parallel takes a group such as sky\.gather\(a, b\)"),
    ("pool.map(3, [1])", TypeError, r"@sky\.function decorates a function, not 3"),
    ("pool.resize(0)", ValueError, r"nodes: desired must be a whole number of 1 or more"),
    ("pool.dict('x')", RuntimeError, r".*topology"),
    (
        "f() & g() >> pool",
        TypeError,
        r"`&` groups calls that have not run, and .* is already a value",
    ),
]


@pytest.mark.parametrize(("expression", "kind", "pattern"), ON_A_POOL, ids=[case[0] for case in ON_A_POOL])
def test_a_mistake_on_an_open_pool(expression: str, kind: Any, pattern: str, pool: sky.Pool) -> None:
    with pytest.raises(kind) as caught:
        eval(expression)
    assert_helpful(caught.value, pattern)
    assert f(3) >> pool == 3


def test_a_closed_pool_says_so() -> None:
    with sky.Compute(**QUIET) as pool:
        pass
    with pytest.raises(RuntimeError, match="is closed: open another with"):
        f() >> pool


def test_a_script_s_mistake_ends_in_its_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import skyward as sky\nwith sky.Compute(nods=2) as pool:\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "skyward.errors.UsageError: unknown argument 'nods' in Compute(...): did you mean 'nodes'?"
