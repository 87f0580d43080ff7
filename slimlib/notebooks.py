"""Execute one notebook with parameters, safely.

A notebook under notebooks/ is a template: no outputs, and one cell tagged `parameters`. Executing it gives a copy with
outputs elsewhere. papermill does the work and is called from here only, so that it can be replaced.

One template can be several pages of the book. There, cells tagged `quick-page` are on the page of the live profile only, and
cells tagged `recorded-page` on those of the others only; a section whose heading is tagged `if-shown` is left out where its
cells show nothing. Who runs a notebook gets all cells.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimlib.errors import SlimlibError
from slimlib.project import project_root

if TYPE_CHECKING:
    from nbformat import NotebookNode

LIVE = "quick"
"""The profile whose notebooks may train. The pages of every other profile are rendered from committed records."""

QUICK_PAGE, RECORDED_PAGE, IF_SHOWN = "quick-page", "recorded-page", "if-shown"
"""Tags of cells that are not on every page: see above."""

TOOLS = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib")
"""Packages whose version can change what a notebook shows: another version, and it is executed again."""


class NotebookError(SlimlibError):
    """A notebook did not run to its end. The message names the notebook, the cell and the error."""


def declared_parameters(template: str | Path) -> dict[str, dict[str, str]]:
    """What the template's cell tagged `parameters` declares: {name: {"default", "inferred_type_name", "help", ...}}."""
    from papermill import inspect_notebook

    if not Path(template).is_file():
        raise SlimlibError(f"no notebook {str(template)!r}")
    if not any("parameters" in _tags(cell) for cell in _cells_of(template)):
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
    page: bool = False,
    title: str | None = None,
) -> bool:
    """Execute `template` with `parameters` into `output`, with the project's root as working folder.

    The values stand in the executed notebook's parameters cell, in place of the defaults. Nothing is done when `output` was made
    from the same template, parameters, library and records: a killed build goes on where it stopped. The output appears only
    when the notebook has run to its end; if it fails, what it had done is kept beside as <name>.failed.ipynb.

    live_output   show the notebook's standard error (progress bars) while it runs; None: if the terminal can
    page          leave out what is tagged for pages of the other kind, and sections that show nothing
    title         in place of the template's first heading
    returns       True if the notebook was executed, False if the output was up to date
    raises        SlimlibError for an unknown parameter; NotebookError when a cell fails
    """
    import nbformat
    from papermill import execute_notebook
    from traitlets.config import Config

    template, output, parameters = Path(template).resolve(), Path(output).resolve(), dict(parameters or {})
    root = Path(root).resolve() if root else project_root(template.parent)
    declared = declared_parameters(template)
    # said before anything runs, with what there is to choose from
    unknown = [name for name in parameters if name not in declared]
    if unknown:
        known = "\n".join(f"  {p['name']} = {p['default']}   {p['help']}".rstrip() for p in declared.values())
        names = ", ".join(map(repr, unknown))
        raise SlimlibError(f"{template.name} declares no parameter {names}; it declares:\n{known}")

    digest = fingerprint(template, parameters, root, page, title)
    if not force and _digest_of(output) == digest:
        return False

    notebook, numbers = _filled_in(template, parameters, page, title)
    output.parent.mkdir(parents=True, exist_ok=True)
    # named after the process, so that two builds at once do not write to one file
    partial = output.with_name(f".{output.stem}.{os.getpid()}.partial.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    show = sys.stderr.isatty() if live_output is None else live_output
    nbformat.write(notebook, partial)
    with _own_kernel(output.parent):
        try:
            notebook = execute_notebook(
                str(partial),
                str(partial),
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
            raise NotebookError(_describe(template, failed, numbers, error, root)) from error

    if page:
        notebook.cells = _without_empty_sections(notebook.cells)
    notebook.metadata.papermill.update(input_path=relative(template, root), output_path=relative(output, root))
    notebook.metadata["slimlib"] = {"digest": digest, "template": relative(template, root), "parameters": parameters}
    nbformat.write(notebook, partial)
    partial.replace(output)
    failed.unlink(missing_ok=True)
    return True


def _filled_in(
    template: Path, parameters: Mapping[str, Any], page: bool, title: str | None
) -> tuple[NotebookNode, list[int]]:
    """The notebook that is executed, and the number that each of its cells has in the template, from 1."""
    import nbformat

    notebook = nbformat.read(template, as_version=4)
    other = (RECORDED_PAGE if parameters.get("profile", LIVE) == LIVE else QUICK_PAGE) if page else None
    numbered = [(number, cell) for number, cell in enumerate(notebook.cells, start=1) if other not in _tags(cell)]
    notebook.cells = [cell for _, cell in numbered]
    for cell in notebook.cells:
        if "parameters" in _tags(cell):
            cell.source = _with_values(cell.source, parameters, template.name)
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if title and first is not None:
        first.source = re.sub(r"^# .*$", lambda _: f"# {title}", first.source, count=1, flags=re.MULTILINE)
    return notebook, [number for number, _ in numbered]


def _with_values(source: str, values: Mapping[str, Any], name: str) -> str:
    """The parameters cell with values in place of defaults; types and comments stay."""
    from papermill.translators import PythonTranslator

    text, left = source.encode(), dict(values)  # columns of the syntax tree count bytes
    starts = [0, *accumulate(map(len, text.splitlines(keepends=True)))]
    for node in reversed(ast.parse(source).body):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        wanted = [target.id for target in targets if isinstance(target, ast.Name) and target.id in left]
        if wanted and node.value is not None:
            begin = starts[node.value.lineno - 1] + node.value.col_offset
            end = starts[node.value.end_lineno - 1] + node.value.end_col_offset
            text = text[:begin] + PythonTranslator.translate(left.pop(wanted[0])).encode() + text[end:]
    if left:
        raise SlimlibError(f"{name}: parameter {next(iter(left))!r} has no line `name: type = default` of its own in the cell "
                           "tagged 'parameters'")
    return text.decode()


def _without_empty_sections(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Less the sections tagged `if-shown`, a markdown cell and the code up to the next one, in which no cell shows anything."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown":
            sections.append([])
        sections[-1].append(cell)
    kept = [section for section in sections if section and (IF_SHOWN not in _tags(section[0]) or _shows(section))]
    return [cell for section in kept for cell in section]


def _shows(cells: Iterable[NotebookNode]) -> bool:
    return any(output.get("name") != "stderr" for cell in cells for output in cell.get("outputs", ()))


def _cells_of(template: str | Path) -> list[NotebookNode]:
    import nbformat

    return nbformat.read(template, as_version=4).cells


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def fingerprint(
    template: Path, parameters: Mapping[str, Any], root: Path, page: bool = False, title: str | None = None
) -> str:
    """A hash of all that decides what the executed notebook shows: cells, parameters, slimlib, profiles, records."""
    cells = [(c["cell_type"], c["source"], c["metadata"]) for c in _cells_of(template)]
    versions = {name: _version(name) for name in TOOLS}
    text = json.dumps([cells, dict(parameters), page, title, sys.version_info[:2], versions], sort_keys=True, default=str)
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
def _own_kernel(results: Path) -> Iterator[None]:
    """For the time of the block, "python3" is the running interpreter, whatever kernels the user has installed.

    The user's IPython profile stays out as well, as its start-up files could change results; figures are drawn inline. What a
    notebook writes goes beside its output, in `results`: an experiment of one's own leaves the data of the book's pages alone.
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
            "SLIMLIB_RESULTS": str(results),
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


def _describe(template: Path, failed: Path, numbers: Sequence[int], error: Exception, root: Path) -> str:
    """Notebook, number (in the template) and head of the failed cell, and the error, in a few lines."""
    where, head = "before its first cell", ""
    if failed.exists():
        notebook = json.loads(failed.read_text())
        cells = [cell for cell in notebook["cells"] if "papermill-error-cell-tag" not in _tags(cell)]
        # a cell that raised is "failed", one whose kernel died just "completed": either way the last that was begun
        begun = [
            (number, "".join(cell["source"]).strip().splitlines())
            for number, cell in zip(numbers, cells, strict=True)
            if cell["cell_type"] == "code" and cell["metadata"].get("papermill", {}).get("status", "pending") != "pending"
        ]
        if begun:
            number, lines = begun[-1]
            where = f"in cell {number} of {len(_cells_of(template))}"
            head = "".join(f"\n    {line}" for line in lines[:3]) + ("\n    ..." if len(lines) > 3 else "")
    name = getattr(error, "ename", type(error).__name__)
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(getattr(error, "evalue", error))).strip()
    kept = f"\n  kept for inspection: {relative(failed, root)}" if failed.exists() else ""
    return f"{template.name} failed {where}:{head}\n  {name}: {reason}{kept}"
