"""The Acme cloud as a Skyward provider. This module is what the user touches: a frozen value, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skyward.errors import ConfigError

if TYPE_CHECKING:
    from acme_skyward.cloud import AcmeCloud


@dataclass(frozen=True, slots=True, kw_only=True)
class Acme:
    """An Acme account.

    ``home``: the folder that holds its machines, short and yours alone; None: one in the folder for temporary
    files. ``capacity``: how many machines the account may have at once.
    """

    provider_name: ClassVar[str] = "acme"
    cluster: ClassVar[bool] = False  # Acme rents no network between machines
    here: ClassVar[bool] = True  # its machines are folders of this computer

    home: str | None = None
    capacity: int = 8

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ConfigError(f"capacity must be 1 or more, not {self.capacity}")

    def connect(self) -> AcmeCloud:
        from acme_skyward.cloud import AcmeCloud

        return AcmeCloud(self.home, self.capacity)
