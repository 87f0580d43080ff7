"""Rules compared on a network of one's own: the rows are what one would get by hand, and statistics and figures take them."""

import copy
import dataclasses
import sys
from functools import partial

import numpy as np
import pytest
import torch

import slimlib
from slimlib import comparison
from slimlib.errors import Diverged
from slimlib.study import figures, pairing
from tests.conftest import Chain, Residual, lively_norms

RECIPE = slimlib.Recipe(epochs=1, lr=0.05, batch_size=32)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (160, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(160) % 5
    images[np.arange(160), labels] = 255  # one bright line tells the class
    return slimlib.data.from_arrays(images[:120], labels[:120], images[120:], labels[120:], device="cpu", val_fraction=0.2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return lively_norms(Chain())


def wide_ends(request):
    return slimlib.rules.proportional(request.full, 1.0 + np.abs(np.linspace(-1, 1, len(request.groups))))


RULES = {"pca": "pca", "random": "random", "mine": wide_ends, "tilt": partial(slimlib.rules.tilt, power=0.5)}


@pytest.fixture(scope="module")
def table(model, data):
    return slimlib.compare(model, data, RULES, RECIPE, keep_macs=0.5, seeds=[0, 1], progress=False)


def test_each_row_is_what_one_would_get_by_hand(table, model, data):
    before = copy.deepcopy(model.state_dict())
    assert table[["arm", "seed"]].values.tolist() == [[arm, seed] for seed in (0, 1) for arm in RULES]
    for arm, seed in (("mine", 1), ("random", 0), ("random", 1)):
        plan = slimlib.plan_widths(model, data.example_input, rule=RULES[arm], seed=seed, keep_macs=0.5, fill=True)
        slim = slimlib.prune(model, plan)
        slimlib.fit(slim, data, RECIPE, seed=seed, progress=False)
        (row,) = table[(table["arm"] == arm) & (table["seed"] == seed)].to_dict("records")
        assert row["test_accuracy"] == slimlib.evaluate(slim, data.test)
        assert row["val_accuracy"] == slimlib.evaluate(slim, data.val)
        assert (row["kept_macs"], row["kept_params"]) == (plan.keep_macs, plan.keep_params)
    assert table["kept_macs"].between(0.4, 0.5).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_criterion_of_ones_own_is_called_by_its_name_and_rules_in_a_list_are_told_apart(model, data):
    def heaviest(model, group):
        return slimlib.criteria.l2(model, group)

    listed = [partial(slimlib.rules.tilt, power=0.5), slimlib.rules.uniform]
    table = slimlib.compare(model, data, listed, RECIPE, keep_params=0.5, criterion=heaviest, seeds=[0], progress=False)
    assert set(table["criterion"]) == {"heaviest"} and list(table["arm"]) == ["tilt", "uniform"]


def test_coupling_criterion_and_unit_reach_the_arms(data):
    torch.manual_seed(0)
    model, how = lively_norms(Residual()), {"rule": "uniform", "coupling": "joint", "keep_params": 0.5}
    table = slimlib.compare(model, data, ["uniform"], RECIPE, keep_params=0.5, coupling="joint", criterion="random", seeds=[4],
                            progress=False)
    plan = slimlib.plan_widths(model, data.example_input, fill=True, **how)
    slim = slimlib.prune(model, plan, criterion="random", seed=4)
    history = slimlib.fit(slim, data, RECIPE, seed=4, progress=False)
    (row,) = table.to_dict("records")
    assert (row["kept_macs"], row["kept_params"]) == (plan.keep_macs, plan.keep_params)
    assert (row["val_accuracy"], row["test_accuracy"]) == (history.val_accuracy[-1], slimlib.evaluate(slim, data.test))
    assert (row["criterion"], row["budget"], row["seed"]) == ("random", "params:0.5", 4)


def test_all_arms_of_a_seed_train_by_that_seed(model, data, monkeypatch):
    seeds = []
    monkeypatch.setattr(comparison, "fit", lambda slim, images, recipe, **how: seeds.append((how["seed"], recipe)))
    slimlib.compare(model, data, ["pca", "uniform"], RECIPE, keep_macs=0.5, seeds=[3, 5], progress=False)
    assert seeds == [(3, RECIPE)] * 2 + [(5, RECIPE)] * 2


@pytest.mark.parametrize("keep, budget", [(1 / 3, "macs:0.3333333333333333"), (0.333333, "macs:0.333333"), (0.5, "macs:0.5")])
def test_the_budget_is_told_with_all_its_digits(model, data, monkeypatch, keep, budget):
    """Tables of two budgets that are put together must not take them for one."""
    monkeypatch.setattr(comparison, "fit", lambda *given, **how: None)
    table = slimlib.compare(model, data, ["uniform"], RECIPE, keep_macs=keep, seeds=[0], progress=False)
    assert table["budget"].tolist() == [budget] and table["budget_value"].tolist() == [keep]


def test_statistics_and_figures_take_the_table(table):
    found = pairing.against(table, "pca").set_index("arm")
    assert set(found.index) == {"random", "mine", "tilt"} and (found["n"] == 2).all()
    by_hand = table.pivot(index="seed", columns="arm", values="test_accuracy")
    assert found.loc["mine", "mean"] == pytest.approx((by_hand["mine"] - by_hand["pca"]).mean())
    chosen_by = pairing.against(table, "pca", metric="val_accuracy").set_index("arm")
    by_hand = table.pivot(index="seed", columns="arm", values="val_accuracy")
    assert chosen_by.loc["mine", "mean"] == pytest.approx((by_hand["mine"] - by_hand["pca"]).mean())
    figures.accuracy_by_rule(table)
    assert figures.accuracy_by_rule(table, "val_accuracy").get_supxlabel().startswith("val accuracy (%)")
    figures.differences_by_rule(pairing.against(table, "pca"))


@pytest.mark.parametrize("rules, budgets, told", [
    (["pca", "uniform"], {}, "exactly one of keep_macs and keep_params, not none"),
    (["pca", "uniform"], {"keep_macs": 0.5, "keep_params": 0.5}, "exactly one"),
    (["pca", "pca"], {"keep_macs": 0.5}, "'pca' is there twice"),
    ("pca", {"keep_macs": 0.5}, "must be a list"),
    (wide_ends, {"keep_macs": 0.5}, "must be a list"),
    ([], {"keep_macs": 0.5}, "rules is empty"),
    (["pca"], {"keep_macs": 0.5, "eval_batch_size": 0}, "^eval_batch_size=0 must be a whole number of images, at least 1$"),
    (5, {"keep_macs": 0.5}, r"^rules is of type int; give a list of rules, or \{label: rule\}$"),
    (["pca", "pcb"], {"keep_params": 0.5}, "rule='pcb' is not known"),
    ({"tilt": slimlib.rules.tilt}, {"keep_params": 0.5}, "power must be given for rule='tilt'"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(model, data, rules, budgets, told):
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.compare(model, data, rules, RECIPE, **budgets, seeds=[0], progress=False)


def test_a_rule_that_draws_nothing_is_asked_once_for_all_seeds(model, data, monkeypatch):
    asked = []

    def still(request):
        asked.append("still")
        return slimlib.rules.uniform(request)

    def drawing(request):
        asked.append(request.seed)
        return slimlib.rules.random(request)

    monkeypatch.setattr(comparison, "fit", lambda *args, **how: None)
    table = slimlib.compare(model, data, [still, drawing], RECIPE, keep_macs=0.5, seeds=[4, 5, 6], progress=False)
    assert asked == ["still", 4, 5, 6] and len(table) == 6
    for seed in (4, 5, 6):
        plan = slimlib.plan_widths(model, data.example_input, rule="random", seed=seed, keep_macs=0.5, fill=True)
        assert table[(table["arm"] == "drawing") & (table["seed"] == seed)]["kept_macs"].item() == plan.keep_macs


@pytest.mark.parametrize("seeds, told", [
    ([0, 1, 0], r"^seeds=\[0, 1, 0\] names 0 more than once: .* give different seeds$"),
    ([2, np.int64(2)], r"^seeds=\[2, 2\] names 2 more than once"),
    ([0.5], r"^seeds=0\.5 must be a whole number from 0"), ("01", r"^seeds='0' must be a whole number from 0"),
])  # fmt: skip
def test_seeds_that_are_none_or_the_same_are_refused_before_anything_is_trained(model, data, monkeypatch, seeds, told):
    monkeypatch.setattr(comparison, "fit", lambda *given, **how: pytest.fail("trained"))
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.compare(model, data, ["uniform"], RECIPE, keep_macs=0.5, seeds=seeds, progress=False)


def test_a_run_that_diverges_is_left_out_and_said_and_the_others_are_as_without_it(model, data, monkeypatch):
    def one_diverges(slim, images, recipe, *, seed, **how):
        asked.append(seed)
        if len(asked) == 3:  # the first arm of the second seed
            raise Diverged("the loss became nan")
        slimlib.fit(slim, images, recipe, seed=seed, **how)

    asked, how = [], {"keep_macs": 0.5, "seeds": [0, 1], "progress": False}
    whole = slimlib.compare(model, data, ["pca", "uniform"], RECIPE, **how)
    monkeypatch.setattr(comparison, "fit", one_diverges)
    with pytest.warns(UserWarning, match="^pca, seed 1: the loss became nan; left out$") as said:
        line = sys._getframe().f_lineno + 1
        table = slimlib.compare(model, data, ["pca", "uniform"], RECIPE, **how)
    assert [(w.filename, w.lineno) for w in said] == [(__file__, line)]
    assert asked == [0, 0, 1, 1] and table.equals(whole.drop(index=2).reset_index(drop=True))
    assert pairing.against(table, "uniform")["n"].tolist() == [1]


def test_weights_that_the_last_step_breaks_are_a_run_that_diverged(model, data, monkeypatch):
    """No loss has seen them."""

    def first_breaks(slim, images, recipe, **how):
        slimlib.fit(slim, images, recipe, **how)
        if not fitted:
            torch.nn.init.constant_(next(slim.parameters()), torch.nan)
        fitted.append(slim)

    fitted = []
    monkeypatch.setattr(comparison, "fit", first_breaks)
    with pytest.warns(UserWarning, match="^pca, seed 0: model returns NaN for 24 of 24 images.* lower lr.*; left out$"):
        table = slimlib.compare(model, data, ["pca", "uniform"], RECIPE, keep_macs=0.5, seeds=[0], progress=False)
    assert table["arm"].tolist() == ["uniform"]


@pytest.mark.filterwarnings("ignore:.*left out")
def test_where_every_run_diverges_there_is_no_table(model, data):
    far = dataclasses.replace(RECIPE, lr=1e30)
    with pytest.raises(Diverged, match=r"^all 2 runs have diverged, the last: uniform, seed 0: the loss became .* lower lr="):
        slimlib.compare(model, data, ["pca", "uniform"], far, keep_macs=0.5, seeds=[0], progress=False)


def test_arms_are_evaluated_on_as_many_images_at_a_time_as_is_asked(model, data):
    sizes, watched = [], copy.deepcopy(model)  # of which each arm is a copy, hook included
    watched[0].register_forward_hook(lambda layer, given, out: None if layer.training else sizes.append(len(out)))
    how = {"keep_macs": 0.5, "seeds": [0], "progress": False}
    for eval_batch_size, want in ((1000, [24, 40]), (16, [16, 8, 16, 16, 8])):
        sizes.clear()
        table = slimlib.compare(watched, data, ["uniform"], RECIPE, **how, eval_batch_size=eval_batch_size)
        assert sizes[-len(want):] == want and max(sizes) == max(want) and len(table) == 1
