"""Figures of the chapter on widths as optimal sampling: one layer cut at random, where units go, who notices a rescaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from slimlib.study.figures.comparisons import panels
from slimlib.study.figures.labels import layer_ticks
from slimlib.study.figures.style import BLACK, BLUE, GREY, ORANGE, RED, WIDE, look, nothing
from slimlib.study.names import UNITS, in_order, name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def sampling_error(table: pd.DataFrame, n: int, rule: float | None = None) -> Figure:
    """Error of the reader's sum against the units kept: random subsets with intervals, and the formulas through them.

    table   of `stratum.experiment`; n: the layer's units
    rule    V / total as the rule computes it, without data: its curve is drawn as well
    """
    fig, axis = plt.subplots(figsize=(WIDE * 0.72, 3.3))
    width = np.linspace(table["width"].min(), table["width"].max(), 200)
    falls = n / width - 1
    at = table.iloc[0]
    one = n / at["width"] - 1
    axis.plot(width, at["exact"] / one * falls, color=BLUE, label="exact, correlations counted")
    axis.plot(width, at["uncorrelated"] / one * falls, color=ORANGE, linestyle="--", label="units taken as uncorrelated")
    if rule is not None:
        axis.plot(width, rule * falls, color=RED, linestyle=":", linewidth=2, label="what the rule computes, no data")
    axis.errorbar(table["width"], table["error"], [table["error"] - table["low"], table["high"] - table["error"]], fmt="o",
                  color=BLACK, capsize=3, markersize=4.5, label=f"random subsets, {100 * at['level']:g} % interval")  # fmt: skip
    axis.set(xlabel=f"units kept, of {n}", ylabel="error / variance of the full sum", yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return fig


def allocation(kept: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Where the units go: above, what one more unit of each layer costs; below, the fraction rules keep. A column a budget.

    kept    columns unit, rule, group, kept;  costs  columns unit, group, cost (of one unit, as a share of the network)
    """
    units = list(dict.fromkeys(kept["unit"]))
    layers = list(dict.fromkeys(kept["group"]))
    fig, axes = plt.subplots(2, len(units), figsize=(WIDE, 4.6), sharex=True, sharey="row", height_ratios=(1, 1.7), squeeze=False)
    at = np.arange(len(layers))
    for (above, below), unit in zip(axes.T, units, strict=True):
        cost = costs[costs["unit"] == unit].set_index("group")["cost"].reindex(layers)
        above.bar(at, 100 * cost, 0.7, color=GREY)
        above.set_title(f"budget in {UNITS[unit]}", loc="left")
        for rule, part in kept[kept["unit"] == unit].groupby("rule", sort=False):
            colour, marker = look(rule)
            below.plot(at, part.set_index("group")["kept"].reindex(layers), marker=marker, color=colour, label=name(rule))
        layer_ticks(below, layers)
    axes[0, 0].set_ylabel("cost of a unit\n(% of the network)")
    axes[1, 0].set(ylabel="kept fraction", ylim=(0, 1.03))
    handles, labels = axes[1, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return fig


def kept_by_layer(table: pd.DataFrame) -> Figure:
    """The share of its filters that each layer keeps, a line an arm and a panel a budget.

    table   of `shapes.kept_by_layer`, of one data set, model and stage
    """
    if table.empty:
        return nothing()
    layers = list(dict.fromkeys(table["layer"]))
    fig, placed = panels(table["budget"], 2.2)
    for axis, budget in placed:
        for arm, part in table[table["budget"] == budget].groupby("arm"):
            colour, marker = look(arm)
            axis.plot(part["layer"].map(layers.index), part["kept"], marker=marker, color=colour, label=name(arm))
        axis.set_ylim(0, 1.03)
        if axis.get_subplotspec().is_last_row():
            layer_ticks(axis, layers)
        else:
            axis.set_xticks(range(len(layers)), [])
            axis.grid(False, axis="x")
    handles = {label: handle for axis, _ in placed for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    arms = [name(arm) for arm in in_order(table["arm"])]
    fig.legend([handles[arm] for arm in arms], arms, loc="outside lower center", ncols=len(arms))
    fig.supylabel("kept fraction", fontsize=10)
    return fig


def invariance(table: pd.DataFrame) -> Figure:
    """Kept fraction by layer of the trained network (line) and of copies that compute the same (dots), one panel a rule.

    table   of `invariance.widths_under_rescaling`
    """
    rules, layers = list(dict.fromkeys(table["rule"])), list(dict.fromkeys(table["group"]))
    fig, axes = plt.subplots(1, len(rules), figsize=(WIDE, 2.9), sharey=True, squeeze=False)
    at = {layer: x for x, layer in enumerate(layers)}
    for axis, rule in zip(axes[0], rules, strict=True):
        part, (colour, marker) = table[table["rule"] == rule], look(rule)
        mine, others = part[part["draw"] == 0], part[part["draw"] > 0]
        shift = 0.1 * (others["draw"] - others["draw"].max() / 2 - 0.5) * 5 / max(5, others["draw"].max())
        axis.plot(mine["group"].map(at), mine["kept"], marker=marker, color=colour, linewidth=1.2, label="as trained")
        x = others["group"].map(at) + shift
        axis.plot(x, others["kept"], ".", color=BLACK, markersize=4, label="the same function, rescaled")
        axis.set_title(name(rule), loc="left")
        layer_ticks(axis, layers)
    axes[0, 0].set(ylabel="kept fraction", ylim=(0, 1.05))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2)
    return fig
