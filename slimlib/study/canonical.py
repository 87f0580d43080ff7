"""One form for values that mean the same, so that equal runs have one key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from inspect import signature
from typing import Any


def frozen(value: Any) -> Any:
    """The value with its mappings and lists as tuples, mappings sorted by name: it can be hashed."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(name), frozen(inner)) for name, inner in value.items()))
    return tuple(frozen(inner) for inner in value) if isinstance(value, (list, tuple)) else value


def with_declared_floats(settings: Any) -> Any:
    """A dataclass whose fields declared as float hold floats: `lr=1` in a file means 1.0, and JSON tells them apart."""
    whole = {f.name: float(v) for f in fields(settings) if f.type == "float" and _is_int(v := getattr(settings, f.name))}
    return replace(settings, **whole) if whole else settings


def option_of(function: Callable[..., Any], name: str, value: Any) -> Any:
    """The same for one argument of a function; one that is not declared as float and is a whole number, of images say, is an
    int."""
    declared = signature(function).parameters.get(name)
    if declared is not None and declared.annotation == "float":
        return float(value) if _is_int(value) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def without_none(value: Any) -> Any:
    """Entries that are None left out, at every depth."""
    if isinstance(value, dict):
        return {name: without_none(inner) for name, inner in value.items() if inner is not None}
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
