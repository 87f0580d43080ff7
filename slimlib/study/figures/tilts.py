"""What a budget counts decides which way widths should lean: the gain over uniform, against the power of a tilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from slimlib.study import budgets
from slimlib.study.figures.style import BLACK, BLUE, ORANGE, WIDE, look, nothing
from slimlib.study.names import UNITS, name, tilt_power
from slimlib.study.statistics import SEEDS_FOR_INTERVAL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLOURS = {"macs": (BLUE, "-"), "params": (ORANGE, "--")}
BESIDE = ("pca", "neyman")


def gains(against_uniform: pd.DataFrame) -> pd.DataFrame:
    """The rows of `pairing.against(frame, "uniform")` that :func:`gain_by_power` draws, tilts with their `power`: cells of at
    least three seeds, tilts first. Empty where no budget has two tilts."""
    import pandas as pd

    table = against_uniform[against_uniform["n"] >= SEEDS_FOR_INTERVAL]
    table = table.assign(power=[tilt_power(arm) for arm in table["arm"]])
    tilted = table[table["power"].notna()].sort_values(["budget", "power"])
    enough = tilted.groupby("budget")["power"].transform("size") >= 2
    tilted = tilted[enough]
    beside = table[table["arm"].isin(BESIDE) & table["budget"].isin(tilted["budget"])]
    return pd.concat([tilted, beside], ignore_index=True)


def gain_by_power(table: pd.DataFrame) -> Figure:
    """Mean difference from uniform, in points, of tilts by their power, and of rules beside them; a panel a share of the cost, a
    line a unit of cost. Bars are paired t intervals.

    table   of :func:`gains`, of one data set, model and stage
    """
    if table.empty:
        return nothing("no two tilts with three seeds are recorded yet")
    parsed = [budgets.parse(budget) for budget in table["budget"]]
    table = table.assign(unit=[one.kind for one in parsed], value=[one.value for one in parsed])
    values = sorted(table["value"].unique())
    fig, axes = plt.subplots(1, len(values), figsize=(WIDE, 3.2), sharey=True, squeeze=False)
    for axis, value in zip(axes[0], values, strict=True):
        here = table[table["value"] == value]
        powers = sorted({0.0, *here["power"].dropna()})
        places = {arm: powers[-1] + 0.65 + 0.7 * at for at, arm in enumerate(BESIDE)}
        axis.axhline(0, color=BLACK, linewidth=1)
        for unit, shift in zip(UNITS, (-0.035, 0.035), strict=True):
            part, (colour, line) = here[here["unit"] == unit], COLOURS[unit]
            if part.empty:
                continue
            tilted = part[part["power"].notna()].set_index("power")["mean"]
            tilted.loc[0.0] = 0.0  # uniform itself
            tilted = 100 * tilted.sort_index()
            axis.plot(tilted.index + shift, tilted, line, color=colour, linewidth=1.5, label=f"budget of {UNITS[unit]}")
            for row in part.to_dict("records"):
                x = (places[row["arm"]] if row["arm"] in places else row["power"]) + shift
                axis.plot([x, x], [100 * row["low"], 100 * row["high"]], color=colour, linewidth=1.3)
                axis.plot(x, 100 * row["mean"], look(row["arm"])[1] if row["arm"] in places else "o", color=colour, markersize=6)
        labels = [*(f"{p:g}".replace("-", "−") for p in powers), *(name(arm).partition(" (")[0] for arm in places)]
        axis.set_xticks([*powers, *places.values()], labels, fontsize=8, rotation=90 if len(values) > 2 else 0)
        axis.axvline(powers[-1] + 0.35, color=BLACK, linewidth=0.6, linestyle=":")
        axis.grid(False, axis="x")
        axis.set_title(f"{100 * value:g} % of the cost kept")
    axes[0, 0].set_ylabel("gain over uniform, points")
    fig.supxlabel("power of the tilt: left, narrow layers are kept wide; right, wide ones", fontsize=10)
    found = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    handles = {label: found[label] for unit in UNITS if (label := f"budget of {UNITS[unit]}") in found}
    fig.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)
    return fig
