from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from contextvars import copy_context
from typing import Any

import pytest
from skyward.output import CallbackWriter, OutputFilter, redirect_output, silent, stdout


def say(text: str = "hi") -> str:
    print(text)
    print(text, file=sys.stderr)
    return text


# On the client: no TaskStream.


def test_here_silence_is_for_this_thread_only(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    inside, printed = threading.Event(), threading.Event()

    @silent
    def quiet() -> None:
        say("quiet")
        inside.set()
        assert printed.wait(10)
        say("quiet")
        sys.stdout.buffer.write(b"quiet")
        sys.stdout.writelines(["quiet"])
        sys.stdout.flush()

    def loud() -> None:
        assert inside.wait(10)
        print("loud", flush=True)
        sys.stdout.writelines(["lou", "der\n"])
        assert sys.stdout.encoding.lower() == "utf-8"  # whatever else the stream has is reached
        sys.stdout.buffer.write(b"loudest\n")
        printed.set()

    thread = threading.Thread(target=loud)
    thread.start()
    quiet()
    thread.join()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("loud\nlouder\nloudest\n", "")


def test_here_a_call_counts_as_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    stdout(only="head")(say)("a")
    stdout(only=lambda info: info.is_head and info.total_nodes == 1)(say)("b")
    stdout(only=lambda info: info.node > 0)(say)("c")
    assert capsys.readouterr() == ("a\nb\n", "a\nb\nc\n")


def test_here_generators_and_nesting_restore_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout

    @silent
    def numbers() -> Iterator[int]:
        for i in range(2):
            print("quiet")
            yield i

    running: Any = numbers()
    assert next(running) == 0
    assert sys.stdout is before
    silent(lambda: list(numbers()))()
    assert sys.stdout is before
    running.close()
    print("loud")
    assert capsys.readouterr().out == "loud\n"


def test_here_a_stream_put_in_front_meanwhile_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    theirs = io.StringIO()
    with redirect_stdout(theirs):
        silent(say)("quiet")
        assert sys.stdout is theirs
    scope = OutputFilter(("stdout",), None).scope()
    scope.__enter__()
    other = redirect_stdout(theirs)
    other.__enter__()
    scope.__exit__()
    assert sys.stdout is theirs
    other.__exit__(None, None, None)
    print("loud")
    silent(say)("quiet")
    assert sys.stdout is before
    assert (capsys.readouterr().out, theirs.getvalue()) == ("loud\n", "")


def test_redirect_gives_lines_of_both_streams(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    before = sys.stdout
    with redirect_output(lines.append) as (out, err):
        assert isinstance(out, CallbackWriter)
        assert isinstance(err, CallbackWriter)
        print("captured", 1)
        print("warning", file=sys.stderr)
        print("10%\r20%\r", end="")
        print()
        print("direct", file=err)
        sys.stdout.buffer.write("ü\n".encode())
        print("no end", end="")
    assert lines == ["captured 1", "warning", "20%", "direct", "ü", "no end"]
    assert sys.stdout is before
    assert capsys.readouterr() == ("", "")


def test_redirect_inside_a_task_is_for_that_task(node: Any) -> None:
    node.install()
    lines: list[str] = []

    def redirected() -> None:
        with redirect_output(lines.append):
            say("mine")
            silent(say)("nobody's")
            say("mine too")

    node.run("a", redirected)
    node.run("b", lambda: say("plain"))
    assert lines == ["mine", "mine", "mine too", "mine too"]
    assert (node.lines(), node.err) == (["plain"], [("plain", False)])


def test_a_callback_may_print_and_redirections_nest(node: Any) -> None:
    node.install()
    outer: list[str] = []
    with redirect_output(outer.append):
        with redirect_output(lambda line: print("inner:", line)):
            print("x")
        print("y")
    with redirect_output(lambda line: print("seen:", line)):
        print("z")
    assert outer == ["inner: x", "y"]
    assert node.lines() == ["seen: z"]


def test_a_redirection_ends_with_an_exception(node: Any) -> None:
    node.install()
    lines: list[str] = []
    with pytest.raises(ValueError, match="boom"), redirect_output(lines.append):
        print("before", end="")
        raise ValueError("boom")
    print("after")
    assert (lines, node.lines()) == (["before"], ["after"])


def test_a_generator_that_redirects_may_be_closed_from_another_context(node: Any) -> None:
    node.install()
    lines: list[str] = []

    def body() -> Iterator[int]:
        with redirect_output(lines.append):
            print("in")
            yield 1
            print("never")

    running: Any = body()
    copy_context().run(next, running)
    copy_context().run(running.close)
    print("out")
    assert (lines, node.lines()) == (["in"], ["out"])
