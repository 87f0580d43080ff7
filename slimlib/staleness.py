"""Whether an executed notebook still shows what it would show if it were executed now."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from slimlib.files import replacing
from slimlib.template_cells import LIVE, cells_of, tags_of

TOOLS = ("torch", "torchvision", "torch-pruning", "numpy", "scipy", "pandas", "matplotlib", "seaborn")
"""Packages whose version can change what a notebook shows: another version, and it is executed again."""

RUNNERS = ("notebooks.py", "kernel.py", "staleness.py", "book.py", "gate.py", "__main__.py", "run_command.py",
           "train_command.py", "widths_command.py",
           *(f"bench/{name}.py" for name in ("alone", "overheads", "parts", "prune", "train", "widths")))
"""Modules that run notebooks, or measure speed, and do not change what a notebook shows."""


def inputs_digest(
    template: Path, parameters: Mapping[str, Any], root: Path, page: bool = False, title: str | None = None
) -> str:
    """A hash of all that decides what the executed notebook shows: cells, parameters, slimlib, profiles, records.

    Records count unless the profile in force, given or the template's own default, is the live one.
    """
    read = cells_of(template)
    cells = [(c["cell_type"], c["source"], c["metadata"]) for c in read]
    versions = {name: _version(name) for name in TOOLS}
    text = json.dumps([cells, dict(parameters), page, title, sys.version_info[:2], versions], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    library = Path(__file__).resolve().parent
    tools = {library / name for name in RUNNERS}
    files = [*library.rglob("*.py"), *(root / "notebooks" / "profiles").glob("*.yml"), root / "book" / "claims.yml"]
    if _profile(read, parameters) != LIVE:
        files += (root / "book" / "records").rglob("*.json")
    for path in sorted(path for path in files if path.is_file() and path not in tools):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _profile(cells: Iterable[Mapping[str, Any]], parameters: Mapping[str, Any]) -> Any:
    """The profile in force: the one given, else the default in the cell tagged `parameters`; None where neither says."""
    if "profile" in parameters:
        return parameters["profile"]
    source = "\n".join(cell["source"] for cell in cells if "parameters" in tags_of(cell))
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == "profile" for target in targets):
            return getattr(node.value, "value", None)  # of a text; another expression may name any profile
    return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def withdraw(executed: Path) -> None:
    """Let an executed notebook, if there is one, count as up to date no more. It can still be read."""
    if digest_of(executed) is not None:
        content = json.loads(executed.read_text(encoding="utf-8"))
        del content["metadata"]["slimlib"]["digest"]
        with replacing(executed) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def digest_of(executed: Path) -> str | None:
    """What `inputs_digest` was when a notebook was executed; None where the file is no such notebook, or was withdrawn."""
    return (_told(executed) or {}).get("digest")


def is_executed(path: Path) -> bool:
    """Is the file a notebook that was executed here, withdrawn or not? Any other may be somebody's work."""
    return _told(path) is not None


def _told(executed: Path) -> dict[str, Any] | None:
    """What an executed notebook says of how it was made."""
    try:
        return json.loads(executed.read_text(encoding="utf-8"))["metadata"]["slimlib"]
    except (OSError, ValueError, LookupError, TypeError):  # no file, no JSON, or JSON of something else
        return None
