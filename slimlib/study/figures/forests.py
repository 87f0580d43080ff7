"""Forest plots: what each comparison found, with its interval, one line a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from slimlib.study import budgets
from slimlib.study.figures.style import BLACK, GREEN, GREY, RED, WIDE, look, nothing
from slimlib.study.names import UNITS, budget_name, interval, name, network_name, points
from slimlib.study.statistics import SEEDS_FOR_INTERVAL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FACES = {"supported": (GREEN, "o"), "not supported": (RED, "s"), "inconclusive": (GREY, "D")}


def forest(rows: pd.DataFrame, margin: float | None = None, ours: str = "ours") -> Figure:
    """Forest plot of paired differences in points, a panel a rival: mean and t interval (bar), bootstrap interval (thin line).

    Panels have scales of their own, as a gain over one rival may be a hundred times the gain over another; the numbers
    stand beside them.

    ours   the arm that the claim is about
    rows   of `Judgement.deciding`: rival, dataset, model, unit, mean, low, high, boot_low, boot_high, verdict and n
    """
    if rows.empty:
        return nothing("no comparison can be made yet")
    panels = list(rows.groupby("rival", sort=False))
    sizes = [len(part) for _, part in panels]
    size = (WIDE, 0.55 + 0.27 * len(rows) + 0.6 * len(panels))
    fig, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False, height_ratios=[0.4 + count for count in sizes])
    for axis, (rival, part) in zip(axes[:, 0], panels, strict=True):
        for y, row in enumerate(part.to_dict("records")):
            colour, marker = FACES[row["verdict"]]
            ends = ""
            if row["n"] >= SEEDS_FOR_INTERVAL:
                axis.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=2.4)
                axis.plot([100 * row["boot_low"], 100 * row["boot_high"]], [y + 0.24] * 2, color=colour, linewidth=0.9)
                ends = f" {interval(row['low'], row['high'])}"
            axis.plot(100 * row["mean"], y, marker, color=colour, markeredgecolor="white", markersize=7)
            told = f"{points(row['mean'])}{ends}  {row['verdict']}, n = {row['n']}"
            axis.annotate(told, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        _lines(axis, margin)
        axis.xaxis.set_major_locator(MaxNLocator(4))  # panels are narrow: more labels would overlap
        axis.set_yticks(range(len(part)), [_row_label(row) for row in part.to_dict("records")], fontsize=8.5)
        axis.set_ylim(len(part) - 0.4, -0.6)
        axis.set_title(f"vs {name(rival)}", loc="left", fontsize=9.5)
    axes[-1, 0].set_xlabel(f"difference in accuracy, points (right of 0: {name(ours)} is better)")
    return fig


def control_forest(cells: pd.DataFrame, ours: str, margin: float | None = None) -> Figure:
    """Paired differences at every single budget, one panel a network and rival, coloured by the rival.

    cells   of `Judgement.cells` of a paired claim;  ours   the arm that the claim is about
    """
    if cells.empty:
        return nothing("no comparison can be made yet")
    panels = list(cells.groupby(["dataset", "model", "rival"], sort=False))
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    most = max(cell["budget"].nunique() for _, cell in panels)
    size = (WIDE, 0.55 + lines * (0.5 + 0.26 * most))
    fig, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, sharex=len(panels) == 2)
    for axis, ((dataset, model, rival), cell) in zip(axes.flat, panels, strict=False):
        cell = cell.sort_values("budget", key=lambda b: b.map(budgets.parse))
        colour, marker = look(rival)
        for y, row in enumerate(cell.to_dict("records")):
            if row["n"] >= SEEDS_FOR_INTERVAL:
                axis.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=2)
            axis.plot(100 * row["mean"], y, marker, color=colour, markersize=7)
        _lines(axis, margin)
        axis.set_yticks(range(len(cell)), [f"{budget_name(b)} (n = {n})" for b, n in zip(cell["budget"], cell["n"], strict=True)])
        axis.set_ylim(len(cell) - 0.5, -0.5)
        axis.set_title(f"{name(ours)} vs {name(rival)}\n{network_name(dataset, model)}", loc="left")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    level = f"{100 * cells['level'].iloc[0]:g} %"
    bars = f", {level} t intervals" if cells["n"].max() >= SEEDS_FOR_INTERVAL else ", mean over seeds"
    fig.supxlabel(f"difference in accuracy, percentage points{bars} (right of 0: the first is better)", fontsize=10)
    return fig


def correlation_forest(table: pd.DataFrame, margin: float | None = None) -> Figure:
    """Spearman's coefficient of each rule's choice with the measured drop: intervals, one panel a network.

    table   of `layers.correlations`, rows of one budget and ratio; a row a network and rule
    """
    if table.empty:
        return nothing("no scan with enough layers is recorded yet")
    panels = list(table.groupby(["dataset", "model"], sort=False))
    rules = list(dict.fromkeys(table["rule"]))
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDE, 0.9 + 0.26 * len(rules)), sharey=True, sharex=True, squeeze=False)
    for axis, ((dataset, model), part) in zip(axes[0], panels, strict=True):
        for row in part.to_dict("records"):
            y, (colour, marker) = rules.index(row["rule"]), look(row["rule"])
            axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
            size = 7 if marker in Line2D.filled_markers else 13  # one of strokes would be lost on the line behind it
            axis.plot(row["spearman"], y, marker, color=colour, markersize=size)
            if row["within"] == row["within"]:
                axis.plot(row["within"], y + 0.27, "|", color=colour, markersize=7, markeredgewidth=1.6)
        _lines(axis, margin, 1)
        axis.set_title(network_name(dataset, model).replace(" on ", f" ({part['n'].iloc[0]} layers)\non ", 1))
    axes[0, 0].set_yticks(range(len(rules)), [name(rule) for rule in rules])
    axes[0, 0].set_ylim(len(rules) - 0.4, -0.6)
    axes[0, 0].set_xlim(-1.05, 1.05)
    ticks = bool(table["within"].notna().any())  # of networks with a stage of three layers or more
    fig.supxlabel("Spearman's coefficient with the measured drop" + "; small tick: mean within stages" * ticks, fontsize=10)
    if ticks:
        fig.set_label("The small tick is the mean within stages, of those of three layers or more.")
    return fig


def _lines(axis: Any, margin: float | None, scale: float = 100) -> None:
    """Where nothing is gained, and where a gain begins to matter."""
    axis.axvline(0, color=BLACK, linewidth=1)
    if margin:
        axis.axvline(scale * margin, color=GREY, linewidth=1, linestyle=":")


def _row_label(row: Mapping[str, Any]) -> str:
    return f"{network_name(row['dataset'], row['model'])}, {UNITS[row['unit']]}"
