"""What tables tell readers, by hand: spreads of costs, means with deviations, orders before and after training."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from slimlib.bench import page
from slimlib.recipe import Recipe
from slimlib.study import figures, layer_tables, names, pairing, table_html, tables
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
    assert told == ["48.00 %", "50.00 %", "4.17 %"], "0.50 is 4.17 % more than 0.48"
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
    assert table.index.tolist() == [("dense", "100.0 %"), ("slim", "25.0 %")]
    assert table["cpu, batch 1"].tolist() == ["2.00 [1.90, 2.20], 100 %", "2.00 [1.90, 2.20], 40 %"]


def test_panels_of_a_busy_machine_say_so_and_the_others_share_one_scale():
    rows = [{"device": "cpu", "network": "VGG", "batch_size": batch, "arm": arm, "rounded": False, "kept_macs": kept,
             "relative": t, "relative_low": t / 1.1, "relative_high": t * spread, "ms_low": 1.0, "ms_high": spread}
            for batch, spread in ((1, 3.0), (8, 1.2), (64, 1.4))
            for arm, kept, t in (("dense", 1.0, 1.0), ("pca", 0.5, 0.6), ("uniform", 0.5, 0.6))]  # fmt: skip
    busy, *idle = figures.latency_against_macs(pd.DataFrame(rows)).axes
    assert "nothing is concluded" in busy.texts[0].get_text() and not any(axis.texts for axis in idle)
    assert idle[0].get_ylim() == idle[1].get_ylim() != busy.get_ylim()
    drawn = [[(line.get_color(), *line.get_xdata()) for line in axis.lines
              if line.get_marker() in "os^Dv" and len(line.get_xdata())] for axis in (busy, idle[0])]
    assert {colour for colour, _ in drawn[0]}.isdisjoint(colour for colour, _ in drawn[1]), "pale where nothing is concluded"
    assert all(len({x for _, x in marks}) == 2 and all(abs(x - 0.5) < 0.02 for _, x in marks) for marks in drawn), "side by side"


def test_the_growth_of_cost_is_told_in_short_names_with_units():
    (row,) = page.shown_sizes(pd.DataFrame([("width", "64", 1_234_567, 0.5, 0.25, 0.125, 2**20, 3 * 2**29)],
                                           columns=page.SIZE_COLUMNS)).reset_index().to_dict("records")
    assert row == {"what grows": "width", "size": "64", "parameters": "1,234,567", "trace (s)": "0.500",
                   "choose widths (s)": "0.250", "eigenvalues (s)": "0.125", "peak (MiB)": "1,536"}


# ---- as notebooks show them


def heads(html: str) -> list[list[str]]:
    """The texts of the rows of a table's head."""
    (head,) = re.findall(r"<thead>(.*?)</thead>", html, flags=re.DOTALL)
    return [re.findall(r"<th[^>]*>(?:&nbsp;)?(.*?)</th>", row, flags=re.DOTALL)
            for row in re.findall(r"<tr[^>]*>(.*?)</tr>", head, flags=re.DOTALL)]


@pytest.mark.parametrize("show", [lambda table: table, lambda table: tables.titled(table, "a title")], ids=["plain", "titled"])
def test_names_of_an_index_stand_in_the_one_row_of_heads(show):
    table = pd.DataFrame({"layer": ["conv1", "conv2"], "of": ["a", "b"], "full": [8, 16], "kept": [4, 4]})
    one, two, none = table.drop(columns="of").set_index("layer"), table.set_index(["of", "layer"]), table
    assert heads(table_html.shown(show(one))) == [["layer", "full", "kept"]]
    assert heads(table_html.shown(show(two))) == [["of", "layer", "full", "kept"]]
    assert heads(table_html.shown(show(none))) == [["", "layer", "of", "full", "kept"]]
    assert one.index.name == "layer" and two.index.names == ["of", "layer"], "the data are as they were"
    assert re.findall(r"<td[^>]*>(\d+)</td>", table_html.shown(show(one))) == ["8", "4", "16", "4"]


def test_names_of_columns_are_lost_to_none_of_the_index():
    table = pd.DataFrame([[1, 2]], pd.Index(["pca"], name="arm"), pd.Index(["a", "b"], name="budget"))
    assert heads(table_html.shown(table)) == [["budget", "a", "b"], ["arm", "", ""]], "both names need the one corner"
    levels = pd.DataFrame([[1, 2]], pd.Index(["pca"], name="arm"), pd.MultiIndex.from_product([["a"], ["b", "c"]]))
    assert heads(table_html.shown(levels)) == [["", "a"], ["arm", "b", "c"]]


def test_a_number_stays_with_its_deviation_and_its_percent_sign():
    told = ["98.64 ± 0.09 (5)", "+0.31 [−0.10, +0.72] (5)", "2.00 [1.90, 2.20], 40 %", "conv1, conv2 (at most 8)"]
    found = re.findall(r"<td[^>]*>(.*?)</td>", table_html.shown(pd.DataFrame({"told": told})))
    parts = [cell.split(" ") for cell in found]
    assert [[part.replace("\N{NO-BREAK SPACE}", " ") for part in cell] for cell in parts] == [
        ["98.64 ± 0.09", "(5)"], ["+0.31", "[−0.10,", "+0.72]", "(5)"], ["2.00", "[1.90,", "2.20],", "40 %"],
        ["conv1,", "conv2", "(at", "most", "8)"]]


def test_notebooks_that_use_the_style_show_tables_so():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        figures.use_style()
        frame = pd.DataFrame({"kept": ["1 ± 2"]}, pd.Index(["conv1"], name="layer"))
        for table in (frame, tables.titled(frame, "a title")):
            told = shell.display_formatter.format(table, include=["text/html"])[0]["text/html"]
            assert told == table_html.shown(table) and heads(told) == [["layer", "kept"]]
        with pd.option_context("display.notebook_repr_html", False):
            assert table_html.shown(frame) is None
    finally:
        InteractiveShell.clear_instance()
