"""What stands beside a verdict so that it is not taken for more than it is: doubts, other runs, what could be gained at all."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from slimlib import study
from slimlib.study import answers, elsewhere, fragile, in_short, rank_answers, ranks, setting, shapes, trails, wording
from slimlib.study.claims import load_claims
from slimlib.study.judgement import Judgement, judge
from slimlib.study.resampling import shuffled
from tests.test_verdict import made, records_of


def on_resnet20(effects: dict[str, float], budgets=("macs:0.35", "macs:0.5"), seeds: int = 5) -> list[dict]:
    """Records of the study that C1 does not name."""
    runs = [run for run in study.load_profile("laptop").runs("better_rule") if run.rule in ("pca", "uniform")
            and run.model.startswith("resnet20") and run.budget in budgets and run.seed < seeds]
    return [{"key": run.key, "run": run.to_dict(), **made(run, effects)} for run in runs]


def test_other_runs_are_averaged_over_budgets_seed_by_seed_and_decide_nothing():
    claim = load_claims()["C1-pruning"]
    own, others = judge(claim, records_of(claim, {})), on_resnet20({"pca": 0.004})
    (row,) = elsewhere.elsewhere(own, [*own.records, *others])
    wide = study.to_frame(others).pivot_table(index="seed", columns=["arm", "budget"], values="test_accuracy")
    by_seed = (wide["pca"] - wide["uniform"]).mean(axis=1)
    low, high = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((by_seed.mean(), low, high))
    assert (row["rival"], row["unit"], row["budgets"], row["n"]) == ("uniform", "macs", "macs:0.35, macs:0.5", 5)
    assert judge(claim, [*own.records, *others]).deciding.equals(own.deciding)
    # four seeds are as few here as for a verdict, and a budget that lacks a seed takes it from the mean
    assert elsewhere.elsewhere(own, on_resnet20({}, seeds=4)) == []
    part = [*on_resnet20({}, ("macs:0.35",)), *on_resnet20({}, ("macs:0.5",), seeds=4)]
    assert elsewhere.elsewhere(own, part) == [] and elsewhere.elsewhere(judge(load_claims()["C2"], []), others) == []


def test_other_runs_stand_in_brackets_in_the_table():
    claim = load_claims()["C1-pruning"]
    judged = {"C1-pruning": judge(claim, records_of(claim, {})), "C3": judge(load_claims()["C3"], on_resnet20({"pca": -0.02}))}
    table = in_short.table(judged)
    assert table["published ResNet-20 on CIFAR-10"].tolist()[:2] == ["(MACs: worse)", "–"], "global l1 has no runs there"


def test_a_verdict_that_another_choice_turns_is_marked_and_told():
    claim = load_claims()["C1-pruning"]
    judged = judge(claim, records_of(claim, {"pca": 0.005}))
    assert fragile.fragile(judged) == set() and fragile.in_words(judged) == []
    rows = judged.deciding
    # one comparison with a p that holds among those begun, and not among all that are planned
    p, planned = 0.05 / len(rows) / 1.5, claim.comparisons(judged.runs)
    assert 0.05 / planned < p < 0.05 / len(rows)
    near = replace(judged, deciding=rows.assign(p=[p, *[1e-9] * (len(rows) - 1)]))
    near.deciding.loc[1:, "p"] = p
    assert fragile.fragile(near) == set(range(len(rows)))
    (told,) = fragile.in_words(near)
    assert told.startswith("Once every profile has a record") and "would be inconclusive" in told
    assert set(in_short.table({"C1-pruning": near})["LeNet-5 on MNIST"]) == {"better †"}
    assert told in answers.front_page({"C1-pruning": near})
    # a bootstrap interval that says otherwise is a mark as well, but not where no verdict is given for want of seeds
    other = replace(judged, deciding=rows.assign(boot_verdict=["inconclusive", *rows["verdict"][1:]]))
    assert fragile.fragile(other) == {0}
    few = judge(claim, records_of(claim, {"pca": 0.005}, seeds=3))
    assert fragile.fragile(replace(few, deciding=few.deciding.assign(boot_verdict="supported"))) == set()


def test_what_is_slimmed_beyond_the_papers_method_is_told_with_the_claims_that_rest_on_it():
    def judged(name: str, *models: str):
        full = {"lenet5": {"conv1": 20, "conv2": 50, "fc1": 500}, "resnet20:pretrained": {"layer1.0.conv1": 16}}
        return judge(claims[name], [record | {"widths": full[model], "full_widths": full[model]} for model in models
                                    for record in records_of(claims[name], {}) if record["run"]["model"] == model])

    claims = load_claims()
    on_lenet, on_both = judged("C1-pruning", "lenet5"), judged("C3", "lenet5", "resnet20:pretrained")
    of, only = setting.beyond_the_paper({"C1-pruning": on_lenet, "C3": on_both})
    share = (400 * 1000 + 500) / (400 * 1000 + 500 + 20 * 26 + 50 * 501 + 500 * 10 + 10)
    assert of.endswith(f"On LeNet-5 on MNIST we also slim fc1, with {100 * share:.0f} % of the parameters.")
    assert only == "C1-pruning is decided on no network of which convolutional layers alone are slimmed."
    assert of in answers.front_page({"C1-pruning": on_lenet})
    # of a ResNet only convolutions are slimmed, and what has no comparison yet rests on nothing
    plain = judged("C3", "resnet20:pretrained")
    assert len(plain.deciding) and setting.beyond_the_paper({"C3": plain, "C1-pruning": judged("C1-pruning")}) == []


def test_too_few_seeds_are_in_no_count_of_intervals_that_disagree():
    claim = load_claims()["C1-pruning"]
    for seeds, expected in ((5, 1), (3, 0)):
        judged = judge(claim, records_of(claim, {"pca": 0.005}, seeds=seeds))
        said = wording.bootstrapped(replace(judged, deciding=judged.deciding.assign(agree=False)))
        assert len(said) == expected


def test_a_correction_over_all_claims_is_holms_over_all_comparisons():
    claim = load_claims()["C1-pruning"].within("laptop")
    one = judge(claim, records_of(claim, {"pca": 0.005}))
    rows = len(one.deciding)
    assert fragile.over_all_claims({"a": one, "b": one}) == (
        f"Corrected together, over all {2 * rows} comparisons of all claims instead of those of each claim, all of the "
        f"{2 * rows} comparisons that are supported would still be.")
    begun = replace(one, deciding=one.deciding[:0])  # a claim whose first comparison is still to be made is planned all the same
    assert f"over all {2 * rows} comparisons" in fragile.over_all_claims({"a": one, "b": begun})
    near = replace(one, deciding=one.deciding.assign(p=0.05 / rows / 1.5, p_holm=0.05 / 1.5))
    told = fragile.over_all_claims({"a": near, "b": near})
    assert f"{2 * rows} of the {2 * rows} comparisons that are supported would not be: C1-pruning against uniform" in told
    assert fragile.over_all_claims({"a": judge(claim, [])}) == "" == fragile.over_all_claims({})


def test_what_a_rival_leaves_to_be_gained_is_told_where_a_gain_is_ruled_out():
    claim = load_claims()["C1-pruning"]
    records = records_of(claim, {})
    for record in records:  # the networks lie below their dense one by their own effect and seed
        record["metrics"]["dense_test_accuracy"] = 0.9 + 0.01 * record["run"]["seed"] + 0.003
    (told,) = answers.answer(judge(claim, records))
    assert "*no better than* uniform" in told and told.count("little to gain: dense +0.3") >= 2
    for record in records:
        record["metrics"]["dense_test_accuracy"] += 0.01
    assert "little to gain" not in answers.answer(judge(claim, records))[0]


def test_outcomes_are_counted_and_what_lacks_seeds_apart():
    claim = load_claims()["C1-pruning"]
    little = judge(claim, records_of(claim, {"pca": 0.0006}))
    told = in_short.sentence({"C1-pruning": little}, "it")
    outcomes = [answers.outcome(row, claim.margin) for row in little.deciding.to_dict("records")]
    by_less = outcomes.count("better, by less than matters, than")
    assert by_less and f"{by_less} for it, but by less than matters" in told
    few = in_short.sentence({"C1-pruning": judge(claim, records_of(claim, {}, seeds=3))}, "it")
    assert few.endswith("none open; 4 with too few seeds to be judged.")


def test_the_least_coefficient_that_is_told_apart_has_that_p():
    rho = ranks.least_told_apart(27, 0.003)
    t = rho * (25 / (1 - rho**2)) ** 0.5
    assert 0 < rho < 1 and 2 * stats.t.sf(t, 25) == pytest.approx(0.003)
    # of few layers p counts their orders, as in every comparison: the next coefficient below has a greater one
    for n, p in ((6, 0.05), (9, 0.05 / 16)):
        rho, layers = ranks.least_told_apart(n, p), np.arange(n)
        orders = np.abs([stats.spearmanr(layers, order).statistic for order in itertools.permutations(range(n))]) if n < 7 \
            else np.abs(shuffled(layers, layers, None, 0))
        at, below = ((orders >= rho - step - 1e-9).mean() for step in (0, 12 / (n * (n**2 - 1))))
        assert at <= p < below
    assert np.isnan(ranks.least_told_apart(4, 0.05)), "of four layers no order is told from chance"


def test_the_next_coefficient_is_the_one_that_holm_asks_for():
    """Those found already are no longer counted."""
    claim = load_claims()["C2"]
    row = {"dataset": "cifar10", "model": "resnet20:pretrained", "n": 9, "spearman": 0.9, "family": 16, "over_depth_low": -0.1,
           "over_depth_high": 0.1, "p_within": 0.5, "within": 0.1, "rule": "pca"}
    rows = pd.DataFrame([row | {"p_holm": p, "verdict": found} for p, found in
                         (*[(0.01, "supported")] * 12, (0.2, "inconclusive"))])
    told = rank_answers.answer(Judgement(claim, "mixed", rows, rows, pd.DataFrame(), (), ()))
    needed = ranks.least_told_apart(9, 0.05 / 4)
    assert needed < ranks.least_told_apart(9, 0.05 / 16) - 0.01
    assert f"12 of 13, where with 9 layers one more would need a coefficient of about {needed:.2f}" in told
    few = rows.assign(n=5, p_holm=1.0)
    told = rank_answers.answer(Judgement(claim, "mixed", few, few, pd.DataFrame(), (), ()))
    assert "where with 5 layers no coefficient would be enough" in told, "of 120 orders two are as far from chance as any"


def test_seeds_that_drew_the_same_widths_are_no_different_draws():
    claim = load_claims()["K1-chance"]
    records = records_of(claim, {})
    for record in records:
        run = record["run"]
        drawn = run["rule"] == "permuted" and run["budget"] == "macs:0.1"
        record |= {"widths": {"conv1": 1 + (run["seed"] % 2 if drawn else run["seed"])}, "full_widths": {"conv1": 20}}
    judged = judge(claim, records)
    (told,) = shapes.drawn(judged)
    assert told == "On LeNet-5 on MNIST, the 5 seeds of permuted drew 2 to 5 different sets of widths at a budget."
    for record in records:
        record["widths"]["conv1"] = 1 + record["run"]["seed"]
    assert shapes.drawn(judge(claim, records)) == []


def test_arms_with_the_same_widths_are_called_so_instead_of_judged():
    claim = load_claims()["K3-centring"]
    records = [record | {"widths": {"conv1": 3}, "full_widths": {"conv1": 20}} for record in records_of(claim, {})]
    judged = {"K3-centring": judge(claim, records)}
    assert in_short.table(judged)["LeNet-5 on MNIST"].tolist() == ["same widths"]
    # nor does another network take the word away, or get it
    there, one = {"model": "vgg16"}, judged["K3-centring"]
    others = [record | {"run": record["run"] | there, "key": f"other {record['key']}",
                        "widths": {"conv1": 3 + record["run"]["center"]}} for record in records]
    keys = {side: "other " + one.pairs[side] for side in ("key_ours", "key_rival")}
    both = replace(one, records=(*records, *others), pairs=pd.concat([one.pairs, one.pairs.assign(**there, **keys)]),
                   deciding=pd.concat([one.deciding, one.deciding.assign(**there)]))
    cells = in_short.table({"K3-centring": both}).iloc[0]
    assert cells["LeNet-5 on MNIST"] == "same widths" != cells["VGG-16 on MNIST"]
    told = shapes.same_widths(both)
    assert told.count("are the same in") == 1
    assert told.startswith("On LeNet-5 on MNIST, the widths of PCA (3AS) and PCA, uncentred are the same in ")
    assert "same widths" not in wording.overall({"K3-centring": both})
    assert "(K3-centring with the same widths on both sides)" in wording.overall(judged)


def test_units_that_a_claim_does_not_count_are_no_deciding_runs():
    claim = load_claims()["C1-pruning"].within("laptop")
    runs = claim.deciding_runs()
    macs = replace(claim, budgets=("macs",)).deciding_runs()
    assert {run.budget.partition(":")[0] for run in runs} == {"macs", "params"}
    assert macs == [run for run in runs if run.budget.startswith("macs:")] != []


def test_claims_are_named_as_they_are_grouped():
    claims = load_claims()
    judged = {name: judge(claims[name], []) for name in ("C1-pruning", "C1-distillation", "C3")}
    lines = in_short.for_the_front_page(judged | {"C6": replace(judged["C3"])}).splitlines()
    assert "the paper's claims (C1)" in lines[0] and "the book's own rule (C3 and C6)" in lines[1]


def test_what_is_recorded_is_counted_by_profile_and_what_is_still_lost_is_told():
    claim = load_claims()["C1-pruning"]
    judged = judge(claim, records_of(claim, {}))
    laptop, paper = (len(claim.within(name).deciding_runs()) for name in ("laptop", "paper"))
    told = setting.by_profile({"a": judged, "b": judged})
    counts = f"{laptop} of {laptop} of profile laptop and 0 of {paper} of profile paper"
    assert told == f"Of the runs that decide, {counts} are recorded."
    for record in judged.records:
        record["metrics"]["dense_test_accuracy"] = record["metrics"]["test_accuracy"] + 0.0123
    assert setting.training(judged.records).endswith("dense network's accuracy: 1.23 points (LeNet-5 on MNIST).")


def test_pairs_of_other_commits_and_machines_are_counted():
    claim = load_claims()["C1-pruning"]
    records = records_of(claim, {})
    first = next(record for record in records if record["run"]["rule"] == "pca")
    first["provenance"] = first["provenance"] | {"code": {"commit": "e" * 40}}
    judged = judge(claim, records)
    pairs = pd.concat([judged.pairs])
    concerned = int((pairs["key_ours"] == first["key"]).sum())
    assert concerned == 2, "one a rival"
    told = trails.made_apart([judged, judged])
    apart = "2 come from different commits of the code and none were made on different processors"
    assert told == f"Of the {len(pairs)} pairs of runs behind the differences, {apart}."
