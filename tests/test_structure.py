"""How the library hangs together: imports point one way, and no module is long."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import slimlib

FOLDER = Path(slimlib.__file__).parent
MODULES = {f"slimlib.{path.stem}": path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "__main__")}
LINES = 200


def imported(path: Path) -> set[str]:
    """The modules of the library that one imports, those within functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "slimlib":
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def test_imports_point_one_way():
    try:
        list(TopologicalSorter({name: imported(path) for name, path in MODULES.items()}).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def test_the_check_sees_imports_within_functions():
    assert {"slimlib.imagenet", "slimlib.splits"} <= imported(MODULES["slimlib.data"])
    assert "slimlib._tracing" in imported(MODULES["slimlib.tracing"])


def test_tables_and_verdicts_need_no_drawing():
    """Who judges records on a machine without a screen, or only prints a table, has no matplotlib to load."""
    code = "import sys; sys.modules['matplotlib'] = None; from slimlib.study import tables, verdict"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_module_is_long():
    lines = {str(path.relative_to(FOLDER)): len(path.read_text(encoding="utf-8").splitlines()) for path in FOLDER.rglob("*.py")}
    assert len(lines) > len(MODULES), "those of the packages too"
    assert not {name: count for name, count in lines.items() if count > LINES}
