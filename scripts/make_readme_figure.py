"""Draw book/_static/readme.png and readme.svg from committed records: the published ResNet-20 at equal MACs.

The files tell which records they were drawn from, and their digest, so that a test can hold them to those.
"""

import hashlib
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import MultipleLocator, PercentFormatter

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
    """The figure, rules from the most accurate down."""
    figures.use_style()
    frame = study.pairing.with_best_tilt(study.to_frame(found), planned())
    frame = frame[frame["arm"].isin(ARMS)]
    accuracies = 100 * frame.set_index(["arm", "budget"])["test_accuracy"]
    arms = accuracies.groupby(["arm", "budget"]).mean().groupby("arm").mean().sort_values(ascending=False).index
    of_key = {record["key"]: record for record in found}
    fig, (left, *panels) = plt.subplots(1, 3, figsize=(8, 3.5), width_ratios=(1.5, 1, 1))
    for arm in arms:
        colour, marker = figures.look(arm)
        keys = frame.loc[(frame["arm"] == arm) & (frame["budget"] == BUDGETS[0]), "key"]
        if len(keys):
            record = of_key[keys.iloc[0]]
            kept = [width / record["full_widths"][layer] for layer, width in record["widths"].items()]
            left.plot(range(1, len(kept) + 1), kept, color=colour, marker=marker)
    left.set(xlabel="block", ylabel="filters kept", ylim=(0, 1), title=f"widths, {figures.budget_name(BUDGETS[0])}")
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set_xticks(range(1, len(kept) + 1))
    seeds = frame.loc[frame["arm"] != "best_tilt", "seed"].nunique()
    for axis, budget in zip(panels, BUDGETS, strict=True):
        for y, arm in enumerate(arms):
            colour, marker = figures.look(arm)
            if (arm, budget) not in accuracies.index:
                continue
            accuracy = accuracies.loc[[(arm, budget)]]
            axis.plot(accuracy, [y] * len(accuracy), marker, color=colour, alpha=0.5, markersize=5)
            axis.plot(accuracy.mean(), y, marker, color=colour, markersize=10, markeredgecolor="black", markeredgewidth=0.8)
            few = f" ({len(accuracy)} of {seeds} seeds)" if len(accuracy) < seeds else ""
            axis.annotate(f"{accuracy.mean():.1f}{few}", (accuracy.mean(), y), (0, 8), textcoords="offset points", fontsize=9,
                          ha="right" if few else "center")
        axis.set_yticks(range(len(arms)), [])
        axis.xaxis.set_major_locator(MultipleLocator(0.5))
        axis.margins(x=0.1)
        axis.set(xlabel="accuracy (%)", title=figures.budget_name(budget), ylim=(len(arms) - 0.5, -0.5))
    panels[0].set_yticks(range(len(arms)), [figures.name(arm) for arm in arms], fontsize=10)
    dense = 100 * frame["dense_test_accuracy"].mean()
    (epochs,) = {record["run"]["recipe"]["epochs"] for record in found}
    network = f"Published ResNet-20 on CIFAR-10 (dense {dense:.1f} %)"
    fig.supxlabel(f"{network}, fine-tuned for {epochs} epochs; {seeds} seeds, large: their mean", fontsize=10)
    return fig


if __name__ == "__main__":
    drawn = records()
    told = {"Records": " ".join(sorted(record["key"] for record in drawn)), "Digest": digest(drawn)}
    fig = draw(drawn)
    fig.savefig(FIGURE, dpi=130, facecolor="white", metadata=told)
    fig.savefig(FIGURE.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Description": json.dumps(told)})
