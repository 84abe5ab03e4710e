"""What a pool was opened with, kept by its agents for a client that attaches to it.

It holds what only the user's script knew: specs, images, plugins, options. That may be secret, so it is never
in a file: the agents have it in memory, and have most of it anyway. A provider's own secrets, which a machine
must not have, are left out: fields that its configuration keeps out of its ``repr``. A client that attaches
finds those where it always does, in the environment or in files.

The memento is unpickled by the client. So that no machine makes it run code, its digest is in the ledger.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import pickle
from typing import TYPE_CHECKING, Any

from skyward.errors import PoolStateError
from skyward.link.pickling import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skyward.link.modules import Project
    from skyward.options import Options
    from skyward.spec import Spec


def pack(specs: Iterable[Spec], options: Options, project: Project) -> str:
    """Return the memento; empty where something can't be pickled, and then nobody can attach."""
    kept = [dataclasses.replace(spec, provider=_without_secrets(spec.provider)) for spec in specs]
    try:
        pickled = dumps((kept, options), is_project_module=project.is_project_module, in_band=True)
    except Exception:
        return ""
    return base64.b64encode(pickled.data).decode()


def digest(memento: str) -> str:
    """Return what the ledger knows it by."""
    return hashlib.sha256(memento.encode()).hexdigest()


def unpack(memento: str, expected: str) -> tuple[tuple[Spec, ...], Options]:
    """Return what the pool was opened with.

    Raises PoolStateError for what is not ours, or can't be had here.
    """
    if digest(memento) != expected:
        raise PoolStateError("a machine answers with what this pool was never opened with: it is not used")
    if not memento:
        raise PoolStateError(
            "the pool was opened with something that can't be pickled: see the log of that time"
        )
    try:
        specs, options = loads(base64.b64decode(memento))
    except (ImportError, AttributeError, LookupError, pickle.UnpicklingError) as error:
        raise PoolStateError(
            f"what the pool was opened with can't be had here ({error}): attach from where its script runs"
        ) from error
    return tuple(specs), options


def _without_secrets(config: Any) -> Any:
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    defaults: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.repr or not field.init:
            continue
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    return dataclasses.replace(config, **defaults)
