"""Files and folders to nodes and back: what arrives, what is skipped, what goes on after a cut."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import skyward as sky
from skyward_testing.testbed import Testbed

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def two(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=2, console=False, logging=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def one(machines: str) -> Iterator[sky.Pool]:
    with sky.Compute(nodes=1, console=False, logging=False) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    root = tmp_path / "tree"
    (root / "sub" / "deeper").mkdir(parents=True)
    (root / "none").mkdir(mode=0o700)
    for number in range(600):
        (root / "sub" / f"{number}.txt").write_text(f"{number}\n" * number)
    (root / "empty").touch()
    (root / "großes Bild.bin").write_bytes(random.Random(1).randbytes(3_000_000))
    (root / "sub" / "deeper" / "run.sh").write_text("exit 3\n")
    (root / "sub" / "deeper" / "run.sh").chmod(0o755)
    (root / "to-file").symlink_to("empty")
    (root / "to-folder").symlink_to("sub/deeper", target_is_directory=True)
    (root / "to-nothing").symlink_to("/nowhere/at all")
    with open(os.fsencode(root) + b"/not-utf8-\xff", "wb") as file:
        file.write(b"x")
    os.utime(root / "sub", ns=(10**18, 10**18 + 1))
    return root


def described(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything about what is below a folder that is to arrive."""
    found: dict[str, tuple[Any, ...]] = {}
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            info = path.lstat()
            if path.is_symlink():
                what: Any = os.readlink(path)
            else:
                what = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path.relative_to(root))] = (info.st_mode, info.st_mtime_ns, what)
    return found


def parts(root: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(root) for name in names if name.startswith(".")]


@sky.function
def listed(path: str) -> list[str]:
    return sorted(os.listdir(path))


@sky.function
def content(path: str) -> tuple[str, int]:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest(), os.stat(path).st_size


@sky.function
def real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))


def test_a_folder_goes_there_and_back_as_it_is(two: sky.Pool, tree: Path, tmp_path: Path) -> None:
    there = two.upload(tree, "whole")
    assert [transfer.node for transfer in there] == [0, 1]
    assert {transfer.files for transfer in there} == {604}
    two.download("whole", tmp_path / "back-{rank}", node=None)
    assert described(tmp_path / "back-0") == described(tmp_path / "back-1") == described(tree)


def test_what_is_there_is_not_sent_again(one: sky.Pool, tree: Path) -> None:
    first = one.upload(tree, "again")[0]
    assert first.sent == first.bytes > 3_000_000
    changed = tree / "sub" / "500.txt"
    changed.write_text(changed.read_text()[::-1])  # the size stays
    later = one.upload(tree, "again")[0]
    assert (later.bytes, later.sent) == (first.bytes, changed.stat().st_size)
    assert (content("again/sub/500.txt") >> one)[0] == hashlib.sha256(changed.read_bytes()).hexdigest()


def test_a_file_goes_by_its_new_name_or_into_a_folder(one: sky.Pool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    one.upload(tmp_path / "a.txt", "names/b.txt")
    one.upload(tmp_path / "a.txt", "names/new/")
    one.upload(tmp_path / "a.txt", "names")
    assert listed("names") >> one == ["a.txt", "b.txt", "new"]
    assert listed("names/new") >> one == ["a.txt"]
    (tmp_path / "into").mkdir()
    one.download("names/b.txt", tmp_path / "into")
    one.download("names/b.txt", f"{tmp_path}/other/")
    one.download("names/b.txt", tmp_path / "c.txt")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt")} == {
        "a.txt",
        "c.txt",
        "into/b.txt",
        "other/b.txt",
    }


def test_paths_are_those_that_tasks_use(one: sky.Pool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    one.upload(tmp_path / "a.txt", "relative.txt")
    assert content("relative.txt") >> one == content.local(str(tmp_path / "a.txt"))
    one.upload(tmp_path / "a.txt", tmp_path / "absolute.txt")
    assert content(str(tmp_path / "absolute.txt")) >> one == content.local(str(tmp_path / "a.txt"))
    home = real("~") >> one
    one.download("relative.txt", tmp_path / "down.txt")
    assert (tmp_path / "down.txt").read_text() == "text"
    name = f".skyward-test-{os.getpid()}"
    try:
        one.upload(tmp_path / "a.txt", f"~/{name}")
        assert Path(home, name).read_text() == "text"
    finally:
        Path(home, name).unlink(missing_ok=True)


def test_only_the_node_that_is_named(two: sky.Pool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert [transfer.node for transfer in two.upload(tmp_path / "a.txt", "named.txt", node=1)] == [1]
    two.download("named.txt", tmp_path / "b.txt", node=1)
    with pytest.raises(sky.NodeError, match=r"named\.txt from node 0: .*there is no such file") as caught:
        two.download("named.txt", tmp_path / "c.txt")
    assert (caught.value.rank, (tmp_path / "c.txt").exists()) == (0, False)


def test_nothing_is_what_it_seems(one: sky.Pool, tmp_path: Path) -> None:
    """An empty folder, a file without bytes; a socket and a pipe, which don't travel."""
    root = tmp_path / "odd"
    (root / "empty").mkdir(parents=True)
    (root / "void").touch()
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "sock"))
        assert one.upload(root, "odd")[0].files == 1
    assert listed("odd") >> one == ["empty", "void"]
    assert listed("odd/empty") >> one == []


MISTAKES: list[tuple[Callable[[sky.Pool, Path], object], type[Exception], str]] = [
    (lambda pool, path: pool.upload(path / "nix", "x"), sky.ConfigError, r"there is no .*/nix on this comp"),
    (lambda pool, path: pool.upload("", "x"), sky.ConfigError, "local is no path"),
    (lambda pool, path: pool.upload(3, "x"), sky.UsageError, "local is a path, not 3"),  # type: ignore[arg-type]
    (lambda pool, path: pool.upload(path, "x", node=7), sky.ConfigError, "nodes are 0 to 1"),
    (lambda pool, path: pool.download("x", path, node=None), sky.ConfigError, r"put \{rank\} into the local"),
    (lambda pool, path: pool.download("a\0b", path), sky.ConfigError, "remote is no path"),
    (lambda pool, path: pool.download("/dev/null", path), sky.NodeError, "neither a file nor a folder"),
    (
        lambda pool, path: pool.upload(path, "/dev/null/x", node=0),
        sky.NodeError,
        "/dev/null.* a folder is needed",
    ),
    (
        lambda pool, path: pool.download("/etc", "/dev/null/x"),
        sky.ConfigError,
        "/dev/null.* on this computer",
    ),
]


@pytest.mark.parametrize(("call", "kind", "words"), MISTAKES, ids=[case[2][:20] for case in MISTAKES])
def test_mistakes_are_told(
    two: sky.Pool, tmp_path: Path, call: Callable[[sky.Pool, Path], object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        call(two, tmp_path)


def test_what_fails_on_several_nodes_is_a_group(two: sky.Pool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    two.upload(tmp_path / "file", "taken")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    with pytest.raises(ExceptionGroup) as caught:
        two.upload(tmp_path / "folder", "taken/x")
    assert [getattr(error, "rank", None) for error in caught.value.exceptions] == [0, 1]


# what is cut off


def sparse(path: Path, size: int) -> Path:
    """A large file that takes no time to make, with something in it."""
    with open(path, "wb") as file:
        for position in range(0, size, size // 50):
            file.seek(position)
            file.write(b"%d" % position)
        file.truncate(size)
    return path


def when_under_way(pool: sky.Pool, act: Callable[[], object], done: int = 20) -> threading.Thread:
    """Do something once so many megabytes have moved."""

    def wait() -> None:
        until = time.monotonic() + 60
        while not any(progress.done >= done for progress in pool.snapshot().progress):
            assert time.monotonic() < until, "nothing moves"
            time.sleep(0.001)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def cut(pool: sky.Pool) -> None:
    """Cut the SSH connection as a network would: there is no public way to ask for that."""
    engine: Any = pool._engine
    (link,) = (node._link for node in engine.ready_nodes)
    engine._loop.call_soon_threadsafe(lambda: link._connection._conn.abort())


@pytest.mark.parametrize("kind", ["upload", "download"])
def test_a_cut_connection_goes_on_where_it_was(
    one: sky.Pool, machines: str, kind: str, tmp_path: Path
) -> None:
    if machines != "ssh":
        pytest.skip("nothing can be cut between two processes of this computer")
    size = 150 * MEGABYTE
    source, target = sparse(tmp_path / "large", size), tmp_path / "there" / "large"
    cutter = when_under_way(one, lambda: cut(one), 60)
    if kind == "upload":
        (moved,) = one.upload(source, target)
    else:
        (moved,) = one.download(source, target)
    cutter.join()
    assert content.local(str(target)) == content.local(str(source))
    assert moved.bytes == size
    assert size <= moved.sent < size + 30 * MEGABYTE, "it began anew"
    assert parts(tmp_path) == []


@pytest.mark.parametrize("kind", ["upload", "download"])
def test_ctrl_c_leaves_no_half_file_and_the_next_call_goes_on(
    one: sky.Pool, kind: str, tmp_path: Path
) -> None:
    size = 150 * MEGABYTE
    source, target = sparse(tmp_path / "large", size), tmp_path / "there" / "large"
    move: Callable[[], list[Any]] = (
        (lambda: one.upload(source, target)) if kind == "upload" else (lambda: one.download(source, target))
    )
    interrupter = when_under_way(one, lambda: os.kill(os.getpid(), signal.SIGINT), 60)
    with pytest.raises(KeyboardInterrupt):
        move()
    interrupter.join()
    assert not target.exists()
    (moved,) = move()
    assert 0 < moved.sent < size - 30 * MEGABYTE, "it began anew"
    assert content.local(str(target)) == content.local(str(source))
    assert parts(tmp_path) == []


@pytest.mark.local_only("the host is named")
def test_a_full_disk_is_told(testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.fspath(tmp_path / "state"))
    node = testbed.node()
    host = sky.ssh.Host(node.url, key=node.key, host_key=node.host_key)
    with sky.Compute(provider=sky.SSH([host], config=False), console=False, logging=False) as pool:
        node.fill_disk(5000)
        source = sparse(tmp_path / "large", 100 * MEGABYTE)
        with pytest.raises(sky.NodeError, match="node 0: /opt/large there: the disk is full: free some"):
            pool.upload(source, "/opt/large")
        assert "skyward" not in node.exec("ls -A /opt")
        node.free_disk()
        pool.upload(source, "/opt/large")
        assert int(node.exec("stat -c %s /opt/large")) == 100 * MEGABYTE


def test_closing_the_pool_ends_a_transfer(tmp_path: Path) -> None:
    source, caught = sparse(tmp_path / "large", 2000 * MEGABYTE), list[BaseException]()

    def upload() -> None:
        try:
            pool.upload(source, tmp_path / "there" / "large")
        except sky.PoolStateError as error:
            caught.append(error)

    with sky.Compute(nodes=1, console=False, logging=False) as pool:
        thread = threading.Thread(target=upload)
        thread.start()
        when_under_way(pool, lambda: None).join()
    thread.join(10)
    assert "closed meanwhile" in str(caught[0])
    assert not (tmp_path / "there" / "large").exists()
    with pytest.raises(sky.PoolStateError, match="is not open"):
        pool.upload(source, "x")


def test_progress_is_shown(one: sky.Pool, tmp_path: Path) -> None:
    source = sparse(tmp_path / "large", 100 * MEGABYTE)
    seen: list[Any] = []
    watcher = when_under_way(one, lambda: seen.extend(one.snapshot().progress))
    one.upload(source, tmp_path / "there")
    watcher.join()
    assert [(progress.name, progress.total) for progress in seen] == [("upload large (MB)", 100)]
    assert one.snapshot().progress == ()


def test_coroutines_move_files_too(tree: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with sky.aio.Compute(nodes=1, console=False, logging=False) as pool:
            await pool.upload(tree, "tree")
            await pool.download("tree", tmp_path / "back")
            large = sparse(tmp_path / "large", 1000 * MEGABYTE)
            task = asyncio.create_task(pool.upload(large, tmp_path / "there" / "large"))
            await asyncio.to_thread(when_under_way(pool.sync, lambda: None).join)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not (tmp_path / "there" / "large").exists()

    asyncio.run(main())
    assert described(tmp_path / "back") == described(tree)
