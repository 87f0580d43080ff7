"""Details of runs and comparisons on which numbers of the book rest."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch

import slimlib
from slimlib import Recipe, models, study
from slimlib.__main__ import main
from slimlib.data import with_normalisation
from slimlib.errors import SlimlibError
from slimlib.imagesets import KNOWN
from slimlib.run_command import assignment
from slimlib.study import Run, Store, choices, networks, pairing, shapes, tables, untrained
from slimlib.study.claims import load_claims
from slimlib.study.judgement import judge
from slimlib.study.leaders import highest
from tests.conftest import lively_norms
from tests.test_study_runs import tiny_data  # noqa: F401 (a fixture)
from tests.test_verdict import records_of


@pytest.fixture
def small_resnet():
    torch.manual_seed(0)
    return lively_norms(models.build("resnet_small", 10, 1))


def test_a_published_network_sees_images_as_it_was_trained_on_them(tmp_path, tiny_data, monkeypatch, small_resnet):  # noqa: F811
    mean, spread = (0.9,), (0.02,)
    monkeypatch.setattr(models, "pretrained", lambda name: copy.deepcopy(small_resnet))
    monkeypatch.setattr(models, "PRETRAINED_NORMALISATION", (mean, spread))
    run = Run("fashionmnist-10k", "resnet_small:pretrained", "dense")
    record = study.execute(run, Store(tmp_path / "records", tmp_path / "cache"), progress=False)
    data = networks.loaded("fashionmnist-10k")
    as_published, as_loaded = (slimlib.evaluate(small_resnet, d) for d in (with_normalisation(data, mean, spread), data))
    assert record["metrics"]["test_accuracy"] == as_published != as_loaded


def test_a_run_may_have_a_threshold_for_a_budget(tmp_path, tiny_data):  # noqa: F811
    run = Run("fashionmnist-10k", "lenet5", "prune", rule="pca", criterion="l1", budget="threshold:0.9",
              recipe=Recipe(epochs=1, lr=0.05), dense_recipe=Recipe(epochs=1, lr=0.05))  # fmt: skip
    store = Store(tmp_path / "records", tmp_path / "cache")
    record = study.execute(run, store, progress=False)
    dense, data = study.trained(run.dense(), store)
    assert record["widths"] == slimlib.plan_widths(dense, data.example_input, threshold=0.9).widths


@pytest.mark.parametrize(("stage", "name"), [("sensitivity", "image"), ("dense", "images")])
def test_an_option_that_nothing_reads_makes_no_run_of_its_own(stage, name):
    criterion = {"criterion": "l1", "dense_recipe": Recipe(epochs=1, lr=0.1)} if stage == "sensitivity" else {
        "recipe": Recipe(epochs=1, lr=0.1)}
    Run("mnist", "lenet5", stage, **criterion)
    with pytest.raises(SlimlibError, match=f"options: '{name}' has no effect in stage '{stage}'"):
        Run("mnist", "lenet5", stage, options={name: 5}, **criterion)


def test_a_scan_of_a_network_with_batchnorm_needs_no_images_and_looks_at_folded_filters(small_resnet, tiny_data):  # noqa: F811
    run = Run("fashionmnist-10k", "resnet_small", "sensitivity", criterion="l1", dense_recipe=Recipe(epochs=1, lr=0.1))
    data = networks.loaded("fashionmnist-10k")
    rows = pd.DataFrame(choices.kept_by_rules(run, small_resnet, data))
    assert {"pca_folded", "global_bn", "neyman", "neyman_score"} <= set(rows["rule"])
    layout = slimlib.trace(small_resnet, data.example_input)
    v, t = slimlib.sampling.variances(small_resnet, layout, layout.slimmable())
    scores = rows[rows["rule"] == "neyman_score"].set_index("group")["value"]
    assert scores.to_dict() == pytest.approx({g.name: s for g, s in zip(layout.slimmable(), v / t, strict=True)})
    folded = slimlib.plan_widths(small_resnet, data.example_input, rule="pca_folded", keep_macs=0.5).kept
    found = rows[(rows["rule"] == "pca_folded") & (rows["budget"] == "macs:0.5")].set_index("group")["value"]
    assert found.to_dict() == folded


@pytest.mark.parametrize(("claim", "what", "change"), [
    ("K1-chance", "dense_sha256", lambda r: r.update(dense_sha256="0" * 64)),
    ("C1-distillation", "distill", lambda r: r["run"]["distill"].update(temperature=9.0)),
])
def test_arms_of_two_dense_networks_or_two_ways_to_teach_are_no_pair(claim, what, change):
    claim = load_claims()[claim]
    records = json.loads(json.dumps(records_of(claim, {}, seeds=2)))
    for record in records:
        record["dense_sha256"] = "e" * 64
    rival = claim.rivals[0]
    change(next(record for record in records if record["run"]["rule"] == rival))
    with pytest.raises(SlimlibError, match=f"are no pair: their {what} differ"):
        pairing.differences(study.to_frame(records), claim.ours, rival)


@pytest.fixture
def tilts():
    """A frame of two tilts that three seeds judge, and the runs it was planned of."""
    dense = study.load_profile("laptop").runs("distillation")[0]
    runs = [dense.but(rule="tilt", options={"power": power}, budget="macs:0.1", seed=seed, center=True)
            for power in (0.5, 1.0) for seed in range(3)]
    leads = dict(enumerate((0.01, 0.03, 0.02)))
    records = [{"key": run.key, "run": run.to_dict(), "provenance": {"seconds": 1.0},
                "metrics": {"val_accuracy": 0.9 + (leads[run.seed] if dict(run.options)["power"] == 0.5 else 0)}} for run in runs]
    return study.to_frame(records), runs


def test_how_far_a_tilt_leads_is_a_mean_with_its_standard_error(tilts):
    frame, runs = tilts
    best = pairing.with_best_tilt(frame, runs).query("arm == 'best_tilt'")
    assert best["lead"].tolist() == pytest.approx([0.02] * 3)
    assert best["lead_error"].tolist() == pytest.approx([0.01 / 3**0.5] * 3)


def test_seeds_of_students_are_counted_though_they_have_no_criterion(tilts):
    frame, runs = tilts
    assert frame["criterion"].isna().all()
    assert tables.tilts(pairing.with_best_tilt(frame, runs), runs)["seeds"].tolist() == [3]


def test_a_rule_with_less_of_the_other_cost_is_told_by_the_geometric_mean():
    claim = load_claims()["C1-pruning"]
    records = records_of(claim, {})
    for record in records:
        unit, other = record["run"]["budget"].partition(":")[0], {"macs": "params", "params": "macs"}
        ours, least = record["run"]["rule"] == "pca", record["run"]["budget"].endswith((":0.05", ":0.1"))
        record["cost"][other[unit]] = (400 if least else 100) if ours else 100
    found = judge(claim, records)
    for row in found.deciding.to_dict("records"):
        pairs = shapes.of_comparison(found.pairs, row)
        share = pairs["budget"].str.endswith((":0.05", ":0.1")).mean()
        assert shapes.other_cost(found, row)[1] == pytest.approx(4.0**share) and 0 < share < 1


def test_a_batch_larger_than_the_training_images_is_refused_by_name(small_resnet):
    pixels, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8), np.arange(40) % 4
    data = slimlib.data.from_arrays(pixels, labels, pixels, labels)
    with pytest.raises(SlimlibError, match="batch_size=128 must be at most the 36 training images"):
        slimlib.fit(small_resnet, data, Recipe(epochs=1, batch_size=128, lr=0.1), progress=False)
    history = slimlib.fit(small_resnet, data, Recipe(epochs=2, batch_size=12, lr=0.1), progress=False)
    assert history.steps == 6 and history.images_per_second == pytest.approx(72 / history.seconds)


def test_each_rival_is_asked_for_its_own_budgets_alone(monkeypatch):
    """A rival that is planned at fewer budgets than another is compared at those, and its comparison can be made."""
    claim = load_claims()["C1-pruning"]
    both = [run for run in claim.deciding_runs() if run.model == "lenet5" and run.budget.startswith("macs")]
    (budget, *_) = dict.fromkeys(run.budget for run in both)
    runs = [run for run in both if run.arm != "global_l1" or run.budget == budget]
    monkeypatch.setattr(type(claim), "deciding_runs", lambda self, root=None: runs)
    judged = judge(claim, [record for record in records_of(claim, {"pca": 0.005}) if record["key"] in {run.key for run in runs}])
    found = judged.deciding.set_index("rival")["budgets"]
    assert found["global_l1"] == budget and found["uniform"].count(",") >= 1 and len(found) == judged.deciding["family"].iloc[0]


def test_records_of_another_recipe_version_are_passed_over(tmp_path):
    run = load_claims()["C1-pruning"].deciding_runs()[0]
    store = Store(tmp_path / "records", tmp_path / "cache")
    store.put(run, {"provenance": {"seconds": 1.0}})
    assert [record["key"] for record in store.all()] == [run.key]
    store.put(run, {"provenance": {"seconds": 1.0}, "recipe_version": study.RECIPE_VERSION - 1})
    assert store.all() == []


@pytest.mark.parametrize("content, told", [
    (b"null", "holds no record of a run"), (b"[]", "holds no record of a run"), (b"\xff", "is not valid JSON"),
    ("optimizer", r"holds a run that this version of slimlib does not know \(.*optimizer"),
    ({"rule": "pcaa"}, r"holds a run .* does not know \(rule='pcaa' is unknown"),
])  # fmt: skip
def test_a_file_that_is_no_record_is_named(tmp_path, content, told):
    run = load_claims()["C1-pruning"].deciding_runs()[0]
    store = Store(tmp_path / "records", tmp_path / "cache")
    path = store.put(run, {"provenance": {"seconds": 1.0}})
    if not isinstance(content, bytes):
        record = json.loads(path.read_text())
        record["run"] |= {content: 1} if isinstance(content, str) else content
        content = json.dumps(record).encode()
    path.write_bytes(content)
    for read in (store.all, lambda: store.get(run)):
        with pytest.raises(SlimlibError, match=rf"{path.name} {told}"):
            read()


def test_means_that_are_equal_but_for_rounding_share_the_first_place():
    accuracies = {"pca": [0.9881, 0.9882, 0.9883, 0.9884, 0.9881], "uniform": [0.9881, 0.9881, 0.9884, 0.9883, 0.9882]}
    frame = pd.DataFrame([{"arm": arm, "seed": seed, "budget": "macs:0.5", "test_accuracy": value}
                          for arm, of in accuracies.items() for seed, value in enumerate(of)])
    assert frame.groupby("arm")["test_accuracy"].mean().nunique() == 2, "the sums differ in their last digit"
    assert highest(frame, "test_accuracy", 0.95) == "Highest mean: PCA (3AS) at 50 % of MACs; uniform at 50 % of MACs."


def test_a_network_of_a_data_set_that_is_not_known_is_refused():
    with pytest.raises(SlimlibError, match="dataset='cifar-10' is unknown; choose one of "):
        untrained.untrained_network("cifar-10", "resnet20")
    shapes_of = {name: tuple(untrained.untrained_network(name, "lenet5" if "mnist" in name else "resnet20")[1].shape)
                 for name in KNOWN}  # fmt: skip
    assert shapes_of == {name: (1, len(known.mean), known.side, known.side) for name, known in KNOWN.items()}


@pytest.mark.parametrize("text, value", [("9e-1", 0.9), ("-1E3", -1000.0), ("0.3", 0.3), ("2", 2), ("e1", "e1"), ("1e", "1e")])
def test_numbers_with_an_exponent_are_numbers(text, value):
    assert assignment(f"threshold={text}") == ("threshold", value)


def test_each_of_several_processes_has_an_equal_share_of_the_cores(monkeypatch):
    started = []

    class Process:
        def __init__(self, command, env):
            started.append(env["OMP_NUM_THREADS"])

        def wait(self):
            return 0

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = {"now": 12}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads["now"])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.update(now=n))
    monkeypatch.setattr("slimlib.train_command.subprocess.Popen", Process)
    monkeypatch.setattr(study, "ensure", lambda *args, **how: None)
    monkeypatch.setattr("slimlib.train_command.status", lambda args: None)
    assert main(["train", "quick", "--jobs", "4"]) in (None, 0)
    assert started == ["3"] * 3 and threads["now"] == 3


def test_what_pairing_leaves_is_nothing_where_all_is_shared_and_all_where_nothing_is():
    cell = {"dataset": "mnist", "model": "lenet5", "stage": "prune", "criterion": "l1", "budget": "macs:0.5"}
    cell |= {"budget_kind": "macs"}
    seeds = {"uniform": (0.90, 0.92, 0.94), "pca": (0.93, 0.95, 0.97), "random": (0.97, 0.95, 0.93), "tilt": (0.9, 0.9, 0.9)}
    frame = pd.DataFrame([cell | {"arm": arm, "seed": seed, "test_accuracy": value, "key": f"{arm}{seed}"}
                          for arm, of in seeds.items() for seed, value in enumerate(of)])

    def of(*arms):
        return pairing.left_by_pairing(frame[frame["arm"].isin(["uniform", *arms])])

    assert of("pca") == (pytest.approx(0), 1) and of("random") == (pytest.approx(2), 1) and of("tilt") == (pytest.approx(1), 1)
    assert of("pca", "random", "tilt") == (pytest.approx(1), 3)
    nothing = pairing.left_by_pairing(frame[frame["seed"] < 2])
    assert np.isnan(nothing[0]) and nothing[1] == pairing.left_by_pairing(frame[:0])[1] == 0
