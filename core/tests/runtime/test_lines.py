from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import skyward.runtime as runtime
from skyward.lines import LineWriter
from skyward.output import TaskStream


def emitted(*texts: str) -> list[tuple[str, bool]]:
    """What comes of these writes; "FLUSH" flushes."""
    lines: list[tuple[str, bool]] = []
    stream = TaskStream("stdout", lambda line, overwrite: lines.append((line, overwrite)), 1)
    for text in texts:
        stream.flush() if text == "FLUSH" else stream.write(text)
    return lines


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["a", "\n"], [("a", False)]),
        (["\n"], [("", False)]),
        (["a", " ", "b", "\n"], [("a b", False)]),
        (["one\ntwo\n\nthr", "ee\n"], [("one", False), ("two", False), ("", False), ("three", False)]),
        (["a"], []),
        ([""], []),
        # carriage returns
        (["1\r", "2\r", "\n"], [("1", True), ("2", True), ("2", False)]),
        (["1\r2\rdone\n"], [("1", True), ("2", True), ("done", False)]),
        (["\r1", "\r2", "\n"], [("1", True), ("2", False)]),
        (["a\r\nb\r", "\n"], [("a", True), ("a", False), ("b", True), ("b", False)]),
        (["\r\r\n"], [("", False)]),
        (["x\r", "\n", "\n"], [("x", True), ("x", False), ("", False)]),
        # flushed partial lines
        (["a", "FLUSH", "b", "\n"], [("a", True), ("ab", False)]),
        (["a", "FLUSH", "FLUSH", "\n"], [("a", True), ("a", False)]),
        (["FLUSH", "a\n", "FLUSH"], [("a", False)]),
        # a progress bar: return, text, flush
        (
            ["\r 1%", "FLUSH", "\r 2%", "FLUSH", "\r 2%", "FLUSH", "\r99%", "\n"],
            [(" 1%", True), (" 2%", True), ("99%", False)],
        ),
        # only these two end a line
        (["a\x0bb\x0cc\u2028d\x85e\n"], [("a\x0bb\x0cc\u2028d\x85e", False)]),
    ],
)
def test_lines(texts: list[str], lines: list[tuple[str, bool]]) -> None:
    assert emitted(*texts) == lines


def test_a_dotted_line_is_shown_while_it_grows_but_not_at_each_dot() -> None:
    lines = emitted(*[".", "FLUSH"] * 5_000, "\n")
    assert lines[-1] == ("." * 5_000, False)
    assert lines[0] == (".", True)
    assert 10 < len(lines) < 500
    assert all(overwrite for _, overwrite in lines[:-1])


def test_a_line_shown_just_now_is_shown_again_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("skyward.lines.monotonic", lambda: now[0])
    lines: list[tuple[str, bool]] = []
    stream = LineWriter(lambda line, overwrite: lines.append((line, overwrite)))
    for text, at in [("loading", 10.0), (".", 10.05), (".", 10.2), (".", 10.25)]:
        now[0] = at
        stream.write(text)
        stream.flush()
    assert lines == [("loading", True), ("loading..", True)]


def test_a_line_without_end_is_handed_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyward.lines._MOST_PIECES", 4)
    monkeypatch.setattr("skyward.lines._LONGEST_OPEN", 10)
    lines = emitted(*["abc"] * 9, "\n")
    assert "".join(line for line, _ in lines) == "abc" * 9
    assert len(lines) > 1
    assert all(len(line) <= 10 + 4 * 3 for line, _ in lines)


def test_a_long_line_in_small_pieces_stays_one() -> None:
    record = {"values": list(range(100_000))}
    lines: list[tuple[str, bool]] = []
    stream: Any = LineWriter(lambda line, overwrite: lines.append((line, overwrite)))
    json.dump(record, stream)
    stream.write("\n")
    assert len(lines) == 1
    assert json.loads(lines[0][0]) == record


def test_the_last_line_of_a_task_needs_no_newline(node: Any) -> None:
    node.install()

    def body() -> None:
        print("result: ", end="")
        print(5, end="")
        node.finish()

    print("outside", end="")
    node.run("t", body)
    assert node.out == [("result: 5", False)]
    node.finish(everything=True)
    assert node.lines() == ["result: 5", "outside"]


def test_finish_takes_the_lines_of_the_tasks_other_threads(node: Any) -> None:
    node.install()

    def helper() -> None:
        print("helper", end="")
        print(" 50%", end="\r")

    async def body() -> None:
        print("main", end="")
        await asyncio.to_thread(helper)

    node.run("other", lambda: print("not mine", end=""))

    def run() -> None:
        asyncio.run(body())
        node.finish()

    node.run("t", run)
    assert sorted(node.lines()) == ["helper 50%", "main"]


def test_the_stream_is_what_libraries_expect_of_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    lines: list[tuple[str, bool]] = []
    stream: Any = TaskStream("stdout", lambda line, overwrite: lines.append((line, overwrite)), 1)
    assert stream.isatty() is False
    assert (stream.encoding, stream.name, stream.fileno(), stream.writable()) == (
        "utf-8",
        "<stdout>",
        1,
        True,
    )
    stream.reconfigure(encoding="utf-8", line_buffering=True)
    stream.writelines(["a\n", "b\n"])
    subprocess.run([sys.executable, "-c", "print('child')"], stdout=stream, check=True)
    assert capfd.readouterr().out == "child\n"
    stream.close()
    print("still open", file=stream)
    assert stream.closed is False
    assert lines == [("a", False), ("b", False), ("still open", False)]
    with pytest.raises(TypeError):
        stream.write(5)
    with pytest.raises(TypeError):
        stream.write(b"5")


def test_bytes() -> None:
    lines: list[tuple[str, bool]] = []
    stream = TaskStream("stdout", lambda line, overwrite: lines.append((line, overwrite)), 1)
    assert stream.buffer.write("grün\n".encode()) == 6
    for octet in "né€𝄞\n".encode():
        stream.buffer.write(bytes([octet]))
    stream.buffer.write(memoryview(b"bad \xff\n"))
    assert [line for line, _ in lines] == ["grün", "né€𝄞", "bad �"]


def test_an_old_idiom_for_utf8_works() -> None:
    lines: list[tuple[str, bool]] = []
    stream = TaskStream("stdout", lambda line, overwrite: lines.append((line, overwrite)), 1)
    wrapped = io.TextIOWrapper(stream.buffer, encoding="utf-8", line_buffering=True)
    print("é", file=wrapped)
    wrapped.close()
    print("after", file=stream)
    stream.buffer.write(b"bytes after\n")
    assert [line for line, _ in lines] == ["é", "after", "bytes after"]


def test_threads_never_mix_within_a_line(node: Any) -> None:
    node.install()
    barrier = threading.Barrier(6)

    def work(name: str) -> None:
        barrier.wait()
        for i in range(400):
            print(name, i, sep="-", end="")
            print("", name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, "abcdef"))
    assert sorted(node.lines()) == sorted(f"{n}-{i} {n}" for n in "abcdef" for i in range(400))
    for name in "abcdef":
        mine = [line for line in node.lines() if line.startswith(name)]
        assert mine == [f"{name}-{i} {name}" for i in range(400)]


def test_tasks_of_one_thread_never_mix_within_a_line(node: Any) -> None:
    node.install()

    async def task(name: str) -> None:
        runtime.current_task.set(name)
        for i in range(3):
            print(name, end="")
            await asyncio.sleep(0)
            print(i)

    async def both() -> None:
        await asyncio.gather(task("a"), task("b"))

    asyncio.run(both())
    assert sorted(node.lines()) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert sorted(map(str, node.tasks)) == ["a"] * 3 + ["b"] * 3
