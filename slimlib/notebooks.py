"""Execute one notebook with parameters, safely.

A notebook under notebooks/ is a template: no outputs, and one cell tagged `parameters`. Executing it gives a copy with
outputs elsewhere. papermill does the work and is called from here only, so that it can be replaced.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimlib.errors import SlimlibError, first_line
from slimlib.kernel import own_kernel
from slimlib.project import project_root
from slimlib.staleness import digest_of, inputs_digest, is_executed, withdraw
from slimlib.template_cells import cells_of, filled_in, tags_of, without_empty_sections

if TYPE_CHECKING:
    from nbformat import NotebookNode


class NotebookError(SlimlibError):
    """A notebook did not run to its end. The message names the notebook, the cell and the error."""


def declared_parameters(template: str | Path) -> dict[str, dict[str, str]]:
    """What the template's cell tagged `parameters` declares: {name: {"default", "inferred_type_name", "help", ...}}."""
    from papermill import inspect_notebook

    if not Path(template).is_file():
        raise SlimlibError(f"no notebook {str(template)!r}")
    try:
        cells = cells_of(template)
    except (ValueError, KeyError, AttributeError) as error:  # nbformat's own are ValueErrors
        raise SlimlibError(f"{template} is no notebook ({first_line(error)})") from error
    if not any("parameters" in tags_of(cell) for cell in cells):
        raise SlimlibError(f"{template}: no cell is tagged 'parameters', so no value could be passed; tag one")
    return inspect_notebook(str(template))


def execute(
    template: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    root: str | Path | None = None,
    force: bool = False,
    page: bool = False,
    title: str | None = None,
) -> bool:
    """Execute `template` with `parameters` into `output`, with the project's root as working folder.

    The values stand in the executed notebook's parameters cell, in place of the defaults. Nothing is done when `output` was made
    from the same template, parameters, library and records: a killed build goes on where it stopped. The output appears only
    when the notebook has run to its end; if it fails, what it had done is kept beside as <name>.failed.ipynb.

    page          leave out what is tagged for pages of the other kind, and sections that show nothing. The data of a page's
                  figures go to data/ beside it, as the pages of a profile are one work; of others to <output>-data/
    title         in place of the template's first heading
    returns       True if the notebook was executed, False if the output was up to date
    raises        SlimlibError for an unknown parameter, and for an `output` that is there and was not made by this function,
                  `force` or not; NotebookError when a cell fails
    """
    import nbformat

    template, output, parameters = Path(template).resolve(), Path(output).resolve(), dict(parameters or {})
    root = Path(root).resolve() if root else project_root(template.parent)
    told = _checked(template, output, parameters)
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    digest = inputs_digest(template, parameters, root, page, title)
    if not force and digest_of(output) == digest:
        failed.unlink(missing_ok=True)  # of a change that was taken back
        return False

    notebook, numbers = filled_in(template, parameters, page, title)
    output.parent.mkdir(parents=True, exist_ok=True)
    # named after the process, so that two builds at once do not write to one file
    partial = output.with_name(f".{output.stem}.{os.getpid()}.partial.ipynb")
    try:
        nbformat.write(notebook, partial)
        withdraw(output)  # the notebook writes its data beside: should it not finish, they are no more those that `output` shows
        with own_kernel(output.with_name("data" if page else f"{output.stem}-data")):
            try:
                notebook = _run_cells(partial, root)
            except Exception as error:  # papermill's own, a dead kernel, one that did not start
                if partial.exists():
                    partial.replace(failed)
                raise NotebookError(_describe(template, failed, numbers, error, root)) from error
        if page:
            notebook.cells = without_empty_sections(notebook.cells)
        notebook.metadata.papermill.update(input_path=relative(template, root), output_path=relative(output, root))
        notebook.metadata["slimlib"] = {"digest": digest, "template": relative(template, root), "parameters": told}
        nbformat.write(notebook, partial)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)  # where it was stopped by hand
    failed.unlink(missing_ok=True)
    return True


def _checked(template: Path, output: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse, before anything runs, what cannot be executed there. Returns the parameters as JSON has them."""
    declared = declared_parameters(template)
    if unknown := [name for name in parameters if name not in declared]:
        known = "\n".join(f"  {p['name']} = {p['default']}   {p['help']}".rstrip() for p in declared.values())
        names = ", ".join(map(repr, unknown))
        raise SlimlibError(f"{template.name} declares no parameter {names}; it declares:\n{known}")
    if output == template:
        raise SlimlibError(f"{template.name} cannot be executed into itself, as its defaults and its outputs would be lost; name "
                           "another file")
    if output.is_dir():
        raise SlimlibError(f"{output} is a folder; name a file in it")
    if output.exists() and not is_executed(output):
        raise SlimlibError(f"{output} was not made by executing a notebook, and would be lost; name another file, or remove it "
                           "first")
    told = {}
    for name, value in parameters.items():
        try:
            told[name] = json.loads(json.dumps(value, default=str, sort_keys=True))  # a date as text: so papermill passes it
        except (TypeError, ValueError) as error:  # of keys that are no texts, or of what holds itself
            raise SlimlibError(f"parameter {name}={value!r} cannot be written into the notebook ({first_line(error)}); give "
                               "numbers, texts, and lists or mappings of them") from error
    return told


def _run_cells(notebook: Path, root: Path) -> NotebookNode:
    """papermill at work: executes a notebook in its place, with `root` as working folder."""
    from papermill import execute_notebook
    from traitlets.config import Config

    return execute_notebook(
        str(notebook),
        str(notebook),
        kernel_name="python3",
        language="python",
        cwd=str(root),
        progress_bar=False,
        stderr_file=sys.stderr if sys.stderr.isatty() else None,  # its progress bars, while it runs
        start_timeout=180,  # a cold, busy machine may take minutes to import
        # ipykernel >= 7 warns on every start when its local sockets are not encrypted
        config=Config(KernelManager={"transport_encryption": "auto"}),
    )


def relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _describe(template: Path, failed: Path, numbers: Sequence[int], error: Exception, root: Path) -> str:
    """Notebook, number (in the template) and head of the failed cell, and the error, in a few lines."""
    where, head = "before its first cell", ""
    if failed.exists():
        notebook = json.loads(failed.read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if "papermill-error-cell-tag" not in tags_of(cell)]
        # a cell that raised is "failed", one whose kernel died just "completed": either way the last that was begun
        begun = [
            (number, "".join(cell["source"]).strip().splitlines())
            for number, cell in zip(numbers, cells, strict=True)
            if cell["cell_type"] == "code" and cell["metadata"].get("papermill", {}).get("status", "pending") != "pending"
        ]
        if begun:
            number, lines = begun[-1]
            where = f"in cell {number} of {len(cells_of(template))}"
            head = "".join(f"\n    {line}" for line in lines[:3]) + ("\n    ..." if len(lines) > 3 else "")
    name = getattr(error, "ename", type(error).__name__)
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(getattr(error, "evalue", error))).strip()
    kept = f"\n  kept for inspection: {relative(failed, root)}" if failed.exists() else ""
    return f"{template.name} failed {where}:{head}\n  {name}: {reason}{kept}"
