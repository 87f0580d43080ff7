"""The book's figures: one style, one colour and marker a rule, the data behind each figure written beside it.

Every function takes a table (or several, by name) and returns a matplotlib Figure; `show` displays it once and writes
the data. Figures carry their own light panel, so that they read equally well on a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from slimlib.errors import SlimlibError
from slimlib.study.profiles import load_profile

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe & Ito's colours, safe for all common kinds of colour blindness, with two greys; where a colour returns, the
# marker differs, so that no two rules look alike in grey either.
BLUE, SKY, GREEN, YELLOW, ORANGE, RED, PINK = (
    "#0072B2",
    "#56B4E9",
    "#009E73",
    "#B8A500",
    "#E69F00",
    "#D55E00",
    "#CC79A7",
)
GREY, BLACK = "#7A7A7A", "#222222"
LOOKS: dict[str, tuple[str, str]] = {
    "dense": (BLACK, "*"),
    "pca": (BLUE, "o"),
    "pca_uncentred": (SKY, "o"),
    "pca_folded": (BLUE, "s"),
    "pca_budgeted": (BLUE, "D"),
    "pca_budgeted(folded=True)": (SKY, "D"),
    "activation_pca": (GREEN, "o"),
    "neyman": (RED, "P"),
    "neyman_score": (RED, "P"),
    "sensitivity": (PINK, "X"),
    "uniform": (ORANGE, "^"),
    "global_l1": (GREEN, "v"),
    "global_bn": (YELLOW, "v"),
    "hand": (PINK, "h"),
    "tilt": (ORANGE, "<"),
    "best_tilt": (ORANGE, ">"),
    "random": (GREY, "x"),
    "permuted": (GREY, "+"),
    "pca_at_init": (GREY, "d"),
    "depth": (GREY, "1"),
}
NAMES = {
    "pca": "PCA (3AS)",
    "pca_uncentred": "PCA, uncentred",
    "pca_folded": "PCA, BN folded in",
    "pca_budgeted": "PCA, budgeted",
    "pca_budgeted(folded=True)": "PCA, budgeted, folded",
    "activation_pca": "PCA of responses",
    "pca_at_init": "PCA, untrained",
    "global_l1": "global $\\ell_1$",
    "global_bn": "global BN",
    "neyman": "Neyman (ours)",
    "neyman_score": "V / T",
    "best_tilt": "best tilt",
    "sensitivity": "measured sensitivity",
    "hand": "by hand (Li et al.)",
}
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "slimlib",
    "savefig.bbox": "tight",
    "figure.dpi": 100,
}
WIDE = 7.4  # inches: the text width of the book


def use_style() -> None:
    """Make this the style of all figures from here on, SVG what notebooks embed, and tables show their cells whole.

    pandas cuts long cells off by default: a record's key or a hash that cannot be read in full cannot be followed.
    """
    import pandas as pd
    import seaborn as sns

    pd.set_option("display.max_colwidth", None)

    sns.set_theme(style="ticks", rc=STYLE)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})  # the same figure is the same file
    except (ImportError, AttributeError):  # not in a notebook
        pass


def look(arm: str) -> tuple[str, str]:
    """Colour and marker of an arm; variants without one of their own look as their rule does."""
    return LOOKS.get(arm) or LOOKS.get(re.split(r"[(]", arm)[0]) or (GREY, ".")


def name(arm: str) -> str:
    """What figures and tables call an arm: "tilt(power=-0.5)" is "tilt −0.5"."""
    tilt = re.fullmatch(r"tilt\(power=(.+)\)", arm)
    if tilt:
        return f"tilt {float(tilt[1]):+g}".replace("-", "−")
    return NAMES.get(arm) or NAMES.get(re.split(r"[(]", arm)[0]) or arm.replace("_", " ")


def show(
    fig: Figure, data: pd.DataFrame, name: str, profile: str = "quick", folder: str | Path | None = None
) -> Figure:
    """Write the data behind a figure to book/results/<profile>/data/<name>.csv and return the figure.

    As the last expression of a cell it is displayed exactly once. `folder` replaces the profile's folder.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise SlimlibError(f"name={name!r} becomes a file name: use small letters, digits, - and _")
    target = (Path(folder) if folder is not None else load_profile(profile).results / "data") / f"{name}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    data.to_csv(target, index=not _plain_index(data), float_format="%.8g")
    plt.close(fig)  # the notebook's backend would show it a second time
    return fig


def scree(spectra: Mapping[str, Sequence[float]], threshold: float | None = None) -> Figure:
    """Eigenvalues in descending order (left) and their cumulative share (right), one line a layer.

    threshold   drawn across, with the width it gives each layer
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDE, 2.9))
    colours = _shades(len(spectra))
    for (layer, values), colour in zip(spectra.items(), colours, strict=True):
        values = np.asarray(values, float)
        if not values.sum() > 0:
            raise SlimlibError(f"spectra: {layer!r} has no variance, so there is no share of it to draw")
        share, index = values.cumsum() / values.sum(), np.arange(1, len(values) + 1)
        positive = values > values[0] * 1e-12  # what is zero by the rank bound has no place on a logarithmic axis
        left.plot(
            index[positive], values[positive], color=colour, marker="." if len(values) < 40 else None, label=layer
        )
        right.plot(index, share, color=colour, marker="." if len(values) < 40 else None)
        if threshold is not None:
            width = int(np.searchsorted(share, threshold * (1 - 1e-12)) + 1)
            right.plot(width, share[width - 1], "o", color=colour, markeredgecolor=BLACK, markersize=7)
    if threshold is not None:
        right.axhline(threshold, color=BLACK, linestyle="--", linewidth=1)
        right.annotate(
            f"threshold {threshold:g}", (1, threshold), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    left.set(xlabel="component", ylabel="eigenvalue (variance)", yscale="log", title="scree curve")
    right.set(
        xlabel="components kept", ylabel="cumulative contribution", ylim=(0, 1.03), title="share of the variance kept"
    )
    if 1 < len(spectra) <= 12:
        fig.legend(loc="outside lower center", ncols=min(len(spectra), 5))
    return fig


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
                axis.annotate(str(kept[layer]), (x, kept[layer]), ha="center", va="bottom", fontsize=7.5)
        axis.set_title(name(arm), loc="left")
        axis.grid(False, axis="x")
    fig.supylabel("filters", fontsize=10)
    _layer_ticks(axes[-1, 0], layers)
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


def sensitivity_curves(table: pd.DataFrame, columns: int = 5) -> Figure:
    """Small multiples: accuracy against the share of one layer's filters that is pruned, one panel a layer."""
    layers = list(dict.fromkeys(table["group"]))
    rows = -(-len(layers) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDE, 0.5 + 1.3 * rows), sharex=True, sharey=True, squeeze=False)
    for axis, layer in zip(axes.flat, layers, strict=False):
        part = table[table["group"] == layer].sort_values("ratio")
        axis.plot(part["ratio"], 100 * part["accuracy"], marker="o", markersize=3.5, color=BLUE)
        axis.set_title(layer, fontsize=8.5)
    for axis in axes.flat[len(layers) :]:
        axis.set_visible(False)
    fig.supxlabel("share of the layer's filters removed", fontsize=10)
    fig.supylabel("accuracy (%)", fontsize=10)
    return fig


def sensitivity_map(table: pd.DataFrame, kept: Mapping[str, Mapping[str, float]]) -> Figure:
    """Accuracy drop by layer and ratio as a heat map, beside the fraction of each layer that rules keep.

    table   of `slimlib.sensitivity`;  kept   {arm: {layer: fraction}}
    """
    drops = table[table["ratio"] > 0].pivot(index="group", columns="ratio", values="drop")
    drops = 100 * drops.loc[list(dict.fromkeys(table["group"]))]
    height = max(2.6, 0.9 + 0.2 * len(drops))
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDE, height), sharey=True, width_ratios=(1.2, 1))
    image = left.imshow(drops, aspect="auto", cmap="cividis_r", vmin=0, vmax=max(float(drops.max().max()), 1e-9))
    left.set_xticks(range(drops.shape[1]), [f"{ratio:g}" for ratio in drops.columns])
    left.set_yticks(range(len(drops)), drops.index, fontsize=8)
    left.set(xlabel="share of filters removed", title="measured: loss of accuracy")
    left.grid(False)
    fig.colorbar(image, ax=left, label="percentage points", shrink=0.85)
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


def agreement(layers: pd.DataFrame, label: str = "kept fraction", groups: str = "stage") -> Figure:
    """A rule's score against the measured drop, one mark a layer, by stage (see `claims.layer_table`)."""
    fig, axis = plt.subplots(figsize=(WIDE * 0.6, 3.3))
    looks = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PINK, "D"), (GREY, "v"))
    for (stage, part), (colour, marker) in zip(layers.groupby(groups, sort=False), looks, strict=False):
        axis.plot(part["score"], 100 * part["drop"], marker, color=colour, label=f"{stage} filters")
    for layer, row in layers.iterrows() if len(layers) <= 15 else ():
        axis.annotate(
            str(layer), (row["score"], 100 * row["drop"]), xytext=(4, 3), textcoords="offset points", fontsize=7.5
        )
    axis.set(xlabel=label, ylabel="measured loss of accuracy (points)")
    axis.legend()
    return fig


def budget_name(budget: str) -> str:
    """ "macs:0.35" is "35 % of MACs"."""
    kind, _, value = budget.partition(":")
    if kind == "threshold":
        return f"threshold {value}"
    return f"{100 * float(value):g} % of {'MACs' if kind == 'macs' else 'parameters'}"


def _row_label(row: Mapping[str, Any]) -> str:
    if row.get("label"):
        return str(row["label"])
    budget = budget_name(row["budget"]) if row.get("budget") else {"macs": "MACs", "params": "parameters"}[row["unit"]]
    return f"vs {name(row['rival'])}: {row['dataset']}, {row['model'].removesuffix(':pretrained')}, {budget}"


def _layer_ticks(axis: Any, layers: Sequence[str]) -> None:
    upright = sum(map(len, layers)) <= 70  # characters that fit side by side
    axis.set_xticks(range(len(layers)), layers, rotation=0 if upright else 90, fontsize=8 if len(layers) <= 16 else 7)


def _shades(count: int) -> list[Any]:
    """Distinct colours for a few layers; for many, shades from the first layer (dark) to the last (light)."""
    few = [BLUE, ORANGE, GREEN, RED, PINK, SKY, YELLOW]
    return few[:count] if count <= len(few) else list(mpl.colormaps["cividis"](np.linspace(0, 0.92, count)))


def _plain_index(data: pd.DataFrame) -> bool:
    return data.index.name is None and list(data.index) == list(range(len(data)))
