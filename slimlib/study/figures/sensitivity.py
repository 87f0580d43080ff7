"""Figures of layers: what each loses when it alone is cut, and how rules' choices agree with that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from slimlib.study.figures.labels import place_labels
from slimlib.study.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, WIDE, look, nothing
from slimlib.study.names import counted, name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


HARMLESS = ((0.25, 0.75), (0.001, 0.002))
"""Shares removed at which layers that lose hardly anything are counted, and losses of accuracy below which that is hardly any."""


def sensitivity_curves(table: pd.DataFrame) -> Figure:
    """Small multiples: accuracy against the share of one layer's filters that is pruned, one panel a layer.

    table   of `slimlib.sensitivity`

    The figure's label counts the layers that lose next to nothing, see `HARMLESS`.
    """
    layers = list(dict.fromkeys(table["group"]))
    columns = len(layers) if len(layers) <= 6 else 5 if len(layers) <= 15 else 7
    rows, height = -(-len(layers) // columns), 1.3 if len(layers) <= 15 else 1.05
    fig, axes = plt.subplots(rows, columns, figsize=(WIDE, 0.5 + height * rows), sharex=True, sharey=True, squeeze=False)
    for axis, layer in zip(axes.flat, layers, strict=False):
        part = table[table["group"] == layer].sort_values("ratio")
        axis.plot(part["ratio"], 100 * part["accuracy"], marker="o", markersize=3.5, color=BLUE)
        axis.set_title(layer, fontsize=8.5 if columns < 6 else 7.5)
    for axis in axes.flat[len(layers) :]:
        axis.set_visible(False)
    fig.supxlabel("share of the layer's filters removed", fontsize=10)
    fig.supylabel("accuracy (%)", fontsize=10)
    fig.set_label(_harmless(table))
    return fig


def _harmless(table: pd.DataFrame) -> str:
    """ "Without 25 % of its filters the loss is below 0.1 points in 26 of 27 layers, below 0.2 in 27. ...": of ratios scanned."""
    told = []
    for ratio in HARMLESS[0]:
        drops = table.loc[np.isclose(table["ratio"], ratio), "drop"]
        if len(drops):  # a drop of 0.1 points is not below that, whatever its last digit
            (least, some), (most, more) = ((100 * limit, int((drops < limit - 1e-9).sum())) for limit in HARMLESS[1])
            told.append(f"Without {100 * ratio:g} % of its filters the loss is below {least:g} points in {some} of "
                        f"{counted(len(drops), 'layer')}, below {most:g} in {more}.")
    return " ".join(told)


def sensitivity_map(table: pd.DataFrame, kept: Mapping[str, Mapping[str, float]]) -> Figure:
    """Accuracy drop by layer and ratio as a heat map, beside the fraction of each layer that rules keep.

    table   of `slimlib.sensitivity`;  kept   {arm: {layer: fraction}}
    """
    drops = table[table["ratio"] > 0].pivot(index="group", columns="ratio", values="drop")
    drops = 100 * drops.loc[list(dict.fromkeys(table["group"]))]
    height = max(2.6, 0.9 + 0.2 * len(drops))
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDE, height), sharey=True, width_ratios=(1.2, 1))
    # square roots: one layer that loses much would else make all others look alike
    scale = PowerNorm(0.5, vmin=0, vmax=max(float(drops.max().max()), 1e-9), clip=True)
    image = left.imshow(drops, aspect="auto", cmap="cividis_r", norm=scale)
    left.set_xticks(range(drops.shape[1]), [f"{ratio:g}" for ratio in drops.columns])
    left.set_yticks(range(len(drops)), drops.index, fontsize=8)
    left.set(xlabel="share of filters removed", title="measured: loss of accuracy (points)")
    left.grid(False)
    fig.colorbar(image, ax=left, shrink=0.85, ticks=MaxNLocator(3))  # near the top of a root scale more would meet
    for arm, fractions in kept.items():
        colour, marker = look(arm)
        right.plot(
            [fractions[layer] for layer in drops.index],
            range(len(drops)),
            marker=marker,
            color=colour,
            label=name(arm),
            linewidth=1,
        )
    right.set(xlabel="kept fraction", xlim=(0, 1.03), title="chosen: what stays")
    right.tick_params(labelleft=False)
    fig.legend(loc="outside lower center", ncols=min(len(kept), 4))
    return fig


NAMED = 10  # layers with a name in a scatter


def agreement(
    layers: pd.DataFrame, ratio: float, label: str = "kept fraction", ringed: Collection[str] = (), of: str = "ringed"
) -> Figure:
    """A rule's score against the measured drop, one mark a layer, by stage.

    layers  of `layers.layer_table` for `ratio`, the share of a layer's filters that was removed to measure its drop
    ringed  layers to draw a ring around, and to name;  of   what the legend calls them

    Up to ten layers are all named, of more the ten that lose most. Of fewer than four there is no picture: they are listed.
    """
    if len(layers) < 4:
        listed = "; ".join(f"{layer}: {row['score']:.3g}, {100 * row['drop']:.1f}" for layer, row in layers.iterrows())
        return nothing(f"{len(layers)} layers are too few for a scatter. {label}, and points lost: {listed}")
    fig, axis = plt.subplots(figsize=(WIDE, 4.4))
    looks = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (GREY, "v"))
    for (stage, part), (colour, marker) in zip(layers.groupby("stage", sort=False), cycle(looks), strict=False):
        axis.plot(part["score"], 100 * part["drop"], marker, color=colour, label=f"{stage} filters")
    if len(around := layers[layers.index.isin(ringed)]):
        axis.plot(around["score"], 100 * around["drop"], "o", color=BLACK, markerfacecolor="none", markersize=9, label=of)
    axis.margins(0.08, 0.12)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.set(xlabel=label, ylabel=f"loss without {100 * ratio:g} % of the layer (points)")
    fig.legend(loc="outside right upper")
    named = layers[layers.index.isin([*layers.nlargest(NAMED, "drop").index, *ringed])]
    if len(named) < len(layers):
        fig.set_label(f"Named are the {NAMED} layers that lose most{' and those ringed' if len(around) else ''}.")
        axis.set_title(fig.get_label(), loc="left", fontsize=8.5)
    place_labels(axis, {str(layer): (row["score"], 100 * row["drop"]) for layer, row in named.iterrows()})
    return fig
