"""Ending a machine ends what runs in it, exactly that, and removes its folder."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from skyward_local import folders, processes
from skyward_local.provider import GRACE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from skyward.hooks.values import Machine, PoolRef
    from skyward_local.provider import LocalProvider

NOBODY = 65534

type Launch = Callable[[], Any]
type RunAgent = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def sleeper() -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def folder(machine: Machine) -> Path:
    assert machine.endpoint is not None
    return Path(machine.endpoint.root)


def identity(pid: int) -> str:
    start = processes.start_time(pid)
    assert start
    return f"{pid} {start}"


def listing(provider: LocalProvider, pool: PoolRef) -> tuple[set[str], set[str]]:
    async def look() -> tuple[set[str], set[str]]:
        machines, owned = await provider.machines(pool), await provider.owned()
        return {machine.id for machine in machines}, {machine.id for machine in owned}

    return asyncio.run(look())


def test_a_polite_agent_is_asked_and_waited_for(
    provider: LocalProvider, launch: Launch, run_agent: RunAgent
) -> None:
    machine = asyncio.run(launch())
    agent = run_agent(folder(machine), "polite")
    asyncio.run(provider.terminate([machine.id]))
    assert agent.wait(1) == 0
    assert (folder(machine).parent / "farewell").read_text() == "heard it"
    assert not folder(machine).exists()


def test_a_stubborn_agent_is_killed_with_its_workers(
    provider: LocalProvider, launch: Launch, run_agent: RunAgent
) -> None:
    machine = asyncio.run(launch())
    agent = run_agent(folder(machine), "stubborn", "worker")
    (worker,) = folders.listed(os.fspath(folder(machine)))
    assert worker.lives
    started = time.monotonic()
    asyncio.run(provider.terminate([machine.id]))
    assert time.monotonic() - started >= GRACE_SECONDS
    assert agent.wait(1) == -9
    assert not worker.lives
    assert not folder(machine).exists()


def test_a_frozen_agent_is_killed(provider: LocalProvider, launch: Launch, run_agent: RunAgent) -> None:
    machine = asyncio.run(launch())
    agent = run_agent(folder(machine))
    agent.send_signal(signal.SIGSTOP)  # its SIGTERM then waits for a continue that never comes
    while "T" not in subprocess.check_output(["ps", "-o", "state=", "-p", str(agent.pid)], text=True):
        time.sleep(0.01)
    asyncio.run(provider.terminate([machine.id]))
    assert agent.wait(1) == -9


def test_what_a_worker_started_goes_with_it(
    provider: LocalProvider, launch: Launch, run_agent: RunAgent
) -> None:
    machine = asyncio.run(launch())
    run_agent(folder(machine), "stubborn", "family")
    child = int((folder(machine) / "child").read_text())
    assert processes.start_time(child)
    asyncio.run(provider.terminate([machine.id]))
    deadline = time.monotonic() + 2
    while processes.start_time(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes.start_time(child) is None


def test_the_loop_is_not_held_up_meanwhile(
    provider: LocalProvider, launch: Launch, run_agent: RunAgent
) -> None:
    """Two stubborn machines take the time of one, and the loop goes on turning."""

    async def scenario() -> tuple[float, int]:
        machines = [await launch(), await launch()]
        for machine in machines:
            run_agent(folder(machine), "stubborn")
        started, turns = time.monotonic(), 0
        ending = asyncio.ensure_future(provider.terminate([machine.id for machine in machines]))
        while not ending.done():
            await asyncio.sleep(0.02)
            turns += 1
        await ending
        return time.monotonic() - started, turns

    seconds, turns = asyncio.run(scenario())
    assert seconds < 2 * GRACE_SECONDS
    assert turns > 20


def test_a_machine_whose_agent_died_is_absent_but_owned(
    provider: LocalProvider, pool: PoolRef, launch: Launch, run_agent: RunAgent
) -> None:
    machine = asyncio.run(launch())
    assert listing(provider, pool) == ({machine.id}, {machine.id})
    agent = run_agent(folder(machine), "worker")
    assert listing(provider, pool) == ({machine.id}, {machine.id})
    (worker,) = folders.listed(os.fspath(folder(machine)))
    agent.kill()
    # Not waited for: a zombie is dead, and its parent may be busy.
    while processes.start_time(agent.pid):
        time.sleep(0.01)
    assert listing(provider, pool) == (set(), {machine.id})
    asyncio.run(provider.release(pool))
    assert listing(provider, pool) == (set(), set())
    assert not worker.lives


def test_a_process_that_only_has_the_number_is_spared(
    provider: LocalProvider, launch: Launch, sleeper: subprocess.Popen[bytes]
) -> None:
    machine = asyncio.run(launch())
    (folder(machine) / "agent.pid").write_text(f"{sleeper.pid} 1")
    (folder(machine) / "pids").write_text(f"{sleeper.pid} 1\n")
    asyncio.run(provider.terminate([machine.id]))
    assert sleeper.poll() is None
    assert not folder(machine).exists()


def test_an_agent_that_is_writing_its_pid_is_not_dead(
    provider: LocalProvider, pool: PoolRef, launch: Launch
) -> None:
    machine = asyncio.run(launch())
    (folder(machine) / "agent.pid").write_text("")
    assert listing(provider, pool) == ({machine.id}, {machine.id})


def test_start_times_of_ps_compare_however_they_were_joined() -> None:
    """A day of one digit has two blanks before it, which an agent may keep as two underscores."""
    assert processes.Process.parse("12 Thu_Nov__5_13:22:01_2026") == processes.Process(
        12, "Thu_Nov_5_13:22:01_2026"
    )


@pytest.mark.parametrize("garbage", ["\n", "no pid at all", "12", "-1 5", "² 5", "1 1 1", "\udcff"])
def test_unreadable_pid_files_end_nothing(
    provider: LocalProvider, pool: PoolRef, launch: Launch, garbage: str
) -> None:
    machine = asyncio.run(launch())
    content = garbage.encode(errors="surrogateescape")
    (folder(machine) / "agent.pid").write_bytes(content)
    (folder(machine) / "pids").write_bytes(content)
    assert listing(provider, pool) == (set(), {machine.id})
    asyncio.run(provider.terminate([machine.id]))
    assert listing(provider, pool) == (set(), set())


def test_a_task_cannot_have_us_end_ourselves(provider: LocalProvider, launch: Launch) -> None:
    machine = asyncio.run(launch())
    myself = str(processes.current())
    (folder(machine) / "agent.pid").write_text(myself)
    (folder(machine) / "pids").write_text(f"{myself}\n{identity(1)}\n")
    asyncio.run(provider.terminate([machine.id]))
    assert not folder(machine).exists()


def test_an_id_is_no_path(provider: LocalProvider, base: Path, launch: Launch) -> None:
    asyncio.run(launch())
    victim = base.parent / "victim"
    victim.mkdir()
    inside = base / "notanid!"
    inside.mkdir()
    names = ["../victim", os.fspath(victim), ".", "..", "", "notanid!"]
    asyncio.run(provider.terminate(names))
    assert victim.exists()
    assert inside.exists()


def test_the_start_time_is_field_22(sleeper: subprocess.Popen[bytes]) -> None:
    """What our agent writes must be what we read: ``awk`` is the referee."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("no /proc here")
    judged = subprocess.check_output(["awk", "{print $22}", f"/proc/{sleeper.pid}/stat"], text=True)
    assert processes.start_time(sleeper.pid) == judged.strip()


def test_a_program_whose_name_looks_like_fields_is_read_right(short_folder: Path) -> None:
    program = short_folder / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([os.fspath(program), "600"]) as odd:
        try:
            start = processes.start_time(odd.pid)
            assert start
            assert start.isdigit() or not Path("/proc/self").exists()
            assert int(start) > 1
        finally:
            odd.kill()


def test_ps_tells_the_same_lives(sleeper: subprocess.Popen[bytes]) -> None:
    """The way of systems without /proc, tried wherever ``ps`` is."""
    by_ps = processes._start_time_by_ps  # pyright: ignore[reportPrivateUsage]  no other way to try it on Linux
    start = by_ps(sleeper.pid)
    assert start
    assert " " not in start
    assert start == by_ps(sleeper.pid)
    sleeper.kill()
    while by_ps(sleeper.pid):
        time.sleep(0.01)
    assert processes.start_time(sleeper.pid) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be; root is stopped by nothing")
def test_a_tree_that_a_task_made_read_only_is_removed(short_folder: Path) -> None:
    tree = short_folder / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text("")
    for path in (tree, tree / "a", tree / "a" / "b", tree / "a" / "b" / "file", short_folder):
        os.chown(path, NOBODY, NOBODY)
    for path in (tree / "a" / "b", tree / "a", tree):
        path.chmod(0o000)
    # Another user's rights from here on: the parent belongs to them, and the tree is closed to them.
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError):
            (tree / "a").exists()
        folders.remove(os.fspath(tree))
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert not tree.exists()
