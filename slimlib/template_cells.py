"""Which cells of a template are executed: values in place of defaults, and on pages of the book only what belongs there.

One template can be several pages of the book. There, cells tagged `quick-page` are on the page of the live profile only, and
cells tagged `recorded-page` on those of the others only; a section whose heading is tagged `if-shown` is left out where its
cells show nothing. Who runs a notebook gets all cells.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimlib.errors import SlimlibError

if TYPE_CHECKING:
    from nbformat import NotebookNode

LIVE = "quick"
"""The profile whose notebooks may train. The pages of every other profile are rendered from committed records."""

QUICK_PAGE, RECORDED_PAGE, IF_SHOWN = "quick-page", "recorded-page", "if-shown"
"""Tags of cells that are not on every page: see above."""


def filled_in(
    template: Path, parameters: Mapping[str, Any], page: bool, title: str | None
) -> tuple[NotebookNode, list[int]]:
    """The notebook that is executed, and the number that each of its cells has in the template, from 1."""
    import nbformat

    notebook = nbformat.read(template, as_version=4)
    other = (RECORDED_PAGE if parameters.get("profile", LIVE) == LIVE else QUICK_PAGE) if page else None
    numbered = [(number, cell) for number, cell in enumerate(notebook.cells, start=1) if other not in tags_of(cell)]
    notebook.cells = [cell for _, cell in numbered]
    for cell in notebook.cells:
        if "parameters" in tags_of(cell):
            cell.source = with_values(cell.source, parameters, template.name)
    first = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if title and first is not None:
        first.source = re.sub(r"^# .*$", lambda _: f"# {title}", first.source, count=1, flags=re.MULTILINE)
    return notebook, [number for number, _ in numbered]


def with_values(source: str, values: Mapping[str, Any], name: str) -> str:
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


def without_empty_sections(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Less the sections tagged `if-shown`, a markdown cell and the code up to the next one, in which no cell shows anything."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown":
            sections.append([])
        sections[-1].append(cell)
    kept = [section for section in sections if section and (IF_SHOWN not in tags_of(section[0]) or _shows(section))]
    return [cell for section in kept for cell in section]


def _shows(cells: Iterable[NotebookNode]) -> bool:
    return any(output.get("name") != "stderr" for cell in cells for output in cell.get("outputs", ()))


def cells_of(template: str | Path) -> list[NotebookNode]:
    import nbformat

    return nbformat.read(template, as_version=4).cells


def tags_of(cell: Mapping[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])
