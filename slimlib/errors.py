"""The one exception that slimlib raises on purpose."""

from __future__ import annotations


class SlimlibError(ValueError):
    """Something the caller can mend: the message names the parameter, its value and the remedy."""


def first_line(error: Exception) -> str:
    """What an exception says, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
