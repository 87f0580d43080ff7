"""Layers compared: rank correlations from scans, layers bounded by their rank, untrained networks without data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from slimlib.study import figures, layers, tables


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
    told = tables.correlations(table.reset_index().assign(p_holm=0.5))
    assert told["Spearman"].iloc[0].startswith("+1.00 [")
    figures.correlation_forest(table.reset_index())
    figures.correlation_forest(table.reset_index().iloc[:0])


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
    told = tables.known_and_unseen(table.reset_index())
    assert told.columns.tolist()[:3] == ["order of both scans", "PCA (3AS), known", "PCA (3AS), unseen"]
    assert told["PCA (3AS), unseen"].tolist() == ["+1.00", "−1.00"] and told.index[0][1] == "50%"
    assert tables.known_and_unseen(layers.known_and_unseen(known, [], ["pca"], "macs:0.5", [0.5])).empty


def test_rank_bounds_follow_from_shapes():
    assert layers.rank_bound("fashionmnist-10k", "vgg_small") == {"conv1": 8}, "9 weights a filter, one lost to centring"
    assert layers.rank_bound("fashionmnist-10k", "vgg_small", below=0.1) == {}
    assert layers.rank_bound("cifar10", "resnet20:pretrained") == {}


def test_untrained_networks_are_drawn_by_seed_and_leave_the_random_state():
    state = torch.get_rng_state()
    (one, example), (same, _), (other, _) = (layers.untrained("mnist", "lenet5", seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state()) and example.shape == (1, 1, 28, 28)
    first = [next(network.parameters()) for network in (one, same, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_spectra_beside_untrained_ones_rise_to_one():
    run = {"dataset": "mnist", "model": "lenet5", "seed": 3, "center": True, "coupling": "inner"}
    import slimlib

    spectra = {name: values.tolist() for name, values in slimlib.spectra(*layers.untrained("mnist", "lenet5", 5)).items()}
    table = layers.trained_and_untrained({"run": run, "spectra": spectra}, seeds=2, at_most=2)
    assert table["layer"].nunique() == 2 and set(table["weights"]) == {"trained", "untrained"}
    ends = table.groupby(["layer", "weights", "seed"])[["component", "share"]].last()
    assert len(ends) == 6 and ends.to_numpy() == pytest.approx(1)
    assert (table.groupby(["layer", "weights", "seed"])["share"].diff().dropna() >= -1e-12).all()
    figures.trained_and_untrained(table)
