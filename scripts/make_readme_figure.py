"""Draw book/_static/readme.png from the records of the quick profile (run `make book` first)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from slimlib import study
from slimlib.study import figures

figures.use_style()
profile = study.load_profile("quick")
records = study.ensure(profile.runs("pruning", model="vgg_small"), profile.store(), train=False)
if not records:
    raise SystemExit("no records of the quick profile: run `make book` first")
frame = study.to_frame(records)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for record, arm in zip(records, frame["arm"], strict=True):
    if record["run"]["seed"] == 0:
        colour, marker = figures.look(arm)
        kept = [width / record["full_widths"][layer] for layer, width in record["widths"].items()]
        left.plot(list(record["widths"]), kept, color=colour, marker=marker, label=figures.name(arm))
left.set(ylabel="share of filters kept", ylim=(0, 1))
left.legend(fontsize=8)
for y, (arm, part) in enumerate(frame.groupby("arm", sort=False)):
    colour, marker = figures.look(arm)
    right.plot(100 * part["test_accuracy"], [y] * len(part), marker, color=colour)
right.axvline(100 * frame["dense_test_accuracy"].mean(), color="k", linestyle=":", label="dense")
right.set_yticks(range(frame["arm"].nunique()), [figures.name(arm) for arm in frame["arm"].unique()])
right.set(xlabel=f"test accuracy at {frame['kept_macs'].max():.0%} of the MACs or less (%), a mark a seed")
right.legend(fontsize=8)
fig.tight_layout()
fig.savefig(Path("book/_static/readme.png"), dpi=110, facecolor="white")
