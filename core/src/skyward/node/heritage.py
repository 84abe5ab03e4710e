"""What a worker tells a client that comes after one that is gone for good: its tasks and their answers."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from skyward.link import frames
from skyward.link.identity import dynamic_classes
from skyward.link.pickling import dumps
from skyward.node.answers import Answers
from skyward.node.executor import Executor, is_streamed
from skyward.node.shelf import Functions

AT_ONCE = 10_000
"""Tasks in one frame."""


def bequeath(
    executor: Executor,
    functions: Functions,
    answers: Answers,
    push: Callable[[bytes, tuple[int, ...]], int],
) -> None:
    """Push frames that name every task, and then the answers there are.

    A task is ``[number, name, state]``: "running", "waiting", "streaming" (which nobody can take over: it is
    ended) or "done". The last frame says so.
    """
    tasks: dict[int, tuple[str, str]] = {}
    for task, has_begun in executor.under_way():  # before the answers: one of them may end meanwhile
        state = "streaming" if is_streamed(task) else "running" if has_begun else "waiting"
        tasks[task.task] = functions.name(task.code), state
    for number, name in answers.names():
        tasks.setdefault(number, (name, "done"))
    named = [[number, *rest] for number, rest in tasks.items()]
    for start in range(0, len(named), AT_ONCE):
        push(frames.json_frame(frames.HERITAGE, {"tasks": named[start : start + AT_ONCE]}), ())
    push(frames.json_frame(frames.HERITAGE, {"last": True, "classes": definitions() if named else []}), ())
    answers.bequeath(push)


def definitions() -> list[dict[str, Any]]:
    """Return the classes that answers may name, as ``ShippedModules.add`` takes them."""
    found: list[dict[str, Any]] = []
    for number, kind in dynamic_classes().items():
        try:
            whole = dumps(kind, name_classes=True, in_band=True)
        except Exception:  # then no answer could name it either, or only where it is known
            continue
        found.append({"class": number, "pickle": base64.b64encode(whole.data).decode()})
    return found
