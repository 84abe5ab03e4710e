"""What the scripts of this folder share: each case returns True; one JSON line says how each went."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import skyward as sky

CASES: list[Callable[[Any], bool]] = []


def case(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    CASES.append(function)
    return function


def run() -> None:
    with sky.Compute(nodes=2, console=False, logging=False) as pool:
        for function in CASES:
            try:
                problem = "" if function(pool) is True else "it did not return True"
            except Exception as error:
                problem = "".join(traceback.format_exception(error))
            print(json.dumps([function.__name__, problem]))
