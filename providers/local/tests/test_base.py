"""Where machines live: a place that nobody else can read, replace or lead us away from."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
from skyward.errors import ConfigError, ProviderError
from skyward.hooks.values import Wanted
from skyward_local import Local, folders, processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skyward.hooks.values import PoolRef
    from skyward_local.provider import LocalProvider

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def refusal(provider: LocalProvider, pool: PoolRef) -> str:
    with pytest.raises(ProviderError) as caught:
        asyncio.run(provider.prepare(pool))
    return str(caught.value)


def test_the_base_is_made_private(provider: LocalProvider, pool: PoolRef, base: Path) -> None:
    asyncio.run(provider.prepare(pool))
    assert stat.S_IMODE(base.stat().st_mode) == 0o700


def test_a_machine_is_private(provider: LocalProvider, launch: Callable[[], Any]) -> None:
    root = asyncio.run(launch()).endpoint.root
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(root, "machine.json")).st_mode) == 0o600


@pytest.mark.parametrize("target", ["private folder", "nowhere"])
def test_a_link_is_refused(provider: LocalProvider, pool: PoolRef, base: Path, target: str) -> None:
    """An attacker plants it before we come; even one that leads to a fine folder is not ours to follow."""
    elsewhere = base.parent / "elsewhere"
    if target == "private folder":
        elsewhere.mkdir(0o700)
    base.symlink_to(elsewhere)
    message = refusal(provider, pool)
    assert "link" in message
    assert "Local(root=" in message
    assert not elsewhere.exists() or not list(elsewhere.iterdir())


def test_a_link_planted_later_is_refused_by_launch(
    provider: LocalProvider, pool: PoolRef, base: Path, launch: Callable[[], Any]
) -> None:
    asyncio.run(provider.prepare(pool))
    base.rename(base.parent / "moved")
    base.symlink_to(base.parent / "moved")
    with pytest.raises(ProviderError, match="link"):
        asyncio.run(launch())


@pytest.mark.parametrize("action", ["owned", "machines", "release", "terminate"])
def test_nothing_in_a_planted_base_is_believed(
    provider: LocalProvider, pool: PoolRef, base: Path, launch: Callable[[], Any], action: str
) -> None:
    """``sky gc`` looks without preparing; a planted pid file must not tell it whom to kill."""
    machine = asyncio.run(launch())
    with subprocess.Popen(["sleep", "600"]) as victim:
        start = processes.start_time(victim.pid)
        (base / machine.id / "pids").write_text(f"{victim.pid} {start}\n")
        base.rename(base.parent / "elsewhere")
        base.symlink_to("elsewhere")
        calls: dict[str, Callable[[], Any]] = {
            "owned": provider.owned,
            "machines": lambda: provider.machines(pool),
            "release": lambda: provider.release(pool),
            "terminate": lambda: provider.terminate([machine.id]),
        }
        try:
            with pytest.raises(ProviderError, match="link"):
                asyncio.run(calls[action]())
            assert victim.poll() is None
            assert (base / machine.id).exists()
        finally:
            victim.kill()


def test_without_a_base_there_is_nothing_to_list_or_end(
    provider: LocalProvider, pool: PoolRef, base: Path
) -> None:
    async def scenario() -> None:
        assert list(await provider.machines(pool)) == list(await provider.owned()) == []
        await provider.terminate(["abcdefgh"])
        await provider.release(pool)

    asyncio.run(scenario())
    assert not base.exists()


def test_a_file_is_refused(provider: LocalProvider, pool: PoolRef, base: Path) -> None:
    base.write_text("")
    assert "no folder" in refusal(provider, pool)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_an_open_folder_is_refused(provider: LocalProvider, pool: PoolRef, base: Path, mode: int) -> None:
    base.mkdir()
    base.chmod(mode)
    assert f"{mode:04o}" in refusal(provider, pool)
    assert stat.S_IMODE(base.stat().st_mode) == mode, "what others may have put there is not ours to close in"


@needs_root
def test_a_foreign_folder_is_refused(provider: LocalProvider, pool: PoolRef, base: Path) -> None:
    base.mkdir(0o700)
    os.chown(base, NOBODY, -1)
    assert f"user {NOBODY}" in refusal(provider, pool)


def test_a_place_where_anyone_may_rename_is_refused(
    provider: LocalProvider, pool: PoolRef, base: Path
) -> None:
    base.parent.chmod(0o777)
    assert "sticky" in refusal(provider, pool)
    base.parent.chmod(0o1777)
    asyncio.run(provider.prepare(pool))


def test_the_runtime_folder_comes_first(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(short_folder))
    assert folders.default_base() == os.fspath(short_folder / "skyward")


@pytest.mark.parametrize("runtime", ["", "/no/such/folder"])
def test_then_the_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, short_folder: Path, runtime: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(short_folder))
    assert folders.default_base() == os.fspath(short_folder / f"skyward-{os.geteuid()}")


@needs_root
def test_another_users_runtime_folder_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    """As ``sudo`` leaves it in the environment."""
    os.chown(short_folder, NOBODY, -1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(short_folder))
    assert not folders.default_base().startswith(os.fspath(short_folder))


def test_a_place_too_deep_for_sockets_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * folders.LONGEST_BASE)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(deep))
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(deep))
    assert folders.default_base() == f"/tmp/skyward-{os.geteuid()}"


def test_a_root_too_deep_for_sockets_is_a_mistake_in_the_script() -> None:
    with pytest.raises(ConfigError, match=f"at most {folders.LONGEST_BASE} bytes"):
        Local(root="/" + "x" * folders.LONGEST_BASE)


@pytest.mark.parametrize("root", ["", 7, b"/tmp"])
def test_a_root_that_is_no_path_is_a_mistake_in_the_script(root: Any) -> None:
    with pytest.raises(ConfigError, match="as a string"):
        Local(root=root)


def test_in_the_deepest_allowed_root_a_socket_can_be_bound(
    short_folder: Path, pool: PoolRef, claim: Callable[[], Any]
) -> None:
    filler = folders.LONGEST_BASE - len(os.fspath(short_folder)) - 1
    provider = Local(root=os.fspath(short_folder / ("x" * filler))).connect()

    async def scenario() -> str:
        (offer,) = await provider.offers(Wanted())
        endpoint = (await provider.launch(pool, offer, claim())).endpoint
        assert endpoint is not None
        return endpoint.root

    path = os.path.join(asyncio.run(scenario()), "s" * (folders.ROOM_FOR_SOCKETS - 1))
    assert len(path) == folders.LONGEST_SOCKET
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def test_the_file_systems_errors_come_in_our_terms(short_folder: Path, pool: PoolRef) -> None:
    (short_folder / "file").write_text("")
    provider = Local(root=os.fspath(short_folder / "file" / "base")).connect()
    message = refusal(provider, pool)
    assert "Not a directory" in message
    assert os.fspath(short_folder / "file" / "base") in message


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, short_folder: Path, pool: PoolRef) -> None:
    monkeypatch.setenv("HOME", os.fspath(short_folder))
    asyncio.run(Local(root="~/machines").connect().prepare(pool))
    assert (short_folder / "machines").is_dir()
