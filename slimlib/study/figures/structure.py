"""Figures of one network: its spectra, its path of widths, the widths that rules choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from slimlib.spectrum import cumulative, width_at
from slimlib.study.figures.labels import layer_ticks, place_labels
from slimlib.study.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, PINK, RED, SKY, WIDE, YELLOW, look
from slimlib.study.names import name
from slimlib.study.random_widths import kept_by_chance

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def scree(
    spectra: Mapping[str, Sequence[float]],
    threshold: float | None = None,
    beneath: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Eigenvalues in descending order (left) and their cumulative share (right), one line a layer.

    threshold   drawn across, with the width it gives each layer
    beneath     spectra to compare with, drawn as wide pale bands, so that a line that coincides with its band can be seen
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 2.9))
    for layer, values in (beneath or {}).items():
        _spectrum(left, right, layer, values, color=PALE, linewidth=7, solid_capstyle="round")
    colours = _shades(len(spectra))
    for (layer, values), colour in zip(spectra.items(), colours, strict=True):
        share = _spectrum(left, right, layer, values, color=colour, marker="." if len(values) < 40 else None)
        if threshold is not None:
            width = width_at(np.asarray(values, float), threshold, layer)
            right.plot(width, share[width - 1], "o", color=colour, markeredgecolor=BLACK, markersize=7)
    if threshold is not None:
        right.axhline(threshold, color=BLACK, linestyle="--", linewidth=1)
        right.annotate(
            f"threshold {threshold:g}", (0.02, threshold), xycoords=("axes fraction", "data"), va="bottom"
        )
    left.set(xlabel="component", ylabel="eigenvalue (variance)", yscale="log", title="scree curve")
    right.set(
        xlabel="components kept", ylabel="cumulative contribution", ylim=(0, 1.03), title="share of the variance kept"
    )
    if 1 < len(spectra) + len(beneath or {}) <= 12:
        fig.legend(loc="outside lower center", ncols=min(len(spectra) + len(beneath or {}), 5))
    return fig


def _spectrum(left: Any, right: Any, layer: str, values: Sequence[float], **style: Any) -> np.ndarray:
    """One layer's two curves; returns the cumulative share."""
    values = np.asarray(values, float)
    share, index = cumulative(values, layer), np.arange(1, len(values) + 1)
    positive = values > values[0] * 1e-12  # what is zero by the rank bound has no place on a logarithmic axis
    left.plot(index[positive], values[positive], label=layer, **style)
    right.plot(index, share, **style)
    return share


def widths(plans: Mapping[str, Mapping[str, int]], full_widths: Mapping[str, int]) -> Figure:
    """Kept filters of every layer (bars) inside the dense width (outline), one panel a rule.

    plans   {arm: {layer: width}}
    """
    layers, rows = list(full_widths), len(plans)
    fig, axes = plt.subplots(rows, 1, figsize=(WIDE, 0.6 + 1.25 * rows), sharex=True, sharey=True, squeeze=False)
    full = np.array([full_widths[layer] for layer in layers])
    for axis, (arm, kept) in zip(axes[:, 0], plans.items(), strict=True):
        at = np.arange(len(layers))
        axis.bar(at, full, 0.8, facecolor="none", edgecolor=GREY, linewidth=1, label="dense")
        axis.bar(at, [kept[layer] for layer in layers], 0.8, color=look(arm)[0], label="kept")
        if len(layers) <= 16:
            for x, layer in enumerate(layers):
                told = f"{kept[layer]}/{full_widths[layer]}"
                axis.annotate(told, (x, full_widths[layer]), (0, 1), textcoords="offset points", ha="center", fontsize=7)
        axis.set(ylim=(0, 1.15 * full.max()))
        axis.set_title(name(arm), loc="left")
        axis.grid(False, axis="x")
    fig.supylabel("filters", fontsize=10)
    layer_ticks(axes[-1, 0], layers, whole_width=True)
    return fig


def budget_path(table: pd.DataFrame, marks: Mapping[str, float] | None = None) -> Figure:
    """Parameters and MACs kept against the threshold, along the whole path of plans.

    table   of `WidthPath.table()`: columns level, params, macs (fractions of the dense network)
    marks   {label: threshold} drawn as vertical lines
    """
    fig, axis = plt.subplots(figsize=(WIDE * 0.72, 3.2))
    for unit, label, colour, style in (("params", "parameters", BLUE, "-"), ("macs", "MACs", RED, "--")):
        axis.step(table["level"], table[unit], where="post", label=label, color=colour, linestyle=style)
    for label, at in (marks or {}).items():
        axis.axvline(at, color=GREY, linewidth=1, linestyle=":")
        axis.annotate(
            f" {label}", (at, 0.02), xycoords=("data", "axes fraction"), rotation=90, va="bottom", fontsize=8.5
        )
    axis.set(xlabel="threshold: share of each layer's variance", ylabel="kept share of the network", ylim=(0, 1.03))
    axis.legend()
    return fig


def trained_and_untrained(table: pd.DataFrame) -> Figure:
    """Cumulative contribution of each layer's components, trained beside untrained, one panel a layer.

    table   columns layer, component (as a share of the layer's width), share, weights ("trained" or "untrained"), seed
    """
    layers = list(dict.fromkeys(table["layer"]))
    columns = min(5, len(layers))
    rows = -(-len(layers) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDE, 0.8 + 1.3 * rows), sharex=True, sharey=True, squeeze=False)
    looks = {"trained": (BLUE, "-", 1.8), "untrained": (GREY, "--", 1.0)}
    for axis, layer in zip(axes.flat, layers, strict=False):
        for (weights, _), part in table[table["layer"] == layer].groupby(["weights", "seed"]):
            colour, style, width = looks[weights]
            axis.plot(part["component"], part["share"], style, color=colour, linewidth=width, label=weights)
        axis.set_title(layer, fontsize=8.5)
    for axis in axes.flat[len(layers) :]:
        axis.set_visible(False)
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)
    fig.supxlabel("components kept, as a share of the layer's width", fontsize=10)
    fig.supylabel("share of variance", fontsize=10)
    return fig


SPREAD = 1.8
"""Factor of n / p that the layers of one shape take up at most, and that the axis goes on at both ends."""


def widths_by_shape(table: pd.DataFrame, threshold: float) -> Figure:
    """Kept fraction of each layer against its shape: trained (dot) above or below untrained (ring), beside the curve of chance.

    table   of `random_widths.by_shape` at ``threshold``

    Layers of equal shape stand side by side, in the order of the network, around the place where they belong. Up to six
    layers of one draw are named.
    """
    fig, axis = plt.subplots(figsize=(WIDE, 3.4))
    pairs = table.drop_duplicates(["layer", "draw"]).sort_values(["aspect"], kind="stable")
    # centring takes one position of many: the same shape but for that is one place
    shape = (pairs["aspect"] / pairs["aspect"].shift() > 1.03).cumsum()
    place: dict[tuple[str, int], float] = {}
    for _, here in pairs.sort_index().groupby(shape):
        step = min(1.06, SPREAD ** (1 / max(1, len(here) - 1)))
        at = here["aspect"].mean() * step ** (np.arange(len(here)) - (len(here) - 1) / 2)
        place |= dict(zip(zip(here["layer"], here["draw"], strict=True), at, strict=True))
    ends = pairs["aspect"].min() / SPREAD, pairs["aspect"].max() * SPREAD
    line = np.geomspace(*ends, 200)
    axis.plot(line, kept_by_chance(line, threshold), color=BLACK, linewidth=1.2, label="random filters (Marchenko–Pastur)")
    x = [place[pair] for pair in zip(table["layer"], table["draw"], strict=True)]
    drawn = table.assign(x=x).pivot(index="x", columns="weights", values="kept")
    axis.vlines(drawn.index, drawn["untrained"], drawn["trained"], color=PALE, linewidth=1.4, zorder=1)
    looks = (("untrained", look("pca_at_init")[0], {"markerfacecolor": "none", "markersize": 7}),
             ("trained", look("pca")[0], {"markersize": 4}))  # fmt: skip
    for weights, colour, style in looks:
        axis.plot(drawn.index, drawn[weights], "o", color=colour, label=weights, **style)
    axis.set(xscale="log", xlim=ends, ylim=(0, 1.03), ylabel=f"kept fraction at {threshold:g}")
    axis.set_xlabel("n / p: filters over positions, less one for centring (log scale)")
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    fig.legend(loc="outside lower center", ncols=3)
    if table["draw"].nunique() == 1 and len(place) <= 6:
        place_labels(axis, {layer: (place[layer, draw], drawn["trained"][place[layer, draw]]) for layer, draw in place})
    return fig


def _shades(count: int) -> list[Any]:
    """Distinct colours for a few layers; for many, shades from the first layer (dark) to the last (light)."""
    few = [BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW]
    return few[:count] if count <= len(few) else list(mpl.colormaps["cividis"](np.linspace(0, 0.92, count)))
