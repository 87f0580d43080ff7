"""Tables as notebooks show them: one row of heads, and cells that break between their parts only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

TOGETHER = re.compile(r"(?<=\d) (?=±)|(?<=±) (?=\d)|(?<=\d) (?=%)")
"""Spaces of a cell at which no line ends."""


def use() -> None:
    """Show tables so from here on, in a notebook; elsewhere nothing happens."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is None:
        return
    import pandas as pd
    from pandas.io.formats.style import Styler

    for kind in (pd.DataFrame, Styler):
        shell.display_formatter.formatters["text/html"].for_type(kind, shown)


def shown(table: pd.DataFrame | Styler) -> str | None:
    """A table as HTML with one row of heads, the names of its index among them; None where pandas makes no HTML.

    pandas gives the names of an index a row of their own, though the cells above them are mostly empty. Where they are, the two
    rows become one. In a cell a number stays with its deviation and with its percent sign. An interval and the count of seeds may
    go on in the next line: tables of many budgets would otherwise be wider than the page.
    """
    html: str | None = table._repr_html_()  # type: ignore[operator]
    if html is None:
        return None
    html = re.sub(r"<thead>.*?</thead>", lambda head: _one_row(head[0]), html, count=1, flags=re.DOTALL)
    return re.sub(r"(?<=>)[^<]*(?=</td>)", lambda cell: TOGETHER.sub("\N{NO-BREAK SPACE}", cell[0]), html)


def _one_row(head: str) -> str:
    """The last two rows of a table's head as one, where each column has a text in one of them only."""
    rows = re.findall(r"<tr[^>]*>.*?</tr>", head, flags=re.DOTALL)
    if len(rows) < 2:
        return head
    upper, lower = (re.findall(r"<th[^>]*>.*?</th>", row, flags=re.DOTALL) for row in rows[-2:])
    named = [re.sub(r"<[^>]+>|&nbsp;", "", cell).strip() for cell in lower]
    covered = [re.sub(r"<[^>]+>|&nbsp;", "", cell).strip() for cell in upper]
    if len(upper) != len(lower) or any(above and name for above, name in zip(covered, named, strict=True)):
        return head
    cells = [below if name else above for above, below, name in zip(upper, lower, named, strict=True)]
    return head.replace(rows[-2], "\n      ".join(["<tr>", *cells]) + "\n    </tr>").replace(rows[-1], "")
