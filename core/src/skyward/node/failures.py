"""A task's exception on its way to the client: its own type where that can cross, always a readable text."""

from __future__ import annotations

import os
import pickle
import traceback
from typing import Any

import skyward
from skyward.errors import SkywardError
from skyward.link.pickling import Pickled, dumps

_OURS = os.path.dirname(os.path.abspath(skyward.__file__)) + os.sep
_WAITING = os.path.join("concurrent", "futures", "_base.py")
"""Where a slot waits for a coroutine: in the traceback between our frames and the user's."""
_CAUSES_MAX = 10
_NO_HINT = frozenset({Exception, BaseException, object})


def remote_text(error: BaseException) -> str:
    """Format the traceback as Python prints it, without our frames."""
    shown = traceback.TracebackException.from_exception(error)
    _trim(shown, keep_last=not isinstance(error, SkywardError))
    return "".join(shown.format()).rstrip()


def _trim(shown: traceback.TracebackException, *, keep_last: bool) -> None:
    frames = list(shown.stack)
    last = frames[-1:] if keep_last else []  # an error in our own code can't be found without it
    begun = False
    kept: list[traceback.FrameSummary] = []
    for frame in frames:
        if frame.filename.startswith(_OURS) or (not begun and frame.filename.endswith(_WAITING)):
            continue
        begun = True
        kept.append(frame)
    if last and last[0] not in kept:
        kept += last
    shown.stack = traceback.StackSummary.from_list(kept)
    for linked in (shown.__cause__, shown.__context__, *(shown.exceptions or ())):
        if linked is not None:
            _trim(linked, keep_last=keep_last)


def pickle_failure(error: BaseException) -> Pickled:
    """Pickle ``(text, description, exceptions, classes)``, whatever the exception is.

    ``exceptions``: the pickles of the exception and of its causes; ``classes``: those of its class and the
    class's bases, nearest first. Each is a pickle of its own, or None, so that one that can't be loaded on
    the client spoils none of the others.
    """
    kind = type(error)
    description: dict[str, Any] = {
        "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "message": _message(error),
        "notes": [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)],
    }
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes and len(causes) <= _CAUSES_MAX:
        causes.append(cause)
        cause = cause.__cause__
    exceptions = [_pickled(cause) for cause in causes]
    classes = [_pickled(base) for base in kind.__mro__ if base not in _NO_HINT]
    text = remote_text(error)
    if isinstance(error, SkywardError) and "\n" not in text:
        text = ""  # no frame of the user's: it would only say the same twice
    return Pickled(pickle.dumps((text, description, exceptions, classes), protocol=5))


def _pickled(value: object) -> bytes | None:
    try:
        return dumps(value, to_client=True, in_band=True).data
    except Exception:
        return None


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<its text can't be made>"
