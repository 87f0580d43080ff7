"""What the package adds around the computing: its import, and the execution of a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from slimlib.bench.measure import Comparison, Contestant, Race
from slimlib.errors import SlimlibError
from slimlib.project import project_root

NOTEBOOK = "01_one_layer"


def import_races() -> Iterator[Race]:
    # slimlib loads a part of itself when that is first asked for: what counts is when its functions are at hand
    yield Race(
        "import", "a fresh interpreter that imports one package; of slimlib, with plan_widths, prune and fit at hand",
        {"import slimlib": _interpreter("-c", "import slimlib; slimlib.plan_widths, slimlib.prune, slimlib.fit"),
         "import torch": _interpreter("-c", "import torch")},
        (Comparison("import slimlib", "import torch", "time", 1.2),), rounds=9, memory=False)


def notebook_races() -> Iterator[Race]:
    yield Race(
        "notebook", f"the notebook {NOTEBOOK}, executed from the command line, and its cells as a plain script",
        {"slimlib run": _notebook(), "plain script": _script()},
        (Comparison("slimlib run", "plain script", "difference", 4.0),), rounds=3, memory=False)


def _interpreter(*arguments: str) -> Contestant:
    def run() -> None:
        done = subprocess.run([sys.executable, *arguments], cwd=project_root(), capture_output=True, text=True, check=False,
                              env=os.environ | {"MPLBACKEND": "agg"})
        if done.returncode:
            raise SlimlibError(f"bench: {' '.join(arguments)[:80]} failed:\n{done.stderr[-2000:]}")
    return lambda: run


def _notebook() -> Contestant:
    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            _interpreter("-m", "slimlib", "run", NOTEBOOK, "-o", str(Path(folder) / "executed.ipynb"))()()
    return lambda: run


def _script() -> Contestant:
    """The notebook's code cells one after the other, nothing displayed."""
    def run() -> None:
        cells = json.loads((project_root() / "notebooks" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        _interpreter("-c", source)()()
    return lambda: run
