"""Figures of comparisons at equal budgets: accuracies by rule, paired differences, forest plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np

from slimlib.study.figures.style import BLACK, GREEN, GREY, LOOKS, RED, WIDE, look
from slimlib.study.names import budget_name, name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def accuracy_by_rule(
    frame: pd.DataFrame, metric: str = "test_accuracy", level: float = 0.95, dense: float | None = None
) -> Figure:
    """Accuracy of every rule at equal budgets: a dot a seed, the mean and its t interval, one panel a budget.

    Of two seeds the interval would be 13 standard errors to each side; it is drawn from three on.

    frame   of `slimlib.study.to_frame`, of one data set, model and stage
    dense   accuracy of the full network, drawn across
    """
    from scipy import stats

    order = list(LOOKS)
    budgets = list(dict.fromkeys(frame["budget"]))
    arms = sorted(dict.fromkeys(frame["arm"]), key=lambda a: (order.index(a) if a in order else len(order), a))
    fig, axes = plt.subplots(
        1, len(budgets), figsize=(max(WIDE, 2.4 * len(budgets)), 1.1 + 0.27 * len(arms)), sharey=True, squeeze=False
    )
    for axis, budget in zip(axes[0], budgets, strict=True):
        for y, arm in enumerate(arms):
            values = 100 * frame.loc[(frame["budget"] == budget) & (frame["arm"] == arm), metric].dropna().to_numpy()
            if not len(values):
                continue
            colour, marker = look(arm)
            axis.plot(values, np.full(len(values), y), ".", color=colour, alpha=0.45, markersize=6)
            if len(values) > 2:
                half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
                axis.errorbar(values.mean(), y, xerr=half, color=colour, capsize=2.5, linewidth=1.3)
            axis.plot(values.mean(), y, marker=marker, color=colour, markersize=7, linestyle="none")
        if dense is not None:
            axis.axvline(100 * dense, color=BLACK, linestyle="--", linewidth=1)
        axis.set_title(budget_name(budget))
        axis.set_yticks(range(len(arms)), [name(arm) for arm in arms])
    axes[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    fig.supxlabel(f"{metric.replace('_', ' ')} (%); bars: {level:.0%} interval of the mean over seeds", fontsize=10)
    return fig


def forest(rows: pd.DataFrame, margin: float | None = None) -> Figure:
    """Forest plot of paired differences in points: mean and t interval (bar), bootstrap interval (thin line below).

    rows   of `Judgement.deciding` or `.cells`, or any table with mean, low, high, boot_low, boot_high, verdict, n,
           and `label` or the columns rival, dataset, model and unit or budget
    """
    fig, axis = plt.subplots(figsize=(WIDE, 0.9 + 0.36 * max(len(rows), 1)))
    faces = {"supported": GREEN, "not supported": RED, "inconclusive": GREY}
    for y, row in enumerate(rows.to_dict("records")):
        colour = faces[row["verdict"]]
        axis.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=2.4)
        axis.plot([100 * row["boot_low"], 100 * row["boot_high"]], [y + 0.22] * 2, color=colour, linewidth=0.9)
        axis.plot(100 * row["mean"], y, "o", color=colour, markeredgecolor="white", markersize=7)
        axis.annotate(
            f" {row['verdict']}, n = {row['n']}", (1, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5
        )
    axis.axvline(0, color=BLACK, linewidth=1)
    if margin:
        axis.axvline(100 * margin, color=GREY, linewidth=1, linestyle=":")
    axis.set_yticks(range(len(rows)), [_row_label(row) for row in rows.to_dict("records")])
    axis.set(
        xlabel="difference in accuracy, percentage points (right of 0: ours is better)", ylim=(len(rows) - 0.4, -0.6)
    )
    return fig


def _row_label(row: Mapping[str, Any]) -> str:
    if row.get("label"):
        return str(row["label"])
    budget = budget_name(row["budget"]) if row.get("budget") else {"macs": "MACs", "params": "parameters"}[row["unit"]]
    return f"vs {name(row['rival'])}: {row['dataset']}, {row['model'].removesuffix(':pretrained')}, {budget}"
