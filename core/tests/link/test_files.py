"""Both ends of a file transfer without a machine between them; and an end that is up to no good."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from skyward.link import filereceive
from skyward.link.filereceive import receive
from skyward.link.filesend import send
from skyward.link.filetalk import CHUNK, FileTrouble, Talk


class End:
    """One end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = open(sock.fileno(), "rb", CHUNK, closefd=False)  # noqa: SIM115
        self._writer = open(sock.fileno(), "wb", CHUNK, closefd=False)  # noqa: SIM115
        self.talk = Talk(self._reader, self._writer)

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError:
            pass
        self._reader.close()
        self._sock.close()


def count(done: int, moved: int) -> None:
    """Nobody counts."""


def converse(sending: Callable[[Talk], object], receiving: Callable[[Talk], object]) -> list[BaseException]:
    """Run both ends, each in a thread that hangs up at its end; return what they raised."""
    raised: list[BaseException] = []

    def run(act: Callable[[Talk], object], end: End) -> None:
        try:
            act(end.talk)
        except (FileTrouble, OSError, LookupError) as error:
            raised.append(error)
        finally:
            end.close()

    ends = map(End, socket.socketpair())
    threads = [
        threading.Thread(target=run, args=pair) for pair in zip((sending, receiving), ends, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return raised


def copy(source: Path, target: Path, progress: Callable[[int, int], None] = count) -> list[BaseException]:
    return converse(
        lambda talk: send(talk, os.fspath(source), progress, count),
        lambda talk: receive(talk, os.fspath(target), count, count),
    )


def script(*messages: dict[str, Any] | bytes) -> Callable[[Talk], None]:
    """An end that says just this, and listens to nothing."""

    def play(talk: Talk) -> None:
        for message in messages:
            if isinstance(message, bytes):
                talk.give(memoryview(message))
            else:
                talk.say(**message)
        talk.flush()
        talk.hear_why()

    return play


FOLDER = {"root": {"me": ["", "folder", 0o755, 0, 0], "name": "x", "files": 1, "bytes": 1}}
TEXT = hashlib.sha256(b"evil").hexdigest()
BODY: list[dict[str, Any] | bytes] = [{"start": 0}, b"evil", {"sha256": TEXT}, {"done": True}]


def entry(path: str, kind: str = "file", target: Any = 4) -> list[Any]:
    return [path, kind, 0o644, 0, target]


@pytest.mark.parametrize("path", ["../out", "/out", "a/../../out", "", "a//b", "./a", "..", "a\0b"])
def test_no_name_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    target = tmp_path / "in" / "target"
    evil = script(FOLDER, {"entries": [entry(path)]}, *BODY)
    (trouble,) = converse(evil, lambda talk: receive(talk, os.fspath(target), count, count))
    assert "not to be trusted" in str(trouble)
    assert [str(found.relative_to(tmp_path)) for found in tmp_path.rglob("*")] == ["in", "in/target"]


def test_no_link_leads_out_of_the_folder(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    link = entry("way", "link", os.fspath(outside))
    for claimed in ([], [entry("way", "folder")]):
        evil = script(FOLDER, {"entries": [link, *claimed, entry("way/file")]}, *BODY)
        converse(evil, lambda talk: receive(talk, os.fspath(target), count, count))
        assert list(outside.iterdir()) == []
    evil = script(FOLDER, {"entries": [link]}, {"done": True})
    assert converse(evil, lambda talk: receive(talk, os.fspath(tmp_path / "two"), count, count)) == []
    evil = script(FOLDER, {"entries": [entry("way", "folder"), entry("way/file")]}, *BODY)
    (trouble,) = converse(evil, lambda talk: receive(talk, os.fspath(tmp_path / "two"), count, count))
    assert "there is a file or a link" in str(trouble)
    assert list(outside.iterdir()) == []


def test_a_file_of_a_bad_name(tmp_path: Path) -> None:
    root = {"root": {"me": ["", "file", 0o644, 0, 4], "name": "../x", "files": 1, "bytes": 4}}
    (trouble,) = converse(script(root), lambda talk: receive(talk, f"{tmp_path}/", count, count))
    assert "not to be trusted" in str(trouble)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([{"start": 0}, b"evil", {"sha256": "0" * 64}], "arrived damaged"),
        ([{"start": 0}, b"evil and more"], "more comes than was said"),
        ([{"start": 2}, b"il"], "continues what is not there"),
        ([b"evil"], "a piece of no file"),
    ],
)
def test_what_arrives_damaged_is_not_shown(body: list[Any], words: str, tmp_path: Path) -> None:
    evil = script(FOLDER, {"entries": [entry("file")]}, *body)
    (trouble,) = converse(evil, lambda talk: receive(talk, os.fspath(tmp_path / "target"), count, count))
    assert words in str(trouble)
    assert list((tmp_path / "target").iterdir()) == []


def test_setuid_does_not_travel(tmp_path: Path) -> None:
    (tmp_path / "tool").touch()
    (tmp_path / "tool").chmod(0o4755)
    assert copy(tmp_path / "tool", tmp_path / "there") == []
    assert (tmp_path / "there").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("size", [filereceive.WORTH_KEEPING // 2, 4 * filereceive.WORTH_KEEPING])
def test_a_part_is_kept_if_it_is_worth_it(size: int, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    source.write_bytes(os.urandom(size))
    moved = 0

    def progress(done: int, more: int) -> None:
        nonlocal moved
        moved += more
        if moved > size // 2:
            raise ConnectionAbortedError("enough")

    assert len(copy(source, target, progress)) == 2
    kept = [path.stat().st_size for path in target.parent.iterdir()]
    assert not target.exists()
    assert bool(kept) == (size > filereceive.WORTH_KEEPING)
    moved = -size
    assert copy(source, target, progress) == []
    assert moved == -sum(kept)
    assert [target] == list(target.parent.iterdir())
    assert target.read_bytes() == source.read_bytes()


def test_a_part_of_another_version_is_not_gone_on_with(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 5_000_000)
    os.utime(source, ns=(1, 1))

    pieces = iter(range(12))

    def stop(done: int, more: int) -> None:
        if next(pieces, None) is None:
            raise ConnectionAbortedError("enough")

    copy(source, target, stop)
    assert len(list(tmp_path.iterdir())) == 2, "no part was kept"
    source.write_bytes(b"y" * 5_000_000)
    os.utime(source, ns=(1, 1))  # as if it were the same
    assert copy(source, target) == []
    assert target.read_bytes() == source.read_bytes()


def test_what_vanishes_or_shrinks_meanwhile(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_bytes(b"x" * 1000)

    def meddle(done: int, more: int) -> None:
        (source / "b").unlink(missing_ok=True)
        (source / "c").write_bytes(b"y")

    assert copy(source, tmp_path / "target", meddle) == []
    assert {path.name: path.read_bytes()[:2] for path in (tmp_path / "target").iterdir()} == {
        "a": b"xx",
        "c": b"y",
    }
