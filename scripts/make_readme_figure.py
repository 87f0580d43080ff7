"""Draw book/_static/readme.png from committed records: widths of the published ResNet-20, and its accuracy at equal MACs.

The file tells which records it was drawn from, and their digest, so that a test can hold it to them.
"""

import hashlib
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from slimlib import study
from slimlib.study import figures

FIGURE = Path(__file__).resolve().parents[1] / "book" / "_static" / "readme.png"
MODEL, BUDGETS = "resnet20:pretrained", ("macs:0.35", "macs:0.5")
ARMS = ("neyman", "best_tilt", "pca", "uniform")


def planned() -> list[study.Run]:
    """The runs of these rules, and of all tilts, among which the best is chosen on validation images."""
    return [
        run for run in study.load_profile("laptop").runs("better_rule", model=MODEL)
        if run.stage == "prune" and run.budget in BUDGETS and (run.arm in ARMS or run.rule == "tilt")
    ]  # fmt: skip


def records() -> list[dict]:
    """The records that the figure shows: of the tilts those there are, of the other rules all, or SystemExit."""
    found = study.ensure(planned(), study.load_profile("laptop").store(), train=False, progress=False)
    there = {record["key"] for record in found}
    if missing := [run.label for run in planned() if run.rule != "tilt" and run.key not in there]:
        raise SystemExit(f"no record of {', '.join(missing)}: the figure waits for it")
    return found


def digest(found: list[dict]) -> str:
    """SHA-256 of what is drawn: keys, widths and accuracies."""
    drawn = sorted((record["key"], record["widths"], record["metrics"]["test_accuracy"]) for record in found)
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()


def draw(found: list[dict]) -> plt.Figure:
    figures.use_style()
    frame = study.statistics.with_best_tilt(study.to_frame(found), planned())
    of_key = {record["key"]: record for record in found}
    fig, (left, *panels) = plt.subplots(1, 3, figsize=(9, 2.9), width_ratios=(1.5, 1, 1))
    for arm in ARMS:
        colour, marker = figures.look(arm)
        keys = frame.loc[(frame["arm"] == arm) & (frame["budget"] == BUDGETS[0]), "key"]
        if len(keys):
            record = of_key[keys.iloc[0]]
            kept = [width / record["full_widths"][layer] for layer, width in record["widths"].items()]
            left.plot(range(1, len(kept) + 1), kept, color=colour, marker=marker, label=figures.name(arm),
                      linestyle="--" if arm == "best_tilt" else "-")
    left.set(xlabel="block", ylim=(0, 1), title=f"share of filters kept, {figures.budget_name(BUDGETS[0])}")
    left.set_xticks(range(1, len(kept) + 1))
    left.legend(fontsize=8)
    seeds = frame.loc[frame["arm"] != "best_tilt", "seed"].nunique()
    for axis, budget in zip(panels, BUDGETS, strict=True):
        for y, arm in enumerate(ARMS):
            colour, marker = figures.look(arm)
            accuracy = 100 * frame.loc[(frame["arm"] == arm) & (frame["budget"] == budget), "test_accuracy"]
            axis.plot(accuracy, [y] * len(accuracy), marker, color=colour, alpha=0.5, markersize=5)
            axis.plot(accuracy.mean(), y, marker, color=colour, markersize=9, markeredgecolor="black")
            if len(accuracy) < seeds:
                axis.text(0.02, y, f"{len(accuracy)} of {seeds} seeds", transform=axis.get_yaxis_transform(), fontsize=7,
                          ha="left", va="center")
        axis.set_yticks(range(len(ARMS)), [figures.name(arm) for arm in ARMS] if axis is panels[0] else [])
        axis.set(title=f"accuracy, {figures.budget_name(budget)}", ylim=(len(ARMS) - 0.5, -0.5))
    dense = 100 * frame["dense_test_accuracy"].mean()
    told = f"Published ResNet-20 on CIFAR-10 (dense {dense:.1f} %), fine-tuned for 2 epochs; {seeds} seeds and their mean, %"
    fig.supxlabel(told, fontsize=9)
    return fig


if __name__ == "__main__":
    drawn = records()
    told = {"Records": " ".join(sorted(record["key"] for record in drawn)), "Digest": digest(drawn)}
    draw(drawn).savefig(FIGURE, dpi=110, facecolor="white", metadata=told)
