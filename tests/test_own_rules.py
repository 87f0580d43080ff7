"""A rule of one's own answers budgets as the built-in ones do; named widths are met exactly; mistakes are refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

import slimlib
from slimlib import rules
from slimlib.steps import Curves, Removals
from tests.conftest import Chain, Grouped, Residual, lively_norms

X = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return lively_norms(Chain())


@pytest.mark.parametrize("rule", ["pca", "global_l1"])  # one of either kind: curves, removals
@pytest.mark.parametrize("unit", ["macs", "params"])
def test_a_function_stands_beside_the_rule_of_its_name(model, rule, unit):
    def mine(request):
        assert request.unit == unit and request.full.tolist() == [g.width for g in request.groups]
        return rules.RULES[rule](request)

    for keep in (0.3, 0.6):
        plans = [slimlib.plan_widths(model, X, rule=which, fill=True, **{f"keep_{unit}": keep}) for which in (rule, mine)]
        assert plans[0].widths == plans[1].widths and plans[1].rule == "mine"
    slim = slimlib.prune(model, plans[1])
    assert {name: slim.get_submodule(name).weight.shape[0] for name in plans[1].widths} == plans[1].widths


def test_a_rule_of_ones_own_may_take_options(model):
    def slope(request, by: float, start: float = 1.0):
        return rules.proportional(request.full, start * by ** np.arange(len(request.groups)))

    plan = slimlib.plan_widths(model, X, rule=slope, by=0.5, keep_macs=0.4)
    kept = list(plan.kept.values())
    assert kept == sorted(kept, reverse=True) and plan.macs <= 0.4 * plan.full_macs < plan.wider["macs"]
    with pytest.raises(slimlib.SlimlibError, match=r"strat is no option of rule='slope' \(its own: by and start\)"):
        slimlib.plan_widths(model, X, rule=slope, by=0.5, strat=1.0, keep_macs=0.4)
    with pytest.raises(slimlib.SlimlibError, match="by must be given for rule='slope'"):
        slimlib.plan_widths(model, X, rule=slope, keep_macs=0.4)
    anything = slimlib.plan_widths(model, X, rule=lambda request, **told: slope(request, **told), by=0.5, keep_macs=0.4)
    assert anything.widths == plan.widths


@pytest.mark.parametrize("rule, taken", [
    (lambda request, seed=0: None, "seed"), (lambda request, *, fill: None, "fill"), (lambda request, unit: None, "unit"),
])  # fmt: skip
def test_an_option_that_could_never_reach_its_rule_is_refused(model, rule, taken):
    with pytest.raises(slimlib.SlimlibError, match=f"rule '<lambda>' calls an option {taken}, .* call it otherwise"):
        slimlib.plan_widths(model, X, rule=rule, keep_macs=0.5)


@pytest.mark.parametrize("fill", [False, True])
def test_an_order_may_be_a_list(model, fill):
    def mine(request, as_list: bool):
        order = [g for g, n in enumerate(request.full) for _ in range(n - 1)]
        return Removals(request.full.tolist(), order) if as_list else Removals(request.full, np.array(order))

    plans = [slimlib.plan_widths(model, X, rule=mine, as_list=kind, keep_macs=0.5, fill=fill) for kind in (True, False)]
    assert plans[0].widths == plans[1].widths
    whole = slimlib.plan_widths(model, X, rule=lambda request: Removals(request.full, []), keep_macs=1.0)
    assert whole.widths == whole.full_widths


WRONG = {
    "nothing": (lambda r: None, "a NoneType"),
    "a curve too few": (lambda r: Curves(rules.uniform(r).breaks[1:]), "2 curves for 3 groups"),
    "a curve too short": (lambda r: Curves(tuple(b[1:] for b in rules.uniform(r).breaks)), "group 0, which has"),
    "falling": (lambda r: Curves(tuple(b[::-1] for b in rules.uniform(r).breaks)), "levels of group 0 that do not ascend"),
    "no number": (lambda r: Curves(tuple(b * np.nan for b in rules.uniform(r).breaks)), "group 0 that do not ascend"),
    "a negative scale": (lambda r: rules.proportional(r.full, [-1.0, 1.0, 1.0]), "group 0 that do not ascend"),
    "other widths": (lambda r: Removals(r.full + 1, np.zeros(0, int)), "full widths"),
    "no such group": (lambda r: Removals(r.full, np.array([0, 3])), "groups other than 0 to 2"),
    "no row": (lambda r: Removals(r.full, [[0, 1], [1, 0]]), "an order of 2 dimensions"),
    "an emptied group": (lambda r: Removals(r.full, np.zeros(r.full[0], int)), "leaves group 0 without a filter"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_path_is_refused(model, case):
    rule, told = WRONG[case]
    with pytest.raises(slimlib.SlimlibError, match=rf"rule '<lambda>' returned .*{told}"):
        slimlib.plan_widths(model, X, rule=rule, keep_macs=0.5)


def test_a_layer_without_variance_is_named_with_what_helps():
    """A filter of one weight has none about its own mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    x = torch.randn(8, 1)
    for rule in ("pca", "permuted", "pca_at_init"):
        with pytest.raises(slimlib.SlimlibError, match=r"no variance at all in 0 .*skip=\['0'\].*center=False"):
            slimlib.plan_widths(model, x, rule=rule, keep_params=0.5)
    with pytest.raises(slimlib.SlimlibError, match=r"no variance at all in 0 "):
        slimlib.widths_at(slimlib.spectra(model, x), 0.9)
    assert set(slimlib.plan_widths(model, x, keep_params=0.5, skip=["0"]).widths) == {"2"}
    assert set(slimlib.plan_widths(model, x, threshold=0.9, center=False).widths) == {"0", "2"}


def test_a_layer_whose_answers_do_not_vary_is_named(model):
    images = torch.randn(4, 3, 16, 16)
    nn.init.zeros_(model[9].weight)
    with pytest.raises(slimlib.SlimlibError, match=r"rule='activation_pca': 9 answers all .* alike.*skip=\['9'\]"):
        slimlib.plan_widths(model, X, rule="activation_pca", calibration=images, keep_macs=0.5)
    plan = slimlib.plan_widths(model, X, rule="activation_pca", calibration=images, keep_macs=0.9, skip="9")
    assert set(plan.widths) == {"0", "4"}


# ---- widths that are named


def test_named_widths_are_met_and_the_rest_stays(model):
    second = slimlib.trace(model, X).slimmable()[1].name
    plan = slimlib.plan_from_widths(model, X, {second: 3})
    assert plan.widths == plan.full_widths | {second: 3} and plan.rule == "given" and plan.threshold is None
    slim = slimlib.prune(model, plan)
    assert slim.get_submodule(second).weight.shape[0] == 3
    assert sum(p.numel() for p in slim.parameters()) == plan.params < plan.full_params and slim(X).shape == (1, 5)
    assert slimlib.plan_from_widths(model, X, plan.full_widths).macs == plan.full_macs
    # the widths of a rule's plan cost what that plan costs
    ours = slimlib.plan_widths(model, X, keep_macs=0.5)
    again = slimlib.plan_from_widths(model, X, ours.widths)
    assert (again.params, again.macs, again.whole) == (ours.params, ours.macs, ours.whole)
    assert slimlib.WidthPlan.from_dict(again.to_dict()) == again


def test_layers_that_share_a_width_share_what_one_is_given():
    model = lively_norms(Residual())
    stream = {"stem": 5, "back": 5}
    plans = [slimlib.plan_from_widths(model, X, widths, coupling="joint") for widths in ({"stem": 5}, {"back": 5}, stream)]
    assert plans[0] == plans[1] == plans[2] and plans[0].widths["stem"] == 5
    slim = slimlib.prune(model, plans[0])
    assert slim.stem.out_channels == slim.back.out_channels == slim.squeeze.in_channels == 5
    with pytest.raises(slimlib.SlimlibError, match="'back' cannot have 6 filters and 'stem', whose width it shares, 5"):
        slimlib.plan_from_widths(model, X, stream | {"back": 6}, coupling="joint")


@pytest.mark.parametrize("widths, told", [
    ({"stem": 5}, r"'stem' keeps its width with coupling='inner' \(shares its width"),
    ({"head": 5}, r"'head' keeps its width .*model's output"),
    ({"stam": 5}, r"'stam' keeps its width .*no such layer"),
    ({"inner": 0}, r"0 filters for 'inner' must be a whole number from 1 to 6"),
    ({"inner": 7}, "7 filters for 'inner'"),
    ({"inner": 2.5}, "2.5 filters for 'inner'"),
])  # fmt: skip
def test_widths_that_cannot_be_are_refused(widths, told):
    with pytest.raises(slimlib.SlimlibError, match=f"widths: .*{told}"):
        slimlib.plan_from_widths(lively_norms(Residual()), X, widths)


@pytest.mark.parametrize("coupling", ["inner", "joint"])
def test_no_widths_of_a_network_without_any_to_choose_are_refused_as_of_a_rule(coupling):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
    refusals, told = [], f"^model: no layer can be slimmed with coupling='{coupling}' .*1: its width"
    for plan in (lambda: slimlib.plan_widths(model, X, keep_macs=0.5, coupling=coupling),
                 lambda: slimlib.plan_from_widths(model, X, {}, coupling=coupling)):
        with pytest.raises(slimlib.SlimlibError, match=told) as refused:
            plan()
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


def test_channels_in_blocks_take_multiples():
    model = lively_norms(Grouped())
    with pytest.raises(slimlib.SlimlibError, match=r"'grouped' must be a multiple of .* from 1 to 24"):
        slimlib.plan_from_widths(model, X, {"grouped": 23})
    plan = slimlib.plan_from_widths(model, X, {"grouped": 12})
    slim = slimlib.prune(model, plan)
    assert slim.grouped.out_channels == 12 and slim.b.in_channels == 12 and slim(X).shape == (1, 4)


def test_a_rule_that_ends_below_the_full_width_is_not_told_to_lack_rank(model):
    def capped(request):
        curves = rules.uniform(request).breaks
        return Curves((np.where(np.arange(len(curves[0])) < 5, curves[0], np.inf), *curves[1:]))

    with pytest.warns(UserWarning, match=r"because it gives no more to 1 group \(0 at most 6 of 8\); fill=True goes beyond it"):
        plan = slimlib.plan_widths(model, X, rule=capped, keep_macs=0.99)
    assert plan.rank_bound == {"0": 6} and "by the rule at most 6" in str(plan) and "rank" not in str(plan)
