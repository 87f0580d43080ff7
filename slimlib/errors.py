"""The exceptions that slimlib raises on purpose, and words for messages."""

from __future__ import annotations


class SlimlibError(ValueError):
    """Something the caller can mend: the message names the parameter, its value and the remedy."""


class Diverged(SlimlibError):
    """The loss is no longer finite, or answers are NaN. Processes that train together all see it: they share loss and weights."""


def first_line(error: Exception) -> str:
    """What an exception says, or its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def counted(number: int, what: str) -> str:
    """ "1 seed", "5 seeds"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
