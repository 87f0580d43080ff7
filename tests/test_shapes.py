"""What the widths of records explain: starved layers, and arms that chose alike."""

import math
from types import SimpleNamespace

from slimlib import study
from slimlib.study import shapes

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


def test_arms_are_compared_pair_by_pair():
    records = [record("pca", (4, 20, 100)), record("pca_at_init", (4, 20, 100)), record("pca", (5, 20, 100), seed=1),
               record("pca_at_init", (4, 20, 100), seed=1), record("pca", (9, 9, 9), seed=2)]
    found = shapes.alike(records, "pca", "pca_at_init")
    assert (found["pairs"], found["equal"]) == (2, 1) and math.isclose(found["difference"], 0.05 / 6)
    claim = SimpleNamespace(ours="pca", rivals=("pca_at_init", "random"))
    (told,) = shapes.alike_in(SimpleNamespace(claim=claim, records=records))
    assert "the same widths in 1 of 2 cases" in told and "0.8 points" in told
    assert shapes.alike_in(None) == ["No pair is recorded yet."]
    assert math.isnan(shapes.alike(records, "pca", "random")["difference"])
