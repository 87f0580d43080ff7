"""What the book lets pass: executed notebooks that ran to their end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError


def gate(folder: str | Path) -> list[Path]:
    """Refuse executed notebooks that did not run to their end: Sphinx would render an error and exit with 0.

    Every code cell must be completed and free of error output, and nothing half-made may lie beside.
    Returns the notebooks that passed; raises SlimlibError with every fault found.
    """
    folder = Path(folder)
    left = set(abandoned(folder))
    # another build may be at work beside: its half-made files are no fault
    notebooks = sorted(p for p in folder.rglob("*.ipynb") if p in left or not p.name.startswith("."))
    faults, passed = [], []
    for path in notebooks:
        name = path.relative_to(folder)
        if path in left or path.name.endswith(".failed.ipynb"):
            faults.append(f"{name}: left over from a run that did not finish")
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [f"{name}: cell {number}: {fault}" for number, fault in _cell_faults(content["cells"])]
        if "slimlib" not in content["metadata"]:
            found.append(f"{name}: not made by `python -m slimlib book`")
        faults += found
        if not found:
            passed.append(path)
    if not notebooks:
        faults.append("no executed notebook")
    if faults:
        raise SlimlibError(f"{len(faults)} fault(s) in {folder.name}/:\n  " + "\n  ".join(faults))
    return passed


def _cell_faults(cells: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    for number, cell in enumerate(cells, start=1):
        if "papermill-error-cell-tag" in cell["metadata"].get("tags", []):
            yield number, "marks a failed run"
        if cell["cell_type"] != "code":
            continue
        status = cell["metadata"].get("papermill", {}).get("status", "not executed")
        if status != "completed" and "".join(cell["source"]).strip():
            yield number, status
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield number, f"{output['ename']}: {output['evalue']}"


def abandoned(folder: Path) -> list[Path]:
    """Half-made notebooks whose process is gone (see `execute`): the remains of a build that was killed."""
    import psutil

    found = ((path, re.search(r"\.(\d+)\.partial\.ipynb$", path.name)) for path in folder.rglob(".*.partial.ipynb"))
    return [path for path, pid in found if pid is None or not psutil.pid_exists(int(pid[1]))]
