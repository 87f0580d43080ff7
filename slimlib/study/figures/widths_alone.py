"""Gains among students against gains after pruning, for the same widths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from slimlib.study import budgets
from slimlib.study.figures.style import BLACK, WIDE, look, nothing, points_scale
from slimlib.study.names import UNITS, in_order, name
from slimlib.study.statistics import SEEDS_FOR_INTERVAL
from slimlib.study.widths_alone import SIDES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def kept_by_students(table: pd.DataFrame) -> Figure:
    """A mark for each set of widths: its gain over the reference after pruning across, that of students up.

    A panel a unit of cost; scales are linear up to a tenth of a point and logarithmic beyond. Thin bars: t intervals, from three
    seeds on.

    table   of `widths_alone.gains`, of one data set and model
    """
    if table.empty:
        return nothing("no widths are recorded at both stages yet")
    unit = np.array([budgets.parse(budget).kind for budget in table["budget"]])
    units, arms = [one for one in UNITS if one in unit], in_order(table["arm"])
    fig, axes = plt.subplots(1, len(units), figsize=(WIDE, 4.4), squeeze=False, sharex=True, sharey=True)
    for axis, one in zip(axes[0], units, strict=True):
        axis.axhline(0, color=BLACK, linewidth=0.8)
        axis.axvline(0, color=BLACK, linewidth=0.8)
        for row in table[unit == one].to_dict("records"):
            colour, marker = look(row["arm"])
            x, y = (100 * row[side] for side in SIDES)
            if row["n"] >= SEEDS_FOR_INTERVAL:
                across, up = ([100 * row[f"{side}_low"], 100 * row[f"{side}_high"]] for side in SIDES)
                axis.plot(across, [y, y], color=colour, linewidth=0.8, alpha=0.6)
                axis.plot([x, x], up, color=colour, linewidth=0.8, alpha=0.6)
            axis.plot(x, y, marker, color=colour, markersize=6.5)
        axis.set_title(f"budgets of {UNITS[one]}", loc="left")
        points_scale(axis, "x")
        points_scale(axis, "y")
    (left, right), (bottom, top) = axes[0, 0].get_xlim(), axes[0, 0].get_ylim()
    ends = np.array([max(left, bottom), min(right, top)])
    reference = name(table["reference"].iloc[0])
    for axis in axes[0]:
        axis.plot(ends, ends, color=BLACK, linewidth=1, linestyle="--", zorder=0)
        axis.set_xlabel(f"pruned: gain over {reference}, points")
    axes[0, 0].set_ylabel(f"students: gain over {reference}, points")
    marks = [Line2D([], [], color=look(arm)[0], marker=look(arm)[1], linestyle="", label=name(arm)) for arm in arms]
    fig.legend(handles=marks, loc="outside lower center", ncols=5, fontsize=8.5)
    return fig
