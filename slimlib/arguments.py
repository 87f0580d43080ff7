"""What several functions ask of what they are given."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from slimlib.errors import SlimlibError

A_MODEL = "a torch.nn.Module, not its name or its weights"


def kind(name: str, value: object, wanted: type | tuple[type, ...], meant: str) -> None:
    """Refuse what is no ``wanted``; ``meant`` says what to give instead."""
    if not isinstance(value, wanted):
        raise SlimlibError(f"{name} is of type {type(value).__name__}; give {meant}")


def by_name(name: str, value: object, meant: str) -> None:
    """Refuse what is no mapping; a column of a table, whose index is the names, is one as well."""
    if not hasattr(value, "keys"):
        raise SlimlibError(f"{name} is of type {type(value).__name__}; give {meant}")


def share(name: str, value: object, of_what: str = "it is a share") -> float:
    """``value`` as a float, if it lies in (0, 1]: as float16 or float32 it would round all that is computed from it."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise SlimlibError(f"{name}={value!r} must be a number in (0, 1], not a {type(value).__name__}: {of_what}")
    if not 0 < value <= 1:
        raise SlimlibError(f"{name}={value} must lie in (0, 1]: {of_what}")
    return float(value)


def count(name: str, value: object, of_what: str = "") -> int:
    """``value`` as an int, if it is a whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise SlimlibError(f"{name}={value!r} must be a whole number{of_what and ' of '}{of_what}, at least 1")
    return int(value)


def number(name: str, value: object) -> float:
    """``value`` as a float, if it is a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not isfinite(value):
        raise SlimlibError(f"{name}={value!r} must be a finite number")
    return float(value)


def seed(name: str, value: object, bits: int = 64) -> int:
    """``value`` as an int, if generators take it: numpy's none below 0, torch's none of more than 64 bits, and the frozen one
    that divides image sets none of more than 32."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value < 2**bits:
        raise SlimlibError(f"{name}={value!r} must be a whole number from 0 to 2**{bits} - 1")
    return int(value)


def flag(name: str, value: object) -> bool:
    """``value`` as a bool, if it is True or False: 1 would pass for True, and so would any text."""
    if not isinstance(value, bool | np.bool_):
        raise SlimlibError(f"{name}={value!r} must be True or False")
    return bool(value)


def path(name: str, value: object) -> Path:
    """``value`` as a path."""
    kind(name, value, (str, Path), "the name of a file")
    return Path(value)


def name_of(function: Callable) -> str:
    """What a rule or criterion of one's own is called in messages and tables."""
    function = getattr(function, "func", function)  # functools.partial holds the function that it completes
    return getattr(function, "__name__", type(function).__name__)
