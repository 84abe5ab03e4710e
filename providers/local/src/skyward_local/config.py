"""What the user writes: ``sky.Local()``. A frozen value; building one touches no file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skyward.errors import ConfigError

from skyward_local.folders import LONGEST_BASE, full_path

if TYPE_CHECKING:
    from skyward_local.provider import LocalProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This computer as a provider: every machine is a private folder in which our node agent runs.

    ``root``: where the machines' folders live; it must be yours alone (mode 0700) and is made if it is
    missing. None: ``$XDG_RUNTIME_DIR/skyward``, or ``skyward-<uid>`` in the folder for temporary files.
    """

    provider_name: ClassVar[str] = "local"
    cluster: ClassVar[bool] = False
    here: ClassVar[bool] = True

    root: str | None = None

    def __post_init__(self) -> None:
        if self.root is None:
            return
        if not isinstance(self.root, str) or not self.root:  # pyright: ignore[reportUnnecessaryIsInstance]  users aren't type-checked
            raise ConfigError(f"Local(root={self.root!r}): write the path of a folder, as a string")
        excess = len(os.fsencode(full_path(self.root))) - LONGEST_BASE
        if excess > 0:
            raise ConfigError(
                f"Local(root={self.root!r}) is {excess} bytes too long for the unix sockets that live in it: "
                f"choose a path of at most {LONGEST_BASE} bytes"
            )

    def connect(self) -> LocalProvider:
        from skyward_local.provider import LocalProvider

        return LocalProvider(self.root)
