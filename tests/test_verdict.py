"""From records to verdicts: what is there counts, what is missing is missed, and the words follow from the numbers."""

from __future__ import annotations

import html
import json
import re
import shutil
import zlib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from slimlib import study
from slimlib.errors import SlimlibError
from slimlib.study import (
    answers,
    changes,
    deciding,
    figures,
    findings,
    fragile,
    in_short,
    pairing,
    rank_answers,
    ranks,
    statistics,
    tilt_choice,
    trails,
    verdict,
    wording,
)
from slimlib.study.claims import Claim, changelog, load_claims
from slimlib.study.deciding import decide
from slimlib.study.evidence import coverage
from slimlib.study.judgement import Judgement, judge
from slimlib.study.runs import SLIM_STAGES
from tests.conftest import project_with_profile

ROOT = Path(__file__).resolve().parents[1]
PROVENANCE = {
    "seconds": 60.0, "started": "2026-01-02T03:04:05+00:00", "precision": "float32", "notes": [],
    "machine": {"device": "cpu", "cpu": "a processor"}, "code": {"commit": "c" * 40, "dirty": False},
    "data": {"name": "mnist", "source": "a file", "sha256": "d" * 64},
}  # fmt: skip


def made(run: study.Run, effects: dict[str, float]) -> dict:
    """A record of a slim run: an accuracy that rises with the seed, the arm's effect, and noise that the label fixes."""
    noise = np.random.default_rng([1, zlib.crc32(run.label.encode())]).normal(0, 2e-4)
    accuracy = 0.9 + 0.01 * run.seed + noise + effects.get(run.arm, 0.0)
    unit, _, kept = run.budget.partition(":")
    cost = {"params": 1000, "macs": 1000, "dense_params": 1000, "dense_macs": 1000} | {unit: int(1000 * float(kept))}
    metrics = {"val_accuracy": accuracy, "test_accuracy": accuracy, "test_accuracy_before_finetuning": 0.2}
    metrics |= {"dense_test_accuracy": 0.99}
    return {"metrics": metrics, "cost": cost, "wider_plan_exceeds": None, "provenance": PROVENANCE}


def records_of(claim: Claim, effects: dict[str, float], seeds: int = 5) -> list[dict]:
    laptop = set(study.load_profile("laptop").runs(claim.runs[0]["studies"]))
    runs = [run for run in claim.deciding_runs() if run in laptop and run.seed < seeds]
    return [{"key": run.key, "label": run.label, "run": run.to_dict(), **made(run, effects)} for run in runs]


# ---- verdicts in words


def test_words_for_each_verdict():
    claim = load_claims()["C1-pruning"]
    better = judge(claim, records_of(claim, {"pca": 0.005}))
    assert better.told == "supported so far" and not better.complete
    text = wording.summary(better)
    single = r", at single budgets \+0\.[45]\d to \+0\.5\d"
    against = rf"supported in 2 of 2 comparisons \(\+0\.(?:49|5\d?) (?:to \+0\.5\d )?points{single}, 5 seeds\)"
    assert len(re.findall(against, text)) == 2
    assert "On LeNet-5 on MNIST: against uniform, " in text and "; against global l1, " in text
    assert f"{better.recorded} of {better.expected} runs are recorded" in text

    worse = judge(claim, records_of(claim, {"pca": -0.005}))
    assert worse.told == "not supported so far" and "−0.5" in wording.effects(worse)
    # before a comparison can decide, what single budgets say is told all the same
    one_budget = [record for record in records_of(claim, {"pca": 0.005}, seeds=2) if record["run"]["budget"] == "macs:0.1"]
    begun = wording.summary(judge(claim, one_budget))
    assert "no comparison that decides can be made. Recorded in part, so not decided: against uniform on LeNet-5" in begun
    few = judge(claim, records_of(claim, {"pca": 0.005}, seeds=3))
    assert few.told == "inconclusive so far" and "2 more seeds to be judged" in wording.closest(few)
    # what single budgets say is told while seeds are missing, and not any longer when all are there
    assert "Recorded in part, so not decided: against uniform on LeNet-5 on MNIST, 10 % of MACs: +0." in wording.found(few)
    assert "Recorded in part" not in text
    none = judge(claim, [])
    assert none.told == "no evidence yet" and wording.closest(none) == "" and "0 of " in wording.summary(none)
    contradicting = judge(claim, records_of(claim, {"uniform": -0.005, "global_l1": 0.005}))
    assert contradicting.told == "mixed so far"
    # a gain over one rival is not mixed with a loss against another
    told = r"On LeNet-5 on MNIST: against uniform, supported .*\(\+0\.[45].* points.*; "
    told += r"against global l1, not supported .*\(−0\.[45].* points"
    assert re.match(told, wording.found(contradicting))
    assert re.match(r"vs uniform \+0\.[45].*; vs global l1 −0\.[45]", wording.effects(contradicting))

    page = wording.digest({"C1-pruning": better, "K1": worse})
    assert page.startswith(f"- **{claim.title}** (C1-pruning): *supported so far*. On LeNet-5 on MNIST: against uniform, ")
    assert f"\n- **{claim.title}** (K1): *not supported so far*. On LeNet-5 " in page and page.endswith("\n")
    assert wording.overall({"K1": worse, "K2": worse}, "control") == "Of 2 controls, so far: 2 are not supported (K1, K2)."

    table = verdict.claim_table({"a": better, "b": worse, "c": few, "d": none})
    assert table["verdict"].tolist() == [one.told for one in (better, worse, few, none)]
    assert table.loc["d", "effects"] == "–" and table.loc["d", "runs recorded"].startswith("0 of ")


@pytest.mark.parametrize(("row", "said"), [
    ({"verdict": "supported", "low": 0.001, "high": 0.004}, "better than"),
    ({"verdict": "supported", "low": 0.0001, "high": 0.0009}, "better, by less than matters, than"),
    ({"verdict": "not supported", "low": -0.001, "high": 0.0005}, "no better than"),
    ({"verdict": "not supported", "low": -0.003, "high": -0.001}, "worse than"),
    ({"verdict": "inconclusive", "low": -0.003, "high": 0.003}, "not told apart from"),
])  # fmt: skip
def test_outcomes_tell_more_than_verdicts(row, said):
    assert answers.outcome(row, 0.001) == said


def test_answers_are_short_and_say_what_the_numbers_say():
    claim = load_claims()["C1-pruning"]
    better = judge(claim, records_of(claim, {"pca": 0.005}))
    size = r"\(means \+0\.[45]\d and \+0\.[45]\d points\)"
    (told,) = answers.answer(better)
    ours = r"Widths by PCA \(3AS\) on LeNet-5 on MNIST, pruned and fine-tuned: "
    assert re.match(rf"{ours}\*better than\* uniform {size}; \*better than\* global l1 {size}\.", told)
    # units of cost are named where only one is recorded, and where they differ
    records = records_of(claim, {"uniform": -0.005, "global_l1": 0.005})
    (told,) = answers.answer(judge(claim, [record for record in records if record["run"]["budget"].startswith("macs")]))
    assert re.search(r"\*better than\* uniform at equal MACs \(\+0\.(49|5\d) ", told)
    assert re.search(r"\*worse than\* global l1 at equal MACs \(−0\.(49|5\d) ", told)
    assert answers.answer(judge(claim, [])) == []

    page = answers.front_page({"C1-pruning": better, "K1": judge(claim, [])})
    first, *others = page.splitlines()
    runs = f"{better.recorded} of {better.expected} planned runs recorded"
    assert first == f"- **C1-pruning, the claim:** {claim.title}. **Found:** *supported so far*, {runs}."
    assert others[0] == f"  - {answers.answer(better)[0]}"
    assert f"- **K1, the claim:** {claim.title}. **Found:** *no evidence yet*." in others
    assert "Pruned networks were fine-tuned for 1 epoch (LeNet-5 on MNIST)" in page and page.endswith("```\n")


def test_what_other_networks_say_stands_beside_the_claim():
    claim = load_claims()["C1-pruning"]
    own = judge(claim, records_of(claim, {}))
    elsewhere = [run for run in study.load_profile("laptop").runs("better_rule") if run.rule in ("pca", "uniform")
                 and run.model.startswith("resnet20") and run.budget == "macs:0.35"]
    records = [{"key": run.key, "run": run.to_dict(), **made(run, {"pca": 0.004})} for run in elsewhere]
    (told,) = answers.beside(own, [*own.records, *records])
    where = r"other runs: on published ResNet-20 on CIFAR-10, PCA \(3AS\) is "
    assert re.search(where + r"\*better than\* uniform at equal MACs \(\+0\.[34]\d \[[^]]*\] points\)\.$", told)
    assert answers.beside(own, own.records) == [] and answers.beside(own, records[:4]) == []
    # on the claim's own page in the open, and on the front page above what is folded, if another claim holds the records
    shown = re.sub(r"[*](.+?)[*]", r"<em>\1</em>", html.escape(told))
    assert f"<p>{shown}</p>" in verdict.report(own, records) and "This decides" not in verdict.report(own)
    shown = answers.front_page({"C1-pruning": own, "C3": judge(load_claims()["C3"], records)}).partition("```{dropdown}")[0]
    assert "\n  - This decides nothing, as the claim names other runs: on published ResNet-20" in shown


def test_a_complete_claim_is_not_so_far():
    claim = load_claims()["C1-pruning"]
    laptop = Claim(**{**vars(claim), "runs": tuple(where for where in claim.runs if where["profile"] == "laptop")})
    found = judge(laptop, records_of(claim, {"pca": 0.005}))
    assert found.complete and found.told == "supported"


def test_a_claim_is_decided_when_all_its_comparisons_are_and_networks_are_no_one_comparison(tmp_path):
    project_with_profile(tmp_path, """both: [{dataset: mnist, model: [lenet5, vgg_small], stage: prune, arms: [pca, uniform],
        criterion: l1, budget: "macs:0.5", dense_recipe: r, recipe: r, seconds: 1}]""", seeds=5)
    runs = ({"profile": "small", "studies": ["both"]},)
    claim = Claim("X", "", "", "paired", "pca", runs, rivals=("uniform",), criterion="l1", margin=0.001)

    def judged(by_model: dict[str, float], seeds: int = 5):
        told = [run for run in claim.deciding_runs(tmp_path) if run.model != "vgg_small" or run.seed < seeds]
        records = [{"key": run.key, "run": run.to_dict(), **made(run, {"pca": by_model[run.model]})} for run in told]
        return judge(claim, records, tmp_path)

    found = judged({"lenet5": 0.005, "vgg_small": -0.005})
    assert found.verdict == "mixed" and found.complete and found.deciding["model"].tolist() == ["lenet5", "vgg_small"]
    assert found.deciding["mean"].tolist() == pytest.approx([0.005, -0.005], abs=5e-4) and found.deciding["n"].tolist() == [5, 5]
    assert judged({"lenet5": 0.005, "vgg_small": 0.005}).verdict == "supported"
    for effect in (0.005, -0.005):  # three seeds of one network leave all open
        part = judged({"lenet5": effect, "vgg_small": effect}, seeds=3)
        assert part.verdict == "inconclusive" and part.deciding["verdict"].tolist()[1] == "inconclusive" and not part.complete


def test_a_sentence_says_what_its_numbers_say():
    claim = load_claims()["C1-pruning"]
    row = {"dataset": "mnist", "model": "lenet5", "rival": "uniform", "budget": "macs:0.1", "unit": "macs", "n": 5}
    said = findings.sentence(claim, row | {"mean": -0.0031, "low": -0.0052, "high": -0.001})
    assert said == (
        "LeNet-5 on MNIST, pruned and fine-tuned, at 10 % of MACs: widths by PCA (3AS) are 0.31 points less accurate than those "
        "by uniform (95 % interval [−0.52, −0.10] points, n = 5 seeds)"
    )
    averaged = {**row, "budget": None, "budgets": "macs:0.1, macs:0.2, macs:0.4", "mean": 0.004, "low": 0.0, "high": 0.01}
    said = findings.sentence(claim, averaged)
    assert "averaged over budgets of 10, 20 and 40 % of MACs" in said and "0.40 points more accurate" in said
    assert "as accurate" in findings.sentence(claim, row | {"mean": 0.00001, "low": -0.1, "high": 0.1})
    assert "chance is not ruled out" in said, "nor by an interval that ends at 0"
    assert "chance is not ruled out" in findings.sentence(claim, row | {"mean": 0.1, "low": -0.1, "high": 0.3})
    assert "equally accurate in every seed" in findings.sentence(claim, row | {"mean": 0.0, "sd": 0.0, "low": 0.0, "high": 0.0})
    assert "no interval" in findings.sentence(claim, row | {"mean": 0.1, "n": 1, "low": np.nan, "high": np.nan})
    published = row | {"model": "resnet20:pretrained", "mean": 0.004, "low": 0.001, "high": 0.01, "p_holm": 0.07}
    said = findings.sentence(claim, published)
    assert "n = 5 fine-tunings of one network" in said and "corrected for all comparisons, p = 0.07" in said
    rank = {"dataset": "cifar10", "model": "resnet56:pretrained", "rule": "pca", "budget": "macs:0.5", "ratio": 0.75, "n": 27}
    rank |= {"over_depth": -0.2, "over_depth_low": -0.5, "over_depth_high": 0.1, "within": 0.1, "p_within": 0.4}
    said = findings.sentence(load_claims()["C2"], rank | {"spearman": -0.4, "low": -0.7, "high": 0.05})
    assert "published ResNet-56 on CIFAR-10" in said and "tends to run against" in said and "Spearman −0.40" in said
    assert "less that of depth alone: −0.20 [−0.50, +0.10]; within stages +0.10, p = 0.4" in said


@pytest.mark.parametrize("rho, told", [
    (0.8, "agrees closely with"), (0.79, "agrees in the main with"), (0.5, "agrees in the main with"),
    (0.49, "agrees weakly with"), (0.2, "agrees weakly with"), (0.19, "shows no clear relation to"),
    (-0.2, "shows no clear relation to"), (-0.21, "tends to run against"), (float("nan"), "cannot be compared with"),
])  # fmt: skip
def test_words_for_a_correlation(rho, told):
    rank = {"dataset": "cifar10", "model": "resnet56:pretrained", "rule": "pca", "budget": "any", "ratio": 0.5, "n": 27,
            "low": 0.1, "high": 0.9}
    rank |= {"over_depth": 0.1, "over_depth_low": 0.1, "over_depth_high": 0.1, "within": np.nan, "p_within": np.nan}
    said = findings.sentence(load_claims()["C2"], rank | {"spearman": rho})
    assert f"keeps {told} their order by accuracy lost when 50 %" in said and "within stages" not in said


def test_doubts_starved_layers_and_images_that_were_read_are_told():
    claim = load_claims()["C1-pruning"]
    found = judge(claim, records_of(claim, {"pca": 0.005}))
    assert "disagree" not in wording.found(found)
    doubtful = replace(found, deciding=found.deciding.assign(agree=[False, False, True, True],
                                                             boot_verdict=["inconclusive", *found.deciding["verdict"][1:]]))
    told = wording.found(doubtful)
    assert "The t and the bootstrap interval lead to different verdicts against uniform, LeNet-5 on MNIST, MACs." in told
    assert told.count("against uniform, LeNet-5 on MNIST, MACs.") == 1, "where Holm's p decides, no verdict is other"
    assert "In 1 of 4 comparisons only one of the t and the bootstrap interval leaves out zero, or the margin; as" in told
    assert "(+0.50 points; at equal MACs the bootstrap interval says otherwise)" in re.sub(
        r"means \+0\.\d\d and \+0\.\d\d", "+0.50", *answers.answer(doubtful))
    table = verdict.comparison_table(doubtful)
    assert table["bootstrap"].str.endswith(", which says otherwise").tolist() == [True, False, False, False]
    assert table["bootstrap"].str.endswith(", which alone says otherwise").tolist() == [False, True, False, False]
    run = claim.deciding_runs()[0]
    chosen = [{"run": run.but(rule=rule).to_dict(), "widths": {"conv1": width}, "full_widths": {"conv1": 20}}
              for rule, width in (("pca", 1), ("uniform", 2), ("random", 1))]
    starved = replace(found, records=tuple(chosen))
    assert wording.starved(starved) == ["PCA (3AS) keeps as few as 1 of 20 filters of conv1."], "of the claim's arms alone"
    reads = run.but(rule="neyman", options={"calibration": 512}).to_dict()
    claim = SimpleNamespace(ours="neyman", rivals=("uniform",))
    told = wording.reading(SimpleNamespace(claim=claim, records=[{"run": reads}, {"run": run.but(rule="uniform").to_dict()}]))
    assert told == ["On LeNet-5 on MNIST, Neyman (ours) reads 512 training images without their labels."]


def test_what_makes_a_mean_and_what_it_costs_is_told_with_it():
    claim = load_claims()["C1-pruning"]
    records = records_of(claim, {})
    for record in records:
        ours, unit = record["run"]["rule"] == "pca", record["run"]["budget"].partition(":")[0]
        if ours and record["run"]["budget"] == "params:0.05":
            record["metrics"]["test_accuracy"] += 0.06
        record["cost"]["macs" if unit == "params" else "params"] = {True: 300, False: 100}[ours] if unit == "macs" else 500
    found = judge(claim, records)
    size = r"\(\+(1\.9\d|2\.\d\d) points; most of it at 5 % of parameters, elsewhere [^)]*\)"
    assert re.search(r"\*better than\* uniform at equal parameters " + size, *answers.answer(found))
    assert re.search(r"uniform at equal MACs \([+−]0\.0\d points; with 3 times the parameters\)", *answers.answer(found))
    table = verdict.comparison_table(found)["the other cost, ours over the rival's"]
    assert set(table) == {"3.00 (parameters)", "1.00 (MACs)"}
    # where the comparisons of both units end alike, but one budget makes the mean of one alone
    for record in records:
        record["metrics"]["test_accuracy"] += (record["run"]["rule"] == "pca") * 0.02
    assert "most of it" not in answers.answer(judge(claim, records))[0]
    for record in records:
        if record["run"]["rule"] == "pca" and record["run"]["budget"] == "params:0.05":
            record["metrics"]["test_accuracy"] += 0.5
    assert "; at equal parameters most of it at 5 % of parameters, elsewhere " in answers.answer(judge(claim, records))[0]
    # a unit that lacks seeds does not speak for the other one
    for record in records:
        record["metrics"]["test_accuracy"] -= (record["run"]["rule"] == "pca") * 0.02
    part = [record for record in records if record["run"]["budget"].startswith("macs") or record["run"]["seed"] == 0]
    for record in part:
        record["metrics"]["test_accuracy"] += (record["run"]["rule"] == "pca") * 0.01 * (record["run"]["seed"] - 2)
    (told,) = answers.answer(judge(claim, part))
    macs = r"\*not told apart from\* uniform at equal MACs \([+−]0\.\d\d points; with 3 times the parameters\); "
    assert re.search(macs + r"\*not told apart from\* uniform at equal parameters \(1 of 5 seeds\)", told)
    # what lacks seeds has no size yet, and no interval of two
    two = [record for record in records if record["run"]["seed"] < 2]
    assert "*not told apart from* uniform (2 of 5 seeds)" in answers.answer(judge(claim, two))[0]
    assert "[" not in wording.found(judge(claim, two)) and "2 seeds" in wording.found(judge(claim, two))
    assert set(verdict.comparison_table(judge(claim, two))["bootstrap"]) == {""}
    assert "(2 seeds, so no interval)" in verdict.report(judge(claim, two))


def test_a_rank_claim_says_more_than_depth_only_where_the_interval_does():
    claim = load_claims()["C2"]
    row = {"dataset": "cifar10", "model": "resnet56:pretrained", "n": 27, "spearman": 0.6, "verdict": "supported", "family": 8,
           "p_holm": 1.0}
    row |= {"rule": "pca", "within": 0.1, "p_within": 0.2}
    ends = ((0.05, 0.2, "supported"), (-0.05, 0.2, "inconclusive"), (-0.2, -0.05, "not supported"), (-0.1, 0.0, "supported"))
    rows = pd.DataFrame([row | {"over_depth": 0.1, "over_depth_low": low, "over_depth_high": high, "verdict": found}
                         for low, high, found in ends])
    judged = Judgement(claim, "inconclusive", rows, rows, pd.DataFrame(), (), ())
    told = "(Spearman +0.60, 27 layers); by intervals that are not corrected it orders the layers better than depth alone "
    told += "in 1 of 4, worse in 1."
    assert told in wording.found(judged)
    (said,) = answers.answer(judged)
    needs = f"where with 27 layers one more would need a coefficient of about {ranks.least_told_apart(27, 0.05 / 8):.2f}"
    network = f"published ResNet-56 on CIFAR-10 2 of 4, {needs}"
    assert f"in *2 of 4* comparisons, which are views of the same layers ({network}); in 1 " in said
    # depth alone is judged by the same rule, and what is left within stages is counted
    assert "By the same rule depth alone goes together with it in none of 0." in said
    within = "Within stages, among layers of one width, the two go together with a p of at most 0.05 in "
    assert f"{within}none of 4." in said
    depth = rows.assign(rule="depth", low=[0.1, 0.1, 0.1, -0.1], high=0.9, p=[1e-4, 1e-4, 0.04, 1e-4])
    beside = replace(judged, cells=pd.concat([rows, depth]), deciding=rows.assign(p_within=[0.01, 0.01, 0.2, float("nan")],
                                                                                  within=[0.3, -0.3, 0.3, float("nan")]))
    told = rank_answers.answer(beside)
    assert "By the same rule depth alone goes together with it in 2 of 4." in told and f"{within}1 of 3." in told
    assert "better than depth alone in *1* of them, and worse in *1*." in said
    none = replace(judged, deciding=rows.assign(over_depth_low=-0.1, over_depth_high=0.1))
    assert "better than depth alone in *none* of them, and worse in *none*." in answers.answer(none)[0]
    two = rows.assign(n=[9, 27, 27, 9])
    assert ", 9 and 27 layers)" in wording.found(replace(judged, deciding=two)), "two networks, and nothing between"
    assert ", 9 to 27 layers)" in wording.found(replace(judged, deciding=rows.assign(n=[9, 13, 27, 9])))


@pytest.mark.parametrize("effects", [{"pca": 0.0005}, {"pca": 0.0001}, {"pca": -0.0005}, {"uniform": 0.005}, {"global_l1": 2e-4}])
def test_what_would_change_a_verdict_does_change_it_and_less_does_not(effects):
    """Judged again from records whose accuracies are moved by as much as the sentence says, and by a little less."""
    claim = load_claims()["C1-pruning"]
    records = records_of(claim, effects)
    before = judge(claim, records).deciding.to_dict("records")
    for at, row in enumerate(before):
        if row["verdict"] == "inconclusive":
            continue
        told = changes.would_change(claim, before, at)
        by = changes.least_shift(claim, before, at)
        assert f"{100 * by:.2f} points" in told and ("lower" in told) == (row["verdict"] == "supported")
        for share, changed in ((1.001, True), (0.999, False)):
            moved = [json.loads(json.dumps(record)) for record in records]
            for record in moved:
                run = record["run"]
                if run["rule"] == row["rival"] and run["budget"].startswith(row["unit"]):  # the rival better is ours worse
                    record["metrics"]["test_accuracy"] += share * by * (1 if row["verdict"] == "supported" else -1)
            after = judge(claim, moved).deciding.to_dict("records")[at]
            assert (after["verdict"] != row["verdict"]) is changed, (row["rival"], row["unit"])
    still_open = [row["verdict"] == "inconclusive" for row in before]
    shifts = [np.inf if left else changes.least_shift(claim, before, at) for at, left in enumerate(still_open)]
    *others, last = changes.nearest(claim, before)
    assert len(others) == any(still_open) and all(still_open[at] for at in others)
    assert last == int(np.argmin(shifts)), "of the decided ones, that which the least change turns"


def test_what_would_change_a_rank_verdict():
    claim = load_claims()["C2"]
    row = {"spearman": -0.05, "low": -0.46, "high": 0.38, "p": 0.8, "n": 27, "verdict": "not supported"}
    assert claim.margin == 0.5 and changes.least_shift(claim, [row], 0) == pytest.approx(0.12, abs=1e-5)  # not 0.46
    row = {"spearman": 0.8, "low": 0.6, "high": 0.9, "p": 1e-4, "n": 27, "verdict": "supported"}
    many = [row, *[row | {"p": 0.9, "low": -0.1, "verdict": "inconclusive"}] * 15]
    alone, among = (changes.least_shift(claim, rows, 0) for rows in ([row], many))
    assert among < alone <= 0.6, "Holm's correction counts"


def test_what_would_decide_an_open_comparison_is_computed():
    claim = load_claims()["C1-pruning"]
    mean, sd, n = 0.0004, 0.001, 5
    d = np.random.default_rng(0).normal(size=n)
    d = mean + sd * (d - d.mean()) / d.std(ddof=1)
    row = statistics.paired(d, margin=claim.margin).to_dict() | {"p_holm": 1.0}
    assert row["verdict"] == "inconclusive"
    told = changes.would_change(claim, [row], 0)
    seeds = int(told.split()[1])
    assert "supported" in told
    # with that many seeds of this spread the interval is decisive, with one fewer it is not
    for number, decided in ((seeds, True), (seeds - 1, False)):
        half = statistics.stats.t.ppf(0.975, number - 1) * sd / number**0.5
        assert bool(mean - half > 0 or mean + half < claim.margin) is decided
    # one comparison of many needs more seeds: its p is corrected
    row |= {"mean": 0.0011, "low": -0.0001, "high": 0.0023}
    seeds, found = changes.least_seeds(claim, [row], 0)
    more, corrected = changes.least_seeds(claim, [row, *[row | {"p": 0.9}] * 9], 0)
    assert more > seeds and found == corrected == "supported"
    far = {"n": 5, "mean": 0.0008, "sd": 0.014, "p": 0.9, "low": -0.02, "high": 0.02, "verdict": "inconclusive"}
    assert changes.least_seeds(replace(claim, margin=0.001), [row | far], 0) == (1001, "supported"), "as more seeds would have it"
    assert "1 more seed to be judged" in changes.would_change(claim, [row | {"n": 4}], 0)
    equal = statistics.paired([0.0] * n, margin=claim.margin).to_dict() | {"p_holm": 1.0}
    assert equal["verdict"] == "not supported" and "same accuracy in every seed" in changes.would_change(claim, [equal], 0)
    low = {"spearman": 0.5, "low": 0.1, "high": 0.7, "p": 0.01, "p_holm": 0.07, "n": 9, "verdict": "inconclusive"}
    assert "Holm-corrected p of at most 0.05; it is 0.07" in changes.would_change(load_claims()["C2"], [low], 0)


def test_by_the_letter_of_the_rules():
    """`not supported` needs no more than an interval below the margin, even where it lies above zero but Holm says no."""
    claim = load_claims()["C1-pruning"]
    row = {"n": 5, "low": 1e-5, "high": claim.margin / 2, "p": 0.04}
    assert decide(claim, [row])[0][1] == "supported" and decide(claim, [row, row])[0][1] == "not supported"
    assert decide(claim, [row | {"high": 2 * claim.margin}] * 2)[0][1] == "inconclusive"
    assert decide(claim, [row | {"n": 4}])[0][1] == "inconclusive"
    both = decide(claim, [row, row | {"n": 4, "p": 0.5}])
    assert both[0] == (0.08, "not supported") and np.isnan(both[1][0]), "one that lacks seeds is still to be made, and counts"
    planned = [row | {"p": p, "family": 4} for p in (0.04, 0.01)]
    assert [p for p, _ in decide(claim, planned)] == pytest.approx([0.12, 0.04]), "so do those without any record"


def test_the_correction_is_over_all_comparisons_planned_in_the_profiles_begun(tmp_path):
    """So that a verdict does not fade when other comparisons are made; a profile without a record makes none."""
    project_with_profile(tmp_path, """one: [{dataset: mnist, model: [lenet5, vgg_small], stage: prune, arms: [pca, uniform],
        criterion: l1, budget: ["macs:0.5", "params:0.5"], dense_recipe: r, recipe: r, seconds: 1}]""", seeds=5)
    profiles = tmp_path / "notebooks" / "profiles"
    other = (profiles / "small.yml").read_text().replace("name: small", "name: other")
    (profiles / "other.yml").write_text(other.replace("lenet5, vgg_small", "vgg16, resnet20"))
    runs = ({"profile": "small", "studies": ["one"]}, {"profile": "other", "studies": ["one"]})
    claim = Claim("X", "", "", "paired", "pca", runs, rivals=("uniform",), criterion="l1", margin=0.001)

    def judged(*models):
        told = [run for run in claim.deciding_runs(tmp_path) if run.model in models]
        return judge(claim, [{"key": run.key, "run": run.to_dict(), **made(run, {"pca": 0.005})} for run in told], tmp_path)

    alone, whole = judged("lenet5"), judged("lenet5", "vgg_small")
    assert (alone.deciding["family"] == 4).all() and (whole.deciding["family"] == 4).all()
    worst = alone.deciding["p"].max()
    assert alone.deciding.loc[alone.deciding["p"] == worst, "p_holm"].item() == pytest.approx(3 * worst)
    both = judged("lenet5", "resnet20")
    assert (both.deciding["family"] == 8).all() and both.expected == alone.expected == 80


def test_all_verdicts_in_one_sentence():
    claim = load_claims()["C1-pruning"]
    judged = {"A": judge(claim, records_of(claim, {"pca": 0.005})), "B": judge(claim, records_of(claim, {"pca": -0.005})),
              "C": judge(claim, records_of(claim, {"pca": -0.005})), "D": judge(claim, [])}
    assert wording.overall(judged) == ("Of 4 claims, so far: 1 is supported (A); 2 are not supported (B, C); "
                                       "1 has no evidence yet (D).")


def test_a_report_is_html_with_every_budget_in_words():
    claim = load_claims()["C1-pruning"]
    records = records_of(claim, {"pca": 0.005})
    found = judge(claim, records)
    text = verdict.report(found)
    assert text.rpartition("<summary>Every budget")[2].count("<li>") == len(found.cells) == 12
    assert "Closest to another verdict" in text
    assert f"{len(found.deciding)} deciding comparisons (p corrected for 4), and" in text
    assert "words, each interval for itself, deciding nothing: 12 findings" in text
    runs = [(record["run"]["rule"], record["run"]["budget"].partition(":")[0]) for record in records]
    alone = judge(claim, [r for r, run in zip(records, runs, strict=True) if run in (("pca", "macs"), ("uniform", "macs"))])
    assert len(alone.deciding) == 1 and "<summary>1 deciding comparison (p corrected for 4), and" in verdict.report(alone)
    assert "<details>" not in verdict.report(judge(claim, []))
    few = verdict.comparison_table(judge(claim, records_of(claim, {}, seeds=3)))
    assert set(few["p (Holm)"]) == {"–"}, "no p of too few seeds"


# ---- records on disk: a deleted one is missed


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A project with the real profiles and claims, and made-up records of two seeds of one claim."""
    shutil.copytree(ROOT / "notebooks" / "profiles", tmp_path / "notebooks" / "profiles")
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "claims.yml", tmp_path / "book")
    claim, store = load_claims()["K1-chance"], study.Store(tmp_path / "book" / "records", tmp_path / "cache")
    for record in records_of(claim, {"pca": 0.005}, seeds=2):
        run = study.Run.from_dict(record["run"])
        store.put(run, made(run, {"pca": 0.005}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_deleting_a_record_removes_its_numbers_and_is_reported(checkout):
    before = study.judge_all(only=["K1-chance"])
    trace = trails.trace(before)
    victim = trace[(trace["what"] == "pca - random") & (trace["budget"] == "macs:0.1")].iloc[0]
    (checkout / "book" / "records" / victim["rival_record"]).unlink()

    after = study.judge_all(only=["K1-chance"])
    left = trails.trace(after)
    gone = trace[~trace["value"].isin(left["value"])]
    assert gone["rival"].tolist() == [victim["rival"]], "its difference is gone, and no other"
    rows = [one["K1-chance"].deciding.set_index(["rival", "unit"]) for one in (before, after)]
    assert rows[0].loc[("random", "macs"), "n"] == 2 and rows[1].loc[("random", "macs"), "n"] == 1
    assert rows[1].loc[("permuted", "macs"), "n"] == 2
    assert after["K1-chance"].recorded == before["K1-chance"].recorded - 1
    told = verdict.missing(after.values()).loc["LeNet-5 on MNIST"]
    there = verdict.missing(before.values()).loc["LeNet-5 on MNIST"]
    assert there["runs recorded"] == "36 of 90" and told["runs recorded"] == "35 of 90"
    assert f"seed {victim['seed']}: 1" in told["missing"] and there["complete seeds"] == "2 of 5"


def test_every_number_can_be_followed_to_its_records(checkout):
    judged = study.judge_all(only=["K1-chance"])
    trace = trails.trace(judged)
    for row in trace.to_dict("records"):
        sides = [json.loads((checkout / "book" / "records" / row[side]).read_text()) for side in ("ours_record", "rival_record")]
        ours, rival = (side["metrics"]["test_accuracy"] for side in sides)
        assert row["value"] == pytest.approx(ours - rival) and {side["run"]["seed"] for side in sides} == {row["seed"]}
        assert row["commit"] == "c" * 12 and row["data_sha256"] == "d" * 64 and row["device"] == "a processor"
    cells = judged["K1-chance"].cells
    for (what, budget), part in trace.groupby(["what", "budget"]):
        cell = cells[(cells["rival"] == what.rpartition(" ")[2]) & (cells["budget"] == budget)]
        assert part["value"].mean() == pytest.approx(cell["mean"].item()), "means of the trace are the page's numbers"


def test_the_tilt_that_was_the_best_and_both_dense_networks_are_named():
    claim = load_claims()["C4"]
    laptop = replace(claim, runs=tuple(where for where in claim.runs if where["profile"] == "laptop"))
    runs = [run for run in laptop.deciding_runs() if run.model == "lenet5" and run.budget == "macs:0.1" and run.seed == 0]
    records = [{"key": run.key, "run": run.to_dict(), **made(run, {"tilt(power=0.5)": 0.05})} for run in runs]
    for record in records:
        if record["run"]["rule"] == "tilt":  # older records do not tell it
            record["dense_sha256"] = "e" * 64
    (row,) = trails.trace({"C4": judge(laptop, records)}).to_dict("records")
    assert row["what"] == f"{claim.ours} - best_tilt (tilt(power=0.5))"
    assert row["dense_sha256"] == "unknown / " + "e" * 64
    assert row["ours"] != row["rival"] and row["commit"] == "c" * 12, "told once where both are alike"


@pytest.mark.parametrize(("what", "change"), [
    ("recipe", lambda r: r["run"]["recipe"].update(epochs=7)),
    ("dense_recipe", lambda r: r["run"]["dense_recipe"].update(epochs=7)),
    ("data_sha256", lambda r: r["provenance"]["data"].update(sha256="0" * 64)),
    ("dense_test_accuracy", lambda r: r["metrics"].update(dense_test_accuracy=0.5)),
])
def test_arms_that_share_not_all_but_their_widths_are_no_pair(what, change):
    claim = load_claims()["K1-chance"]
    records = json.loads(json.dumps(records_of(claim, {}, seeds=2)))
    for record in records:
        record["metrics"].setdefault("dense_test_accuracy", 0.99)
    changed = next(record for record in records if record["run"]["rule"] == "random")
    change(changed)
    table = study.to_frame(records)
    with pytest.raises(SlimlibError, match=rf"random \({changed['key']}\).* are no pair: their {what} differ"):
        pairing.differences(table, "pca", "random")
    with pytest.raises(SlimlibError, match="are no pair"):
        judge(claim, records)
    assert len(pairing.differences(table, "pca", "permuted")), "arms that have no part in it are compared as ever"


def test_two_copies_of_a_set_that_may_differ_are_compared():
    """Who has a downloaded CIFAR-10 can make a record anew, and go on where others are missing."""
    claim = load_claims()["C3"]
    runs = [run for run in claim.deciding_runs() if (run.model, run.seed, run.budget) == ("resnet20:pretrained", 0, "macs:0.5")]
    records = json.loads(json.dumps([{"key": run.key, "run": run.to_dict(), **made(run, {})} for run in runs]))
    records[0]["provenance"]["data"]["sha256"] = "0" * 64
    table = study.to_frame(records)
    assert len(pairing.differences(table, "neyman", "uniform")) == len(pairing.differences(table, "neyman", "pca")) == 1


def test_tilts_that_were_trained_in_different_ways_do_not_compete():
    claim = load_claims()["C4"]
    runs = [run for run in claim.deciding_runs() if run.model == "lenet5" and run.budget == "macs:0.1" and run.seed == 0]
    records = json.loads(json.dumps([{"key": run.key, "run": run.to_dict(), **made(run, {})} for run in runs]))
    next(record for record in records if record["run"]["rule"] == "tilt")["run"]["recipe"]["lr"] = 0.5
    with pytest.raises(SlimlibError, match="are no pair: their recipe differ"):
        pairing.with_best_tilt(study.to_frame(records), runs)


def test_networks_with_too_few_layers_for_a_claim_are_not_missed():
    """The scans of LeNet-5 are on record; of three layers they say nothing of an order."""
    judged = study.judge_all("laptop", only=["C2"], root=ROOT)["C2"]
    assert "lenet5" in {run.model for run in judged.claim.deciding_runs()} and judged.recorded == judged.expected == 2
    told = verdict.missing([judged])
    assert len(told) == 2 and "LeNet-5 on MNIST" not in told.index and set(told["missing"]) == {"nothing"}
    # a sentence on depth alone, which no budget changes, stands there once for both
    findings_told = re.findall(r"<li>(.*?)</li>", verdict.report(judged).rpartition("<summary>")[2])
    assert len(set(findings_told)) == len(findings_told) == len(judged.cells) - (judged.cells["rule"] == "depth").sum() / 2


def test_a_profile_decides_by_its_own_runs(checkout):
    every, laptop, paper = (study.judge_all(profile, only=["K1-chance"])["K1-chance"] for profile in (None, "laptop", "paper"))
    assert laptop.recorded == every.recorded == 36 and paper.recorded == 0
    assert laptop.expected == 90 < every.expected == laptop.expected + paper.expected
    assert study.judge_all("quick", only=["K1-chance"]) == {}


def test_evidence_counts_what_is_there(checkout):
    found = study.gather("laptop", "prune", model=["lenet5"])
    assert "36 of 450 runs recorded" in str(found) and len(found.frame) == 36
    assert [network for network, _ in found.networks()] == [("mnist", "lenet5")]
    assert found.frame["budget"].drop_duplicates().tolist()[:2] == ["macs:0.1", "macs:0.2"]
    both = study.gather("laptop", "prune")
    assert {"LeNet-5 on MNIST", "published ResNet-20 on CIFAR-10"} < set(both.coverage().index)
    assert "no such runs" in str(study.gather("laptop", "scratch"))
    one = study.gather("laptop", "prune", ["pruning"], seeds=[1], budget="macs:0.1", arms=["pca", "random"])
    assert "2 of 2" in str(one)
    named = study.gather("laptop", "prune", ["pruning"], seeds=[0], budget="macs:0.1", arms=["pca_uncentred", "neyman"])
    assert {run.arm for run in named.runs} == {"pca_uncentred", "neyman"} and named.runs[-1].options, "as the profile has them"
    with pytest.raises(SlimlibError, match="distillation"):
        study.gather("laptop", "prune", ["distillation"])


def test_coverage_names_what_is_missing():
    runs = study.load_profile("laptop").runs("pruning")
    assert coverage(runs, []).loc["LeNet-5 on MNIST", "missing"] == "all of them"
    first = [{"key": run.key} for run in runs if run.seed == 0]
    assert coverage(runs, first).loc["LeNet-5 on MNIST", "missing"] == "90 of each of the seeds 1, 2, 3, 4"
    told = coverage(runs, [*first[1:], {"key": runs[-1].key}]).loc["LeNet-5 on MNIST"]
    assert told["complete seeds"] == "0 of 5" and told["missing"].startswith("seed 0: 1; seed 1: 90"), "begun is not whole"
    whole = [{"key": run.key} for run in runs]
    assert coverage(runs, whole).loc["LeNet-5 on MNIST", ["runs recorded", "missing"]].tolist() == ["450 of 450", "nothing"]


@pytest.mark.parametrize("name", ["03_sensitivity", "04_pruning", "05_distillation", "07_controls", "09_verdict"])
def test_pages_are_whole_while_evidence_is_partial_or_missing(name, checkout):
    """The cells run one after the other, with part of the records for pruning and none for anything else."""
    shown = {"profile": "laptop"}
    for cell in json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            exec(compile(source, name, "exec"), shown)
            if "parameters" in cell["metadata"].get("tags", []):
                shown |= {"profile": "laptop"}
    written = list((checkout / "book" / "results" / "mine" / "laptop-data").glob("*.csv"))
    assert written or name == "05_distillation"


# ---- nothing is chosen on test images


def test_test_accuracies_have_no_say_in_the_best_tilt():
    runs = [run for run in load_claims()["C4"].deciding_runs() if run.model == "resnet20:pretrained" and run.stage == "prune"]
    made_up = [{"key": run.key, "run": run.to_dict(), **made(run, {})} for run in runs]
    frame = study.to_frame(made_up)
    chosen = [
        pairing.with_best_tilt(table, runs).query("arm == 'best_tilt'").set_index(["budget", "seed"])["chosen"]
        for table in (frame, frame.assign(test_accuracy=np.random.default_rng(0).random(len(frame))))
    ]
    assert len(chosen[0]) == 20 and chosen[0].equals(chosen[1])
    best = frame[frame["rule"].isin(["tilt", "uniform"])].groupby(["budget", "arm"])["val_accuracy"].mean()
    assert set(chosen[0].groupby("budget").first().items()) == {(b, best[b].idxmax()) for b in frame["budget"].unique()}


def test_of_equal_tilts_the_one_nearest_to_uniform_is_the_best():
    runs = [run for run in load_claims()["C4"].deciding_runs() if run.model == "resnet20:pretrained" and run.budget == "macs:0.5"]
    frame = study.to_frame([{"key": run.key, "run": run.to_dict(), **made(run, {})} for run in runs])
    tied = {"tilt(power=-1.0)": 0.9, "tilt(power=-0.5)": 0.9, "tilt(power=0.5)": 0.9, "uniform": 0.8}
    for equal, best in ((tied, "tilt(power=-0.5)"), (tied | {"uniform": 0.9}, "uniform"), (tied | {"tilt(power=1.0)": 0.91},
                                                                                        "tilt(power=1.0)")):
        table = frame.assign(val_accuracy=[equal.get(arm, 0.7) for arm in frame["arm"]])
        assert set(pairing.with_best_tilt(table, runs).query("arm == 'best_tilt'")["chosen"]) == {best}


def test_a_sensitivity_scan_reads_validation_images_only(chain):
    import torch

    import slimlib
    from slimlib.data import Split

    model, _ = chain
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)
    split = Split(images, torch.zeros(16, dtype=torch.int64), (0.5,) * 3, (0.2,) * 3)
    table = slimlib.sensitivity(model, SimpleNamespace(val=split), [0.5], progress=False)  # there are no test images to read
    assert len(table) == 2 * table["group"].nunique()


# ---- the committed evidence


def test_committed_arms_share_data_recipe_dense_network_and_seed():
    comparisons: dict[tuple, dict[str, dict]] = defaultdict(dict)
    store = study.load_profile("laptop").store()
    for record in store.all():
        run = record["run"]
        if run["stage"] in SLIM_STAGES:
            cell = tuple(run[name] for name in ("dataset", "model", "stage", "criterion", "budget", "coupling", "seed"))
            comparisons[cell][record["key"]] = record
    if not comparisons:
        pytest.skip("no record of a slim network is committed yet")
    for cell, records in comparisons.items():
        for what, of in {
            "data": lambda r: r["provenance"]["data"]["sha256"],
            "recipe": lambda r: json.dumps([r["run"]["recipe"], r["run"]["distill"], r["run"]["dense_recipe"]], sort_keys=True),
            "recipe version": lambda r: r["recipe_version"],
            "dense network": lambda r: (r["dense_key"], r["metrics"]["dense_test_accuracy"]),
            "precision": lambda r: r["provenance"]["precision"],
        }.items():
            assert len({of(record) for record in records.values()}) == 1, (what, cell)


def test_committed_records_rest_on_the_dense_networks_that_are_recorded():
    """By their fingerprint; those from before there was one by their accuracy."""
    store = study.load_profile("laptop").store()
    for record in store.all():
        run = study.Run.from_dict(record["run"])
        for needed in run.needs():
            other = store.get(needed)
            known = {one.get("dense_sha256") for one in (record, other)} - {None}
            accuracy = other["metrics"]["test_accuracy" if needed.stage == "dense" else "dense_test_accuracy"]
            assert len(known) <= 1 and record["metrics"]["dense_test_accuracy"] == accuracy, (record["label"], other["label"])


def test_only_what_is_there_is_judged():
    with pytest.raises(SlimlibError, match=r"profile='latop' is unknown; choose one of .*laptop"):
        study.judge_all("latop", ["C1-pruning"])
    with pytest.raises(SlimlibError, match=r"only='C9' is no claim; book/claims\.yml has C1-pruning, "):
        study.judge_all("laptop", ["C4", "C9"])
    with pytest.raises(SlimlibError, match="profile='quick' decides no claim; choose one of laptop, paper"):
        study.judge_all("quick")
    assert study.judge_all("quick", ["C4"]) == {}, "of some, none may be decided by a profile"
    assert verdict.claim_table({}).empty


def test_a_judgement_of_another_project_is_reported_from_here(tmp_path):
    """Its profiles are not those of the book, so nothing may be planned anew from their names."""
    project_with_profile(tmp_path, """both: [{dataset: mnist, model: [lenet5], stage: prune, criterion: l1, budget: "macs:0.5",
        arms: [neyman, uniform, {rule: tilt, options: {power: 1}}], dense_recipe: r, recipe: r, seconds: 1}]""", seeds=5)
    claim = replace(load_claims()["C4"], runs=({"profile": "small", "studies": ["both"]},))
    runs = claim.deciding_runs(tmp_path)
    records = [{"key": run.key, "run": run.to_dict(), **made(run, {"neyman": 0.01})} for run in runs]
    found = judge(claim, records, tmp_path)
    assert found.deciding["rival"].tolist() == ["best_tilt"] and "better than" in "".join(answers.answer(found))
    assert tilt_choice.doubts(found) and answers.beside(found, records) == []
    assert "best tilt" in verdict.report(found, records)


def test_records_that_two_claims_share_stand_beside_a_third_once():
    claim = load_claims()["C1-pruning"]
    elsewhere = [run for run in study.load_profile("laptop").runs("better_rule") if run.rule in ("pca", "uniform")
                 and run.model.startswith("resnet20") and run.budget == "macs:0.35"]
    records = [{"key": run.key, "run": run.to_dict(), **made(run, {"pca": 0.004})} for run in elsewhere]
    own = judge(claim, records_of(claim, {}))
    assert answers.beside(own, [*records, *records]) == answers.beside(own, records) != []


# ---- what else pages are made of


def test_every_arm_against_one_reference():
    frame = study.to_frame(records_of(load_claims()["K1-chance"], {"pca": 0.01, "random": -0.02}, seeds=3))
    table = pairing.against(frame, "random").set_index(["arm", "budget"])
    assert set(table.index.get_level_values("arm")) == {"pca", "permuted"} and (table["n"] == 3).all()
    assert table.loc["pca", "mean"].to_numpy() == pytest.approx(0.03, abs=1e-3)
    assert pairing.against(frame.iloc[:0]).empty and pairing.against(frame, "uniform").empty, "not recorded yet"
    with pytest.raises(SlimlibError, match=r"reference='unifrom' is no arm; there are .*random"):
        pairing.against(frame, "unifrom")
    assert len(table.loc[("pca", "macs:0.1"), "keys"].split(", ")) == 6


def test_a_table_of_arms_takes_the_level_that_is_asked_for():
    frame = study.to_frame(records_of(load_claims()["K1-chance"], {"pca": 0.01}, seeds=4))
    wide, narrow = (pairing.against(frame, "random", level=level).set_index(["arm", "budget"]) for level in (0.95, 0.5))
    assert set(wide["level"]) == {0.95} and set(narrow["level"]) == {0.5}
    assert "50 % t intervals" in figures.differences_by_rule(narrow.reset_index()).get_supxlabel()
    assert (wide["low"] < narrow["low"]).all() and (narrow["high"] < wide["high"]).all() and wide["mean"].equals(narrow["mean"])


def test_changes_to_claims_are_read_and_checked(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text("changelog:\n  - {date: 2026-01-02, what: a margin was halved}\n")
    assert changelog(path) == [{"date": "2026-01-02", "what": "a margin was halved"}]
    path.write_text("changelog:\n  - something\n")
    with pytest.raises(SlimlibError, match="changelog entry 'something'"):
        changelog(path)
    dates = [entry["date"] for entry in changelog()]
    assert dates == sorted(dates) and all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates), "oldest first"


def test_milliseconds_are_told_as_measured():
    from slimlib.study.milliseconds import findings

    rows = [("dense", False, 1.0, 1.0), ("pca", False, 0.25, 0.5), ("uniform", False, 0.25, 0.4), ("pca", True, 0.25, 0.55)]
    table = pd.DataFrame(rows, columns=["arm", "rounded", "kept_macs", "relative"])
    table = table.assign(device="cpu", network="small VGG", batch_size=1, budget=table["kept_macs"])
    table = table.assign(relative_low=table["relative"] - 0.01, relative_high=table["relative"] + 0.01)
    table["realised"] = (1 - table["relative"]) / (1 - table["kept_macs"]).where(table["kept_macs"] < 1)
    table = table.assign(ms_low=0.9, ms_high=1.1)
    (said,) = findings(table)
    assert "take 40 to 55 % of the time" in said and "0.67 percent of the time is saved (median; 0.60 to 0.80)" in said
    assert "a factor of up to 1.25 (PCA (3AS) slower than uniform at 25 %: 50 against 40 % of the time)" in said
    assert "With rounded widths 0.07 percent less is saved for each percent of MACs (median of 1 pair of one rule and budget; " \
           "more in 0)" in said, "pca with pca, whatever uniform does"
    assert "rounded" not in findings(table[~table["rounded"]])[0]
    blurred = table.assign(relative_low=0.0, relative_high=1.0)
    assert "though their quartiles overlap" in findings(blurred)[0]
    (said,) = findings(table.assign(ms_high=2.7))
    assert "vary by a factor of 3.0" in said and "nothing is concluded" in said and "percent" not in said


def test_too_few_rounds_conclude_nothing():
    from slimlib.study.milliseconds import findings

    rows = [("dense", False, 1.0, 1.0), ("pca", False, 0.25, 0.5)]
    table = pd.DataFrame(rows, columns=["arm", "rounded", "kept_macs", "relative"])
    table = table.assign(device="cpu", network="small VGG", batch_size=1, budget=table["kept_macs"], realised=2 / 3, rounds=4)
    table = table.assign(relative_low=table["relative"], relative_high=table["relative"], ms_low=1.0, ms_high=1.0)
    assert findings(table) == ["small VGG, CPU, batch of 1: only 4 rounds were made, so nothing is concluded."]
    assert "take 50 % of the time" in findings(table.assign(rounds=5))[0]


def test_networks_are_slimmed_once_as_the_widths_come_and_once_rounded(chain, monkeypatch):
    from slimlib.study import milliseconds

    model, x = chain
    networks, costs = milliseconds.slimmed(model, x, ["uniform"], [0.5, 0.8], round_to=4)
    rounded = ["uniform, 50 %, multiples of 4", "uniform, 80 %, multiples of 4"]
    assert list(networks) == costs["model"].tolist() == ["dense", "uniform, 50 %", "uniform, 80 %", *rounded]
    assert costs["rounded"].tolist() == [False] * 3 + [True] * 2 and (costs["kept_macs"] <= costs["budget"]).all()
    assert costs.loc[~costs["rounded"] & (costs["budget"] < 1), ["budget", "kept_macs"]].T.diff().iloc[1].min() > -0.01, "filled"
    wide = [networks[name][4].out_channels for name in networks]
    assert networks["dense"] is model and wide[3] % 4 == wide[4] % 4 == 0 and wide[1] % 4
    assert len(milliseconds.slimmed(model, x, ["uniform"], [0.5], round_to=1)[0]) == 2
    close, costs = milliseconds.slimmed(model, x, ["uniform"], [0.505, 0.51], round_to=1)
    assert list(close) == costs["model"].tolist() == ["dense", "uniform, 50.5 %", "uniform, 51 %"], "each share has its name"

    costs = pd.DataFrame({"model": ["dense", "slim", "slower"], "arm": ["dense", "pca", "pca"], "kept_macs": [1.0, 0.2, 0.5]})
    clock = pd.DataFrame({"model": ["dense", "slim", "slower"], "relative": [1.0, 0.4, 1.1]})
    monkeypatch.setattr(milliseconds.latency, "measure", lambda *args, **how: clock)
    table = milliseconds.timed("vgg_small", {}, costs, x, [1], 3)
    # 60 % of the time for 80 % of the multiply-adds; a tenth more time for half of them
    assert table["realised"].tolist()[1:] == pytest.approx([0.75, -0.2]) and np.isnan(table["realised"][0])


def test_what_the_second_tilt_would_change_is_told_where_validation_images_hardly_chose():
    claim = load_claims()["C4"]
    laptop = replace(claim, runs=tuple(where for where in claim.runs if where["profile"] == "laptop"))
    runs = [run for run in laptop.deciding_runs() if run.model == "resnet20:pretrained" and run.budget.startswith("macs")]
    records = []
    for run in runs:
        record = {"key": run.key, "run": run.to_dict(), **made(run, {"neyman": 0.01})}
        first, second = run.arm == "tilt(power=1.0)", run.arm == "tilt(power=0.5)"
        # at half the MACs the two are equal in the mean; at 35 % the first leads in every seed
        lead = 0.001 if run.budget == "macs:0.35" else 1e-6 + (-1) ** run.seed * 1e-4 - 2e-5
        record["metrics"]["val_accuracy"] = 0.9 + (lead if first else 0 if second else -0.1)
        record["metrics"]["test_accuracy"] = 0.5 + 0.001 * run.seed + (0.01 if run.arm == "neyman" else 0.008 if first else 0)
        records.append(record)
    (said,) = [one for one in tilt_choice.doubts(judge(laptop, records)) if "with the next one" in one]
    assert "On published ResNet-20 on CIFAR-10 at equal MACs the best tilt leads" in said and "(at 50 % of MACs)" in said
    # 0.2 points over the first tilt at both budgets; over the second one, which takes its place at half the MACs, 1.0 there
    assert said.endswith("the difference is +0.60 [+0.60, +0.60] points instead of +0.20 [+0.20, +0.20], "
                         "which changes no verdict.")
    judged = judge(laptop, records)
    assert html.escape(said) in verdict.report(judged) and not tilt_choice.of_weight(said)
    clear = [record | {"metrics": record["metrics"] | {"val_accuracy": 0.9 + 0.01 * (record["run"]["options"] == {"power": 1.0})}}
             for record in records]
    assert not [one for one in tilt_choice.doubts(judge(laptop, clear)) if "with the next one" in one]


@pytest.mark.parametrize("elsewhere,whole", [(-0.02, "not supported instead of mixed"),
                                             (0.02, "mixed instead of supported")])
def test_a_verdict_that_turns_with_the_second_tilt_is_told_as_turned(elsewhere, whole):
    """On ResNet-20 at equal MACs the rule gains 0.2 points over the first tilt, which hardly leads at half the MACs, and loses
    to the second one. ``elsewhere``: what it gains over all tilts in the other comparisons."""
    claim = load_claims()["C4"]
    laptop = replace(claim, runs=tuple(where for where in claim.runs if where["profile"] == "laptop"))
    records = []
    for run in laptop.deciding_runs():
        record = {"key": run.key, "run": run.to_dict(), **made(run, {})}
        here, noise = run.model == "resnet20:pretrained" and run.budget.startswith("macs"), 1e-5 * (-1) ** run.seed
        first, second, lead = run.arm == "tilt(power=1.0)", run.arm == "tilt(power=0.5)", 0.01
        if here and run.budget == "macs:0.5":
            lead = 3e-5 - 10 * noise
        record["metrics"]["val_accuracy"] = 0.9 + (lead if first else 0 if second else -0.1)
        ours = (0.002 if here else elsewhere) + noise
        record["metrics"]["test_accuracy"] = 0.5 + (ours if run.arm == "neyman" else 0.02 if second and here else 0)
        records.append(record)
    judged = judge(laptop, records)
    (said,) = [one for one in tilt_choice.doubts(judged) if "with the next one" in one]
    assert tilt_choice.of_weight(said)
    shown, _, folded = answers.front_page({"C4": judged}).partition("```{dropdown}")
    assert "that on the whole claim" in shown and "that on the whole claim" not in folded, "who reads the verdict must see it"
    assert "points instead of +0.20" in said
    turned = "not supported instead of supported; that on the whole claim would be"
    assert said.endswith(f", and the verdict would be {turned} {whole}.")
    here = (judged.deciding["model"] == "resnet20:pretrained") & (judged.deciding["unit"] == "macs")
    assert fragile.fragile(judged) == set(judged.deciding.index[here]), "marked at its own place alone"


def test_a_verdict_that_another_comparisons_tilt_turns_is_marked_and_named():
    """Holm's p of one comparison depends on those of the others: LeNet-5's second tilt, at equal parameters, leaves it undecided,
    and with it ResNet-20 at equal MACs, whose p was the next."""
    laptop, noise, records = load_claims()["C4"].within("laptop"), (-2, -1, 0, 1, 2), []
    for run in laptop.deciding_runs():
        place, power, z = (run.model, run.budget.partition(":")[0]), dict(run.options).get("power"), noise[run.seed]
        first = 0.004 + 0.0019 * z if place == ("resnet20:pretrained", "macs") else 0.01 + 0.0003 * z
        second, close = (0.004 + 0.003 * z, 0.9199 + 0.001 * z) if place == ("lenet5", "params") else (0.01 + 0.0003 * z, 0.9)
        test, val = {"neyman": (0.95, 0.95), 0.5: (0.95 - first, 0.92), -0.5: (0.95 - second, close)}.get(
            "neyman" if run.arm == "neyman" else power, (0.9, 0.8))
        record = {"key": run.key, "run": run.to_dict(), **made(run, {})}
        record["metrics"] |= {"test_accuracy": test, "val_accuracy": val}
        records.append(record)
    judged = judge(laptop, records)
    at = {(row["model"], row["unit"]): place for place, row in enumerate(judged.deciding.to_dict("records"))}
    assert set(judged.deciding["verdict"]) == {"supported"}
    turned = {at["lenet5", "params"], at["resnet20:pretrained", "macs"]}
    assert tilt_choice.turned(judged) == turned <= fragile.fragile(judged)
    (said,) = [one for one in tilt_choice.with_the_second(judged) if tilt_choice.of_weight(one)]
    assert said.startswith("On LeNet-5 on MNIST at equal parameters ")
    other = "that against best tilt, published ResNet-20 on CIFAR-10, MACs, would be inconclusive"
    whole = "that on the whole claim would be inconclusive instead of supported"
    assert said.endswith(f"and the verdict would be inconclusive instead of supported; {other}; {whole}.")


def test_what_the_choice_of_a_tilt_by_the_other_seeds_changes_is_told():
    """On ResNet-20 at half the MACs the first tilt leads by the validation accuracy of seed 0 alone, and the second, which the
    other seeds prefer there, is far better at that seed."""
    claim = load_claims()["C4"]
    laptop = replace(claim, runs=tuple(where for where in claim.runs if where["profile"] == "laptop"))
    records = []
    for run in laptop.deciding_runs():
        record = {"key": run.key, "run": run.to_dict(), **made(run, {})}
        first, second, noise = run.arm == "tilt(power=1.0)", run.arm == "tilt(power=0.5)", 1e-5 * (-1) ** run.seed
        here = run.model == "resnet20:pretrained" and run.budget == "macs:0.5"
        ahead = 0.05 * (run.seed == 0) if here else 0.01
        record["metrics"]["val_accuracy"] = 0.8 + (ahead if first else 0.005 if second else -0.1)
        record["metrics"]["test_accuracy"] = 0.5 + (0.002 + noise if run.arm == "neyman" else 0.05 * (second and run.seed == 0))
        records.append(record)
    judged = judge(laptop, records)
    said = tilt_choice.chosen_by_the_other_seeds(judged)
    rows = judged.deciding
    assert set(rows["verdict"]) == {"supported"} and len(said) == 2
    # 0.2 points, less a fifth of 5 points at one of two budgets
    assert said[0].startswith("On published ResNet-20 on CIFAR-10 at equal MACs, with the tilt of each seed chosen by the other "
                              "seeds, the difference is −0.30 [")
    assert "points instead of +0.20 [+0.20, +0.20], and the verdict would be inconclusive instead of supported" in said[0]
    assert list(map(tilt_choice.of_weight, said)) == [True, False] and set(said) <= set(tilt_choice.doubts(judged))
    assert said[1] == (f"In {len(rows) - 1} other comparisons the tilt of each seed was also chosen by the other seeds, "
                       f"{tilt_choice.CHANGES_NONE}.")
    (place,) = rows.index[(rows["model"] == "resnet20:pretrained") & (rows["unit"] == "macs")]
    assert tilt_choice.turned(judged) == {place}
    one_seed = [record for record in records if record["run"]["seed"] == 0]
    assert tilt_choice.chosen_by_the_other_seeds(judge(laptop, one_seed)) == []


def test_what_the_first_records_of_other_profiles_would_change_is_told():
    claim = load_claims()["C1-pruning"]
    judged = judge(claim, records_of(claim, {"pca": 0.005}))
    planned, made_so_far = claim.comparisons(judged.runs), len(judged.deciding)
    assert planned > made_so_far == judged.deciding["family"].iloc[0]
    told = fragile.once_all_begun(judged)
    assert told == (f"Once every profile has a record, {planned} comparisons count instead of {made_so_far}: the verdict on the "
                    "whole claim would be inconclusive instead of supported.")
    assert told in html.unescape(verdict.report(judged))
    alone = claim.within("laptop")
    assert fragile.once_all_begun(judge(alone, judged.records)) == "" == fragile.once_all_begun(judge(claim, []))

    rows = [{"n": 5, "mean": 0.002, "low": 0.001, "high": 0.003, "p": p, "family": 2} for p in (0.01, 0.0001)]
    rows = [row | {"p_holm": p, "verdict": found} for row, (p, found) in zip(rows, decide(claim, rows), strict=True)]
    assert [row["verdict"] for row in rows] == ["supported", "supported"]
    assert changes.with_all_planned(claim, rows, 2) == ({}, "supported")
    assert changes.with_all_planned(claim, rows, 6) == ({}, "inconclusive"), "five times .01 are .05"
    assert changes.with_all_planned(claim, rows, 7) == ({0: "inconclusive"}, "inconclusive")


@pytest.mark.parametrize("verdicts,family,whole", [
    (["supported"] * 3, 3, "supported"), (["supported"] * 3, 4, "inconclusive"), (["not supported"], 1, "not supported"),
    (["supported", "not supported"], 9, "mixed"), (["supported", "inconclusive"], 2, "inconclusive"), ([], 0, "inconclusive"),
])  # fmt: skip
def test_the_verdict_on_a_whole_claim(verdicts, family, whole):
    assert deciding.as_a_whole(verdicts, family) == whole


def test_the_answers_in_short_are_the_outcomes_of_the_comparisons():
    claim, rank = load_claims()["C1-pruning"], load_claims()["C2"]
    judged = {"C1-pruning": judge(claim, records_of(claim, {"pca": 0.005})), "C2": judge(rank, [])}
    found = in_short.table(judged)
    assert found.index.tolist() == ["C1-pruning", "C1-pruning", "C2"] and found.columns[0] == "what was compared"
    assert found["what was compared"].tolist()[0] == "PCA against uniform"
    assert found["LeNet-5 on MNIST"].tolist() == ["better", "better", "–"], "nothing is recorded of the last"
    none, few = judge(claim, []), judge(claim, records_of(claim, {"pca": 0.005}, seeds=2))
    assert in_short.table({"C1-pruning": none}).shape == (2, 1)
    assert in_short.table({"C1-pruning": few})["LeNet-5 on MNIST"].tolist() == ["2 of 5 seeds"] * 2
    told = in_short.sentence(judged, "the paper's claims")
    rows = len(judged["C1-pruning"].deciding)
    assert told == (f"{rows} comparisons of accuracies decide the paper's claims so far: {rows} for the claim in question; none "
                    "against it; none open.")
    assert in_short.sentence({"C2": judged["C2"]}, "the paper's claims") == "No comparison decides the paper's claims yet."


def test_orders_of_layers_are_counted_apart_and_open_ones_are_called_so():
    """Many are views of one scan, and few layers leave open what they do not refute."""
    claim, rank = load_claims()["C1-pruning"], load_claims()["C2"]
    rows = pd.DataFrame({"dataset": "cifar10", "model": ["resnet20:pretrained"] * 3 + ["resnet56:pretrained"] * 2,
                         "verdict": ["inconclusive", "supported", "not supported", "supported", "supported"]})
    scans = replace(judge(rank, []), deciding=rows)
    found = in_short.table({"C2": scans})
    assert found["published ResNet-20 on CIFAR-10"].tolist() == ["related in 1, open in 1 of 3"]
    assert found["published ResNet-56 on CIFAR-10"].tolist() == ["related in 2 of 2"]
    told = in_short.sentence({"C1-pruning": judge(claim, records_of(claim, {"pca": 0.005})), "C2": scans}, "them all")
    assert "5 comparisons of orders of layers, which are views of the same scans, decide them as well: 3 for the claim" in told
    assert told.index("of accuracies") < told.index("of orders") and told.endswith("1 against it; 1 open.")


def test_where_the_units_of_cost_differ_the_answer_names_both():
    claim = load_claims()["C1-pruning"]
    judged = judge(claim, records_of(claim, {"pca": 0.005}))
    rows = judged.deciding
    at = rows.index[(rows["rival"] == "uniform") & (rows["unit"] == "params")][0]
    rows.loc[at, ["verdict", "low", "high"]] = ["not supported", -0.01, -0.001]
    cell = in_short.table({"C1-pruning": judged})["LeNet-5 on MNIST"].tolist()[0]
    assert cell == "MACs: better; parameters: worse †", "as the bootstrap interval still says better"
    rows.loc[at, "boot_verdict"] = "not supported"
    cell = in_short.table({"C1-pruning": judged})["LeNet-5 on MNIST"].tolist()[0]
    assert cell == "MACs: better; parameters: worse"
    page = in_short.for_the_front_page({"C1-pruning": judged}).splitlines()
    assert page[0].startswith("- ") and "1 against it" in page[0] and page[2].startswith("| claim | what was compared | LeNet-5")
    assert page[3] == "| --- | --- | --- |" and len(page) == 6, "a line for each rival"
