"""Whether an executed notebook still shows what it would show if it were executed now."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from slimlib.template_cells import LIVE, cells_of

TOOLS = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib")
"""Packages whose version can change what a notebook shows: another version, and it is executed again."""

RUNNERS = ("notebooks.py", "kernel.py", "staleness.py", "book.py", "__main__.py")
"""Modules that run notebooks and do not change what a notebook shows."""


def inputs_digest(
    template: Path, parameters: Mapping[str, Any], root: Path, page: bool = False, title: str | None = None
) -> str:
    """A hash of all that decides what the executed notebook shows: cells, parameters, slimlib, profiles, records."""
    cells = [(c["cell_type"], c["source"], c["metadata"]) for c in cells_of(template)]
    versions = {name: _version(name) for name in TOOLS}
    text = json.dumps([cells, dict(parameters), page, title, sys.version_info[:2], versions], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    library = Path(__file__).resolve().parent
    tools = {library / name for name in RUNNERS}
    tools |= {*(library / "bench").glob("*.py")} - {library / "bench" / "page.py"}
    files = [*library.rglob("*.py"), *(root / "notebooks" / "profiles").glob("*.yml"), root / "book" / "claims.yml"]
    if parameters.get("profile", LIVE) != LIVE:
        files += (root / "book" / "records").rglob("*.json")
    for path in sorted(path for path in files if path.is_file() and path not in tools):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def digest_of(executed: Path) -> str | None:
    try:
        return json.loads(executed.read_text())["metadata"]["slimlib"]["digest"]
    except (OSError, ValueError, KeyError):
        return None
