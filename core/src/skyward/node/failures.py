"""A task's exception on its way to the client: its own type where that can cross, and always a readable text."""

from __future__ import annotations

import os
import traceback
from typing import Any

import skyward
from skyward.errors import SkywardError
from skyward.link.pickling import Pickled, dumps, loads

_OURS = os.path.dirname(os.path.abspath(skyward.__file__)) + os.sep


def remote_text(error: BaseException) -> str:
    """Format the traceback as Python prints it, from the user's first frame on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS) and trace.tb_next is not None:
        trace = trace.tb_next
    if isinstance(error, SkywardError) and trace is not None and trace.tb_next is None:
        trace = None
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def pickle_failure(error: BaseException) -> Pickled:
    """Pickle ``(exception or None, text, description)``; the exception only if it survives the way there and back.

    Where it does not, its class goes alone if that can, so that the client can make a stand-in that
    ``except`` clauses still recognise.
    """
    text = remote_text(error)
    kind = type(error)
    description: dict[str, Any] = {
        "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "message": _message(error),
        "notes": [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)],
    }
    try:
        pickled = dumps((error, text, description), to_client=True)
        if "__main__" not in kind.__module__:
            loads(pickled.data, pickled.buffers)
        return pickled
    except Exception:
        pass
    try:
        return dumps((None, text, {**description, "class": kind}), to_client=True)
    except Exception:
        return dumps((None, text, description))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<its text can't be made>"
