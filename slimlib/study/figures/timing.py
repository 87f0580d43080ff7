"""Figures of time: what a slimmed network saves on a clock, beside what its multiply-adds promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from slimlib.study.figures.style import BLACK, WIDE, look
from slimlib.study.names import name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def latency_against_macs(table: pd.DataFrame) -> Figure:
    """Time against MACs, both as shares of the dense network's; one panel a network and batch size, quartiles as bars.

    On the dashed diagonal a saved multiply-add saves its share of the time; above it, less. Hollow marks are widths
    rounded to multiples.

    table   of `slimlib.latency.measure`, with network, arm, rounded (bool) and kept_macs
    """
    panels = list(table.groupby(["device", "network", "batch_size"], sort=False))
    columns = min(len(panels), table["batch_size"].nunique())
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDE, 0.7 + 2.5 * rows), sharex=True, squeeze=False)
    handles = {}
    for axis, ((device, network, batch), part) in zip(axes.flat, panels, strict=False):
        axis.plot([0, 1], [0, 1], "--", color=BLACK, linewidth=1)
        for row in part.to_dict("records"):
            colour, marker = look(row["arm"])
            x, y = row["kept_macs"], row["relative"]
            axis.plot([x, x], [row["relative_low"], row["relative_high"]], color=colour, linewidth=1.2)
            (mark,) = axis.plot(
                x, y, marker, color=colour, linestyle="none", markersize=7, markerfacecolor="white" if row["rounded"] else colour
            )
            told = name(row["arm"]) + (", rounded" if row["rounded"] else "")
            handles.setdefault(told, mark)
        axis.set_title(f"{network}, {device.upper()}, batch of {batch}", loc="left")
        top = max(1.08, 1.05 * float(np.nanmax(part["relative_high"])))
        axis.set(xlim=(0, 1.04), ylim=(0, top))
    fig.supxlabel("multiply-adds, as a share of the dense network's", fontsize=10)
    fig.supylabel("time, as a share of the dense network's", fontsize=10)
    fig.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return fig
