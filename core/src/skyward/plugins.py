"""``sky.plugins``: the installed plugins, each found by its entry point when it is asked for.

``sky.plugins.torch`` is what the entry point ``torch`` in the group ``skyward.plugins`` names; names compare
without case and separators. ``Plugin`` makes one of your own.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skyward.hooks.plugin import Plugin as Plugin


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Plugin":
        from skyward.hooks.plugin import Plugin

        return Plugin
    from skyward.hooks import registry

    return registry.find(registry.PLUGINS, name)


def __dir__() -> list[str]:
    from skyward.hooks import registry

    return sorted(("Plugin", *(name.replace("-", "_") for name in registry.names(registry.PLUGINS))))
