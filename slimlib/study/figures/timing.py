"""Figures of time: what a slimmed network saves on a clock, beside what its multiply-adds promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from slimlib.study.figures.style import BLACK, GREY, PALE, WIDE, look
from slimlib.study.milliseconds import busy
from slimlib.study.names import name

APART = 0.011
"""Shares of MACs between the marks of two rules, which would lie on each other where rules keep the same."""

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def latency_against_macs(table: pd.DataFrame) -> Figure:
    """Time against MACs, both as shares of the dense network's; one panel a network and batch size, quartiles as bars.

    On the dashed diagonal a saved multiply-add saves its share of the time; above it, less. Hollow marks are widths
    rounded to multiples. Panels have one scale, but for those in which the machine was busy: they are grey, and say so. Marks of
    different rules are moved apart a little, along the MACs.

    table   of `slimlib.latency.measure`, with network, arm, rounded (bool) and kept_macs
    """
    panels = list(table.groupby(["device", "network", "batch_size"], sort=False))
    columns = min(len(panels), table["batch_size"].nunique())
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDE, 0.7 + 2.5 * rows), sharex=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    told = [*dict.fromkeys((arm, bool(r)) for arm, r in zip(table["arm"], table["rounded"], strict=True) if arm != "dense")]
    moved = {which: APART * (at - (len(told) - 1) / 2) for at, which in enumerate(told)}
    tops = [_top(part) for _, part in panels if not _says_nothing(part)]
    handles = {}
    for axis, ((device, network, batch), part) in zip(axes.flat, panels, strict=False):
        says_nothing = _says_nothing(part)
        axis.plot([0, 1], [0, 1], "--", color=BLACK, linewidth=1)
        for row in part.to_dict("records"):
            colour, marker = look(row["arm"])
            x, y = row["kept_macs"] + moved.get((row["arm"], bool(row["rounded"])), 0), row["relative"]
            drawn = PALE if says_nothing else colour
            axis.plot([x, x], [row["relative_low"], row["relative_high"]], color=drawn, linewidth=1.2)
            axis.plot(x, y, marker, color=drawn, linestyle="none", markersize=6,
                      markerfacecolor="white" if row["rounded"] else drawn)
            legend = name(row["arm"]) + (", rounded" if row["rounded"] else "")
            handles.setdefault(legend, axis.plot([], [], marker, color=colour, linestyle="none", markersize=6,
                                                 markerfacecolor="white" if row["rounded"] else colour)[0])
        axis.set_title(f"{network}, {device.upper()}, batch of {batch}", loc="left")
        axis.set(xlim=(0, 1.04), ylim=(0, _top(part) if says_nothing else max(tops)))
        if says_nothing:
            axis.set_facecolor("#F1F1F1")
            axis.text(0.97, 0.05, "the machine was busy:\nnothing is concluded", transform=axis.transAxes, ha="right",
                      va="bottom", color=GREY, style="italic", fontsize=9)
    fig.supxlabel("multiply-adds, as a share of the dense network's", fontsize=10)
    fig.supylabel("time, as a share of the dense network's", fontsize=10)
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return fig


def _says_nothing(part: pd.DataFrame) -> bool:
    """Whether the machine was busy while a panel's networks were timed."""
    dense = part[part["arm"] == "dense"]
    return len(dense) > 0 and busy(dense.iloc[0])


def _top(part: pd.DataFrame) -> float:
    return max(1.08, 1.05 * float(np.nanmax(part["relative_high"])))
