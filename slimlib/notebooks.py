"""Execute one notebook with parameters, safely.

A notebook under notebooks/ is a template: no outputs, and one cell tagged `parameters`. Executing it gives a copy with
outputs elsewhere. papermill does the work and is called from here only, so that it can be replaced.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError
from slimlib.project import project_root

LIVE = "quick"
"""The profile whose notebooks may train. The pages of every other profile are rendered from committed records."""

TOOLS = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib")
"""Packages whose version can change what a notebook shows: another version, and it is executed again."""


class NotebookError(SlimlibError):
    """A notebook did not run to its end. The message names the notebook, the cell and the error."""


def declared_parameters(template: str | Path) -> dict[str, dict[str, str]]:
    """What the template's cell tagged `parameters` declares: {name: {"default", "inferred_type_name", "help", ...}}."""
    import nbformat
    from papermill import inspect_notebook

    if not Path(template).is_file():
        raise SlimlibError(f"no notebook {str(template)!r}")
    cells = nbformat.read(template, as_version=4).cells
    if not any("parameters" in cell.metadata.get("tags", []) for cell in cells):
        raise SlimlibError(f"{template}: no cell is tagged 'parameters', so no value could be passed; tag one")
    return inspect_notebook(str(template))


def execute(
    template: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    root: str | Path | None = None,
    force: bool = False,
    live_output: bool | None = None,
) -> bool:
    """Execute `template` with `parameters` into `output`, with the project's root as working folder.

    Nothing is done when `output` was made from the same template, parameters, library and records: a killed build goes
    on where it stopped. The output appears only when the notebook has run to its end; if it fails, what it had done is
    kept beside as <name>.failed.ipynb.

    live_output   show the notebook's standard error (progress bars) while it runs; None: if the terminal can
    returns       True if the notebook was executed, False if the output was up to date
    raises        SlimlibError for an unknown parameter; NotebookError when a cell fails
    """
    import nbformat
    from papermill import execute_notebook
    from traitlets.config import Config

    template, output, parameters = Path(template).resolve(), Path(output).resolve(), dict(parameters or {})
    root = Path(root).resolve() if root else project_root(template.parent)
    declared = declared_parameters(template)
    # papermill would inject an unknown name with no more than a warning, and run the default experiment
    unknown = [name for name in parameters if name not in declared]
    if unknown:
        known = "\n".join(f"  {p['name']} = {p['default']}   {p['help']}".rstrip() for p in declared.values())
        names = ", ".join(map(repr, unknown))
        raise SlimlibError(f"{template.name} declares no parameter {names}; it declares:\n{known}")

    digest = fingerprint(template, parameters, root)
    if not force and _digest_of(output) == digest:
        return False

    output.parent.mkdir(parents=True, exist_ok=True)
    # named after the process, so that two builds at once do not write to one file
    partial = output.with_name(f".{output.stem}.{os.getpid()}.partial.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    show = sys.stderr.isatty() if live_output is None else live_output
    with _own_kernel():
        try:
            notebook = execute_notebook(
                str(template),
                str(partial),
                parameters,
                kernel_name="python3",
                language="python",
                cwd=str(root),
                progress_bar=False,
                stderr_file=sys.stderr if show else None,
                start_timeout=180,  # a cold, busy machine may take minutes to import
                # ipykernel >= 7 warns on every start when its local sockets are not encrypted
                config=Config(KernelManager={"transport_encryption": "auto"}),
            )
        except Exception as error:  # papermill's own, a dead kernel, one that did not start
            if partial.exists():
                partial.replace(failed)
            raise NotebookError(_describe(template, failed, error, root)) from error

    for cell in notebook.cells:
        # the declared parameters stand on the page with their comments; papermill's cell below them only where it changes one
        if "injected-parameters" in cell.metadata.get("tags", []) and _all_defaults(declared, parameters):
            cell.metadata.tags = sorted({*cell.metadata.tags, "remove-input"})
        if cell.cell_type == "markdown" and parameters.get("profile", LIVE) != LIVE:
            cell.source = _labelled_for(parameters["profile"], cell.source)
    notebook.metadata.papermill.update(input_path=relative(template, root), output_path=relative(output, root))
    notebook.metadata["slimlib"] = {"digest": digest, "template": relative(template, root), "parameters": parameters}
    nbformat.write(notebook, partial)
    partial.replace(output)
    failed.unlink(missing_ok=True)
    return True


def _all_defaults(declared: Mapping[str, Mapping[str, str]], parameters: Mapping[str, Any]) -> bool:
    def default(name: str) -> Any:
        with suppress(ValueError, SyntaxError):  # what is no literal equals nothing
            return ast.literal_eval(declared[name]["default"])
        return object()

    return all(default(name) == value for name, value in parameters.items())


def _labelled_for(profile: str, text: str) -> str:
    """One template is a page of several profiles, and the labels of exercises must differ from page to page."""
    return re.sub(r"^(:label: |```\{solution(?:-start)?\} )(?=\S)", rf"\g<1>{profile}-", text, flags=re.MULTILINE)


def fingerprint(template: Path, parameters: Mapping[str, Any], root: Path) -> str:
    """A hash of all that decides what the executed notebook shows: cells, parameters, slimlib, profiles, records."""
    import nbformat

    cells = [(c.cell_type, c.source, c.metadata) for c in nbformat.read(template, as_version=4).cells]
    versions = {name: _version(name) for name in TOOLS}
    text = json.dumps([cells, dict(parameters), sys.version_info[:2], versions], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    library = Path(__file__).resolve().parent
    # these run notebooks and do not change what a notebook shows
    tools = {library / name for name in ("notebooks.py", "book.py", "__main__.py")}
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


def _digest_of(executed: Path) -> str | None:
    try:
        return json.loads(executed.read_text())["metadata"]["slimlib"]["digest"]
    except (OSError, ValueError, KeyError):
        return None


def relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


@contextmanager
def _own_kernel() -> Iterator[None]:
    """For the time of the block, "python3" is the running interpreter, whatever kernels the user has installed.

    The user's IPython profile stays out as well, as its start-up files could change results; figures are drawn inline.
    """
    with tempfile.TemporaryDirectory(prefix="slimlib-kernel-") as folder:
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
        kernel["metadata"] = {"supported_encryption": ["curve"]}
        (spec / "kernel.json").write_text(json.dumps(kernel))
        changes = {
            "JUPYTER_PATH": os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH")])),
            "IPYTHONDIR": str(Path(folder) / "ipython"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _describe(template: Path, failed: Path, error: Exception, root: Path) -> str:
    """Notebook, number and head of the failed cell, and the error, in a few lines."""
    where, head = "before its first cell", ""
    if failed.exists():
        notebook = json.loads(failed.read_text())
        # number the cells as in the template: papermill's injected cell and its markers do not count
        added = {"injected-parameters", "papermill-error-cell-tag"}
        cells = [c for c in notebook["cells"] if not added & set(c["metadata"].get("tags", []))]
        # a cell that raised is "failed", one whose kernel died just "completed": either way the last that was begun
        begun = [
            (number, "".join(cell["source"]).strip().splitlines())
            for number, cell in enumerate(cells, start=1)
            if cell["cell_type"] == "code" and cell["metadata"].get("papermill", {}).get("status", "pending") != "pending"
        ]
        if begun:
            number, lines = begun[-1]
            where = f"in cell {number} of {len(cells)}"
            head = "".join(f"\n    {line}" for line in lines[:3]) + ("\n    ..." if len(lines) > 3 else "")
    name = getattr(error, "ename", type(error).__name__)
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(getattr(error, "evalue", error))).strip()
    kept = f"\n  kept for inspection: {relative(failed, root)}" if failed.exists() else ""
    return f"{template.name} failed {where}:{head}\n  {name}: {reason}{kept}"
