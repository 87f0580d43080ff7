"""Where the book's project lies: notebooks, profiles, records and settings."""

from __future__ import annotations

from pathlib import Path

from slimlib.errors import SlimlibError


def project_root(start: str | Path | None = None) -> Path:
    """The checkout that holds the profiles: the working folder, the nearest one above it, or slimlib's own. A table of contents
    would not tell it, as any Jupyter Book has one.

    Raises SlimlibError where there is none, as with an installed package far from any clone.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks" / "profiles").is_dir():
            return folder
    raise SlimlibError(f"no notebooks/profiles in {start} or above it: run this inside a clone of the project")
