"""What the widths of records explain: starved layers, and arms that chose alike."""

import math
from types import SimpleNamespace

import pandas as pd

from slimlib import study
from slimlib.study import shapes
from slimlib.study.judgement import Judgement

FULL = {"conv1": 20, "conv2": 50, "fc1": 500}


def record(rule, widths, budget="macs:0.1", seed=0):
    dense = study.load_profile("laptop").runs("pruning")[0]
    run = dense.but(rule=rule, budget=budget, seed=seed, options={}, center=True)
    return {"key": run.key, "run": run.to_dict(), "widths": dict(zip(FULL, widths, strict=True)), "full_widths": FULL}


def test_the_narrowest_layer_is_that_of_the_worst_seed_and_budgets_are_in_order():
    records = [record("pca", (10, 25, 250), "params:0.1"), record("pca", (4, 25, 250)), record("pca", (10, 1, 250), seed=1),
               {"run": record("pca", (1, 1, 1))["run"] | {"seed": 3}}]  # a run that chose no widths is passed over
    table = shapes.narrowest(records)
    assert table[["budget", "layer", "width", "full_width"]].values.tolist() == [
        ["macs:0.1", "conv2", 1, 50], ["params:0.1", "conv1", 10, 20]]
    assert shapes.narrowest([]).empty


def test_a_starved_layer_is_told_once_a_budget_and_others_are_not():
    records = [record("global_l1", (20, 1, 400)), record("global_l1", (20, 40, 2), "params:0.05"),
               record("uniform", (6, 15, 150)), record("global_l1", (20, 40, 300), "macs:0.2")]
    said = shapes.starved(shapes.narrowest(records))
    assert said == ["LeNet-5 on MNIST: global l1 keeps 1 of 50 filters of conv2 at 10 % of MACs; "
                    "2 of 500 filters of fc1 at 5 % of parameters."]
    assert shapes.starved(shapes.narrowest(records), arms=["uniform"]) == []
    assert len(shapes.starved(shapes.narrowest(records), at_most=0.3)) == 2
    taught = study.load_profile("laptop").runs("distillation")[0].but(rule="global_l1", budget="macs:0.1", options={})
    student = record("global_l1", (20, 40, 3)) | {"run": taught.to_dict()}
    (said,) = shapes.starved(shapes.narrowest([record("global_l1", (20, 40, 25)), student]), at_most=0.3)
    assert said.endswith("keeps 3 of 500 filters of fc1 at 10 % of MACs."), "of two stages the worse"


def test_kept_shares_are_means_over_the_seeds_that_a_frame_has():
    records = [record("uniform", (4, 25, 500)), record("uniform", (8, 25, 250), seed=1), record("pca", (20, 50, 500)),
               record("uniform", (20, 50, 500), seed=2)]
    frame = study.to_frame([one | {"provenance": {"seconds": 1.0}} for one in records[:3]])
    frame["arm"] = frame["arm"].replace({frame["arm"][0]: "best_tilt"})  # another arm's name for the same records
    table = shapes.kept_by_layer(frame, records).set_index(["arm", "layer"])
    assert table.loc["best_tilt", "kept"].round(9).to_dict() == {"conv1": 0.3, "conv2": 0.5, "fc1": 0.75}
    assert set(table.loc["best_tilt", "n"]) == {2} and set(table.loc["pca", "kept"]) == {1.0}
    assert list(table.loc["pca"].index) == list(FULL) and set(table["budget"]) == {"macs:0.1"}
    assert list(shapes.kept_by_layer(frame.iloc[:0], records).columns) == ["budget", "arm", "layer", "kept", "n"]


def test_arms_are_compared_pair_by_pair():
    records = [record("pca", (4, 20, 100)), record("uniform", (4, 20, 100)), record("pca", (5, 20, 100), seed=1),
               record("uniform", (4, 20, 100), seed=1), record("pca", (9, 9, 9), seed=2)]
    keys = [one["key"] for one in records]
    pairs = pd.DataFrame({"rival": "best_tilt", "dataset": "mnist", "model": "lenet5", "key_ours": [keys[0], keys[2]],
                          "key_rival": [keys[1], keys[3]], "difference": [-0.0004, 0.5]})
    claim = SimpleNamespace(kind="paired", ours="pca", rivals=("best_tilt", "random"))  # no record calls itself the best tilt

    def of(pairs):
        return Judgement(claim, "inconclusive", pairs, pairs, pairs, tuple(records), ())

    judged = of(pairs)
    found = shapes.alike(judged, "best_tilt")
    assert (found["pairs"], found["equal"]) == (2, 1) and math.isclose(found["difference"], 0.05 / 6)
    assert found["repeats"] == [0.0004]  # of the pair with equal widths alone
    (told,) = shapes.alike_in(judged)
    assert "PCA (3AS) and best tilt chose the same widths in 1 of 2 cases" in told and "0.8 % of its filters" in told
    assert "differ by 0.04 points at most, 0.04 on average" in told
    agreeing = of(pairs.assign(difference=[0.0, 0.5]))
    assert "made twice" not in shapes.alike_in(agreeing)[0]
    assert shapes.alike_in(None) == ["No pair is recorded yet."]
    assert math.isnan(shapes.alike(judged, "random")["difference"])
    assert shapes.same_widths(judged) == ""
    same = of(pairs[:1])
    told = "the widths of PCA (3AS) and best tilt are the same in 1 of 1 cases, so hardly anything was tested."
    assert shapes.same_widths(same) == f"On LeNet-5 on MNIST, {told}"


def test_arms_with_the_same_widths_in_every_seed_they_share_are_named():
    same, other = (4, 20, 100), (5, 20, 100)
    records = [record("pca", same), record("uniform", same), record("pca", other, seed=1), record("uniform", other, seed=1),
               record("uniform", same, seed=2), record("global_l1", same), record("global_l1", same, seed=1),
               record("pca", same, "params:0.1"), record("uniform", other, "params:0.1"),
               record("pca", same, "macs:0.05"), record("uniform", same, "macs:0.05")]
    assert shapes.twins(records) == ["LeNet-5 on MNIST: PCA (3AS) and uniform at 5 % of MACs and 10 % of MACs."]
    scan = {"run": study.load_profile("laptop").runs("sensitivity")[0].to_dict()}
    assert shapes.twins([scan]) == []  # a run that chose no widths has no twin
