"""The gain of the same widths at both stages: paired seed by seed, one row a set of widths, and what its sentence counts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from slimlib import study
from slimlib.study import widths_alone
from slimlib.study.figures import widths_alone as drawn

FULL = {"conv1": 20, "conv2": 50, "fc1": 500}
SEEDS = (0, 1, 2)
SPREAD = (-0.0001, 0.0, 0.0001)  # so that a mean of 0.002 over three seeds is told from zero


def record(stage, rule, width, accuracy, seed, budget="macs:0.1"):
    first = study.load_profile("laptop").runs("pruning" if stage == "prune" else "distillation")[0]
    run = first.but(rule=rule, budget=budget, seed=seed, options={}, center=True)
    return {"key": run.key, "run": run.to_dict(), "widths": dict.fromkeys(FULL, width), "full_widths": FULL,
            "metrics": {"test_accuracy": accuracy}, "provenance": {"seconds": 1.0}}


def arm(stage, rule, width, gain, seeds=SEEDS, **changed):
    return [record(stage, rule, width, 0.9 + (gain + SPREAD[seed] if gain else 0), seed, **changed) for seed in seeds]


def gains(*arms):
    records = [one for of_arm in arms for one in of_arm]
    by_stage = [[one for one in records if one["run"]["stage"] == stage] for stage in ("prune", "distill")]
    return widths_alone.gains(*map(study.to_frame, by_stage), records)


REFERENCE = (arm("prune", "uniform", 5, 0), arm("distill", "uniform", 5, 0))


def test_gains_are_paired_at_each_stage_and_have_their_keys():
    ours = (arm("prune", "pca", 4, 0.002), arm("distill", "pca", 4, -0.001))
    (row,) = gains(*REFERENCE, *ours).to_dict("records")
    assert (row["arm"], row["reference"], row["budget"], row["n"]) == ("pca", "uniform", "macs:0.1", 3)
    assert row["pruned"] == pytest.approx(0.002) and row["student"] == pytest.approx(-0.001)
    half = 4.302653 * 0.0001 / 3**0.5  # Student's t, two degrees of freedom
    assert row["pruned_low"] == pytest.approx(0.002 - half) and row["student_high"] == pytest.approx(-0.001 + half)
    assert row["less"] == pytest.approx(0.003) and row["less_low"] == row["less_high"] == row["less"], "equal in all seeds"
    assert set(row["keys"].split(", ")) == {one["key"] for part in (*REFERENCE, *ours) for one in part}


def test_seeds_whose_widths_differ_between_the_stages_do_not_count():
    students = [*arm("distill", "pca", 4, 0.002, seeds=(0, 1)), *arm("distill", "pca", 3, 0.002, seeds=(2,))]
    table = gains(*REFERENCE, arm("prune", "pca", 4, 0.002), students)
    assert table["n"].tolist() == [2]
    moved = [*arm("distill", "uniform", 5, 0, seeds=(0,)), *arm("distill", "uniform", 6, 0, seeds=(1, 2))]
    assert gains(REFERENCE[0], moved, arm("prune", "pca", 4, 0.002), students)["n"].tolist() == [1], "nor those of the reference"
    assert gains(*REFERENCE, arm("prune", "pca", 4, 0.002)).empty, "one stage alone is no pair"


def test_the_same_widths_are_one_row_and_those_of_the_reference_none():
    both = [(arm("prune", rule, width, 0.002, budget=budget), arm("distill", rule, width, 0.002, budget=budget))
            for budget in ("macs:0.1", "macs:0.2") for rule, width in (("global_l1", 4), ("pca", 4), ("random", 5))]
    other = [arm(stage, "uniform", 6, 0, budget="macs:0.2") for stage in ("prune", "distill")]
    table = gains(*REFERENCE, *other, *(part for pair in both for part in pair))
    assert table[["budget", "arm"]].values.tolist() == [["macs:0.1", "pca"], ["macs:0.2", "pca"], ["macs:0.2", "random"]]
    # nor do they become two where one arm still lacks a seed
    known = [arm(stage, rule, 4, 0.002, seeds=seeds) for stage in ("prune", "distill")
             for rule, seeds in (("pca", SEEDS), ("global_l1", SEEDS[1:]))]
    assert gains(*REFERENCE, *known)["arm"].tolist() == ["pca"]


def test_other_criteria_and_empty_frames():
    ours = (arm("prune", "pca", 4, 0.002), arm("distill", "pca", 4, 0.002))
    records = [one for part in (*REFERENCE, *ours) for one in part]
    frames = [study.to_frame([one for one in records if one["run"]["stage"] == stage]) for stage in ("prune", "distill")]
    assert widths_alone.gains(*frames, records, criterion="gm").empty
    nothing = widths_alone.gains(study.to_frame([]), frames[1], records)
    assert nothing.empty and "student_high" in nothing and widths_alone.told(nothing) == []
    assert [text.get_text() for text in drawn.kept_by_students(nothing).axes[0].texts] == [
        "no widths are recorded at both stages yet"]
    plt.close("all")


def table(*rows):
    """Gains in points with intervals of a tenth of a point to each side; three seeds or n."""
    cells = []
    for pruned, student, *seeds in rows:
        cell = {"dataset": "mnist", "model": "lenet5", "budget": "macs:0.1", "arm": "pca", "reference": "uniform", "level": 0.95}
        for what, gain in zip((*widths_alone.SIDES, "less"), (pruned, student, pruned - student), strict=True):
            cell |= {f"{what}{end}": (gain + by) / 100 for end, by in zip(widths_alone.GAIN, (0, -0.1, 0.1), strict=True)}
        cells.append(cell | {"n": seeds[0] if seeds else 3})
    return pd.DataFrame(cells)


def test_the_sentence_counts_sides():
    (said,) = widths_alone.told(table((0.2, 0.25), (-0.4, -0.2), (0.3, -0.3), (0.5, 0.0), (0.05, 0.4), (0.0, 0.0), (9.0, 9.0, 2)))
    for part in ("6 sets of widths", "the 95 % interval of 4 leaves out zero", "on the same side for 2 of these",
                 "on the other for 1", "1 stay open", "for 1 others", "by an interval of their difference, for 4"):
        assert part in said
    ranks = np.corrcoef(pd.Series([0.2, -0.4, 0.3, 0.5, 0.05, 0]).rank(), pd.Series([0.25, -0.2, -0.3, 0, 0.4, 0]).rank())[0, 1]
    assert f"is {ranks:+.2f}".replace("-", "−") in said
    assert widths_alone.told(table((0.2, 0.2, 2))) == [], "two seeds have no interval"


def test_the_figure_draws_gains_where_they_are():
    rows = table((0.2, 0.3), (-20.0, -12.0), (0.5, 0.1, 2)).assign(budget=["macs:0.1", "params:0.1", "params:0.2"])
    fig = drawn.kept_by_students(rows)
    assert [axis.get_title(loc="left") for axis in fig.axes] == ["budgets of MACs", "budgets of parameters"]
    macs, params = ([line for line in axis.lines if line.get_marker() == "o"] for axis in fig.axes)
    assert [(*line.get_xdata(), *line.get_ydata()) for line in macs] == [(0.2, 0.3)]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in params] == [(-20.0, -12.0), (0.5, 0.1)]
    crosses = [line for line in fig.axes[1].lines if line.get_linewidth() == 0.8 and line.get_alpha()]
    assert len(crosses) == 2, "none of two seeds"
    (low, high), (bottom, top) = fig.axes[0].get_xlim(), fig.axes[0].get_ylim()
    assert low < -20.1 and high > 0.6 and bottom < -12.1 and top > 0.4, "both panels hold everything"
    plt.close(fig)


def test_recorded_students_have_the_widths_of_the_pruned_networks():
    """Of LeNet-5, whatever is recorded: both stages read the same dense networks, so all their seeds pair up."""
    pruned, students = study.gather("laptop", "prune", "pruning"), study.gather("laptop", "distill")
    if not students.records:
        pytest.skip("no student is recorded")
    found = widths_alone.gains(pruned.frame, students.frame, [*pruned.records, *students.records])
    both = set(pruned.frame["arm"]) & set(students.frame["arm"]) - {"uniform"}
    assert len(found) and set(found["arm"]) <= both
    seeds = students.frame.groupby(["arm", "budget"])["seed"].nunique()
    assert (found["n"] == [seeds[row.arm, row.budget] for row in found.itertuples()]).all()
