"""Statistics against known answers, claims against records made for them, figures that draw what they are given."""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies
from scipy import stats

from slimlib.errors import SlimlibError
from slimlib.study import figures, pairing, ranks, wording
from slimlib.study import statistics as st
from slimlib.study.claims import Claim, load_claims, published_layers
from slimlib.study.judgement import judge
from slimlib.study.layers import layer_table, published_agreement
from slimlib.study.profiles import load_profile
from slimlib.study.runs import Run


def test_paired_interval_is_that_of_the_textbook():
    d = [0.012, 0.004, 0.009, -0.001, 0.007]
    found = st.paired(d)
    test = stats.ttest_1samp(d, 0)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, test.pvalue))
    assert found.mean == pytest.approx(np.mean(d)) and found.sd == pytest.approx(np.std(d, ddof=1)) and found.n == 5
    assert found.low < found.boot_low < found.mean < found.boot_high < found.high
    less, interval = st.paired(d, level=0.8), test.confidence_interval(0.8)
    assert (less.low, less.high, less.p) == pytest.approx((interval.low, interval.high, test.pvalue))
    assert found.boot_low < less.boot_low < less.boot_high < found.boot_high


def test_t_interval_covers_as_often_as_it_says():
    """400 simulated studies of 5 seeds: 95 % to within three standard errors; the bootstrap is too narrow, as told."""
    generator = np.random.default_rng(0)
    t_hits = boot_hits = 0
    for _ in range(400):
        found = st.paired(generator.normal(0.003, 0.01, 5))
        t_hits += found.low <= 0.003 <= found.high
        boot_hits += found.boot_low <= 0.003 <= found.boot_high
    assert abs(t_hits / 400 - 0.95) < 3 * (0.95 * 0.05 / 400) ** 0.5
    assert 0.70 < boot_hits / 400 < 0.93


def test_verdicts_follow_the_written_rule():
    assert st.verdict(0.001, 0.002) == "supported"
    assert st.verdict(0.0001, 0.0005, margin=0.001) == "supported"
    assert st.verdict(-0.002, -0.001) == "not supported"
    assert st.verdict(-0.002, 0.0005, margin=0.001) == "not supported"
    assert st.verdict(-0.002, 0.002, margin=0.001) == st.verdict(-0.002, 0.001, margin=0.001) == "inconclusive"
    assert st.verdict(0.0, 0.002) == "inconclusive"
    assert st.verdict(float("nan"), float("nan")) == "inconclusive"


def test_few_or_equal_differences():
    one = st.paired([0.01])
    assert one.n == 1 and np.isnan(one.low) and one.verdict == "inconclusive"
    same = st.paired([0.0, 0.0, 0.0])
    assert (same.low, same.high, same.p, same.verdict) == (0, 0, 1, "inconclusive")
    always = st.paired([0.01] * 5)
    assert (always.low, always.high, always.p) == (0.01, 0.01, 2**-4)  # five heads in a row, or five tails
    assert (always.boot_low, always.boot_high, always.verdict, always.agree) == (0.01, 0.01, "supported", True)
    with pytest.raises(SlimlibError, match="differences"):
        st.paired([0.1, float("nan")])


@settings(deadline=None)
@given(strategies.lists(strategies.integers(-50, 50), min_size=2, max_size=6), strategies.integers(100, 10_000))
def test_the_rounding_of_floats_is_no_spread(gains, images):
    """Gains at two budgets may cancel exactly; what floats leave of that must not pass for a small effect."""
    ours = [((9 * images // 10 + gain) / images, (7 * images // 10 - gain) / images) for gain in gains]
    rival = (9 * images // 10 / images, 7 * images // 10 / images)
    found = st.paired([((first - rival[0]) + (second - rival[1])) / 2 for first, second in ours])
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_disagreement_of_the_two_intervals_is_told():
    found = st.paired([0.1, 0.0, 0.012, 0.013, 0.011])
    assert found.low < 0 < found.boot_low and found.verdict == "inconclusive" and not found.agree
    assert st.paired([0.010, 0.011, 0.012, 0.013, 0.011]).agree
    small = st.paired([-0.001, 0.001, 0.0005, -0.0005, 0.0002], margin=0.01)
    assert small.verdict == "not supported" and small.agree, "both intervals lie below the least effect that would matter"


def test_holm_by_hand():
    assert st.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert st.holm([0.01, float("nan"), 0.9]) == pytest.approx([0.02, float("nan"), 0.9], nan_ok=True)
    assert st.holm([]).shape == (0,)
    # a family of which two are still to be made
    assert st.holm([0.01, 0.04, float("nan")], tests=5) == pytest.approx([0.05, 0.16, float("nan")], nan_ok=True)


def test_rank_agreement_equals_scipy_and_separates_stages():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=12), generator.normal(size=12)
    y[3] = y[4]  # a tie
    found = ranks.rank_agreement(x, y, [0] * 6 + [1] * 6)
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found.p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.05)
    halves = [stats.spearmanr(x[part], y[part]).statistic for part in (slice(0, 6), slice(6, 12))]
    assert found.within == pytest.approx(np.mean(halves))
    assert found.spearman_low <= found.spearman <= found.spearman_high


def test_intervals_of_both_coefficients_are_quantiles_over_drawn_layers():
    """Each draw by scipy; with ties, in the data and as drawing makes them."""
    x, y = np.array([1.0, 2, 2, 3, 4, 5, 6, 7]), np.array([1.0, 3, 2, 2, 5, 4, 7, 6])
    drawn = np.random.default_rng(0).integers(0, 8, (60, 8))
    for level in (0.95, 0.5):
        found = ranks.rank_agreement(x, y, level=level, resamples=60, permutations=9)
        for name, by in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            each = [by(x[d], y[d]).statistic for d in drawn]
            low, high = np.quantile(each, [(1 - level) / 2, (1 + level) / 2])
            assert (getattr(found, f"{name}_low"), getattr(found, f"{name}_high")) == pytest.approx((low, high))
    other = ranks.rank_agreement(x, y, level=0.5, resamples=60, permutations=9, seed=1)
    assert (other.spearman_low, other.kendall_low) != (found.spearman_low, found.kendall_low), "another seed draws others"


def test_p_values_by_counting_all_orders():
    three = [1, 2, 3]  # of their 6 orders one agrees wholly and one is the reverse
    assert ranks.rank_agreement(three, three).p == pytest.approx(1 / 3)
    assert ranks.rank_agreement(three, three[::-1]).p == pytest.approx(1 / 3), "two-sided"
    nine = range(9)
    assert ranks.rank_agreement(nine, nine).p == 2 / math.factorial(9), "all their orders, however few permutations are asked for"
    tied = np.array([1.0, 2, 2, 3, 5, 4]), np.array([2.0, 1, 3, 3, 4, 6])
    every = [stats.spearmanr(order, tied[1]).statistic for order in itertools.permutations(tied[0])]
    as_far = np.abs(every) >= abs(stats.spearmanr(*tied).statistic) - 1e-12
    assert ranks.rank_agreement(*tied).p == pytest.approx(np.mean(as_far))
    # two stages of 3, shuffled apart: both must agree wholly, or both be reversed: 2 of 36
    found = ranks.rank_agreement([1, 2, 3, 4, 5, 6], [4, 5, 6, 1, 2, 3], [0, 0, 0, 1, 1, 1])
    assert found.within == pytest.approx(1) and found.p_within == pytest.approx(2 / 36, abs=0.005)
    # no p is 0: what was found is one of the orders that could have been
    assert ranks.rank_agreement(range(20), range(20), permutations=99).p == 1 / 100
    # a stage of two layers has no order to speak of
    found = ranks.rank_agreement([1, 2, 3, 9, 8], [1, 3, 2, 1, 2], [0, 0, 0, 1, 1])
    assert found.within == pytest.approx(0.5)


def test_a_trend_between_stages_counts_for_nothing_within():
    generator = np.random.default_rng(2)
    stages = np.repeat([0, 10, 20], 9)
    found = ranks.rank_agreement(stages + generator.normal(size=27), stages + generator.normal(size=27), stages.tolist())
    assert found.spearman > 0.8 and found.p < 0.01 and found.spearman_low > 0.6
    assert abs(found.within) < 0.5 and found.p_within > 0.05
    real = np.tile(np.arange(9.0), 3)
    found = ranks.rank_agreement(-stages + real, stages + real, stages.tolist())
    assert found.spearman < 0 < found.within == pytest.approx(1) and found.p_within < 0.01


def test_permutation_p_is_uniform_without_effect():
    generator = np.random.default_rng(3)
    draw = lambda: generator.normal(size=ranks.EVERY_ORDER + 1)  # noqa: E731
    p = [ranks.rank_agreement(draw(), draw(), permutations=199, resamples=9, seed=seed).p for seed in range(150)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_least_p_survives_the_correction_for_all_that_a_page_looks_at():
    claim = load_claims()["C2"]
    rules = 10  # those that a scan holds on a network with BatchNorm, and two controls
    looked_at = 2 * rules * len(claim.budgets) * len(claim.ratios)  # on two networks
    perfect = ranks.rank_agreement(range(27), range(27)).p
    assert st.holm([perfect, *[1.0] * (looked_at - 1)])[0] < 0.05


def test_what_one_order_explains_beyond_another():
    generator = np.random.default_rng(5)
    y = generator.normal(size=27)
    close, far = y + 0.2 * generator.normal(size=27), generator.normal(size=27)
    value, low, high = ranks.gain(close, far, y)
    assert value == pytest.approx(stats.spearmanr(close, y).statistic - stats.spearmanr(far, y).statistic)
    assert 0 < low < value < high
    value, low, high = ranks.gain(close, 10 * close, y)  # the same order
    assert value == low == high == 0


def test_an_agreement_that_hangs_on_one_layer_is_seen_by_leaving_it_out():
    x, y = [1, 2, 3, 4, 10], [4, 3, 2, 1, 10]  # reversed but for the last layer
    low, high = ranks.without_one(x, y)
    each = [stats.spearmanr(np.delete(x, at), np.delete(y, at)).statistic for at in range(5)]
    assert (low, high) == pytest.approx((min(each), max(each))) and low < -0.99 and high > 0
    assert ranks.without_one([1, 1, 2], [1, 2, 3]) == pytest.approx((1, 1)), "where one side is constant there is no order"
    assert np.isnan(ranks.without_one([1, 1, 1], [1, 2, 3])).all()


def test_rank_agreement_refuses_what_it_cannot_rank():
    with pytest.raises(SlimlibError, match="three layers"):
        ranks.rank_agreement([1, 2], [1, 2])
    with pytest.raises(SlimlibError, match="finite"):
        ranks.rank_agreement([1, 2, float("nan")], [1, 2, 3])
    assert np.isnan(ranks.rank_agreement([1, 1, 1, 1], [1, 2, 3, 4]).spearman)


@pytest.mark.parametrize("scores, at, p", [
    ([0.5] * 7 + [1.0], 7, 0.25), ([1.0, 2, 2, 2, 2, 2, 2, 3], 0, 0.25), ([1.0, 2, 3, 4], 1, 1.0), ([1.0] * 5, 2, 1.0),
])  # fmt: skip
def test_of_a_single_layer_p_counts_the_layers_that_stand_as_far_out(scores, at, p):
    """In its place each layer is as likely: n arrangements, the smaller tail doubled."""
    listed = [i == at for i in range(len(scores))]
    for positive in (listed, [not one for one in listed]):
        assert ranks.auc(scores, positive)["p"] == pytest.approx(p)


def test_auc_equals_scikit_learn():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(4)
    positive, scores = generator.random(30) < 0.4, generator.integers(0, 8, 30).astype(float)
    found = ranks.auc(scores, positive)
    assert (
        found["auc"] == pytest.approx(roc_auc_score(positive, scores)) and found["low"] <= found["auc"] <= found["high"]
    )
    assert ranks.auc([1, 2, 3, 4], [False, False, True, True])["auc"] == 1
    # all of three above all of three: 1 of the 20 ways to choose three, and its reverse
    for positive in ([False] * 3 + [True] * 3, [True] * 3 + [False] * 3):
        assert ranks.auc(range(6), positive)["p"] == pytest.approx(0.1)
    alike = ranks.auc([2.0] * 5, [True, True, False, False, False])
    assert (alike["auc"], alike["low"], alike["high"], alike["p"]) == (0.5, 0.5, 0.5, 1.0)
    # both classes are drawn anew: one layer alone on a side leaves the spread of the other
    for scores, positive in (([5, 1, 2, 8, 9], [True] + [False] * 4), ([5, 1, 2, 8, 9], [False] + [True] * 4)):
        wide, narrow = (ranks.auc(scores, positive, level=level) for level in (0.95, 0.5))
        assert wide["low"] == 0 < narrow["low"] < 0.5 < narrow["high"] < 1 == wide["high"]
    # with ties all 10 choices of two are counted: {5, 5} and none other stands as high, none as low
    assert ranks.auc([5, 5, 1, 1, 2], [True, True, False, False, False])["p"] == pytest.approx(0.2)
    with pytest.raises(SlimlibError, match="positive"):
        ranks.auc([1, 2], [True, True])


# ---- frames of records


def frame(rows: list[tuple]) -> pd.DataFrame:
    names = ("arm", "rule", "budget", "seed", "val_accuracy", "test_accuracy")
    table = pd.DataFrame(rows, columns=names).assign(dataset="d", model="m", stage="prune", criterion="l1")
    table["budget_kind"] = table["budget"].str.partition(":")[0]
    return table.assign(key=[f"k{i}" for i in range(len(table))])


def test_differences_pair_cell_by_cell_and_seed_by_seed():
    rows = [
        ("a", "a", "macs:0.5", 0, 0, 0.9),
        ("b", "b", "macs:0.5", 0, 0, 0.8),
        ("a", "a", "macs:0.5", 1, 0, 0.7),
        ("b", "b", "macs:0.2", 1, 0, 0.1),
        ("b", "b", "macs:0.5", 2, 0, 0.1),
    ]
    found = pairing.differences(frame(rows), "a", "b")
    assert found["difference"].tolist() == pytest.approx([0.1]) and found["key_ours"].tolist() == ["k0"]
    students = frame(rows).assign(criterion=None)
    assert len(pairing.differences(students, "a", "b")) == 1, "students have no criterion and are paired all the same"
    with pytest.raises(SlimlibError, match="more than one record"):
        pairing.differences(frame([*rows, rows[0]]), "a", "b")


def test_only_seeds_with_all_budgets_are_averaged():
    rows = pd.DataFrame({"seed": [0, 0, 1], "budget": ["x", "y", "x"], "difference": [1.0, 3.0, 9.0]})
    assert pairing.averaged_over_budgets(rows).tolist() == [2.0]
    three = pd.DataFrame({"seed": [0] * 3, "budget": ["x", "y", "z"], "difference": [1.0, 3.0, 8.0]})
    assert pairing.averaged_over_budgets(three).tolist() == [4.0]
    assert pairing.averaged_over_budgets(rows, ["x"]).tolist() == [1.0, 9.0]
    assert pairing.averaged_over_budgets(rows, ["x", "y", "z"]).tolist() == []


def test_the_best_tilt_is_chosen_on_validation_images_alone_and_among_all_that_are_planned():
    rows, planned = [], []
    for seed in (0, 1):
        rows += [
            ("tilt(power=1.0)", "tilt", "macs:0.5", seed, 0.9, 0.1),
            ("uniform", "uniform", "macs:0.5", seed, 0.8, 0.99),
            ("tilt(power=-1.0)", "tilt", "macs:0.5", seed, 0.7, 0.95),
            ("pca", "pca", "macs:0.5", seed, 0.99, 0.99),
        ]
        planned += [SimpleNamespace(arm=arm, rule=rule, budget=budget, dataset="d", model="m", stage="prune", criterion="l1")
                    for arm, rule, budget, *_ in rows[-4:]]

    def best(rows: list[tuple]) -> pd.DataFrame:
        return pairing.with_best_tilt(frame(rows), planned).query("arm == 'best_tilt'")

    assert best(rows)["chosen"].unique().tolist() == ["tilt(power=1.0)"] and best(rows)["test_accuracy"].tolist() == [0.1, 0.1]
    lucky = [*rows, ("tilt(power=-1.0)", "tilt", "macs:0.5", 2, 1.0, 1.0)]  # a seed that only one tilt has
    assert best(lucky)["seed"].tolist() == [0, 1]
    for arm in ("tilt(power=1.0)", "tilt(power=-1.0)", "uniform"):  # one of them not run yet: the best is not known
        assert best([row for row in rows if row[0] != arm]).empty
    without = frame([row for row in rows if row[1] != "tilt"])
    even = [(*row[:4], 0.5, row[5]) if row[0].startswith("tilt(power=1") and row[3] else row for row in rows]
    assert best(even)["chosen"].unique().tolist() == ["uniform"], "the best mean over seeds, not the best seed"
    assert pairing.with_best_tilt(without, planned) is without
    assert pairing.with_best_tilt(frame(rows), [run for run in planned if run.rule != "tilt"]).equals(frame(rows))


# ---- claims judged from made-up records of the real profile


def pruning_records(claim: Claim, effect: float, seeds: int = 5, profile: str = "laptop") -> list[dict]:
    """Records of the claim's deciding runs in which ours is better by `effect`, with a little noise that labels fix."""
    records, of_profile = [], set(load_profile(profile).runs())
    for run in claim.deciding_runs():
        if run.seed < seeds and run in of_profile:
            noise = np.random.default_rng([1, zlib.crc32(run.label.encode())]).normal(0, 2e-4)
            accuracy = 0.9 + 0.01 * run.seed + noise + effect * (run.arm == claim.ours)
            records.append(
                {
                    "key": run.key,
                    "run": run.to_dict(),
                    "provenance": {"seconds": 1.0},
                    "metrics": {"test_accuracy": accuracy, "val_accuracy": accuracy},
                }
            )
    return records


@pytest.mark.parametrize("name", ["C1-pruning", "C1-distillation", "C4"])
@pytest.mark.parametrize("effect, expected", [(0.005, "supported"), (-0.005, "not supported"), (0.0, "not supported")])
def test_paired_claims_find_the_effect_that_was_put_in(name, effect, expected):
    claim = load_claims()[name]
    found = judge(claim, pruning_records(claim, effect))
    rows = found.deciding
    assert found.verdict == expected and set(rows["verdict"]) == {expected}
    assert set(rows["unit"]) == {"macs", "params"} and set(rows["rival"]) == set(claim.rivals)
    assert rows["mean"].to_numpy() == pytest.approx(effect, abs=1e-3)
    assert (rows["p_holm"] >= rows["p"]).all() and (rows["n"] == 5).all()
    assert 0 < found.recorded < found.expected and expected in wording.summary(found)
    assert f"{found.recorded} of {found.expected}" in wording.summary(found)
    figures.forest(rows, claim.margin)


def test_three_seeds_or_none_decide_nothing():
    claim = load_claims()["C1-pruning"]
    assert set(judge(claim, pruning_records(claim, 0.01, seeds=3)).deciding["verdict"]) == {"inconclusive"}
    empty = judge(claim, [])
    assert empty.verdict == "inconclusive" and empty.recorded == 0 and "no comparison" in wording.summary(empty)


def test_what_a_claim_says_of_metric_level_and_budgets_is_followed():
    claim = load_claims()["C1-pruning"]
    records = pruning_records(claim, 0.005)
    for record in records:  # validation accuracies say the opposite
        record["metrics"]["val_accuracy"] -= 0.01 * (record["run"]["rule"] == claim.ours)
    found = judge(claim, records)
    assert found.verdict == "supported"
    assert judge(replace(claim, metric="val_accuracy"), records).verdict == "not supported"
    rows, less = found.deciding, judge(replace(claim, level=0.5), records).deciding
    assert (rows["low"] < less["low"]).all() and (less["high"] < rows["high"]).all()
    for row in less.to_dict("records"):
        t = stats.t.ppf(0.75, row["n"] - 1) * row["sd"] / row["n"] ** 0.5
        assert (row["low"], row["high"]) == pytest.approx((row["mean"] - t, row["mean"] + t))
    # a budget that is not recorded is missing, not left out of the mean; what was not planned does not count
    without = [record for record in records if record["run"]["budget"] != "macs:0.1"]
    assert set(judge(claim, without).deciding["unit"]) == {"params"}
    unplanned = Run.from_dict(records[0]["run"]).but(seed=99)
    more = judge(claim, [*records, {**records[0], "key": unplanned.key, "run": unplanned.to_dict()}, records[0]])
    assert more.recorded == len(records) and more.deciding.equals(rows)


def scan_records(order: np.ndarray) -> list[dict]:
    """A scan of ResNet-56 whose layers' drops rise in network order, with kept fractions in the order given."""
    claim = load_claims()["C2"]
    run = next(run for run in claim.deciding_runs() if run.model == "resnet56:pretrained")
    groups = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(9)]
    ratios = [0.0, *claim.ratios]
    curve = [(g, r, 16 * 2 ** (i // 9), 0.9 - r * i / 100, r * i / 100) for i, g in enumerate(groups) for r in ratios]
    rules = [claim.ours, *(c for c in claim.controls if c != "depth")]
    kept = [(rule, b, 0, g, float(order[i])) for rule in rules for b in claim.budgets for i, g in enumerate(groups)]
    kept += [("neyman_score", None, 0, g, float(order[i])) for i, g in enumerate(groups)]
    columns = ["group", "ratio", "full_width", "accuracy", "drop"]
    return [
        {
            "key": run.key,
            "run": run.to_dict(),
            "provenance": {"seconds": 1.0},
            "sensitivity": pd.DataFrame(curve, columns=columns).to_dict("list"),
            "kept": pd.DataFrame(kept, columns=["rule", "budget", "seed", "group", "value"]).to_dict("list"),
        }
    ]


def test_rank_claims_find_the_order_that_was_put_in():
    claims, rising = load_claims(), np.linspace(0.2, 0.9, 27)
    for name in ("C2", "C5"):
        for order, verdict in ((rising, "supported"), (rising[::-1], "not supported")):
            found = judge(claims[name], scan_records(order))
            assert set(found.deciding["verdict"]) == {verdict}
            # another network is to come
            assert found.verdict == "inconclusive" and len(found.deciding) < found.deciding["family"].iloc[0]
    found = judge(claims["C2"], scan_records(rising))
    assert len(found.deciding) == 2 * len(claims["C2"].ratios) and found.deciding["within"].to_numpy() == pytest.approx(
        1
    )
    assert set(found.cells["rule"]) == {"pca", *claims["C2"].controls}
    shuffled = np.random.default_rng(5).permutation(rising)
    assert judge(claims["C2"], scan_records(shuffled)).verdict != "supported"


def test_a_rank_claims_limits_are_followed():
    claim = replace(load_claims()["C2"], ratios=(0.5,), budgets=("macs:0.5",), controls=())
    records = scan_records(np.linspace(0.2, 0.9, 27))
    first = records[0]["sensitivity"]["group"][0]
    n = lambda **changes: judge(replace(claim, **changes), records).deciding.get("n", pd.Series([0])).tolist()  # noqa: E731
    assert n() == [27] and n(exclude={"resnet56": [first]}) == [26], "by architecture, also of published weights"
    assert n(min_groups=27) == [27] and n(min_groups=28) == [0] and n(min_groups=27, exclude={"resnet56": [first]}) == [0]
    noisy = scan_records(np.random.default_rng(5).permutation(np.linspace(0.2, 0.9, 27)))
    wide, narrow = (judge(replace(claim, level=level), noisy).deciding.iloc[0] for level in (0.95, 0.5))
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_scores_against_the_published_layers():
    records = scan_records(np.linspace(0.2, 0.9, 27))
    # block j's first convolution is their layer 2j
    for listed, places in zip(published_layers()["resnet56"], ([20, 38, 54], [16, 18, 20, 34, 38, 54]), strict=True):
        on = [place // 2 - 1 for place in places]
        off = [i for i in range(27) if i not in on]
        expected = np.mean([[(i > j) + 0.5 * (i == j) for j in off] for i in on])
        found = published_agreement(records, "pca", "macs:0.5", listed)
        assert found["auc"] == pytest.approx(expected) and found["positives"] == len(places)
        assert published_agreement(records, "drop", None, listed)["auc"] == pytest.approx(expected)
    with pytest.raises(SlimlibError, match=r"ratio=0\.6 is not in the sensitivity records, which hold 0\.25, 0\.5"):
        layer_table(records, "depth", None, 0.6)
    with pytest.raises(SlimlibError, match=r"budget='macs:0\.35' is not in the .*, which hold macs:0\.5, params:0\.5"):
        layer_table(records, "pca", "macs:0.35", 0.5)
    with pytest.raises(SlimlibError, match=r"'layer2.0.conv9' is no layer of the scanned network; it has layer1\.0\.conv1"):
        published_agreement(records, "pca", "macs:0.5", {"layers": ["layer2.0.conv9"]})
    with pytest.raises(SlimlibError, match="rule='no_such_rule' is not in the sensitivity records, which hold pca, pca_at_init"):
        layer_table(records, "no_such_rule", "macs:0.5", 0.75)


# ---- figures


def drawn(fig) -> str:
    import io

    file = io.StringIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def test_no_two_rules_look_alike():
    looks = list(figures.LOOKS.values())
    assert len(set(looks) - {figures.LOOKS["neyman"]}) == len(looks) - 2, (
        "neyman and its score are one rule; no others are"
    )
    from slimlib.rules import RULES

    assert set(RULES) <= set(figures.LOOKS)
    assert figures.look("tilt(power=-0.5)") == figures.LOOKS["tilt"] and figures.name("tilt(power=-0.5)") == "tilt −0.5"


def test_a_rule_far_off_and_intervals_of_two_seeds_do_not_stretch_the_panel():
    kept = {"pca": (0.803, 0.809), "uniform": (0.812, 0.824), "global_l1": (0.45, 0.44)}
    rows = [(arm, arm, "macs:0.2", seed, 0.9, value) for arm, values in kept.items() for seed, value in enumerate(values)]
    (axis,) = figures.differences_by_rule(pairing.against(frame(rows))).axes
    assert axis.get_xlim()[1] < 10 and [text.get_text() for text in axis.texts] == ["−37.3"]


def test_figures_draw_and_repeat_exactly(tmp_path):
    figures.use_style()
    spectra = {"conv1": [3.0, 2.0, 1.0, 0.0], "conv2": [2.0, 1.0, 1.0]}
    scan = pd.DataFrame(scan_records(np.linspace(0.2, 0.9, 27))[0]["sensitivity"])
    layers = list(dict.fromkeys(scan["group"]))
    path = pd.DataFrame({"level": [0.1, 0.5, 1.0], "params": [0.1, 0.4, 1.0], "macs": [0.05, 0.5, 1.0]})
    accuracies = frame(
        [
            (arm, arm, b, s, 0.9, 0.9 + s / 100)
            for arm in ("pca", "uniform")
            for b in ("macs:0.2", "params:0.5")
            for s in range(3)
        ]
    )
    made = {
        "scree": lambda: figures.scree(spectra, threshold=0.8),
        "widths": lambda: figures.widths({"pca": {"a": 3, "b": 4}, "uniform": {"a": 4, "b": 4}}, {"a": 8, "b": 8}),
        "path": lambda: figures.budget_path(path, {"half the MACs": 0.5}),
        "curves": lambda: figures.sensitivity_curves(scan),
        "map": lambda: figures.sensitivity_map(scan, {"pca": dict.fromkeys(layers, 0.5)}),
        "accuracy": lambda: figures.accuracy_by_rule(accuracies, dense=0.95),
        "agreement": lambda: figures.agreement(
            layer_table(scan_records(np.linspace(0, 1, 27)), "pca", "macs:0.5", 0.75), 0.75
        ),
    }
    for name, make in made.items():
        first = drawn(figures.show(make(), accuracies, name, folder=tmp_path))
        assert first == drawn(make()), f"{name} is not the same twice"
        assert "<svg" in first and (tmp_path / f"{name}.csv").exists()
    assert pd.read_csv(tmp_path / "accuracy.csv")["test_accuracy"].tolist() == pytest.approx(
        accuracies["test_accuracy"].tolist()
    )
    import matplotlib.pyplot as plt

    plt.close("all")
    with pytest.raises(SlimlibError, match="file name"):
        figures.show(figures.scree(spectra), accuracies, "../x")
    with pytest.raises(SlimlibError, match="no variance"):
        figures.scree({"dead": [0.0, 0.0]})


def test_scree_marks_the_width_that_the_threshold_gives():
    fig = figures.scree({"conv": [5.0, 3.0, 2.0]}, threshold=0.8)
    marks = [line for line in fig.axes[1].lines if line.get_marker() == "o"]
    assert marks[0].get_xdata()[0] == 2 and marks[0].get_ydata()[0] == pytest.approx(0.8)
