"""What the harness must not let pass."""

from __future__ import annotations


def double(number: int) -> int:
    return number * 2


reveal_type(double(1))  # expect: str  # fails: mypy answers int; pyright answers int
reveal_type(double(1))  # fails: mypy answers int where; pyright answers int where
double(1)  # expect: int  # fails: mypy answers nothing; pyright answers nothing
double(2)  # error  # fails: mypy does not object; pyright does not object
double("a")  # fails: mypy objects: ; pyright objects:
double(3) + 1  # error  # fails: mypy does not object; pyright does not object
