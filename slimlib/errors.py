"""The one exception that slimlib raises on purpose."""

from __future__ import annotations


class SlimlibError(ValueError):
    """Something the caller can mend: the message names the parameter, its value and the remedy."""
