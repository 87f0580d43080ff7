"""Execute notebooks, gate them, build the book.

A notebook under notebooks/ is a template: no outputs, and one cell tagged `parameters`. Executing it with parameters
gives a copy with outputs under book/results/<profile>/, and from these copies and the prose Jupyter Book makes the pages.
papermill executes and Sphinx renders; both are called from this module only, so that either can be replaced.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from slimlib.errors import SlimlibError

LIVE = "quick"
"""The profile whose notebooks may train. The pages of every other profile are rendered from committed records."""

TOOLS = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib")
"""Packages whose version can change what a notebook shows: another version, and it is executed again."""


class NotebookError(SlimlibError):
    """A notebook did not run to its end. The message names the notebook, the cell and the error."""


def project_root(start: Path | None = None) -> Path:
    """The clone that holds the book: the working folder, one above it, or the one slimlib is installed from."""
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[1]):
        if (folder / "_config.yml").is_file() and (folder / "book" / "_toc.yml").is_file():
            return folder
    raise SlimlibError(f"no book in {start}: run this inside a clone of the project (the folder of _config.yml)")


# --- executing one notebook ---------------------------------------------------------------------------------------------


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

    Nothing is done when `output` was made from the same template, parameters, library and records: a killed build goes on
    where it stopped. The output appears only when the notebook has run to its end; if it fails, what it had done is kept
    beside as <name>.failed.ipynb.

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
        raise SlimlibError(f"{template.name} declares no parameter {', '.join(map(repr, unknown))}; it declares:\n{known}")

    digest = fingerprint(template, parameters, root)
    if not force and _digest_of(output) == digest:
        return False

    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.stem}.partial.ipynb")
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
        if "parameters" in cell.metadata.get("tags", []):  # the defaults; the values used stand in the cell below
            cell.metadata.tags = sorted({*cell.metadata.tags, "hide-input"})
    notebook.metadata.papermill.update(input_path=_relative(template, root), output_path=_relative(output, root))
    notebook.metadata["slimlib"] = {"digest": digest, "template": _relative(template, root), "parameters": parameters}
    nbformat.write(notebook, partial)
    partial.replace(output)
    failed.unlink(missing_ok=True)
    return True


def fingerprint(template: Path, parameters: Mapping[str, Any], root: Path) -> str:
    """A hash of all that decides what the executed notebook shows: its cells, the parameters, slimlib, profiles, records."""
    import nbformat

    cells = [(c.cell_type, c.source, c.metadata) for c in nbformat.read(template, as_version=4).cells]
    versions = {name: _version(name) for name in TOOLS}
    text = json.dumps([cells, dict(parameters), sys.version_info[:2], versions], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode())
    library = Path(__file__).resolve().parent
    this_tool = {Path(__file__).resolve(), library / "__main__.py"}  # they run notebooks and do not change what these show
    files = [*library.rglob("*.py"), *(root / "notebooks" / "profiles").glob("*.yml"), root / "book" / "claims.yml"]
    if parameters.get("profile", LIVE) != LIVE:
        files += (root / "book" / "records").rglob("*.json")
    for path in sorted(path for path in files if path.is_file() and path not in this_tool):
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


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


@contextmanager
def _own_kernel() -> Iterator[None]:
    """For the time of the block, "python3" is the running interpreter, whatever kernels the user has installed.

    The user's IPython profile stays out as well (its start-up files could change results), and figures are drawn inline.
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
        for number, cell in enumerate(cells, start=1):
            status = cell["metadata"].get("papermill", {}).get("status")
            if cell["cell_type"] == "code" and status in ("failed", "running"):
                where = f"in cell {number} of {len(cells)}"
                lines = "".join(cell["source"]).strip().splitlines()
                head = "".join(f"\n    {line}" for line in lines[:3]) + ("\n    ..." if len(lines) > 3 else "")
                break
    name = getattr(error, "ename", type(error).__name__)
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(getattr(error, "evalue", error))).strip()
    kept = f"\n  kept for inspection: {_relative(failed, root)}" if failed.exists() else ""
    return f"{template.name} failed {where}:{head}\n  {name}: {reason}{kept}"


# --- the whole book -----------------------------------------------------------------------------------------------------


def pages(root: Path) -> list[tuple[str, str]]:
    """The notebooks that the table of contents lists as results/<profile>/<name>, in its order: [(profile, name)]."""
    toc = (root / "book" / "_toc.yml").read_text(encoding="utf-8")
    return re.findall(r"^\s*-?\s*file:\s*results/([\w-]+)/([\w.-]+?)(?:\.ipynb)?\s*$", toc, flags=re.MULTILINE)


def execute_all(root: Path, profile: str | None = None, force: bool = False) -> None:
    """Execute every notebook of the table of contents (of one profile only, if named), one after the other."""
    wanted = [page for page in pages(root) if profile in (None, page[0])]
    if not wanted:
        raise SlimlibError(f"profile {profile!r}: book/_toc.yml lists no page of it, only of {sorted(dict(pages(root)))}")
    for number, (kind, name) in enumerate(wanted, start=1):
        label = f"[{number}/{len(wanted)}] {name} ({kind})"
        start = time.monotonic()
        print(f"{label} ...", file=sys.stderr, flush=True)
        ran = execute(
            root / "notebooks" / f"{name}.ipynb",
            root / "book" / "results" / kind / f"{name}.ipynb",
            {"profile": kind},
            root=root,
            force=force,
        )
        result = f"executed in {time.monotonic() - start:.0f} s" if ran else "up to date"
        print(f"{label} {result}", file=sys.stderr, flush=True)


def gate(folder: str | Path) -> list[Path]:
    """Refuse executed notebooks that did not run to their end: Sphinx would render an error and exit with 0.

    Every code cell must be completed and free of error output, and nothing half-made may lie beside.
    Returns the notebooks that passed; raises SlimlibError with every fault found.
    """
    folder = Path(folder)
    notebooks = sorted(folder.rglob("*.ipynb"))
    faults, passed = [], []
    for path in notebooks:
        name = path.relative_to(folder)
        if path.name.endswith((".failed.ipynb", ".partial.ipynb")):
            faults.append(f"{name}: left over from a run that did not finish")
            continue
        content = json.loads(path.read_text())
        found = [f"{name}: cell {number}: {fault}" for number, fault in _cell_faults(content["cells"])]
        if "slimlib" not in content["metadata"]:
            found.append(f"{name}: not made by `python -m slimlib book`")
        faults += found
        if not found:
            passed.append(path)
    if not notebooks:
        faults.append("no executed notebook")
    if faults:
        raise SlimlibError(f"{len(faults)} faults in the executed notebooks of {folder.name}/:\n  " + "\n  ".join(faults))
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


def build(root: Path) -> Path:
    """Render the pages with every Sphinx warning an error. Returns the path of the index."""
    command = "from jupyter_book.cli.main import main; main()"  # the package has no __main__, and PATH may have another's
    arguments = ["build", "book", "-n", "-W", "--keep-going"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], cwd=root, stdin=subprocess.DEVNULL, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SlimlibError("the pages could not be built without warnings: see Jupyter Book's report above")
    index = root / "_build" / "html" / "index.html"
    if not index.is_file():
        raise SlimlibError(f"Jupyter Book reported success and wrote no {_relative(index, root)}")
    return index


def make_book(root: str | Path | None = None, force: bool = False) -> Path:
    """Execute what is not up to date, gate it, build the pages. Returns the path of the index."""
    root = Path(root).resolve() if root else project_root()
    for stale in (root / "book" / "results").rglob("*.partial.ipynb"):  # of a run that was killed
        stale.unlink()
    execute_all(root, force=force)
    gate(root / "book" / "results")
    print("building the pages ...", file=sys.stderr, flush=True)
    return build(root)


# --- Sphinx extension: mathematics without a network ---------------------------------------------------------------------


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this, as _config.yml lists this module: it puts MathJax beside the pages.

    One file of 2 MB (SVG output, no fonts), taken from a pip package, instead of that package's own extension, which
    copies 24 MB.
    """
    app.connect("build-finished", _copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _copy_mathjax(app: Any, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise SlimlibError("the package sphinx-mathjax-offline is missing: pip install -r requirements.lock")
    source = Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js"
    target = Path(app.outdir) / "_static" / "mathjax" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
