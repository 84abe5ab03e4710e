"""A module beside the script."""

from __future__ import annotations

LIMIT = 7


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def double(self) -> Point:
        return Point(self.x * 2)


class Trouble(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code


def area(r: int) -> int:
    return 3 * r * r


def late() -> str:
    import lazily

    return lazily.VALUE
