"""Figures of comparisons at equal budgets: accuracies by rule, and differences from a reference, one panel a budget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from slimlib.study import budgets
from slimlib.study.figures.style import BLACK, WIDE, look, nothing
from slimlib.study.leaders import highest
from slimlib.study.names import budget_name, in_order, name
from slimlib.study.statistics import SEEDS_FOR_INTERVAL, t_half_width

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LEVEL = 0.95
"""Of the intervals of means."""


def accuracy_by_rule(frame: pd.DataFrame, metric: str = "test_accuracy", dense: float | None = None) -> Figure:
    """Accuracy of every rule at equal budgets: a dot a seed, the mean and, from three seeds on, its t interval; a panel a budget.

    Panels end where most rules end: one that is far below is drawn at the edge, as an arrow with its mean.

    frame   of `slimlib.study.to_frame`, of one data set, model and stage
    dense   accuracy of the full network: drawn across where it is near, else told at the panel's edge
    """

    if frame.empty:
        return nothing()
    arms, intervals = in_order(frame["arm"]), False
    fig, axes = _panels(frame["budget"], arms)
    for axis, budget in axes:
        cells = frame[frame["budget"] == budget].groupby("arm")[metric]
        floor = _floor(100 * cells.mean())
        for y, arm in enumerate(arms):
            values = 100 * cells.get_group(arm).dropna().to_numpy() if arm in cells.groups else np.array([])
            if not len(values):
                continue
            colour, marker = look(arm)
            if values.mean() < floor:
                _beyond(axis, y, values.mean(), floor, f"{values.mean():.1f}", colour)
                continue
            axis.plot(values, np.full(len(values), y), ".", color=colour, alpha=0.45, markersize=6)
            if len(values) >= SEEDS_FOR_INTERVAL:
                intervals = True
                half = t_half_width(values.std(ddof=1), len(values), LEVEL)
                axis.errorbar(values.mean(), y, xerr=half, color=colour, capsize=2.5, linewidth=1.3)
            axis.plot(values.mean(), y, marker=marker, color=colour, markersize=7, linestyle="none")
        if dense is not None:
            _across(axis, 100 * dense)
    bars = f"; bars: {100 * LEVEL:g} % interval of the mean" if intervals else ""
    fig.supxlabel(f"{metric.replace('_', ' ')} (%); dots: each seed, large: their mean{bars}", fontsize=10)
    fig.set_label(highest(frame, metric, LEVEL))
    return fig


def differences_by_rule(table: pd.DataFrame) -> Figure:
    """Paired differences of every rule from one reference, with t intervals from three seeds on, one panel a budget.

    Of two seeds there is a dot each: their mean and standard deviation tell where both are.

    Panels end where the rules that compete end: a control that is far off is drawn at the edge, as an arrow, and an interval that
    goes on beyond the edge has a head there.

    table   of `pairing.against`, of one data set, model and stage
    """
    if table.empty:
        return nothing("no two arms with a seed in common are recorded yet")
    arms, reference = in_order(table["arm"]), table["reference"].iloc[0]
    fig, axes = _panels(table["budget"], arms)
    goes_on = False
    for axis, budget in axes:
        part = table[table["budget"] == budget].set_index("arm")
        reach = _reach(part)
        axis.axvline(0, color=BLACK, linewidth=1)
        for y, arm in enumerate(arms):
            if arm not in part.index:
                continue
            row, (colour, marker) = part.loc[arm], look(arm)
            mean = 100 * row["mean"]
            if row["n"] >= SEEDS_FOR_INTERVAL:
                ends = 100 * np.array([row["low"], row["high"]], float)
                low, high = np.clip(ends, -reach, reach)
                axis.plot([low, high], [y, y], color=colour, linewidth=1.8)
                for end, head in zip(ends, "<>", strict=True):
                    if abs(end) > reach >= abs(mean):
                        goes_on = True
                        axis.plot(np.sign(end) * reach, y, head, color=colour, markersize=4.5)
            elif row["n"] == 2 and abs(mean) <= reach:
                seeds = mean + 100 * row["sd"] * np.array([-1, 1]) / 2**0.5
                axis.plot(seeds, [y, y], ".", color=colour, alpha=0.45, markersize=6)
            if abs(mean) > reach:
                _beyond(axis, y, mean, np.sign(mean) * reach, f"{mean:+.1f}".replace("-", "−"), colour)
            else:
                axis.plot(mean, y, marker=marker, color=colour, markersize=6.5, linestyle="none")
        axis.set_xlim(-1.06 * reach, 1.06 * reach)
    bars = f"bars: {100 * table['level'].iloc[0]:g} % t intervals"
    drawn = {1: "one seed", 2: "dots: each seed, large: their mean"}.get(table["n"].max(), bars)
    drawn += "; with a head: beyond the panel" if goes_on else ""
    told = f"difference from {name(reference)}, percentage points; {drawn}"
    fig.supxlabel(told, fontsize=10)
    return fig


def _floor(means: pd.Series) -> float:
    """Where a panel of accuracies ends on the left: below it lies only what is far from the better half."""
    median = means.median()
    return float(median - max(4 * (means.max() - median), 0.5))


def _beyond(axis: Any, y: int, value: float, edge: float, told: str, colour: str) -> None:
    """An arrow to a value that lies beyond a panel's edge, which is on the side of the value."""
    side = -1 if value < edge or edge < 0 else 1
    arrow = {"arrowstyle": "->", "color": colour}
    axis.plot(edge, y, alpha=0)  # the edge belongs to the panel
    axis.annotate(told, (edge, y), xytext=(-16 * side, 0), textcoords="offset points", color=colour, fontsize=7.5,
                  ha="left" if side < 0 else "right", va="center", arrowprops=arrow)  # fmt: skip


def _reach(part: pd.DataFrame) -> float:
    """Half the width of a panel, in points: all rules but those that know nothing fit in, with what is drawn of their seeds."""
    drawn = part[["low", "high"]].where(part["n"] >= SEEDS_FOR_INTERVAL)
    ends = 100 * part[["mean"]].join(drawn).abs().max(axis=1)
    competing = ends[~ends.index.isin(["random", "permuted", "pca_at_init"])]
    ends = competing if len(competing) else ends
    reach = max(0.1, float(min(ends.max(), 4 * ends.quantile(interpolation="lower"))))
    pairs = part[(part["n"] == 2) & (100 * part["mean"].abs() <= reach)]
    return max([reach, *(100 * (pairs["mean"].abs() + pairs["sd"] / 2**0.5))])


def _panels(given: Iterable[str], arms: list[str]) -> tuple[Figure, list[tuple[Any, str]]]:
    """One panel a budget with the arms as ticks; [(axis, budget)]."""
    fig, placed = panels(given, 0.5 + 0.19 * len(arms))
    first = placed[0][0]
    first.set_yticks(range(len(arms)), [name(arm) for arm in arms], fontsize=8.5)
    first.set_ylim(len(arms) - 0.5, -0.5)
    columns = max(axis.get_subplotspec().colspan.stop for axis, _ in placed)
    for axis, _ in placed:
        axis.xaxis.set_major_locator(MaxNLocator(4 if columns > 2 else 6))
    return fig, placed


def panels(given: Iterable[str], height: float) -> tuple[Figure, list[tuple[Any, str]]]:
    """One panel a budget, named by it, a row of that height for each unit of cost; [(axis, budget)]."""
    kinds: dict[str, list[str]] = {}
    for budget in sorted(dict.fromkeys(given), key=budgets.parse):
        kinds.setdefault(budgets.parse(budget).kind, []).append(budget)
    columns = max(map(len, kinds.values()))
    fig, axes = plt.subplots(len(kinds), columns, figsize=(WIDE, 0.45 + len(kinds) * height), sharey=True, squeeze=False)
    placed = []
    for row, of_kind in zip(axes, kinds.values(), strict=True):
        for axis, budget in zip(row, of_kind, strict=False):
            axis.set_title(budget_name(budget), loc="left")
            placed.append((axis, budget))
        for axis in row[len(of_kind) :]:
            axis.set_visible(False)
    return fig, placed


def _across(axis: Any, value: float) -> None:
    """A dashed line where it does not push the data together; else an arrow to where it lies."""
    low, high = axis.get_xlim()
    if low - (high - low) < value < high + (high - low):
        axis.axvline(value, color=BLACK, linestyle="--", linewidth=1)
    else:
        axis.set_xlim(low, high)
        told = f"dense {value:.1f} →" if value > high else f"← dense {value:.1f}"
        axis.set_title(told, loc="right", fontsize=8)
