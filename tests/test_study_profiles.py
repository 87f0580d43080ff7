"""Profiles and claims say what they mean, and committed records keep their promise of equal budgets."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

import slimlib
from slimlib import study
from slimlib.cost import cost_model
from slimlib.errors import SlimlibError
from slimlib.project import project_root
from slimlib.recipe import Recipe
from slimlib.rules import RULES
from slimlib.study import evidence, untrained
from slimlib.study.claims import Claim, load_claims, published_layers
from slimlib.study.runs import SLIM_STAGES
from slimlib.study.studies import expand
from tests.conftest import project_with_profile

PROFILES = study.profile_names()
CLAIMS = load_claims()
ARMS = "[pca, uniform, global_l1, random]"  # of a grid of the profile `quick`


def test_the_four_profiles_are_there():
    assert {"quick", "laptop", "paper", "imagenet"} <= set(PROFILES)


def test_a_book_of_ones_own_is_not_taken_for_the_project(tmp_path):
    """Any Jupyter Book has a table of contents; the profiles are what only this project has."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
    assert project_root(tmp_path / "book") == project_root("/")
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    assert project_root(tmp_path / "book") == project_root(tmp_path / "notebooks" / "profiles") == tmp_path


def test_one_claim_may_be_named_without_a_list():
    assert study.judge_all("quick", only="C4") == study.judge_all("quick", only=["C4"]) == {}
    with pytest.raises(SlimlibError, match=r"^only='C9' is no claim; book/claims\.yml has "):
        study.judge_all("laptop", only="C9")


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


def test_a_grid_is_the_product_of_its_axes():
    grid = {"dataset": "mnist", "model": ["lenet5", "resnet20:pretrained"], "stage": "prune", "criterion": "l1",
            "budget": "macs:0.5", "arms": ["pca_budgeted", {"rule": "tilt", "center": False, "options": {"power": 1}}],
            "coupling": "joint", "options": {"folded": True},
            "dense_recipe": Recipe(2, 0.1), "recipe": Recipe(1, 0.1)}  # fmt: skip
    runs = list(expand(grid, 7))
    assert [(run.model, run.arm, dict(run.options)) for run in runs] == [
        (model, *arm) for model in grid["model"]
        for arm in (("pca_budgeted_joint(folded=True)", {"folded": True}), ("tilt_uncentred_joint(power=1.0)", {"power": 1.0}))]
    assert {(run.seed, run.coupling) for run in runs} == {(7, "joint")}
    assert [run.dense_recipe for run in runs] == [grid["dense_recipe"]] * 2 + [None] * 2
    assert {run.recipe for run in runs} == {grid["recipe"]}


def test_seeds_of_a_grid_are_its_own_where_it_has_some():
    laptop = study.load_profile("laptop")
    scans = laptop.runs("sensitivity")
    assert [sorted({run.seed for run in scans if run.pretrained is known}) for known in (True, False)] == [[0], [*laptop.seeds]]
    assert len(laptop.runs("unseen")) == 2 and not set(laptop.runs("unseen")) & set(scans), "of other images"


@pytest.mark.parametrize(("change", "reason"), [
    (lambda text: "", "broken.yml: a mapping of .* was expected, not None"),
    (lambda text: text.replace("recipes:", "recipies:"), "broken.yml: recipes is missing"),
    (lambda text: text + "\n]", "broken.yml is not YAML"),
    (lambda text: text + "\nmore: 1\n", "broken.yml: more is not understood"),
    (lambda text: re.sub(r"\blr: [\d.]+", "lr: 1e-2", text, count=1), r"broken.yml: recipes.\w+: lr='1e-2' must be a number"),
    (lambda text: re.sub(r"\{epochs: ", "{schedule: x, epochs: ", text, count=1), r"broken.yml: recipes.\w+: schedule='x' must"),
    (lambda text: re.sub(r"criterion: \w+", "criterion: l11", text), r"yml: studies.\w+\[\d\]: criterion='l11' is unknown"),
    (lambda text: text.replace('"macs:0.25"', "0.5"), r"yml: studies.\w+\[\d\]: budget=0.5 is not understood"),
    (lambda text: re.sub(r"(?m)^evidence: .*", "evidence: 'no'", text), "broken.yml: evidence='no' must be true or false"),
    (lambda text: re.sub(r"(?m)^seeds: .*", "seeds: 5.0", text), "broken.yml: seeds=5.0 must be a number of seeds, or a list"),
    (lambda text: re.sub(r"(?m)^records: .*", "records:", text), "broken.yml: records=None must be the name of a folder"),
    (lambda text: text + "\n  empty:\n", "broken.yml: studies.empty must be a list of grids, not None"),
    (lambda text: re.sub(r"seconds: [\d.]+", "seconds: abc", text), r"studies.\w+\[0\]: seconds='abc' must be a number"),
    (lambda text: re.sub(r"dataset: [\w-]+", "dataset: fashion", text), r"dataset='fashion' is unknown; choose one of"),
    (lambda text: text.replace("vgg_small", "vgg_smal"), r"studies.\w+\[\d\]: model='vgg_smal' is unknown"),
    (lambda text: text.replace("model: vgg_small", "model: 5"), r"yml: studies.\w+\[\d\]: model=5 is unknown; choose one of"),
    (lambda text: text.replace("recipe: finetune", "recipe: [dense]"), r"studies.\w+\[\d\]: recipe=\['dense'\] is not defined"),
    (lambda text: text.replace(ARMS, "[[pca]]"), r"studies.\w+\[\d\]: arm \['pca'\]: a mapping of .* not \['pca'\]"),
    (lambda text: text.replace(ARMS, "[{rule: [pca]}]"), r"studies.\w+\[\d\]: rule=\['pca'\] is unknown; choose"),
    (lambda text: text.replace(ARMS, "[{rule: pca, options: 5}]"), r"\[\d\]: options=5 must be a mapping by name"),
    (lambda text: text.replace("options: {images: 500}", "options: 5"), r"\[\d\]: options=5 must be a mapping by name"),
    (lambda text: re.sub(r"seconds: [\d.]+", "seconds: true", text), r"studies.\w+\[0\]: seconds=True must be a number"),
    (lambda text: text.replace("seconds: ", "seeds: true, seconds: "), r"studies.\w+\[0\]: seeds=True must be a number of seeds"),
    (lambda text: text.replace("seconds: ", "seeds: [a], seconds: "), r"studies.\w+\[0\]: seeds='a' must be a whole number"),
    (lambda text: re.sub(r"(?m)^seeds: .*", "seeds: true", text), "broken.yml: seeds=True must be a number of seeds, or a list"),
])  # fmt: skip
def test_a_broken_profile_is_refused_by_what_is_wrong(tmp_path, change, reason):
    shutil.copytree(study.load_profile("quick").root / "notebooks" / "profiles", tmp_path / "notebooks" / "profiles")
    for needed in ("book/_toc.yml", "_config.yml"):
        (tmp_path / needed).parent.mkdir(exist_ok=True)
        (tmp_path / needed).touch()
    profiles = tmp_path / "notebooks" / "profiles"
    text = (profiles / "quick.yml").read_text().replace("name: quick", "name: broken")
    (profiles / "broken.yml").write_text(change(text))
    with pytest.raises(SlimlibError, match=reason):
        study.load_profile("broken", tmp_path)


def test_an_arm_may_have_a_coupling_of_its_own():
    grid = {"dataset": "mnist", "model": "lenet5", "stage": "prune", "criterion": "l1", "budget": "macs:0.5", "coupling": "inner",
            "arms": ["pca", {"rule": "uniform", "coupling": "joint"}],
            "recipe": Recipe(1, lr=0.1), "dense_recipe": Recipe(1, lr=0.1)}  # fmt: skip
    assert [(run.rule, run.coupling) for run in expand(grid, 0)] == [("pca", "inner"), ("uniform", "joint")]


def test_one_network_or_seed_may_be_named_without_a_list():
    told = (("lenet5", 0), (["lenet5"], [0]))
    alone, listed = (study.gather("laptop", "prune", ["pruning"], model=model, seeds=seeds) for model, seeds in told)
    assert alone.runs == listed.runs and {run.seed for run in alone.runs} == {0}
    assert study.gather("laptop", "prune", "pruning", model="lenet5", seeds=0).runs == alone.runs
    assert {run.seed for run in study.load_profile("laptop").runs("pruning", seeds=3)} == {3}


def test_evidence_is_read_and_illustration_is_trained(monkeypatch, tmp_path):
    assert all(study.load_profile(n).evidence and study.load_profile(n).train == "records" for n in ("laptop", "paper"))
    quick = study.load_profile("quick")
    assert quick.train == "live" and not quick.evidence and "results" in quick.records
    monkeypatch.delenv("SLIMLIB_RESULTS", raising=False)
    assert quick.figure_data == quick.root / "book" / "results" / "mine" / "quick-data", "the book's own are left alone"
    monkeypatch.setenv("SLIMLIB_RESULTS", str(tmp_path))  # a notebook that is executed elsewhere
    assert quick.figure_data == tmp_path
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


def test_a_profile_that_is_edited_is_read_anew(tmp_path):
    """A kernel lives for hours: what its user changes in the file must not wait for the next one."""
    one = "one: [{dataset: mnist, model: lenet5, stage: dense, recipe: r, seconds: 1}]"
    project_with_profile(tmp_path, one)
    before = study.load_profile("small", tmp_path)
    assert study.load_profile("small", tmp_path) is before, "what has not changed is not read again"
    file = tmp_path / "notebooks" / "profiles" / "small.yml"
    file.write_text(file.read_text().replace("lenet5", "vgg_small"))
    assert [run.model for run in study.load_profile("small", tmp_path).runs()] == ["vgg_small"]


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
    kind = ("dataset", "model", "stage", "budget", "recipe")
    like = [run for run in runs if all(getattr(run, name) == getattr(one, name) for name in kind)]
    store.put(like[1], {"provenance": {"seconds": 3000.0}})
    rest = sum(quick.estimates()[run] for run in runs if run not in like)
    assert study.status(quick, store)["seconds_left"] == pytest.approx(2000 * (len(like) - 2) + rest), "their mean"


# ---- claims


def test_all_planned_claims_are_written_down():
    assert {"C1-pruning", "C1-distillation", "C2", "C3", "C4", "C5"} <= set(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_names_existing_rules_and_has_runs_that_can_decide_it(claim):
    runs = claim.deciding_runs()
    assert runs and (claim.criterion is None or {run.criterion for run in runs} == {claim.criterion})
    if claim.kind == "paired":
        arms = {run.arm for run in runs}
        assert claim.ours in arms and set(claim.rivals) <= arms | {"best_tilt"}
        assert {run.budget.partition(":")[0] for run in runs} >= {"macs", "params"}
        assert claim.margin > 0 and claim.min_seeds >= 5
        assert all(study.load_profile(where["profile"]).evidence for where in claim.runs)
    else:
        assert {run.stage for run in runs} == {"sensitivity"}


def test_runs_decide_that_are_of_the_claims_criterion_stage_and_arms(tmp_path):
    project_with_profile(tmp_path, """mixed: [
        {dataset: mnist, model: lenet5, stage: prune, arms: [pca, uniform, random, {rule: tilt, options: {power: 1}}],
         criterion: [l1, l2], budget: "macs:0.5", dense_recipe: r, recipe: r, seconds: 1},
        {dataset: mnist, model: lenet5, stage: scratch, arms: [pca, uniform], budget: "macs:0.5", dense_recipe: r, recipe: r,
         seconds: 1}]""")
    runs = ({"profile": "small", "studies": ["mixed"]},)
    claim = Claim("X", "", "", "paired", "pca", runs, rivals=("random",), criterion="l2")
    told = lambda claim: [(run.stage, run.arm, run.criterion) for run in claim.deciding_runs(tmp_path)]  # noqa: E731
    assert told(claim) == [("prune", "pca", "l2"), ("prune", "random", "l2")]
    assert [run[2] for run in told(replace(claim, criterion=None))] == ["l1", "l1", "l2", "l2"]
    assert told(replace(claim, stage="scratch", criterion=None)) == [], "without a rival there is nothing to decide"
    scratch = replace(claim, stage="scratch", criterion=None, rivals=("uniform", "random"))
    assert told(scratch) == [("scratch", "pca", None), ("scratch", "uniform", None)]
    tilts = told(replace(claim, rivals=("best_tilt",)))
    assert [run[1] for run in tilts] == ["pca", "uniform", "tilt(power=1.0)"], "uniform is the tilt of power 0 and competes"


@pytest.mark.parametrize("change, told", [
    ({"rivalz": ["uniform"]}, "claim 'A': rivalz is not understood"), ({"kind": "pair"}, "kind='pair' must be one of"),
    ({"rivals": []}, "rivals is missing"), ({"kind": "rank"}, "ratios is missing"),
    ({"runs": [{"profile": "grand", "studies": ["pruning"]}]}, "runs must name a profile"),
    ({"runs": [{"profile": "laptop"}]}, "runs must name a profile .* and its studies"), ({"runs": ["laptop"]}, "not 'laptop'"),
    ({"runs": [{"profile": "laptop", "studies": ["prunning"]}]}, "'prunning' is no study of laptop; it has"),
    ({"rivals": ["globl_l1"]}, "claim 'A': rivals: 'globl_l1' is no rule"), ({"ours": "pcaa"}, "ours: 'pcaa' is no rule"),
    ({"stage": "distil"}, "stage='distil' must be one of prune, distill"), ({"exclude": {"vgg-16": []}}, "'vgg-16' is no"),
    ({"budgets": ["mac"]}, "budgets: 'mac' must be one of"),
    ({"kind": "rank", "ratios": [0.5], "budgets": ["mac:0.5"]}, "budgets: .*mac"),
])  # fmt: skip
def test_a_claim_that_is_not_understood_is_named(tmp_path, change, told):
    entry = {"id": "A", "title": "t", "statement": "s", "kind": "paired", "ours": "pca", "rivals": ["uniform"],
             "runs": [{"profile": "laptop", "studies": ["pruning"]}]}
    path = tmp_path / "claims.yml"

    def load(*claims):
        path.write_text(json.dumps({"defaults": {"paired": {"margin": 0.5}}, "claims": claims}))
        return load_claims(path)

    assert load(entry)["A"].margin == 0.5 and list(load(entry, entry | {"id": "B"})) == ["A", "B"]
    with pytest.raises(SlimlibError, match="id 'A' is there twice"):
        load(entry, entry)
    with pytest.raises(SlimlibError, match=told):
        load(entry | change)


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


def test_a_page_trains_in_a_live_profile_unless_it_asks_for_what_is_recorded(monkeypatch):
    asked = []
    monkeypatch.setattr(evidence, "ensure", lambda runs, store, **how: asked.append(how["train"]) or [])
    for told in ({"profile": "quick"}, {"profile": "quick", "train": False}, {"profile": "laptop"}):
        assert study.gather(stage="prune", **told).runs
    assert asked == [True, False, False]


# ---- the committed evidence


def committed() -> list[dict]:
    records = study.load_profile("laptop").store().all()
    assert records, "without a record the loops below would check nothing"
    return records


def test_committed_records_are_where_their_keys_say():
    store = study.load_profile("laptop").store()
    for path in store.root.glob("*/*.json"):
        if re.fullmatch("[0-9a-f]{12}", path.stem):
            record = json.loads(path.read_text())
            run = study.Run.from_dict(record["run"])
            assert run.key == record["key"] and store.path(run) == path, path
            assert record["recipe_version"] == study.RECIPE_VERSION, path
    assert study.status(study.load_profile("laptop"))["unlisted"] == [], "each belongs to a run of a profile"


def test_committed_costs_follow_from_the_widths_and_accuracies_are_counts_of_images():
    """Whoever edits a record by hand has to edit all of it."""
    known, images = {}, {"mnist": 10_000, "cifar10": 10_000, "cifar100": 10_000}
    for record in committed():
        if record["run"]["stage"] not in SLIM_STAGES:
            continue
        dataset, model, coupling = (record["run"][name] for name in ("dataset", "model", "coupling"))
        if (dataset, model, coupling) not in known:
            network, example = untrained.untrained_network(dataset, model)
            layout = slimlib.trace(network, example)
            groups = layout.slimmable(coupling)
            known[dataset, model, coupling] = [g.name for g in groups], cost_model(network, layout, groups)
        names, costs = known[dataset, model, coupling]
        assert list(record["widths"]) == names, record["label"]
        widths = np.array([record["widths"][name] for name in names])
        assert (int(costs.macs(widths)), int(costs.params(widths))) == (record["cost"]["macs"], record["cost"]["params"])
        for name in ("test_accuracy", "dense_test_accuracy"):
            right = record["metrics"][name] * images[dataset]
            assert 0 <= right <= images[dataset] and right == pytest.approx(round(right), abs=1e-6), record["label"]


def test_committed_records_are_of_code_that_can_be_found_again():
    for record in committed():
        code = record["provenance"]["code"]
        assert re.fullmatch("[0-9a-f]{40}", code["commit"] or "") and code["dirty"] is False, record["label"]


def test_committed_records_are_of_commits_in_the_history():
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=project_root(), capture_output=True, text=True, check=True).stdout.strip()

    try:
        if git("rev-parse", "--is-shallow-repository") == "true":
            pytest.skip("a shallow clone has no history")
        history = set(git("rev-list", "HEAD").split())
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    store = study.load_profile("laptop").store()
    texts = [path.read_text(encoding="utf-8") for path in store.root.glob("*/*.json")]  # of benchmarks too
    told = {commit for text in texts for commit in re.findall(r'"commit": "([0-9a-f]+)"', text)}
    assert told and told <= history


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
