"""A pool whose client was killed is had again: with its nodes, what they run, and what they have answered."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward.engine import ledger
from skyward.hooks import Claim, PoolRef
from skyward_local.provider import LocalProvider
from skyward_testing.testbed import Testbed

pytestmark = pytest.mark.local_only("it names its provider")

SECONDS = 60.0
QUIET: Any = {"console": False, "logging": False}

SCRIPT = """
import os, signal, sys, time
import skyward as sky

class Point:
    def __init__(self, x):
        self.x = x

@sky.function
def noted(folder, number, seconds=0.0):
    "Leave a line in a file of the node for every time that this runs."
    print("number", number)
    with open(os.path.join(os.path.expanduser(folder), "runs"), "a") as file:
        file.write(f"{{number}}\\n")
    time.sleep(seconds)
    return Point(number)

@sky.function
def large(size):
    return bytes(size)

@sky.function
def wrong():
    raise KeyError("mine")

@sky.function
def count():
    for number in range(10**9):
        yield number
        time.sleep(0.01)

@sky.function
def rank():
    return sky.instance_info().node

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def main():
    provider = {provider}
    folder = {folder!r}
    with sky.Compute({specs}, logging=False, console=False, {options}) as pool:
        print(pool.name, flush=True)
        {body}

if __name__ == "__main__":
    main()
"""


@pytest.fixture(params=["local", "ssh"])
def provider(request: pytest.FixtureRequest) -> str:
    """The text of an expression; machines that are apart have no file system in common with us."""
    if request.param == "local":
        request.getfixturevalue("no_leftovers")
        return "sky.Local()"
    request.getfixturevalue("own_state")
    testbed: Testbed = request.getfixturevalue("testbed")
    hosts = [
        f"sky.ssh.Host({node.url!r}, key={os.fspath(node.key)!r}, host_key={node.host_key!r})"
        for node in testbed.nodes(2)
    ]
    return f"sky.SSH([{', '.join(hosts)}], config=False)"


@pytest.fixture
def killed(provider: str, tmp_path: Path) -> Callable[..., str]:
    """Run a script that kills itself in a pool; return the pool's name."""

    def run(body: str, options: str = "nodes=2", specs: str = "provider=provider") -> str:
        path = tmp_path / "victim.py"
        inner = textwrap.indent(textwrap.dedent(body), " " * 8).strip()
        folder = os.fspath(tmp_path) if "Local" in provider else "~"
        text = SCRIPT.format(provider=provider, folder=folder, specs=specs, options=options, body=inner)
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == -signal.SIGKILL
        return done.stdout.split()[0]

    return run


def by_name(pool: sky.Pool) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for future in pool.inherited():
        found.setdefault(future.name, []).append(future)
    return found


MORE = """
import os
import skyward as sky

@sky.function
def double(x: int) -> int:
    return 2 * x

@sky.function
def read(path: str) -> list[str]:
    with open(os.path.expanduser(path)) as file:
        return file.read().split()

@sky.function
def token() -> str:
    return os.environ["API_TOKEN"]
"""


@pytest.fixture
def task(functions_of: Callable[[str], Any]) -> Any:
    return functions_of(MORE)


WORKERS = ["sky.Worker(concurrency=2)", "sky.Worker(concurrency=2, executor='process', buffer=4)"]


@pytest.mark.parametrize("worker", WORKERS, ids=["threads", "processes"])
def test_every_result_is_had(
    task: Any, worker: str, provider: str, killed: Callable[..., str], tmp_path: Path
) -> None:
    name = killed(
        """
        first = [noted(folder, number) > pool for number in range(20)]
        big = large(3_000_000) > pool
        bad = wrong() > pool
        for future in (*first[:10], big):
            future.result()
        slow = [noted(folder, number, 2.0) > pool for number in range(20, 24)]
        time.sleep(0.5)
        die()
        """,
        f"nodes=2, worker={worker}",
    )
    with sky.Compute.attach(name, **QUIET) as pool:
        assert pool.name == name
        assert pool.current_nodes() == 2
        found = by_name(pool)
        assert [future.result(SECONDS).x for future in found["noted"]] == list(range(24))
        assert [len(future.result(SECONDS)) for future in found["large"]] == [3_000_000]
        with pytest.raises(KeyError, match="mine"):
            found["wrong"][0].result(SECONDS)
        assert {line.line for line in pool.logs()} >= {f"number {number}" for number in range(20, 24)}
        assert pool.map(task.double, range(50)) == [2 * x for x in range(50)]
        folder = os.fspath(tmp_path) if "Local" in provider else "~"
        ran = [int(line) for lines in set(map(tuple, task.read(f"{folder}/runs") @ pool)) for line in lines]
        assert sorted(ran) == list(range(24))
    assert ledger.estates() == []


@pytest.mark.parametrize("provider", ["local"], indirect=True)
def test_a_process_for_each_task_leaves_its_answer_behind(task: Any, killed: Callable[..., str]) -> None:
    name = killed(
        """
        noted(folder, 0) >> pool
        futures = [noted(folder, number, 3.0) > pool for number in (1, 2)]
        while not all(future.running() for future in futures):
            time.sleep(0.01)
        die()
        """,
        "worker=sky.Worker(concurrency=2, executor='process', reuse_processes=False)",
    )
    time.sleep(12)  # a process waits for its client for 10 s
    with sky.Compute.attach(name, **QUIET) as pool:
        found = by_name(pool)
        assert [future.result(SECONDS).x for future in found["noted"]] == [0, 1, 2]
        assert task.double(4) >> pool == 8


def test_who_comes_after_the_next_has_them_too(killed: Callable[..., str], tmp_path: Path) -> None:
    name = killed(
        "futures = [noted(folder, number, number) > pool for number in range(3)]\ntime.sleep(0.3)\ndie()"
    )
    heir = tmp_path / "heir.py"
    heir.write_text(
        "import os, signal, sys\nimport skyward as sky\n"
        "with sky.Compute.attach(sys.argv[1], console=False, logging=False) as pool:\n"
        "    pool.inherited()[0].result()\n"
        "    pool.submit(len, 'four').result()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, str(heir), name], timeout=SECONDS, check=False)
    assert done.returncode == -signal.SIGKILL
    with sky.Session(console=False, logging=False) as session:
        pool = session.attach(name, **QUIET)
        found = by_name(pool)
        assert [future.result(SECONDS).x for future in found["noted"]] == [0, 1, 2]
        assert [future.result(SECONDS) for future in found["len"]] == [4]
        assert session.pools == (pool,)


@pytest.mark.parametrize("provider", ["local"], indirect=True)
def test_what_is_taken_over_can_be_cancelled_and_a_stream_is_lost(
    task: Any, killed: Callable[..., str]
) -> None:
    name = killed(
        """
        items = iter(count() >> pool)
        next(items)
        noted(folder, 1, 1000) > pool
        time.sleep(0.3)
        die()
        """,
        "worker=sky.Worker(concurrency=2)",
    )

    async def main() -> None:
        async with sky.aio.Compute.attach(name, **QUIET) as pool:
            found = by_name(pool.sync)
            with pytest.raises(
                sky.TaskLostError, match=r"count\(\) was streaming to the client that is gone"
            ):
                await asyncio.wrap_future(found["count"][0])
            assert repr(found["noted"][0]) == "<inherited task noted() on node 0: running>"
            assert found["noted"][0].cancel()
            futures = [pool.submit(task.double, x) for x in range(8)]  # both slots are free again
            assert await asyncio.gather(*futures) == [2 * x for x in range(8)]

    asyncio.run(main())


@pytest.mark.parametrize("provider", ["local"], indirect=True)
def test_two_specs_of_one_provider(killed: Callable[..., str]) -> None:
    spec = "sky.Spec(provider, nodes=2)"
    name = killed("noted(folder, 1) @ pool\ndie()", "", f"{spec}, {spec}")
    (before,) = ledger.estates()
    with sky.Compute.attach(name, **QUIET) as pool:
        assert {node.machine for node in pool.nodes()} == set(before.machines)
        assert len(by_name(pool)["noted"]) == 2


@pytest.mark.parametrize("provider", ["local"], indirect=True)
def test_a_node_that_is_checked_goes_on_being_checked(killed: Callable[..., str], tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    check = f"lambda info: not os.path.exists({os.fspath(sick)!r})"
    name = killed("noted(folder, 1) >> pool\ndie()", f"health_checker=sky.HealthChecker({check}, 0.2, 5, 1)")
    with sky.Compute.attach(name, **QUIET) as pool:
        (before,) = pool.nodes()
        assert by_name(pool)["noted"][0].result(SECONDS).x == 1
        assert pool.submit(len, "abc").result() == 3
        sick.touch()
        deadline = time.monotonic() + SECONDS
        while pool.current_nodes():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        sick.unlink()
        pool.wait_for_nodes(1, timeout=SECONDS)
        assert pool.nodes()[0].machine != before.machine


@pytest.mark.parametrize("provider", ["local"], indirect=True)
def test_a_node_that_is_gone_is_replaced(killed: Callable[..., str]) -> None:
    name = killed("noted(folder, 1) @ pool\ndie()")
    (estate,) = ledger.estates()
    machine = next(iter(estate.machines.values()))
    pid = int(Path(machine.root, "agent.pid").read_text().split()[0])  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    with sky.Compute.attach(name, **QUIET) as pool:
        pool.wait_for_nodes(2, timeout=SECONDS)
        assert len(by_name(pool)["noted"]) == 1
        assert {node.machine for node in pool.nodes()} != set(estate.machines)
        assert sorted(pool.submit(len, "x").result() for _ in range(2)) == [1, 1]


@pytest.mark.parametrize("provider", ["local"], indirect=True)
def test_what_it_was_opened_with_holds_and_no_other_is_believed(
    task: Any, killed: Callable[..., str], tmp_path: Path
) -> None:
    name = killed("die()", "nodes=1, image=sky.Image(env={'API_TOKEN': 'canary-' + 'x' * 9}), ttl=30")
    (estate,) = ledger.estates()
    text = estate.path.read_text()
    assert "canary-xxx" not in text
    assert estate.path.stat().st_mode & 0o777 == 0o600
    estate.path.write_text(text.replace(estate.digest, "0" * 64))
    with pytest.raises(sky.PoolStateError, match="what this pool was never opened with"):
        sky.Compute.attach(name, **QUIET).__enter__()
    estate.path.write_text(text)
    with sky.Compute.attach(estate.pool.id, **QUIET) as pool:
        assert task.token() >> pool == "canary-xxxxxxxxx"
        pool.resize(2)
        pool.wait_for_nodes(2, timeout=SECONDS)
        tokens = {pool.run(task.token(), target=rank) for rank in (0, 1)}
        assert tokens == {"canary-xxxxxxxxx"}


@pytest.mark.usefixtures("no_leftovers")
def test_there_is_nothing_to_attach_to() -> None:
    with pytest.raises(sky.PoolStateError, match=r"no pool 'nightly' was left behind .*; none is"):
        sky.Compute.attach("nightly")
    with sky.Compute(**QUIET) as pool:
        with pytest.raises(sky.PoolStateError, match=rf"'{pool.name}' is open in another process: .*:\d+"):
            sky.Compute.attach(pool.name)
    with pytest.raises(sky.PoolStateError, match="none is"):
        sky.Compute.attach(pool.name)


def test_without_a_ledger_a_pool_works_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/state")
    errors: list[sky.Error] = []
    with sky.subscribe(errors.append, sky.Error), sky.Compute(**QUIET) as pool:
        assert pool.submit(len, "abc").result() == 3
    assert "the ledger can't be written" in errors[0].message
    assert "nobody can attach" in errors[0].message


@pytest.fixture
def left_machine(no_leftovers: None) -> tuple[Path, Path]:
    """A machine of a pool whose client has been gone for long, and the pool's file."""

    async def make() -> str:
        provider = LocalProvider()
        pool = PoolRef(id="0123456789ab", name="old", ttl=1)
        claim = Claim(id="c", pool=pool.id, rank=0, provider="local", owner="me:1", deadline=0.0)
        await provider.prepare(pool)
        (offer,) = await provider.offers(sky.hooks.Wanted())
        file = ledger.Ledger.begin(pool, "0" * 64)
        file.claim(claim)
        machine = await provider.launch(pool, offer, claim)
        file.machine(machine)
        file.close(ended=False)
        return machine.endpoint.root  # type: ignore[union-attr]

    folder = Path(asyncio.run(make()))
    (estate,) = ledger.estates()
    return folder, estate.path


def test_what_is_left_of_an_old_pool_is_ended_at_the_next_start(left_machine: tuple[Path, Path]) -> None:
    folder, file = left_machine
    os.utime(file, (time.time() - 3600,) * 2)
    with pytest.raises(sky.PoolStateError, match=r"'old' is gone: its client was last alive 36.. s ago"):
        sky.Compute.attach("old")
    with sky.Compute(**QUIET):
        deadline = time.monotonic() + SECONDS
        while folder.exists() or file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
