"""Draw book/_static/method.svg, the method in one picture, from the recorded spectra of the published ResNet-20.

The file tells which record it was drawn from, and the digest of what is drawn, so that a test can hold it to that.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import slimlib
from slimlib import study
from slimlib.study import figures
from slimlib.study.untrained import untrained_network

FIGURE = Path(__file__).resolve().parents[1] / "book" / "_static" / "method.svg"
MODEL, LAYER, THRESHOLD = "resnet20:pretrained", "layer2.1.conv1", 0.8


def computed() -> dict[str, Any]:
    """What is drawn: the layer's shape and cumulative contributions, and the widths of all layers; and whose record it is."""
    profile = study.load_profile("laptop")
    run = next(run for run in profile.runs("sensitivity", model=MODEL) if run.stage == "sensitivity")
    (record,) = study.ensure([run], profile.store(), train=False, progress=False)
    spectra = {layer: np.array(values) for layer, values in record["spectra"].items()}
    filters, *position = dict(untrained_network(run.dataset, MODEL, 0)[0].named_modules())[LAYER].weight.shape
    return {
        "record": record["key"], "filters": filters, "positions": int(np.prod(position)),
        "share": [round(float(share), 6) for share in slimlib.cumulative(spectra[LAYER])],
        "full": {layer: len(values) for layer, values in spectra.items()}, "widths": slimlib.widths_at(spectra, THRESHOLD),
    }  # fmt: skip


def digest(drawn: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()


def draw(drawn: dict[str, Any]) -> plt.Figure:
    figures.use_style()
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(8.2, 3), width_ratios=(1, 1.15, 1.25))
    n, p, width = drawn["filters"], drawn["positions"], drawn["widths"][LAYER]

    left.hlines(range(n + 1), 0, p, color=figures.GREY, linewidth=0.6)
    left.vlines((0, p), 0, n, color=figures.GREY, linewidth=0.6)
    left.fill_between((0, p), 3, 4, color=figures.BLUE)
    left.fill_betweenx((0, n), 0.62 * p, 0.64 * p, color=figures.ORANGE)
    for told, at, colour in (("a filter", (0.05 * p, 4.6), figures.BLUE), ("a position", (0.66 * p, 0.72 * n), figures.BLACK)):
        left.text(*at, told, color=colour, fontsize=9, va="top", backgroundcolor="white")
    layers = list(drawn["full"])
    number = layers.index(LAYER) + 1
    left.set(title=f"1  layer {number}: filters as rows", xlabel=f"p = {p} positions", ylabel=f"n = {n} filters")
    left.set(xlim=(0, p), ylim=(n, 0), xticks=[], yticks=[])
    left.spines[:].set_visible(False)

    middle.plot(range(1, n + 1), drawn["share"], ".-", color=figures.BLUE)
    middle.axhline(THRESHOLD, color=figures.BLACK, linestyle="--", linewidth=1)
    middle.plot([width, width], [0, drawn["share"][width - 1]], color=figures.RED)
    middle.plot(width, drawn["share"][width - 1], "o", color=figures.RED, markersize=8)
    middle.text(1, THRESHOLD + 0.015, f"t = {THRESHOLD:g}", fontsize=9)
    middle.text(width + 0.8, 0.06, f"w = {width}", fontsize=9.5, color=figures.RED)
    middle.set(title=f"2  layer {number}: share of variance", xlabel="components", ylim=(0, 1.03))

    at = np.arange(len(layers))
    right.bar(at, drawn["full"].values(), 0.75, facecolor="none", edgecolor=figures.GREY)
    kept = [drawn["widths"][layer] for layer in layers]
    colours = [figures.RED if layer == LAYER else figures.BLUE for layer in layers]
    right.bar(at, kept, 0.75, color=colours)
    for x, value in zip(at, kept, strict=True):
        right.text(x, value + 1, value, ha="center", fontsize=8.5)
    right.set(title="3  widths of all layers", xlabel="layer", ylabel="filters")
    right.set_xticks(at, at + 1)
    right.grid(False, axis="x")
    return fig


if __name__ == "__main__":
    drawn = computed()
    told = {"Record": drawn["record"], "Digest": digest(drawn)}
    draw(drawn).savefig(FIGURE, facecolor="white", metadata={"Date": None, "Description": json.dumps(told)})
