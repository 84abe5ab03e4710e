from __future__ import annotations

from toolbox import one


def down(x: int) -> int:
    return x - 1 + one.ground()
