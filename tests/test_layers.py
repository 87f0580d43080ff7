"""Layers compared: rank correlations from scans, layers bounded by their rank, untrained networks without data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import slimlib
from slimlib import study
from slimlib.errors import SlimlibError
from slimlib.spectrum import eigenvalues, width_at
from slimlib.study import figures, findings, layer_tables, layers, random_widths, statistics, tables, untrained, verdict
from slimlib.study.evidence import Evidence
from slimlib.study.judgement import judge


def scan(model: str, scores: dict[str, list[float]], seed: int = 0, drops: list[float] | None = None) -> dict:
    """A scan in which the i-th layer loses drops[i] (by default i / 100) at each ratio, and rules keep as told."""
    count = len(next(iter(scores.values())))
    drops = drops if drops is not None else [i / 100 for i in range(count)]
    names = [f"l{i}" for i in range(count)]
    curve = [(f"l{i}", r, 4, 8 * (1 + i // 6), 0.9 - d, d * (r > 0)) for i, d in enumerate(drops) for r in (0.0, 0.5)]
    kept = [(r, "macs:0.5", 0, g, v) for r, values in scores.items() for g, v in zip(names, values, strict=True)]
    kept += [("neyman_score", None, 0, g, float(i)) for i, g in enumerate(names)]
    columns = ["group", "ratio", "width", "full_width", "accuracy", "drop"]
    return {
        "run": {"dataset": "cifar10", "model": model, "seed": seed, "center": True, "coupling": "inner"},
        "sensitivity": pd.DataFrame(curve, columns=columns).to_dict("list"),
        "kept": pd.DataFrame(kept, columns=["rule", "budget", "seed", "group", "value"]).to_dict("list"),
    }


def test_correlations_of_known_orders_with_and_without_a_layer():
    rising = list(np.linspace(0.1, 0.9, 12))
    spoilt = [1.0, *rising[1:]]  # the first layer breaks an otherwise perfect order
    records = [scan("a", {"pca": rising, "uniform": rising[::-1]}), scan("b", {"pca": spoilt}), scan("c", {"pca": [0.1, 0.2]})]
    table = layers.correlations(records, None, ["macs:0.5"], [0.5]).set_index(["model", "rule"])
    assert "c" not in table.index.get_level_values("model"), "two layers have no order to speak of"
    assert table.loc[("a", "pca"), "spearman"] == pytest.approx(1) and table.loc[("a", "depth"), "spearman"] == pytest.approx(1)
    assert table.loc[("a", "uniform"), "spearman"] == pytest.approx(-1) and ("b", "uniform") not in table.index
    assert table.loc[("b", "pca"), "spearman"] < 0.6
    without = layers.correlations(records, ["pca"], ["macs:0.5"], [0.5], exclude={"b": ["l0"]}).set_index("model")
    assert without.loc["b", "spearman"] == pytest.approx(1) and without.loc["b", "n"] == 11
    assert table.loc[("a", "uniform"), ["over_depth", "over_depth_low", "over_depth_high"]].tolist() == pytest.approx([-2] * 3)
    assert table.loc[("a", "pca"), "over_depth"] == 0, "no better than depth alone"
    told = layer_tables.correlations(table.reset_index().assign(p_holm=0.5))
    assert told["without one layer"].iloc[0] == "+1.00 to +1.00"
    assert told["Spearman"].iloc[0].startswith("+1.00 [") and told["Spearman less depth's"].iloc[2] == "−2.00 [−2.00, −2.00]"
    figures.correlation_forest(table.reset_index())
    figures.correlation_forest(table.reset_index().iloc[:0])


def test_drops_and_layers_are_counted_after_layers_are_left_out():
    records = [scan("a:pretrained", {"pca": [0.9, 0.1, 0.2, 0.3, 0.4]}, drops=[0.9, 0.01, 0.02, 0.03, 0.10])]
    find = lambda **how: layers.correlations(records, ["pca"], ["macs:0.5"], [0.5], **how)  # noqa: E731
    (row,), (left,) = find().to_dict("records"), find(exclude={"a": ["l0"]}).to_dict("records")
    assert (row["n"], row["median_drop"], row["largest_drop"]) == (5, 0.03, 0.9)
    assert (left["n"], left["median_drop"], left["largest_drop"]) == (4, 0.025, 0.10)
    assert len(find(min_groups=5)) == 1 and find(min_groups=5, exclude={"a": ["l0"]}).empty
    records = [scan("a", {"pca": [0.1, 0.4, 0.2, 0.3, 0.6, 0.5, 0.8, 0.7]})]
    for low, high in (("low", "high"), ("over_depth_low", "over_depth_high")):
        wide, narrow = (find(level=level).iloc[0] for level in (0.95, 0.5))
        assert wide[low] < narrow[low] < narrow[high] <= wide[high]


def test_a_layers_score_is_its_mean_over_seeds_draws_and_where_asked_budgets():
    kept = [("pca", "macs:0.5", 0, 0.2), ("pca", "params:0.5", 0, 0.6), ("init", "macs:0.5", 0, 0.1),
            ("init", "macs:0.5", 1, 0.5)]  # fmt: skip
    records = [scan("a", {"pca": [0.0] * 3}, seed, [d, 2 * d, 3 * d]) for seed, d in enumerate((0.1, 0.3))]
    for seed, record in enumerate(records):
        told = [(rule, budget, draw, f"l{i}", value + (seed + i) / 10) for rule, budget, draw, value in kept for i in range(3)]
        record["kept"] = pd.DataFrame(told, columns=["rule", "budget", "seed", "group", "value"]).to_dict("list")
    score = lambda rule, budget: layers.layer_table(records, rule, budget, 0.5)["score"].tolist()  # noqa: E731
    assert score("pca", "macs:0.5") == pytest.approx([0.25, 0.35, 0.45]) and score("pca", "params:0.5")[0] == pytest.approx(0.65)
    assert score("pca", "any") == pytest.approx([0.45, 0.55, 0.65]) and score("init", "macs:0.5")[0] == pytest.approx(0.35)
    assert layers.layer_table(records, "pca", "any", 0.5)["drop"].tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert score("depth", None) == [0, 1, 2]
    records[1]["kept"] = pd.DataFrame(records[1]["kept"]).query("rule == 'pca'").to_dict("list")
    assert layers.rules_scanned(records, "macs:0.5") == ["pca"], "of all records"


def test_published_layers_are_told_from_the_others_but_for_those_on_neither_side():
    records = [scan("a", {"pca": [0.5, 0.1, 0.2, 0.9, 0.3]}, drops=[0.0, 0.4, 0.1, 0.2, 0.3])]
    listed = {"layers": ["l1", "l3"], "exclude": ["l0"]}
    table = layers.published_table(records, ["pca"], "macs:0.5", listed, ratio=0.5)
    # drops of l1 and l3, .4 and .2, against those of l2 and l4, .1 and .3; and what the rule keeps, .1 and .9 against .2 and .3
    assert table["auc"].tolist() == [0.75, 0.5] and table["positives"].tolist() == table["negatives"].tolist() == [2, 2]
    assert layers.published_agreement(records, "pca", "macs:0.5", {"layers": ["l1", "l3"]}, 0.5)["auc"] == pytest.approx(3 / 6)
    assert layers.published_agreement(records, "drop", None, {"layers": ["l1", "l3"]}, 0.5)["negatives"] == 3
    assert table["p_holm"].tolist() == pytest.approx(statistics.holm(table["p"])) and (table["p_holm"] >= table["p"]).all()
    assert table["p_holm"].min() == pytest.approx(min(1, 2 * table["p"].min()))


def test_scans_are_averaged_over_seeds():
    records = [scan("a", {"pca": [0.5] * 3}, seed, [d, 2 * d, 3 * d]) for seed, d in enumerate((0.1, 0.3))]
    table = layers.mean_scan(records)
    assert table[table["ratio"] == 0.5]["drop"].tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert table["group"].tolist()[:2] == ["l0", "l0"] and table["full_width"].dtype == int


def test_two_scans_of_a_network_are_compared_layer_by_layer():
    rising, reversed_drops = list(np.linspace(0.1, 0.9, 6)), [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    known = [scan("a", {"pca": rising}), scan("b", {"pca": rising}), scan("only known", {"pca": rising})]
    unseen = [scan("a", {"pca": rising}), scan("b", {"pca": rising}, drops=reversed_drops), scan("only unseen", {"pca": rising})]
    table = layers.known_and_unseen(known, unseen, ["pca", "depth"], "macs:0.5", [0.5]).set_index("model")
    assert table.index.tolist() == ["a", "b"]
    assert table.loc["a", ["drops", "pca, known", "pca, unseen", "depth, unseen"]].tolist() == pytest.approx([1, 1, 1, 1])
    assert table.loc["b", ["drops", "pca, known", "pca, unseen"]].tolist() == pytest.approx([-1, 1, -1])
    told = layer_tables.known_and_unseen(table.reset_index())
    assert told.columns.tolist()[:3] == ["drops, known and unseen", "PCA (3AS), known", "PCA (3AS), unseen"]
    assert told["PCA (3AS), unseen"].tolist() == ["+1.00", "−1.00"] and told.index[0][1] == "50 %"
    same, other = layer_tables.same_order(table.reset_index())
    assert "the order of layers on unseen images agrees closely with that on known ones with 50 % (+1.00) of a layer" in same
    assert "tends to run against that on known ones with 50 % (−1.00)" in other and same.endswith("changes by more than 0.00.")
    assert other.endswith("no rule's coefficient changes by more than 2.00."), "from +1 to -1"
    assert layer_tables.known_and_unseen(layers.known_and_unseen(known, [], ["pca"], "macs:0.5", [0.5])).empty
    assert layer_tables.same_order(layers.known_and_unseen(known, [], ["pca"], "macs:0.5", [0.5])) == []


def test_rank_bounds_follow_from_shapes():
    assert untrained.rank_bound("fashionmnist-10k", "vgg_small") == {"conv1": 8}, "9 weights a filter, one lost to centring"
    assert untrained.rank_bound("fashionmnist-10k", "vgg_small", below=0.1) == {}
    assert untrained.rank_bound("cifar10", "resnet20:pretrained") == {}


def test_untrained_networks_are_drawn_by_seed_and_leave_the_random_state():
    state = torch.get_rng_state()
    (one, example), (same, _), (other, _) = (untrained.untrained_network("mnist", "lenet5", seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state()) and example.shape == (1, 1, 28, 28)
    first = [next(network.parameters()) for network in (one, same, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_spectra_beside_untrained_ones_rise_to_one():
    run = {"dataset": "mnist", "model": "lenet5", "seed": 3, "center": True, "coupling": "inner"}
    import slimlib

    network, example = untrained.untrained_network("mnist", "lenet5", 5)
    spectra = {name: values.tolist() for name, values in slimlib.spectra(network, example).items()}
    table = untrained.trained_and_untrained({"run": run, "spectra": spectra}, seeds=2, at_most=2)
    assert table["layer"].nunique() == 2 and set(table["weights"]) == {"trained", "untrained"}
    ends = table.groupby(["layer", "weights", "seed"])[["component", "share"]].last()
    assert len(ends) == 6 and ends.to_numpy() == pytest.approx(1)
    assert (table.groupby(["layer", "weights", "seed"])["share"].diff().dropna() >= -1e-12).all()
    figures.trained_and_untrained(table)


def test_networks_of_few_layers_share_one_sentence_and_others_have_their_own():
    rising = list(np.linspace(0.1, 0.9, 9))
    kept = {"resnet20": rising, "vgg_small": rising[:6], "resnet_small": [3, 1, 4, 2, 6, 5]}
    records = [scan(model, {"pca": shares}) for model, shares in kept.items()]
    table = layers.correlations(records, ["pca", "depth"], ["macs:0.5"], [0.5]).assign(p_holm=0.5)
    claim = study.load_claims()["C2"]
    said = findings.orders(claim, table.to_dict("records"))
    assert said[:2] == [f"{findings.sentence(claim, row)}." for row in table.to_dict("records")[:2]] and len(said) == 3
    assert "small VGG on CIFAR-10 (6 layers) and small ResNet on CIFAR-10 (6 layers)" in said[2]
    assert "PCA (3AS) on small VGG" in said[2] and "PCA (3AS) on small ResNet" not in said[2], "the perfect order is named"
    unclear = table.assign(low=-1.0, high=1.0, n=6).to_dict("records")
    assert len(findings.orders(claim, unclear)) == 1 and "none leaves out zero" in findings.orders(claim, unclear)[0]
    assert findings.orders(claim, []) == []


def test_an_order_that_rests_on_few_layers_says_so():
    """Of nine layers, five share one score: the coefficient is made by the other four and their place beside the five."""
    scores = {"pca": [0.5] * 5 + [0.1, 0.2, 0.3, 0.4], "init": [0.5] * 4 + [0.1, 0.2, 0.3, 0.4, 0.6]}
    records = [scan("resnet56", scores), scan("other", {rule: list(np.linspace(0.1, 0.9, 9)) for rule in scores})]
    claim = study.load_claims()["C2"]
    how = {"rules": ["pca", "init", "depth"], "budgets": ["macs:0.5"], "ratios": [0.5]}
    ties = layers.correlations(records, **how).iloc[:3].assign(p_holm=1)
    assert ties["tied"].tolist() == [5, 4, 1] and ties["tied_at"].tolist()[:2] == [0.5, 0.5]
    said = [findings.sentence(claim, row) for row in ties.to_dict("records")]
    assert "n = 9 layers; 5 of 9 layers tied at 0.50; " in said[0], "more than half of them"
    assert "tied" not in "".join(said[1:]), "fewer"
    assert layers.correlations(records, **how, exclude={"resnet56": ["l0", "l1"]}).iloc[:3]["tied"].tolist() == [3, 2, 1]

    listed = {"layers": ["l5", "l6"], "exclude": ["l8"]}
    found = layers.published_table(records[:1], ["pca", "init"], "macs:0.5", listed, 0.5)
    told = findings.listed_layers("ResNet-56", "called sensitive", found)
    assert told.count("tied") == 1 and "; 5 of 8 layers tied at 0.50)" in told.partition("what PCA (3AS) keeps")[2]

    # and on the page of the verdict, for the claim's own rule and for its controls
    run = next(run for run in claim.deciding_runs() if run.model == "resnet56:pretrained")
    curve = pd.DataFrame(records[0]["sensitivity"])
    curves = pd.concat([curve[curve["ratio"] == 0.0], *(curve[curve["ratio"] == 0.5].assign(ratio=r) for r in claim.ratios)])
    kept = [(rule, budget, 0, f"l{i}", value) for rule in (claim.ours, *claim.controls) if rule != "depth"
            for budget in claim.budgets for i, value in enumerate(scores["pca"])]
    kept = pd.DataFrame(kept, columns=["rule", "budget", "seed", "group", "value"])
    record = {"key": run.key, "run": run.to_dict(), "sensitivity": curves.to_dict("list"), "kept": kept.to_dict("list")}
    told = verdict.report(judge(claim, [record]))
    assert told.count("; 5 of 9 layers tied at 0.50; ") >= len(claim.budgets) * len(claim.ratios)


def test_a_published_list_in_one_sentence():
    scores = {"pca": [0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], "pca_at_init": [0.5] * 8}
    record = scan("resnet56", scores, drops=[0.4, 0.5, 0.1, 0.2, 0.0, 0.1, 0.2, 0.3])
    table = layers.published_table([record], list(scores), "macs:0.5", {"layers": ["l0", "l1"]}, ratio=0.5)
    said = findings.listed_layers("ResNet-56", "called sensitive", table)
    start = "ResNet-56, layers called sensitive. They stand above almost all others by the measured drop (AUC 1.00, p = "
    assert said.startswith(start) and "; below almost all others by what PCA (3AS) keeps (AUC 0.00, p = " in said
    assert "; among the others by what PCA, untrained keeps (AUC 0.50, p = " in said and said.count("p = ") == 3
    assert f"corrected {table.loc['pca', 'p_holm']:.2g})" in said


def test_scores_that_are_nearly_equal_are_said_to_be():
    (said,) = findings.nearly_equal([0.36, 0.4, 0.48])
    assert "between 0.36 and 0.48 in all 3 layers" in said and "at most 15 %" in said
    assert findings.nearly_equal([0.1, 0.4, 0.48]) == []


def test_only_networks_with_enough_layers_are_drawn():
    profile = study.load_profile("laptop")
    runs = [run for run in profile.runs("sensitivity", seeds=[0]) if run.model != "resnet20:pretrained"]
    records = []
    for run, count in zip(runs, (6, 5), strict=True):
        record = scan(run.model, {"pca": [0.5] * count})
        metrics = {"dense_test_accuracy": 0.9, "test_accuracy": 0.9}
        records.append(record | {"run": run.to_dict(), "key": run.key, "metrics": metrics, "provenance": {"seconds": 1}})
    scans = Evidence(profile, tuple(runs), tuple(records))
    assert [which for which, _ in layers.with_layers(scans)] == [(runs[0].dataset, runs[0].model)]
    assert len(list(layers.with_layers(scans, 5))) == 2


def test_a_chosen_tilt_at_the_end_of_the_grid_is_told():
    runs = study.load_profile("quick").runs(["better_rule", "pruning"], seeds=[0])
    cell = {"dataset": "fashionmnist-10k", "model": "resnet_small", "criterion": "l1", "budget": "macs:0.25", "arm": "best_tilt"}
    for chosen, end in (("tilt(power=0.5)", "yes"), ("uniform", "no")):
        told = {"chosen": chosen, "second": "tilt(power=-0.5)", "lead": 0.0123, "lead_error": 0.0045}
        table = tables.tilts(pd.DataFrame([cell | told | {"seed": seed} for seed in (0, 1, 2)]), runs)
        assert table[["seeds", "second", "ahead (points ± standard error)"]].iloc[0].tolist() == [3, "tilt −0.5", "+1.23 ± 0.45"]
        assert table["end of the grid"].tolist() == [end] and len(findings.ends_of_the_grid(table)) == (end == "yes")
    one_seed = tables.tilts(pd.DataFrame([cell | told | {"chosen": "tilt(power=0.5)", "lead_error": np.nan, "seed": 0}]), runs)
    assert one_seed["ahead (points ± standard error)"].item() == "+1.23"
    assert findings.ends_of_the_grid(one_seed) == [], "chosen by luck"
    (said,) = findings.ends_of_the_grid(table.assign(**{"end of the grid": "yes"}))
    assert "In 1 of 1 case with three seeds or more the" in said
    empty = tables.tilts(pd.DataFrame({"arm": ["pca"]}), runs)
    assert empty.empty and findings.ends_of_the_grid(empty) == []


def test_a_title_stays_with_its_table_and_the_same_table_is_the_same_page():
    table = pd.DataFrame({"AUC": ["0.50"]}, index=["depth"])
    shown = tables.titled(table, "ResNet-56: layers 20, 38").to_html()
    assert "<caption>ResNet-56: layers 20, 38</caption>" in shown and 'class="dataframe"' in shown
    assert shown == tables.titled(table, "ResNet-56: layers 20, 38").to_html()


def test_networks_stay_together_in_a_table_of_all_budgets():
    cells = [("cifar10", "macs:0.1"), ("mnist", "macs:0.2"), ("cifar10", "macs:0.4"), ("mnist", "params:0.1")]
    told = {"model": "lenet5", "seed": 0, "test_accuracy": 0.9, "test_accuracy_before_finetuning": 0.5}
    runs = [told | {"dataset": dataset, "budget": budget, "arm": arm} for dataset, budget in cells for arm in ("pca", "uniform")]
    networks = tables.before_and_after(pd.DataFrame(runs)).index.get_level_values("network")
    assert list(networks) == sorted(networks, key=list(networks).index) and len(set(networks)) == 2


def test_untrained_spectra_are_taken_as_the_trained_ones_were():
    import slimlib

    run = {"dataset": "mnist", "model": "resnet_small", "seed": 0, "center": False, "coupling": "joint"}
    how = {"center": False, "coupling": "joint"}
    spectra = slimlib.spectra(*untrained.untrained_network("mnist", "resnet_small", 5), **how)
    record = {"run": run, "spectra": {name: values.tolist() for name, values in spectra.items()}}
    table = untrained.trained_and_untrained(record, seeds=1, at_most=3)
    fresh = slimlib.spectra(*untrained.untrained_network("mnist", "resnet_small", 0), **how)
    for layer, part in table[table["weights"] == "untrained"].groupby("layer"):
        np.testing.assert_allclose(part["share"], slimlib.cumulative(fresh[layer]))


# ---- widths of random filters


@pytest.mark.parametrize("aspect", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_the_curve_of_random_filters_is_what_random_matrices_keep(aspect):
    """Of 400 filters, within half a per cent of them, at every threshold; centred, as layers are."""
    torch.manual_seed(0)
    n, d = 400, round(400 / aspect)
    drawn = [eigenvalues([torch.randn(n, d + 1, dtype=torch.float64)]) for _ in range(3)]
    for threshold in (0.3, 0.5, 0.9, 0.99):
        kept = np.mean([width_at(values, threshold) for values in drawn]) / n
        assert random_widths.kept_by_chance(n / d, threshold) == pytest.approx(kept, abs=0.005), threshold


def test_limits_of_the_curve_of_random_filters():
    aspects = np.geomspace(1e-9, 1e6, 61)
    for threshold in (0.1, 0.5, 0.9, 1.0):
        kept = random_widths.kept_by_chance(aspects, threshold)
        assert kept.shape == (61,) and (np.diff(kept) <= 1e-9).all(), "the more filters for the positions, the fewer"
        assert kept[0] == pytest.approx(threshold, abs=1e-3), "of few filters in many dimensions all directions are alike"
        assert kept[-1] * aspects[-1] == pytest.approx(threshold, abs=1e-2), "and of the dimensions where these are few"
        below = random_widths.kept_by_chance(0.3, threshold)
        assert random_widths.kept_by_chance(0.3, threshold * 0.9) < below <= 1
    np.testing.assert_allclose(random_widths.kept_by_chance(np.array([0.2, 1.0, 4.0]), 1.0), [1, 1, 0.25], atol=1e-5)
    for aspect, threshold, named in ((0.0, 0.9, "aspect=0"), (0.5, 1.5, "threshold=1.5")):
        with pytest.raises(SlimlibError, match=named):
            random_widths.kept_by_chance(aspect, threshold)


def spectrum_of_width(width: int, n: int) -> list[float]:
    """Of n eigenvalues, so many alike: at a threshold of 1 that is the width."""
    return [1.0] * width + [0.0] * (n - width)


def by_shape(trained: list[dict[str, int]], untrained: list[dict[str, int]]) -> pd.DataFrame:
    sides = {name: [{layer: spectrum_of_width(width, 20) for layer, width in one.items()} for one in widths]
             for name, widths in (("trained", trained), ("untrained", untrained))}
    return random_widths.by_shape(sides, {"a": 10, "b": 200, "c": 199, "d": 40}, 1.0)


def test_widths_by_shape_stand_beside_those_of_chance():
    table = by_shape([{"a": 5, "b": 7}], [{"a": 5, "b": 8}]).set_index(["layer", "weights"])
    assert table["width"].to_dict() == {("a", "trained"): 5, ("b", "trained"): 7, ("a", "untrained"): 5, ("b", "untrained"): 8}
    assert table.loc[("b", "trained"), ["aspect", "kept"]].tolist() == [0.1, 0.35]
    assert table.loc[("a", "trained"), "chance"] == pytest.approx(0.5, abs=1e-6), "at most 10 directions of 20 filters"


def test_how_far_training_moved_widths_is_told_whatever_it_did():
    untrained_widths = {"a": 5, "b": 7, "c": 9, "d": 9}
    tell = lambda *trained: random_widths.moved(by_shape(list(trained), [untrained_widths] * len(trained)))  # noqa: E731
    alike = "is that of random weights of this shape."
    same = tell(untrained_widths)
    start = "Of 4 layers, the trained width equals the untrained one in 4, differs by 1 filter in 0 and by more in 0."
    assert same.startswith(start)
    assert same.endswith(f"the width of no layer: the width read off the trained weights {alike}")
    near = tell({"a": 6, "b": 6, "c": 9, "d": 9})
    assert "in 2, differs by 1 filter in 2 and by more in 0" in near and "of no layer by more than 1 filter: " in near
    assert near.endswith("weights is, to within one filter, that of random weights of this shape.")
    far = tell({"a": 5, "b": 6, "c": 4, "d": 11})
    assert "equals the untrained one in 1, differs by 1 filter in 1 and by more in 2." in far and "random" not in far
    assert far.endswith("it is narrower in 1 and wider in 1. They differ most in c: 4 of 20 filters trained, 9 untrained.")
    assert tell(untrained_widths, untrained_widths).startswith("Of 8 cases, "), "a layer of one of two networks"


@pytest.fixture(scope="module")
def small_scan():
    """Of the small ResNet, whose layer2.0 and layer3.0 read half as many channels as the others of their width."""
    network, example = untrained.untrained_network("mnist", "resnet_small", 5)
    spectra = {name: values.tolist() for name, values in slimlib.spectra(network, example).items()}
    groups = list(spectra)
    drops = [0.0, 0.01, 0.5, 0.02, 0.1, 0.2]
    curve = pd.DataFrame({"group": groups, "ratio": 0.5, "full_width": [len(spectra[g]) for g in groups], "drop": drops})
    kept = [(rule, "macs:0.5", 0, group, (at + 2) / 10) for rule in ("pca", "pca_at_init") for at, group in enumerate(groups)]
    run = {"dataset": "mnist", "model": "resnet_small", "seed": 0, "center": True, "coupling": "inner"}
    return {"run": run, "spectra": spectra, "sensitivity": curve.to_dict("list"),
            "kept": pd.DataFrame(kept, columns=["rule", "budget", "seed", "group", "value"]).to_dict("list")}


def test_dimensions_of_layers_are_their_positions_less_one_for_each_centred_layer():
    network, example = untrained.untrained_network("mnist", "resnet_small")
    found = random_widths.dimensions(network, example)
    assert found == {name: network.get_submodule(name).weight[0].numel() - 1 for name in found} and len(found) == 6
    assert random_widths.dimensions(network, example, center=False) == {name: d + 1 for name, d in found.items()}
    joint = random_widths.dimensions(network, example, coupling="joint")
    fresh = slimlib.spectra(network, example, coupling="joint")
    bounded = {name: np.count_nonzero(values > 1e-12 * values[0]) for name, values in fresh.items()}
    assert bounded == {name: min(len(fresh[name]), d) for name, d in joint.items()}


def test_scans_by_shape_have_fresh_weights_beside_them(small_scan):
    table = random_widths.by_shape_of_records([small_scan, small_scan], 0.9)
    fresh = slimlib.widths_at(slimlib.spectra(*untrained.untrained_network("mnist", "resnet_small", 0)), 0.9)
    by = table.set_index(["weights", "draw", "layer"])["width"]
    assert by["untrained", 0].to_dict() == by["untrained", 1].to_dict() == fresh
    assert (table["kept"] - table["chance"]).abs().max() < 0.07, "one of sixteen filters"


def test_layers_of_fewer_positions_are_told_with_those_of_their_width(small_scan):
    one, other = random_widths.of_fewer_positions([small_scan], "macs:0.5", 0.5)
    assert one.startswith("small ResNet on MNIST, layer2.0.conv1: n/p is 0.22, in the others of its width at most 0.11.")
    assert "keeps 40 % of it and 50 % of them; untrained, 40 % of it and 50 % of them. By the loss without 50 % of" in one
    assert one.endswith("50.0 points, it is number 1 of 6 layers.") and "layer3.0.conv1" in other and "number 3 of 6" in other


def test_coefficients_without_bounded_layers_are_told_with_their_change():
    records = [scan("a", {"pca": [0.9, 0.1, 0.2, 0.3, 0.4, 0.5]}), scan("b", {"pca": list(np.linspace(0.1, 0.9, 9))})]
    find = lambda **how: layers.correlations(records, ["pca"], ["macs:0.5"], [0.5], **how)  # noqa: E731
    after = find(exclude={"a": ["l0"], "b": ["l8"]})
    bounded = {("cifar10", "a"): ["l0"], ("cifar10", "b"): ["l8"]}
    weak, other = random_widths.without_bounded(find(), after, bounded)
    assert weak.startswith("a on CIFAR-10, PCA (3AS): without l0 Spearman's coefficient is +1.00 (p = 0.017, n = 5 layers)")
    change = "; with all it is +0.14 (p = 0.8, n = 6), a change of +0.86"
    assert weak.endswith(f"{change}. Of 5 layers that is weak evidence either way.")
    assert "a change of 0.00" in other.replace("+", "") and other.endswith(".") and "weak" not in other
    assert "with all" not in random_widths.without_bounded(find().iloc[:0], after, bounded)[0]
