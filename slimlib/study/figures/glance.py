"""All claims of the book in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from slimlib.study.figures.forests import FACES
from slimlib.study.figures.style import BLACK, GREY, PALE, WIDE, nothing, points_scale
from slimlib.study.names import joined
from slimlib.study.statistics import SEEDS_FOR_INTERVAL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from slimlib.study.judgement import Judgement

LINE = 0.35  # inches: the height of a claim, of one with many comparisons more
WRAPPED = 38  # characters: longer names of claims go on in a second line, as a phone would show little beside them
COMPARED = ("dataset", "model", "rival", "unit", "budget", "ratio")
KINDS = {"paired": (100.0, "mean", "difference in accuracy, points"), "rank": (1.0, "spearman", "Spearman's coefficient")}


def deciding_comparisons(judged: Mapping[str, Judgement]) -> pd.DataFrame:
    """One row a comparison that decides a claim, controls last, and one without an effect for a claim that has none yet; what
    :func:`at_a_glance` shows.

    Columns: claim, its title, verdict and `margin`, what is compared, `effect` in points or as a coefficient, `low` and `high`
    (from three seeds on) and the comparison's verdict.
    """
    import pandas as pd

    rows = []
    for name, one in sorted(judged.items(), key=lambda item: item[1].claim.is_control):
        scale, effect, _ = KINDS[one.claim.kind]
        told = {"claim": name, "title": one.claim.title, "kind": one.claim.kind, "verdict of the claim": one.told}
        told |= {"margin": scale * one.claim.margin}
        if one.deciding.empty:
            rows.append(told)
        for row in one.deciding.to_dict("records"):
            told |= {key: row.get(key) for key in COMPARED}
            ends = one.claim.kind == "rank" or row["n"] >= SEEDS_FOR_INTERVAL
            told |= {"effect": scale * row[effect], "low": scale * row["low"] if ends else np.nan}
            rows.append(told | {"high": scale * row["high"] if ends else np.nan, "verdict": row["verdict"]})
    columns = ["claim", "title", "kind", "verdict of the claim", "margin", *COMPARED, "effect", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def at_a_glance(table: pd.DataFrame) -> Figure:
    """A line a claim, a mark a comparison with its interval, coloured by its verdict; to the right the verdict of the claim.

    Differences in points are drawn on a scale that is linear up to a tenth of a point and logarithmic beyond.

    table   of :func:`deciding_comparisons`
    """
    if table["effect"].isna().all():
        return nothing("no comparison can be made yet")
    panels = [(kind, list(part.groupby("claim", sort=False))) for kind in KINDS if len(part := table[table["kind"] == kind])]
    heights = [[max(1, len(own) / 5) for _, own in claims] for _, claims in panels]
    size = (WIDE, 0.4 + LINE * sum(map(sum, heights)) + 0.55 * len(panels))
    fig, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False, height_ratios=[*map(sum, heights)])
    for axis, (kind, claims), taken in zip(axes[:, 0], panels, heights, strict=True):
        ends = np.cumsum(taken)
        for (_, own), top, bottom in zip(claims, ends - taken, ends, strict=True):
            for y, row in zip(np.linspace(top, bottom, len(own) + 2)[1:-1], own.to_dict("records"), strict=True):
                if np.isnan(row["effect"]):
                    continue
                colour, marker = FACES[row["verdict"]]
                axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1)
                axis.plot(row["effect"], y, marker, color=colour, markeredgecolor="white", markeredgewidth=0.6, markersize=5)
            told, where = own["verdict of the claim"].iloc[0], (1.02, (top + bottom) / 2)
            axis.annotate(told, where, xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        titles = [fill(f"{own['title'].iloc[0]}  {claim}", WRAPPED) for claim, own in claims]
        axis.set_yticks(ends - np.divide(taken, 2), titles, fontsize=8.5)
        axis.set_ylim(ends[-1], 0)
        axis.grid(visible=False, axis="y")
        for end in ends[:-1]:
            axis.axhline(end, color=PALE, linewidth=0.8)
        axis.axvline(0, color=BLACK, linewidth=1)
        for margin in {own["margin"].iloc[0] for _, own in claims}:
            axis.axvline(margin, color=GREY, linewidth=1, linestyle=":")
        axis.set_xlabel(KINDS[kind][2], fontsize=9)
        _scale(axis, kind)
    marks = [Line2D([], [], color=colour, marker=marker, linestyle="", label=told) for told, (colour, marker) in FACES.items()]
    fig.legend(handles=marks, loc="outside upper right", ncols=len(marks), fontsize=8.5)
    fig.set_label(_finding(table))
    return fig


def _scale(axis: Any, kind: str) -> None:
    """That of coefficients, or of points."""
    if kind == "rank":
        axis.set_xlim(-1.05, 1.05)
    else:
        points_scale(axis, "x")


def _finding(table: pd.DataFrame) -> str:
    counts = table["verdict"].value_counts()
    return f"Of {counts.sum()} comparisons, {joined(f'{counts.get(verdict, 0)} are {verdict}' for verdict in FACES)}."
