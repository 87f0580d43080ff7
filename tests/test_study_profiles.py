"""Profiles and claims say what they mean, and committed records keep their promise of equal budgets."""

from __future__ import annotations

import shutil
from collections import defaultdict

import pytest

from slimlib import study
from slimlib.errors import SlimlibError
from slimlib.rules import RULES
from slimlib.study.claims import load_claims, published_layers
from slimlib.study.runs import SLIM_STAGES

PROFILES = study.profile_names()
CLAIMS = load_claims()


def test_the_four_profiles_are_there():
    assert {"quick", "laptop", "paper", "imagenet"} <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_loads_with_unique_keys_known_rules_and_estimates(name):
    profile = study.load_profile(name)
    runs = profile.runs()
    assert len({run.key for run in runs}) == len(runs) > 0
    assert {run.rule for run in runs} - {None} <= set(RULES)
    assert min(profile.estimates().values()) > 0 and set(profile.estimates()) <= set(runs)
    done = set()
    for run in runs:  # what a run needs comes before it
        assert set(run.needs()) <= done
        done.add(run)


@pytest.mark.parametrize("name", PROFILES)
def test_seeds_are_outermost(name):
    profile = study.load_profile(name)
    for of_study in profile.studies:
        seeds = [run.seed for run in profile.runs(of_study)]
        assert seeds == sorted(seeds)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda text: "", "broken.yml: a mapping of .* was expected, not None"),
    (lambda text: text.replace("recipes:", "recipies:"), "broken.yml: recipes is missing"),
    (lambda text: text + "\n]", "broken.yml is not YAML"),
    (lambda text: text + "\nmore: 1\n", "broken.yml: more is not understood"),
])  # fmt: skip
def test_a_broken_profile_is_refused_by_what_is_wrong(tmp_path, change, reason):
    shutil.copytree(study.load_profile("quick").root / "notebooks" / "profiles", tmp_path / "notebooks" / "profiles")
    for needed in ("book/_toc.yml", "_config.yml"):
        (tmp_path / needed).parent.mkdir(exist_ok=True)
        (tmp_path / needed).touch()
    profiles = tmp_path / "notebooks" / "profiles"
    (profiles / "broken.yml").write_text(change((profiles / "quick.yml").read_text()))
    with pytest.raises(SlimlibError, match=reason):
        study.load_profile("broken", tmp_path)


def test_one_network_or_seed_may_be_named_without_a_list():
    told = (("lenet5", 0), (["lenet5"], [0]))
    alone, listed = (study.gather("laptop", "prune", ["pruning"], model=model, seeds=seeds) for model, seeds in told)
    assert alone.runs == listed.runs and {run.seed for run in alone.runs} == {0}


def test_evidence_is_read_and_illustration_is_trained(monkeypatch, tmp_path):
    assert all(study.load_profile(n).evidence and study.load_profile(n).train == "records" for n in ("laptop", "paper"))
    quick = study.load_profile("quick")
    assert quick.train == "live" and not quick.evidence and "results" in quick.records
    monkeypatch.delenv("SLIMLIB_RESULTS", raising=False)
    assert quick.results == quick.root / "book" / "results" / "quick"
    monkeypatch.setenv("SLIMLIB_RESULTS", str(tmp_path))  # a notebook that is executed elsewhere
    assert quick.results == tmp_path
    assert study.status(quick)["runs"] <= 35


def test_evidence_pins_its_precision_and_has_five_seeds():
    """ "auto" would let the machine choose the arithmetic, and records of several machines would not be comparable."""
    for name in ("laptop", "paper"):
        for run in study.load_profile(name).runs():
            assert run.recipe is None or run.recipe.precision != "auto", run.label
        assert len(study.load_profile(name).seeds) >= 5


def test_arms_of_a_comparison_share_all_but_the_arm():
    for name in PROFILES:
        recipes = defaultdict(set)
        for run in study.load_profile(name).runs():
            if run.stage in SLIM_STAGES:
                cell = (run.dataset, run.model, run.stage, run.criterion, run.budget, run.coupling)
                recipes[cell].add((run.recipe, run.dense_recipe, run.distill))
        assert all(len(found) == 1 for found in recipes.values()), name


def test_a_notebooks_parameters_replace_axes():
    quick = study.load_profile("quick")
    runs = quick.runs("pruning", seeds=[7], budget="macs:0.3", arms=["pca"], model="vgg_small")
    assert [(run.seed, run.budget, run.rule, run.model) for run in runs] == [(7, "macs:0.3", "pca", "vgg_small")]
    with pytest.raises(SlimlibError, match="rules is no axis"):
        quick.runs("pruning", rules=["pca"])
    with pytest.raises(SlimlibError, match="prunning"):
        quick.runs("prunning")
    with pytest.raises(SlimlibError, match="quik"):
        study.load_profile("quik")


def test_status_counts_records_and_learns_from_their_time(tmp_path):
    quick = study.load_profile("quick")
    store, runs = study.Store(tmp_path, tmp_path / "cache"), quick.runs()
    none = study.status(quick, store)
    assert none["recorded"] == 0 and none["missing"] == len(runs) and none["seconds_left"] > 0
    one = next(run for run in runs if run.stage == "prune")
    store.put(one, {"provenance": {"seconds": 1000.0}})
    found = study.status(quick, store)
    assert found["recorded"] == 1 and found["seconds_recorded"] == 1000.0
    assert found["seconds_left"] > none["seconds_left"] + 1000, "runs like the recorded one now count for what it took"
    assert found["studies"]["pruning"]["recorded"] == 1


# ---- claims


def test_all_planned_claims_are_written_down():
    assert {"C1-pruning", "C1-distillation", "C2", "C3", "C4", "C5"} <= set(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_names_existing_rules_and_has_runs_that_can_decide_it(claim):
    runs = claim.deciding_runs()
    assert runs
    if claim.kind == "paired":
        arms = {run.arm for run in runs}
        assert claim.ours in arms and set(claim.rivals) <= arms | {"best_tilt"}
        assert {run.budget.partition(":")[0] for run in runs} >= {"macs", "params"}
        assert claim.margin > 0 and claim.min_seeds >= 5
        for run in runs:
            assert study.load_profile("laptop").evidence and run.stage == claim.stage
    else:
        assert {run.stage for run in runs} == {"sensitivity"}


def test_no_claim_is_decided_by_an_illustration():
    for claim in CLAIMS.values():
        assert all(study.load_profile(where["profile"]).evidence for where in claim.runs), claim.id


def test_published_layers_exist():
    import torch

    import slimlib
    from slimlib import models

    for architecture, lists in published_layers().items():
        path = slimlib.width_path(models.build(architecture, 10, 3), torch.zeros(1, 3, 32, 32), rule="uniform")
        for told in lists:
            assert set(told["layers"]) | set(told.get("exclude", ())) <= {group.name for group in path.groups}


def test_tilt_of_power_zero_is_uniform():
    """The profiles leave tilt 0 out and let `uniform` stand for it."""
    import torch

    import slimlib
    from slimlib import models

    model, example = models.build("vgg_small", 10, 1), torch.zeros(1, 1, 28, 28)
    for budget in ({"keep_macs": 0.35}, {"keep_params": 0.2}):
        flat = slimlib.plan_widths(model, example, rule="uniform", **budget)
        assert slimlib.plan_widths(model, example, rule="tilt", power=0.0, **budget).widths == flat.widths


# ---- the committed evidence


def committed() -> list[dict]:
    return study.load_profile("laptop").store().all()


def test_committed_records_are_where_their_keys_say():
    store = study.load_profile("laptop").store()
    for record in committed():
        run = study.Run.from_dict(record["run"])
        assert run.key == record["key"] and store.path(run).exists(), record["label"]


def test_committed_arms_are_at_equal_budgets():
    """Every slim record lies at or under its budget, and all arms of a comparison within 2 % of each other."""
    achieved = defaultdict(dict)
    for record in committed():
        run = study.Run.from_dict(record["run"])
        if run.stage in SLIM_STAGES and not run.budget.startswith("threshold"):
            unit, _, value = run.budget.partition(":")
            cost = record["cost"]
            assert cost[unit] <= float(value) * cost[f"dense_{unit}"] * (1 + 1e-9), record["label"]
            wider = record["wider_plan_exceeds"]
            assert wider is None or wider[unit] > float(value) * cost[f"dense_{unit}"], record["label"]
            cell = (run.dataset, run.model, run.stage, run.criterion, run.budget, run.seed)
            achieved[cell][run.arm] = cost[unit] / (float(value) * cost[f"dense_{unit}"])
    for cell, arms in achieved.items():
        assert max(arms.values()) / min(arms.values()) < 1.02, (cell, arms)
