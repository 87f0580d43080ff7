"""Figures: looks that can be told apart, nothing outside its panel, names that can be read, captions that say what is drawn."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from docutils import nodes
from sphinx.addnodes import download_reference

from slimlib import book, study
from slimlib.bench import page
from slimlib.rules import RULES
from slimlib.study import figures, names, pairing, random_widths, tables
from slimlib.study.figures import rule as rule_figures
from slimlib.study.figures import tilts
from slimlib.study.figures.comparisons import in_order
from slimlib.study.statistics import SEEDS_FOR_INTERVAL

COMPARED = ("dense", "pca", "neyman", "uniform", "best_tilt", "sensitivity", "global_l1")
# what red-blind and green-blind eyes see of linear RGB (Machado, Oliveira & Fernandes 2009, severity 1)
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])


@pytest.fixture(autouse=True)
def style():
    figures.use_style()
    yield
    plt.close("all")


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of an sRGB colour as that sight sees it."""
    given = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(SIGHTS[sight] @ linear, 0, 1) / (0.95047, 1, 1.08883)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("label", ["tilt, power=1/2", "tilt(power=half)", "my rule (power=2)"])
def test_labels_of_ones_own_are_no_powers(label):
    """What a user calls a rule in `compare` goes through tables and figures as it is."""
    assert names.tilt_power(label) is None and names.name(label) == label.replace("_", " ")
    assert in_order([label, "tilt(power=1.0)", "tilt(power=-1e-1)", "pca"])[:1] == ["pca"]
    assert in_order(["aaa", "depth"]) == ["depth", "aaa"], "behind all that are known"
    assert names.tilt_power("tilt(power=-1e-1)") == -0.1 and names.name("tilt(power=-0.5)") == "tilt −0.5"


@pytest.mark.parametrize("sight", SIGHTS)
def test_rules_that_are_compared_differ_in_colour_for_every_eye(sight):
    seen = {arm: lab(figures.LOOKS[arm][0], sight) for arm in COMPARED}
    near = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(COMPARED, 2)}
    assert min(near.values()) > 15, min(near, key=near.get)


def test_every_rule_has_a_colour_and_a_marker_of_its_own():
    looks = {arm: look for arm, look in figures.LOOKS.items() if arm != "neyman_score"}  # one rule with neyman
    colours, markers = zip(*looks.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(looks)
    assert set(RULES) <= set(looks)


# ---- nothing outside its panel


def outside(fig) -> list[tuple]:
    """Points of lines and of error bars that lie beyond the limits of their axis."""
    found = []
    for axis in fig.axes:
        for artist in (*axis.lines, *axis.collections):
            if not artist.get_transform().contains_branch(axis.transData):
                continue
            paths = [artist.get_path()] if artist in list(axis.lines) else artist.get_paths()
            flat = [p.vertices for p in paths if len(p.vertices)]
            points = np.concatenate(flat) if flat else np.empty((0, 2))
            for at, (low, high), along in zip(points.T, map(sorted, (axis.get_xlim(), axis.get_ylim())), "xy", strict=True):
                if artist.get_transform() != axis.transData and not _follows(artist, axis, along):
                    continue
                slack = 1e-9 * (high - low)
                found += [(axis.get_title(), along, v) for v in at if np.isfinite(v) and not low - slack <= v <= high + slack]
    return found


def _follows(artist, axis, along: str) -> bool:
    """Whether an artist is placed by data along an axis: lines drawn across are so along one only."""
    return artist.get_transform().contains_branch_seperately(axis.transData)["xy".index(along)]


def runs(seeds=5, **accuracy: float) -> pd.DataFrame:
    """Made-up runs: each rule's accuracy, spread over the seeds, at two budgets."""
    rows = [
        {"dataset": "mnist", "model": "lenet5", "stage": "prune", "criterion": "l1", "arm": arm, "rule": arm, "budget": budget,
         "budget_kind": "macs", "seed": seed, "val_accuracy": value, "key": f"{arm}{budget}{seed}",
         "test_accuracy": value + 0.01 * np.sin(7 * seed + len(arm)) + (0.02 if budget == "macs:0.5" else 0)}
        for arm, value in accuracy.items() for budget in ("macs:0.2", "macs:0.5") for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def scan(count: int) -> pd.DataFrame:
    """What `layers.layer_table` gives of so many layers, several close together."""
    generator = np.random.default_rng(count)
    names = [f"layer{n % 3 + 1}.{n // 3}.conv1" for n in range(count)]
    drop, score = generator.beta(0.4, 3, count), 0.5 + 0.1 * generator.normal(size=count)
    return pd.DataFrame({"drop": drop, "score": score, "stage": np.sort(np.arange(count) % 3 * 16 + 16)}, index=names)


def compared(seeds: int) -> pd.DataFrame:
    frame = runs(seeds, pca=0.90, uniform=0.905, neyman=0.91, global_l1=0.5, random=0.3)
    return pairing.against(frame, "uniform").assign(rival="uniform", unit="macs", verdict="inconclusive")


def curves() -> pd.DataFrame:
    rows = [{"group": layer, "ratio": r, "accuracy": 0.9 - r**2 / 2, "drop": r**2 / 2} for layer in "abc" for r in (0, 0.5, 0.9)]
    return pd.DataFrame(rows)


def growth() -> pd.DataFrame:
    sizes = [("width", "64", 1.0), ("width", "128", 4.0), ("network", "18", 50.0), ("network", "152", 300.0)]
    columns = ["axis", "size", *page.SIZE_COLUMNS[2:]]
    return pd.DataFrame([(a, s, 1, v, v, v / 2, 1e6 * v, 4e6 * v) for a, s, v in sizes], columns=columns)


def latencies() -> pd.DataFrame:
    row = {"device": "cpu", "network": "VGG", "rounded": False, "kept_macs": 0.5}
    rows = [row | {"arm": arm, "batch_size": b, "relative": t, "relative_low": t / 2, "relative_high": 2 * t}
            for arm, t in (("pca", 0.6), ("uniform", 1.7)) for b in (1, 64)]  # fmt: skip
    return pd.DataFrame(rows)


def targets() -> pd.DataFrame:
    table = pd.DataFrame({"race": ["a", "b"], "kind": ["speed", "time"], "target": [1.5, 1.1], "closeness": [6.0, 0.55],
                          "median": [9.0, 2.0], "low": [1.0, 1.0], "high": [10.0, 3.0], "met": [True, False]})
    return table.assign(ours="slimlib", rival="other")


def kept_shares() -> pd.DataFrame:
    """Of two arms at two budgets; one of them has no record at the second budget yet."""
    rows = [(budget, arm, layer, kept / place, 5)
            for budget, arm, kept in (("params:0.5", "neyman", 1.0), ("macs:0.2", "pca", 0.4), ("macs:0.2", "neyman", 0.6))
            for place, layer in enumerate(("conv1", "conv2", "fc1"), 1)]  # fmt: skip
    return pd.DataFrame(rows, columns=["budget", "arm", "layer", "kept", "n"])


def sampled() -> pd.DataFrame:
    error = np.array([3.0, 1.0, 0.2])
    table = pd.DataFrame({"width": [4, 8, 12], "level": 0.95, "error": error, "low": error / 2, "high": 2 * error})
    return table.assign(exact=error, uncorrelated=error)


def deciding() -> pd.DataFrame:
    """Of a claim in points, with effects far apart and one without an interval, and of one about orders of layers."""
    nan = float("nan")
    rows = [("C1", "paired", 12.0, 11.0, 13.0, "supported"), ("C1", "paired", 0.02, -0.05, 0.09, "not supported"),
            ("K1", "paired", -2.0, nan, nan, "inconclusive"), ("C2", "rank", 0.4, -0.9, 1.0, "inconclusive")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["claim", "kind", "effect", "low", "high", "verdict"])
    return table.assign(title="Widths matter", margin=table["kind"].map({"paired": 0.1, "rank": 0.5}),
                        **{"verdict of the claim": "mixed so far"})  # fmt: skip


def shapes(draws: int = 1) -> pd.DataFrame:
    """Layers of 20 and 200 dimensions, of which the two of 200 and of 199 have the same shape but for one."""
    spectra = [{layer: [9.0, 5, 3 - draw / 9, 1, 0] for layer in "abc"} for draw in range(draws)]
    flat = [{layer: [1.0] * 5 for layer in "abc"}] * draws
    return random_widths.by_shape({"trained": spectra, "untrained": flat}, {"a": 20, "b": 200, "c": 199}, 0.9)


MADE = {
    "claims": lambda: figures.at_a_glance(deciding()),
    "accuracy": lambda: figures.accuracy_by_rule(runs(pca=0.9, uniform=0.8, neyman=0.92, random=0.1), dense=0.99),
    "differences": lambda: figures.differences_by_rule(compared(5)),
    "differences of two seeds": lambda: figures.differences_by_rule(compared(2)),
    "forest": lambda: figures.forest(compared(5), 0.02),
    "control": lambda: figures.control_forest(compared(5), "pca", 0.02),
    "scree": lambda: figures.scree({"a": [5.0, 3.0, 0.0]}, 0.8, {"b": [50.0, 3.0, 1e-3]}),
    "path": lambda: figures.budget_path(pd.DataFrame({"level": [0.1, 1], "params": [0.1, 1], "macs": [0.2, 1]}), {"half": 0.5}),
    "curves": lambda: figures.sensitivity_curves(curves()),
    "map": lambda: figures.sensitivity_map(curves(), {"pca": dict.fromkeys("abc", 1.0)}),
    "agreement": lambda: figures.agreement(scan(9), 0.75),
    "agreement of many": lambda: figures.agreement(scan(27), 0.75),
    "agreement with rings": lambda: figures.agreement(scan(27), 0.75, ringed=scan(27).index[:3]),
    "shapes": lambda: figures.widths_by_shape(shapes(), 0.9),
    "shapes of many draws": lambda: figures.widths_by_shape(shapes(5), 0.9),
    "latency": lambda: figures.latency_against_macs(latencies()),
    "kept shares": lambda: rule_figures.kept_by_layer(kept_shares()),
    "sampling": lambda: rule_figures.sampling_error(sampled(), 16, 0.3),
    "growth": lambda: page.growth(growth()),
    "growth as recorded": lambda: page.growth(page.sizes(page.load()[1])),
    "targets": lambda: page.targets(targets()),
    "targets as recorded": lambda: page.targets(page.comparisons(page.load()[1])),
}


@pytest.mark.parametrize("name", MADE)
def test_no_data_lie_outside_their_panel(name):
    fig = MADE[name]()
    fig.draw_without_rendering()
    assert any(len(axis.lines) or len(axis.collections) for axis in fig.axes) and not outside(fig)


def test_what_lies_outside_is_found():
    fig, axis = plt.subplots()
    axis.axhline(0.5)
    axis.plot([0, 1], [0, 2])
    axis.set_ylim(0, 1)
    assert outside(fig) == [("", "y", 2.0)]


# ---- names of points


@pytest.mark.parametrize("count", [4, 6, 9, 27])
def test_names_of_layers_overlap_nothing_and_stay_in_their_panel(count):
    table = scan(count)
    fig = figures.agreement(table, 0.75, "kept")
    fig.draw_without_rendering()
    (axis,) = fig.axes
    told = {text.get_text(): text.get_window_extent() for text in axis.texts if text.get_text()}
    assert set(told) == set(table.nlargest(10, "drop").index)
    frame = axis.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in told.values())
    assert not [(a, b) for a, b in itertools.combinations(told, 2) if told[a].overlaps(told[b])]
    assert ("10 layers that lose most" in axis.get_title(loc="left")) is (count > 10)


def test_a_scatter_of_three_layers_is_told_in_words():
    fig = figures.agreement(scan(3), 0.75, "kept")
    (axis,) = fig.axes
    assert not axis.lines and all(layer in axis.texts[0].get_text() for layer in scan(3).index)


def test_ringed_layers_are_named_whatever_they_lose():
    table = scan(27)
    ringed = list(table.nsmallest(2, "drop").index)
    fig = figures.agreement(table, 0.75, "kept", ringed, "on a list")
    (axis,) = fig.axes
    assert set(ringed) < {text.get_text() for text in axis.texts} and fig.get_label().endswith("and those ringed.")
    (ring,) = [line for line in axis.lines if line.get_label() == "on a list"]
    assert sorted(ring.get_ydata()) == pytest.approx(sorted(100 * table.loc[ringed, "drop"]))
    assert "ringed" not in figures.agreement(table, 0.75, "kept", ["not here"]).get_label()


@pytest.mark.parametrize("draws", [1, 5])
def test_widths_by_shape_have_a_dot_and_a_ring_a_layer_and_draw(draws):
    table = shapes(draws)
    (axis,) = figures.widths_by_shape(table, 0.9).axes
    drawn = {line.get_label(): line for line in axis.lines}
    for weights in ("trained", "untrained"):
        (x, y), part = drawn[weights].get_data(), table[table["weights"] == weights]
        assert sorted(y) == pytest.approx(sorted(part["kept"])) and len(set(x)) == 3 * draws, "none on top of another"
        assert drawn[weights].get_markerfacecolor() == ("none" if weights == "untrained" else drawn[weights].get_color())
    assert (np.abs(np.log(drawn["trained"].get_xdata() / np.sort(table["aspect"][: 3 * draws]))) < np.log(1.8) / 2).all()
    x, y = drawn["random filters (Marchenko–Pastur)"].get_data()
    np.testing.assert_allclose(y, random_widths.kept_by_chance(x, 0.9))
    assert {text.get_text() for text in axis.texts if text.get_text()} == (set("abc") if draws == 1 else set())


def test_layers_that_lose_next_to_nothing_are_counted_below_their_curves():
    drops = {"a": (0.0, 0.0005, 0.0015), "b": (0.0, 0.001, 0.3), "c": (0.0, -0.01, 0.0019)}
    rows = [{"group": layer, "ratio": ratio, "accuracy": 0.9 - drop, "drop": drop}
            for layer, losses in drops.items() for ratio, drop in zip((0.0, 0.25, 0.75), losses, strict=True)]  # fmt: skip
    told = figures.sensitivity_curves(pd.DataFrame(rows)).get_label()
    assert told == ("Without 25 % of its filters the loss is below 0.1 points in 2 of 3 layers, below 0.2 in 3. "
                    "Without 75 % of its filters the loss is below 0.1 points in 0 of 3 layers, below 0.2 in 2.")
    assert figures.sensitivity_curves(curves()).get_label() == "", "neither share was removed"


def test_ticks_within_stages_are_spoken_of_where_some_are_drawn():
    row = {"dataset": "cifar10", "model": "resnet56", "rule": "pca", "n": 9, "spearman": 0.2, "low": -0.1, "high": 0.5}
    with_ticks, without = (figures.correlation_forest(pd.DataFrame([row | {"within": within}])) for within in (0.3, np.nan))
    assert "tick" in with_ticks.get_label() and "small tick" in with_ticks.get_supxlabel()
    assert "tick" not in without.get_label() + without.get_supxlabel() and "Spearman" in without.get_supxlabel()
    assert figures.correlation_forest(pd.DataFrame()).get_label() == ""


def test_kept_shares_are_drawn_layer_by_layer_in_the_panel_of_their_budget():
    fig = rule_figures.kept_by_layer(kept_shares())
    drawn = {(axis.get_title(loc="left"), line.get_label()): line.get_ydata().tolist()
             for axis in fig.axes for line in axis.lines}  # fmt: skip
    assert drawn == {("20 % of MACs", "PCA (3AS)"): [0.4, 0.2, 0.4 / 3], ("20 % of MACs", "Neyman (ours)"): [0.6, 0.3, 0.6 / 3],
                     ("50 % of parameters", "Neyman (ours)"): [1.0, 0.5, 1.0 / 3]}
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["PCA (3AS)", "Neyman (ours)"]
    assert [label.get_text() for label in fig.axes[-1].get_xticklabels()] == ["conv1", "conv2", "fc1"]


def test_all_claims_have_their_line_and_all_comparisons_their_mark():
    judged = study.judge_all(only=["C2", "K1-chance", "C3"])
    table = figures.deciding_comparisons(judged)
    assert list(dict.fromkeys(table["claim"])) == ["C2", "C3", "K1-chance"], "controls last"
    assert len(table) == sum(len(one.deciding) for one in judged.values())
    points = table[table["claim"] == "C3"]
    np.testing.assert_allclose(points["effect"], 100 * judged["C3"].deciding["mean"])
    deciding = judged["C3"].deciding
    ends = deciding[["low", "high"]].where(deciding["n"] >= SEEDS_FOR_INTERVAL)  # of fewer seeds none is drawn
    np.testing.assert_allclose(points[["low", "high"]], 100 * ends)
    assert points["verdict"].tolist() == judged["C3"].deciding["verdict"].tolist()
    fig = figures.at_a_glance(table)
    marks = [line for axis in fig.axes for line in axis.lines if line.get_marker() in ("o", "s", "D")]
    assert sorted(float(line.get_xdata()[0]) for line in marks) == pytest.approx(sorted(table["effect"]))
    counts = table["verdict"].value_counts()
    assert all(f"{counts.get(told, 0)} are {told}" in fig.get_label() for told in ("supported", "not supported", "inconclusive"))
    titles = [" ".join(label.get_text().split()) for axis in fig.axes for label in axis.get_yticklabels()]
    assert titles == [f"{judged[name].claim.title} {name}" for name in ("C3", "K1-chance", "C2")], "orders of layers below"
    margins = {float(line.get_xdata()[0]) for axis in fig.axes for line in axis.lines if line.get_linestyle() == ":"}
    assert margins == {100 * judged["C3"].claim.margin, judged["C2"].claim.margin}
    assert [text.get_text() for text in fig.axes[0].texts] == [judged["C3"].told, judged["K1-chance"].told]


def test_a_claim_without_comparisons_keeps_its_line():
    judged = study.judge_all(only=["C3", "C4"])
    none = dataclasses.replace(judged["C4"], deciding=judged["C4"].deciding.iloc[:0])
    fig = figures.at_a_glance(figures.deciding_comparisons({"C3": judged["C3"], "C4": none}))
    assert [label.get_text().split()[-1] for label in fig.axes[0].get_yticklabels()] == ["C3", "C4"]
    assert fig.axes[0].texts[1].get_text() == "no evidence yet"
    assert f"Of {len(judged['C3'].deciding)} comparisons" in fig.get_label()


def test_without_comparisons_the_figure_of_all_claims_says_so():
    (axis,) = figures.at_a_glance(figures.deciding_comparisons({})).axes
    assert axis.texts[0].get_text() == "no comparison can be made yet"


# ---- two seeds


def test_two_seeds_have_no_interval_in_tables_and_figures():
    few, many = compared(2), compared(3)
    assert not tables.differences(few).map(lambda cell: "[" in cell).any(axis=None)
    assert tables.differences(many).map(lambda cell: "[" in cell).all(axis=None)
    frame = runs(2, pca=0.9, uniform=0.91)
    assert not tables.by_criterion(frame, "pca", "uniform").map(lambda cell: "[" in cell).any(axis=None)
    drawn = [figures.accuracy_by_rule(frame), figures.differences_by_rule(few), figures.control_forest(few, "pca")]
    assert not [fig for fig in drawn if "interval" in fig.get_supxlabel()]
    assert "[" not in "".join(text.get_text() for axis in figures.forest(few).axes for text in axis.texts)
    drawn = [figures.accuracy_by_rule(runs(3, pca=0.9, uniform=0.91)), figures.differences_by_rule(many)]
    assert all("interval" in fig.get_supxlabel() for fig in drawn)


def test_the_dots_of_two_seeds_are_their_differences():
    frame = runs(2, pca=0.9, uniform=0.905)
    fig = figures.differences_by_rule(pairing.against(frame))
    pairs = pairing.differences(frame, "pca", "uniform")
    for axis, budget in zip(fig.axes, ("macs:0.2", "macs:0.5"), strict=True):
        (dots,) = [line.get_xdata() for line in axis.lines if line.get_marker() == "."]
        assert sorted(dots) == pytest.approx(sorted(100 * pairs.loc[pairs["budget"] == budget, "difference"]))


# ---- what a figure tells of itself


def test_the_highest_means_are_told():
    told = figures.accuracy_by_rule(runs(pca=0.9, uniform=0.8)).get_label()
    assert told == "Highest mean: PCA (3AS) at every budget."
    frame = runs(pca=0.9, uniform=0.9)
    frame.loc[(frame["arm"] == "uniform") & (frame["budget"] == "macs:0.5"), "test_accuracy"] = 1.0
    frame.loc[(frame["arm"] == "pca") & (frame["budget"] == "macs:0.2"), "test_accuracy"] = 1.0
    told = figures.accuracy_by_rule(frame).get_label()
    assert told == "Highest mean: PCA (3AS) at 20 % of MACs; uniform at 50 % of MACs."
    at_half = frame["budget"] == "macs:0.5"
    frame.loc[at_half, "test_accuracy"] = 0.9 + frame["seed"] / 100  # equal but for one seed of one arm
    frame.loc[at_half & (frame["arm"] == "pca") & (frame["seed"] == 3), "test_accuracy"] += 0.001
    told = figures.accuracy_by_rule(frame).get_label()
    assert told == "Highest mean: PCA (3AS) at 20 % of MACs and 50 % of MACs (not told apart from uniform)."


def test_every_arm_that_is_not_told_apart_from_the_highest_is_named():
    """The second may be told apart where a lower one, of wider spread, is not."""
    frame = runs(pca=0.9, uniform=0.8, random=0.7)
    noisy, seeds = frame["arm"] == "random", frame["seed"]
    frame.loc[noisy, "test_accuracy"] = 0.7 + 0.3 * np.sin(7 * seeds[noisy])
    told = figures.accuracy_by_rule(frame).get_label()
    assert told == ("Highest mean: PCA (3AS) at 20 % of MACs (not told apart from random) and 50 % of MACs (not told apart from "
                    "random).")
    many = [f"mine{n}" for n in range(5)]
    frame = runs(uniform=0.5, **dict.fromkeys(many, 0.9))
    for at, arm in enumerate(many):  # each is ahead at a seed of its own, and a hair's breadth on the whole
        own = frame["arm"] == arm
        frame.loc[own, "test_accuracy"] = 0.9 + 0.002 * (frame["seed"][own] == at) + 1e-4 * at
    told = figures.accuracy_by_rule(frame).get_label()
    assert told.startswith("Highest mean: mine4 at 20 % of MACs (not told apart from 4 of the 5 others) and")


def test_an_arm_that_has_just_begun_changes_no_highest_mean_and_few_seeds_rank_nothing():
    frame = runs(pca=0.9, uniform=0.8)
    begun = pd.concat([frame, runs(1, tilt=0.99)])
    told = figures.accuracy_by_rule(begun).get_label()
    assert told == "Highest mean of the rules that have most seeds: PCA (3AS) at every budget."
    assert figures.accuracy_by_rule(runs(2, pca=0.9, uniform=0.8)).get_label() == "Budgets with fewer than 3 seeds rank no rule."
    half = frame[(frame["budget"] == "macs:0.2") | (frame["seed"] < 2)]
    told = figures.accuracy_by_rule(half).get_label()
    assert told == "Highest mean: PCA (3AS) at 20 % of MACs. Budgets with fewer than 3 seeds rank no rule."


def test_a_figure_comes_with_its_files_and_says_where_they_are(tmp_path):
    fig = figures.show(MADE["accuracy"](), runs(pca=0.9), "acc", folder=tmp_path, title="LeNet-5 on MNIST")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["acc.csv", "acc.svg"]
    told = fig._repr_mimebundle_(include=None, exclude=None)["text/markdown"]
    title, links = told.split("\n\n")
    assert title == "LeNet-5 on MNIST (profile quick)."
    assert "Highest mean" in links and f"({tmp_path.name}/acc.csv)" in links and f"({tmp_path.name}/acc.svg)" in links


def test_captions_and_alternative_texts_name_what_each_figure_of_a_cell_is_of():
    figure, image = nodes.figure(), nodes.image(uri="x.svg", alt="A dot a seed.")
    links = nodes.paragraph("", "Highest mean: PCA.", nodes.reference("", "Data", refuri="data/x.csv"))
    figure += nodes.container("", nodes.container("", image, mime_type="image/svg+xml"),
                              nodes.container("", nodes.paragraph("", "LeNet-5."), links, mime_type="text/markdown"))  # fmt: skip
    figure += nodes.caption("", "Accuracy.")
    plain = nodes.figure("", nodes.image(uri="y.svg", alt="Other."), nodes.caption("", "No output."))
    book._complete_captions(SimpleNamespace(), nodes.section("", figure, plain))
    assert image["alt"] == "LeNet-5. A dot a seed." and figure.children[1].astext() == "LeNet-5. Accuracy."
    assert isinstance(figure.children[2], nodes.legend) and figure.children[2].children == [links]
    assert [link["reftarget"] for link in links.findall(download_reference)] == ["data/x.csv"]
    assert len(list(figure.findall(nodes.container))) == 2 and plain.children[1].astext() == "No output."


def test_gains_of_tilts_are_drawn_over_uniform_by_their_power():
    cells = [(arm, f"{unit}:{share}", mean, n) for share in (0.35, 0.5) for unit in ("macs", "params") for arm, mean, n in (
        ("tilt(power=-1.0)", -0.02, 5), ("tilt(power=0.5)", 0.01, 5), ("pca", 0.0, 5), ("random", 0.0, 5), ("neyman", 0.01, 2))]
    table = pd.DataFrame(cells, columns=["arm", "budget", "mean", "n"]).assign(low=-0.03, high=0.03)
    found = tilts.gains(table)
    assert found["arm"].value_counts().to_dict() == {"tilt(power=-1.0)": 4, "tilt(power=0.5)": 4, "pca": 4}, "five seeds alone"
    assert found["power"].dropna().unique().tolist() == [-1.0, 0.5]
    fig = tilts.gain_by_power(found)
    assert [axis.get_title() for axis in fig.axes] == ["35 % of the cost kept", "50 % of the cost kept"]
    macs, params = (next(line for line in fig.axes[0].lines if line.get_label() == f"budget of {unit}") for unit in
                    ("MACs", "parameters"))  # fmt: skip
    assert macs.get_ydata().tolist() == params.get_ydata().tolist() == [-2.0, 0.0, 1.0], "uniform is the tilt of power 0"
    assert [label.get_text() for label in fig.axes[0].get_xticklabels()] == ["−1", "0", "0.5", "PCA", "Neyman"]
    plt.close(fig)
    assert tilts.gains(table[table["arm"] == "pca"]).empty and tilts.gain_by_power(tilts.gains(table[:0])).axes
