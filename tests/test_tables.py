"""What tables tell readers, by hand: spreads of costs, means with deviations, orders before and after training."""

from __future__ import annotations

import pandas as pd
import pytest

from slimlib.recipe import Recipe
from slimlib.study import figures, layer_tables, names, pairing, tables
from slimlib.study.runs import Run
from slimlib.study.store import to_frame


def frame(rows: list[tuple]) -> pd.DataFrame:
    """(arm, budget, seed, accuracy after the cut, after training, kept share of MACs)."""
    names = ["arm", "budget", "seed", "test_accuracy_before_finetuning", "test_accuracy", "kept_macs"]
    table = pd.DataFrame(rows, columns=names).assign(dataset="mnist", model="lenet5", stage="prune", criterion="l1")
    table["budget_kind"] = table["budget"].str.partition(":")[0]
    return table.assign(key=[f"k{i}" for i in range(len(table))])


ROWS = [("pca", "macs:0.5", 0, 0.10, 0.90, 0.500), ("pca", "macs:0.5", 1, 0.30, 0.94, 0.495),
        ("uniform", "macs:0.5", 0, 0.40, 0.91, 0.500), ("random", "macs:0.5", 0, 0.90, 0.95, 0.480),
        ("pca", "macs:0.05", 0, 0.10, 0.50, 0.050)]  # fmt: skip


def test_how_closely_budgets_are_met():
    table = tables.budgets_met(frame(ROWS)).reset_index()
    assert table["budget"].tolist() == ["5 % of MACs", "50 % of MACs"], "small ones first"
    row = table.iloc[1]
    assert row[["runs", "arms", "seeds"]].tolist() == [4, 3, 2]
    told = row[["least kept", "most kept", "gap in cost"]].tolist()
    assert told == ["48.00%", "50.00%", "4.17%"], "0.50 is 4.17 % more than 0.48"
    assert tables.budgets_met(frame(ROWS).iloc[:0]).empty


def test_a_threshold_is_no_cost_that_could_be_met():
    rows = [*ROWS, ("pca", "threshold:0.9", 0, 0.2, 0.93, 0.4), ("uniform", "threshold:0.9", 0, 0.2, 0.93, 0.6)]
    pd.testing.assert_frame_equal(tables.budgets_met(frame(rows)), tables.budgets_met(frame(ROWS)))
    assert tables.means(frame(rows)).columns[-1] == "threshold 0.9"


def test_arms_of_another_coupling_stand_apart():
    """What a joint plan may slim, an inner one leaves whole: the two are different arms at one budget."""
    runs = [Run("mnist", "lenet5", "prune", rule=rule, criterion="l1", budget="macs:0.5", coupling=coupling, seed=seed,
                options=options, recipe=Recipe(1, 0.1), dense_recipe=Recipe(1, 0.1))
            for seed in range(3) for coupling in ("inner", "joint")
            for rule, options in (("pca", {}), ("tilt", {"power": -1}))]
    gain = {"pca": 0.0, "pca_joint": 0.02, "tilt(power=-1.0)": 0.04, "tilt_joint(power=-1.0)": 0.06}
    table = to_frame([
        {"key": run.key, "run": run.to_dict(), "metrics": {"test_accuracy": 0.9 + gain[run.arm]},
         "cost": {"macs": 50, "dense_macs": 100}, "provenance": {"seconds": 1.0}} for run in runs])
    means = tables.means(table)["50 % of MACs"]
    assert means.to_dict() == {"PCA (3AS)": "90.00 ± 0.00 (3)", "PCA (3AS), joint": "92.00 ± 0.00 (3)",
                               "tilt −1": "94.00 ± 0.00 (3)", "tilt −1, joint": "96.00 ± 0.00 (3)"}
    assert list(means.index) == ["PCA (3AS)", "PCA (3AS), joint", "tilt −1", "tilt −1, joint"], "behind their rule"
    assert tables.budgets_met(table).iloc[0][["runs", "arms", "seeds"]].tolist() == [12, 4, 3]
    found = pairing.against(table, "pca").set_index("arm")
    assert (found["n"] == 3).all() and found.loc["pca_joint", "mean"] == pytest.approx(0.02)
    assert figures.look("tilt_joint(power=-1.0)") == figures.look("tilt(power=-1.0)") != figures.look("mine_joint")
    assert names.name("mine_joint") == "mine joint", "a label of one's own"


def test_arms_are_listed_in_the_order_of_their_colours():
    assert tuple(figures.LOOKS) == names.ORDER


def test_means_stand_with_their_deviation_and_number():
    table = tables.means(frame(ROWS))
    assert table.columns.tolist() == ["5 % of MACs", "50 % of MACs"]
    # the deviation of 90 and 94 from 92 over one degree of freedom
    assert table.loc["PCA (3AS)"].tolist() == ["50.00 (1)", "92.00 ± 2.83 (2)"]
    assert table.loc["uniform"].tolist() == ["–", "91.00 (1)"]


def test_the_order_of_the_arms_before_and_after_training_is_compared_by_ranks():
    before, after = (0.2, 0.4, 0.5, 0.6, 0.9), (0.92, 0.91, 0.93, 0.94, 0.95)
    arms = ("pca", "uniform", "random", "permuted", "global_l1")
    rows = [(arm, "macs:0.5", seed, first + seed / 100, last, 0.5)
            for seed in range(3) for arm, first, last in zip(arms, before, after, strict=True)]
    (row,) = tables.before_and_after(frame(rows)).to_dict("records")
    # of five arms the first two change places: 1 - 6 * (1 + 1) / (5 * 24)
    assert row == {"arms": 5, "seeds of all": 3, "before (%)": "21.0 to 91.0", "after (%)": "91.0 to 95.0",
                   "rank correlation": "+0.90"}
    few = [[row for row in rows if row[0] != "pca"], [row for row in rows if row[2] < 2]]
    assert {tables.before_and_after(frame(part)).iloc[0]["rank correlation"] for part in few} == {"–"}, "four arms, two seeds"
    begun = [*rows, ("hand", "macs:0.5", 0, 0.1, 0.99, 0.5)]
    assert tables.before_and_after(frame(begun)).to_dict("records") == [row], "an arm that has just begun changes nothing"
    assert tables.before_and_after(frame([("pca", *rows[0][1:]), ("uniform", *rows[5][1:])])).empty, "no seed in common"


def test_differences_are_told_in_points_by_criterion_or_by_arm():
    rows = [(arm, "macs:0.5", seed, 0.0, 0.9 + gain + seed / 100, 0.5) for arm, gain in (("pca", 0.01), ("uniform", 0.0))
            for seed in range(3)]
    both = pd.concat([frame(rows), frame(rows).assign(criterion="l2", test_accuracy=0.5)])
    table = tables.by_criterion(both, "pca", "uniform")
    assert table.loc[("LeNet-5 on MNIST", "macs:0.5")].tolist() == ["+1.00 [+1.00, +1.00] (3)", "+0.00 [+0.00, +0.00] (3)"]
    told = tables.differences(pairing.against(frame(rows)))
    assert told.loc["PCA (3AS)", "50 % of MACs"] == "+1.00 [+1.00, +1.00] (3)"


def test_areas_stand_with_their_interval():
    found = {"auc": 0.75, "low": 0.5, "high": 0.9, "p": 0.04, "p_holm": 0.08, "positives": 6, "negatives": 21}
    table = layer_tables.auc(pd.DataFrame({"drop": found, "pca": found}).T)
    assert table.index.tolist() == ["measured drop", "PCA (3AS)"]
    assert table.iloc[0].tolist() == ["0.75", "[0.50, 0.90]", "0.04", "0.08", "6 of 27"]
    few = layer_tables.auc(pd.DataFrame({"drop": found | {"positives": 3, "negatives": 24}}).T)
    assert few.iloc[0].tolist() == ["0.75", "–", "0.04", "0.08", "3 of 27"], "three layers drawn again say nothing"


@pytest.mark.parametrize("within, told", [(0.31, "+0.31 (0.04)"), (float("nan"), "–")])
def test_a_coefficient_within_stages_may_be_missing(within, told):
    assert layer_tables.within_stages({"within": within, "p_within": 0.04}) == told


def test_times_stand_with_their_quartiles_and_as_shares_of_the_dense_time():
    row = {"device": "cpu", "batch_size": 1, "ms": 2.0, "ms_low": 1.9, "ms_high": 2.2, "kept_macs": 1.0, "relative": 1.0}
    slim = row | {"model": "slim", "kept_macs": 0.25, "relative": 0.405}
    table = tables.latencies(pd.DataFrame([row | {"model": "dense"}, slim]))
    assert table.index.tolist() == [("dense", "100.0%"), ("slim", "25.0%")]
    assert table["cpu, batch 1"].tolist() == ["2.00 [1.90, 2.20], 100 %", "2.00 [1.90, 2.20], 40 %"]
