"""Plans, budgets and rules."""

import copy
import json
import warnings
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import slimlib
from slimlib import rules, sampling
from slimlib.filling import fill_up
from slimlib.steps import Curves, Removals
from tests.conftest import Chain, Grouped, Residual, lively_norms
from tests.test_user_networks import Net

WITHOUT_EXTRAS = ["pca", "pca_budgeted", "uniform", "global_l1", "random", "permuted", "pca_at_init"]


@pytest.fixture(autouse=True)
def quiet_rank_bound():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*because the rank of the.*")
        yield


@pytest.fixture(scope="module")
def vgg():
    """A VGG-like chain with BatchNorm everywhere: each rule but the published ones can be asked of it."""
    torch.manual_seed(0)
    layers, c = [], 3
    for w in (24, 24, 40, 40):
        layers += [nn.Conv2d(c, w, 3, padding=1, bias=False), nn.BatchNorm2d(w), nn.ReLU()]
        c = w
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 7))
    return lively_norms(model), torch.randn(1, 3, 12, 12)


def how_for(rule, model, x):
    images = torch.randn(64, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    names = [g.name for g in slimlib.trace(model, x).slimmable()]
    return {"activation_pca": {"calibration": images}, "tilt": {"power": 0.5}, "hand": None,
            "sensitivity": {"drops": {n: 0.01 * (i + 1) for i, n in enumerate(names)}}}.get(rule, {})


@pytest.mark.parametrize("rule", [r for r in rules.RULES if r != "hand"])
@pytest.mark.parametrize("unit", ["macs", "params"])
def test_every_rule_answers_every_budget_exactly(vgg, rule, unit):
    model, x = vgg
    how = how_for(rule, model, x)
    path = slimlib.width_path(model, x, rule=rule, unit=unit, **how)
    table = np.array([path.widths(i) for i in range(len(path))])
    assert (np.diff(table, axis=0) >= 0).all(), "plans must be nested"
    costs = path.costs.cost(unit, table)
    dense = path.costs.cost(unit, np.array([g.width for g in path.groups]))
    for keep in (0.1, 0.25, 0.5, 0.8):
        plan = slimlib.plan_widths(model, x, rule=rule, **{f"keep_{unit}": keep}, **how)
        fits = table[costs <= keep * dense * (1 + 1e-12)]
        assert list(plan.widths.values()) == fits[-1].tolist(), "the widest plan of the path that fits"
        assert getattr(plan, unit) <= keep * dense * (1 + 1e-12)
        assert plan.wider is None or plan.wider[unit] > keep * dense


@pytest.mark.parametrize("rule", [r for r in rules.RULES if r != "hand"])
@pytest.mark.parametrize("round_to", [1, 4])
def test_filled_plans_leave_no_room_for_one_more_channel(vgg, rule, round_to):
    model, x = vgg
    how = how_for(rule, model, x)
    path = slimlib.width_path(model, x, rule=rule, round_to=round_to, **how)
    reachable = path.widths(len(path) - 1)
    dense = path.costs.macs(np.array([g.width for g in path.groups]))
    for keep in (0.1, 0.35, 0.5):
        plain, filled = (np.array([*path.plan(keep_macs=keep, fill=f).widths.values()]) for f in (False, True))
        assert path.costs.macs(plain) <= path.costs.macs(filled) <= keep * dense
        assert (np.array(filled) >= plain).all() or path.costs.macs(plain) < 0.99 * keep * dense, "left the path needlessly"
        for g in np.flatnonzero(filled < reachable):
            wider = np.minimum(filled + round_to * np.eye(len(filled), dtype=int)[g], reachable)
            assert path.costs.macs(wider) > keep * dense, "a channel more would still have fitted"


def test_filling_goes_in_the_order_of_the_path():
    """Two equal layers and a third: uniform widens the first of the equal ones, and spends what is left on the cheapest."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1))
    path = slimlib.width_path(model, torch.zeros(1, 8, 4, 4), rule="uniform")
    dense = int(path.costs.macs(np.array([8, 8])))
    budget = int(path.costs.macs(np.array([5, 4])))
    assert path.plan(keep_macs=budget / dense).widths == {"0": 4, "1": 4}
    assert path.plan(keep_macs=budget / dense, fill=True).widths == {"0": 5, "1": 4}


def test_groups_of_bounded_rank_are_filled_alike():
    """Two branches of 64 filters with 3 weights each: nothing tells their channels beyond the rank apart."""
    torch.manual_seed(0)
    model = Net(lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1)), a=nn.Conv2d(3, 64, 1), b=nn.Conv2d(3, 64, 1),
                head=nn.Conv2d(128, 8, 1)).eval()
    with pytest.warns(UserWarning, match="the rank of the filters bounds 2 groups"):
        plan = slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), keep_macs=0.6, fill=True)
    narrow, wide = sorted(plan.widths.values())
    assert wide - narrow <= 1 and 0.59 < plan.keep_macs <= 0.6


def test_a_level_that_is_the_last_but_for_rounding_is_the_last():
    steps = Curves((np.array([0.5, 1 - 2e-16, 1 - 2e-16, 1 - 2e-16]), np.array([0.5, 1.0, 1.0, 1.0])))
    assert filled([1, 1], [4, 4], steps, [1, 1], 2) == [2, 2]


def filled(widths, full, steps, prices, left, least=None, granules=None) -> list[int]:
    """`fill_up` where each channel of a group has one price, with `left` to spend beyond the widths."""
    prices = np.array(prices)
    costs = SimpleNamespace(cost=lambda unit, w: int(prices @ w), saved_by_one=lambda unit, w: prices.astype(float))
    widths, ones = np.array(widths), np.ones(len(widths), int)
    return fill_up(widths, ones if least is None else np.array(least), np.array(full), ones if granules is None else
                   np.array(granules), steps, costs, "macs", int(prices @ widths) + left).tolist()


def curves(*due: list[float]) -> Curves:
    """Levels at which each group gets its next channels, the first at 0.1."""
    return Curves(tuple(np.array([0.1, *levels]) for levels in due))


def test_groups_widen_in_the_order_of_their_next_steps():
    late_early = curves([0.9, 0.95], [0.5, 0.6])  # the second group's next steps come first
    assert filled([1, 1], [3, 3], late_early, [1, 1], 1) == [1, 2] and filled([1, 1], [3, 3], late_early, [1, 1], 3) == [2, 3]
    reached_later = Curves((np.array([0.1, 0.9]), np.array([0.4, 0.5])))  # what counts is what comes next, not what was reached
    assert filled([1, 1], [2, 2], reached_later, [1, 1], 1) == [1, 2]
    order = Removals(np.array([3, 3]), np.array([0, 1, 1, 0]))  # backwards: group 0 gets its second first, then group 1
    assert [filled([1, 1], [3, 3], order, [1, 1], left) for left in (1, 2, 3, 4)] == [[2, 1], [2, 2], [2, 3], [3, 3]]
    assert filled([1, 1], [3, 3], order, [5, 1], 2) == [1, 3], "what does not fit is passed over"


def test_the_cheapest_channels_pay_for_the_one_that_is_due():
    """More than a hundredth is left, and all but the first group are whole: what it costs too much is saved elsewhere."""
    full, first = [4, 16, 16], np.array([0.1, 0.2, 0.3, 0.4])
    due = Curves((first, np.full(16, 0.1), np.full(16, 0.1)))
    assert filled([2, 16, 16], full, due, [10, 1, 3], 5) == [3, 11, 16], "5 are missing, and are the second group's"
    assert filled([2, 16, 16], full, due, [10, 1, 3], 5, least=[1, 12, 1]) == [2, 16, 16], "it may not give that many"
    assert filled([2, 16, 16], full, due, [10, 1, 9], 7, least=[1, 13, 1], granules=[1, 4, 1]) == [3, 13, 16], "down to its least"
    assert filled([2, 16, 16], full, due, [10, 1, 3], 2, granules=[1, 8, 1]) == [3, 16, 13], "8 channels of 1 are dearer than 3"
    # 9 channels in granules of 4 give one and then four; the group that is due is no payer, though its channel is cheaper
    nine = Curves((first, np.full(9, 0.1), np.full(16, 0.1)))
    assert filled([2, 9, 16], [4, 9, 16], nine, [10, 3, 30], 7, granules=[1, 4, 1]) == [3, 8, 16]
    assert filled([2, 16, 16], full, due, [1000, 1, 3], 9) == [2, 16, 16], "no group can pay for this one"


def test_no_group_pays_with_channels_below_the_least_width():
    """A channel of the dear layer costs as much as 37 of the cheap one, which is asked to pay what is missing of it."""
    layers = {"dear": nn.Conv2d(3, 4, 7, padding=3), "cheap": nn.Conv2d(3, 16, 1), "head": nn.Conv2d(20, 1, 1)}
    model = Net(lambda m, x: m.head(torch.cat([m.dear(x), m.cheap(x)], 1)), **layers)

    def dear_is_due(r):
        return Curves((np.array([0.1, 0.2, 0.3, 0.4]), np.full(16, 0.1)))

    path = slimlib.width_path(model, torch.zeros(1, 3, 8, 8), rule=dear_is_due, min_width=2)
    dense, price = (int(path.costs.macs(np.array(widths))) for widths in ([4, 16], [0, 1]))
    assert path.full.tolist() == [4, 16] and int(path.costs.macs(np.array([1, 0]))) == 37 * price
    start, found = int(path.costs.macs(np.array([2, 16]))), []
    for left in range(37):  # in channels of the cheap layer
        found.append([*path.plan(keep_macs=(start + left * price) / dense, fill=True).widths.values()])
        assert found[-1] == ([3, 16 - (37 - left)] if 37 - left <= 14 else [2, 16]), left
    assert min(map(min, found)) == 2 and [3, 2] in found


@pytest.mark.parametrize("limits", [{}, {"round_to": 4}, {"min_width": 13}])
@pytest.mark.parametrize("rule", ["pca", "uniform"])
def test_the_plan_at_a_threshold_knows_the_next_wider_one(vgg, rule, limits):
    """At each level of the path, and between two of them, where the plan is that of the higher."""
    path = slimlib.width_path(*vgg, rule=rule, **limits)
    costs = {unit: [int(path.costs.cost(unit, path.widths(i))) for i in range(len(path))] for unit in ("macs", "params")}
    for i, level in enumerate(path.steps.levels):
        below = path.steps.levels[i - 1] if i else level / 2
        for threshold in (level, (level + below) / 2):
            plan = path.plan(threshold=float(threshold))
            assert [*plan.widths.values()] == path.widths(i).tolist()
            for unit, every in costs.items():
                wider = [c for c in every[i:] if c > every[i]]
                assert (plan.wider and plan.wider[unit]) == (wider[0] if wider else None)


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_filled_plans_of_all_rules_cost_the_same(unit):
    """LeNet-5 has few and dear channels: the hardest case of the study."""
    torch.manual_seed(0)
    model, x = slimlib.models.lenet5(), torch.zeros(1, 1, 28, 28)
    model(x)
    for rule, how in [(r, {}) for r in WITHOUT_EXTRAS] + [("tilt", {"power": p}) for p in (-1, -0.5, 0.5, 1)]:
        for keep in (0.1, 0.2, 0.4):
            plan = slimlib.plan_widths(model, x, rule=rule, fill=True, **{f"keep_{unit}": keep}, **how)
            if plan.wider is not None or not plan.rank_bound:
                assert 0.985 * keep <= getattr(plan, f"keep_{unit}") <= keep, (rule, how, plan.widths)


def test_budgets_hold_after_rounding(vgg):
    model, x = vgg
    for rule in WITHOUT_EXTRAS:
        plan = slimlib.plan_widths(model, x, keep_macs=0.5, rule=rule, round_to=8, min_width=8)
        assert plan.keep_macs <= 0.5
        assert all(w % 8 == 0 and w >= 8 for w in plan.widths.values())


@pytest.mark.parametrize("limits, want", [  # of uniform at threshold 0.4: 9.6 of 24 and 16 of 40
    ({}, [10, 10, 16, 16]), ({"round_to": 4}, [12, 12, 16, 16]), ({"round_to": 7}, [14, 14, 21, 21]),
    ({"min_width": 13}, [13, 13, 16, 16]), ({"min_width": 13, "round_to": 5}, [15, 15, 20, 20]),
    ({"round_to": 32}, [24, 24, 32, 32]), ({"min_width": 50}, [24, 24, 40, 40]),
])  # fmt: skip
def test_widths_are_rounded_up_and_no_layer_grows(vgg, limits, want):
    model, x = vgg
    plan = slimlib.plan_widths(model, x, rule="uniform", threshold=0.4, **limits)
    assert list(plan.widths.values()) == want and plan.full_widths.keys() == plan.widths.keys()


def test_rounding_keeps_channel_blocks_equal():
    """Blocks of 3 and 2 rounded to 4 make multiples of 12 and of 4, filled or not."""
    torch.manual_seed(0)
    model, x = lively_norms(Grouped()), torch.randn(1, 3, 16, 16)
    path = slimlib.width_path(model, x, rule="uniform", coupling="joint", round_to=4)
    granules = {g.name: int(np.lcm(g.blocks, 4)) for g in path.groups}
    assert {12, 4} <= set(granules.values())
    for keep in (0.5, 0.7, 0.9):
        for fill in (False, True):
            plan = path.plan(keep_macs=keep, fill=fill)
            assert all(w % granules[n] == 0 or w == plan.full_widths[n] for n, w in plan.widths.items()), plan.widths


def test_every_plan_is_met_again_by_its_own_cost(vgg):
    """A share of the cost is rounded once when it is told and once when it is asked for: no plan may fall through."""
    model, x = vgg
    for unit in ("macs", "params"):
        path = slimlib.width_path(model, x, rule="uniform", unit=unit)
        costs = [int(path.costs.cost(unit, path.widths(i))) for i in range(len(path))]
        for i, cost in enumerate(costs):
            plan = path.plan(**{f"keep_{unit}": cost / costs[-1]})
            assert getattr(plan, unit) == cost
            above = [c for c in costs[i:] if c > cost]
            assert (plan.wider and plan.wider[unit]) == (above[0] if above else None), "the next plan, not one further on"


def test_the_table_of_a_path_has_its_steps(vgg):
    model, x = vgg
    path = slimlib.width_path(model, x, rule="uniform")
    whole = path.table()
    assert len(whole) == len(path)
    names = [g.name for g in path.groups]
    for i in (0, 11, len(path) - 1):
        assert whole.loc[i, names].tolist() == path.widths(i).tolist()
        plan = path.plan_of(path.widths(i))
        assert (whole.loc[i, "macs"], whole.loc[i, "params"]) == pytest.approx((plan.keep_macs, plan.keep_params))
    assert whole[["macs", "params", "level"]].iloc[-1].tolist() == [1, 1, 1]


def test_one_threshold_for_all_layers(vgg):
    model, x = vgg
    found = slimlib.spectra(model, x)
    plan = slimlib.plan_widths(model, x, threshold=0.8)
    assert plan.widths == slimlib.widths_at(found, 0.8)
    same = slimlib.plan_widths(model, x, threshold=0.8, spectra=found)
    assert same.widths == plan.widths
    other = {name: np.ones_like(values) for name, values in found.items()}  # read where they are given
    assert slimlib.plan_widths(model, x, threshold=0.8, spectra=other).widths == slimlib.widths_at(other, 0.8) != plan.widths
    budget = slimlib.plan_widths(model, x, keep_macs=plan.keep_macs)
    assert budget.widths == plan.widths, "the budget of a plan gives the plan back"


def test_uniform_keeps_one_fraction(vgg):
    model, x = vgg
    plan = slimlib.plan_widths(model, x, rule="uniform", keep_macs=0.4)
    fractions = [(w - 1) / n for w, n in zip(plan.widths.values(), plan.full_widths.values(), strict=True)]
    assert max(fractions) < plan.threshold <= min(plan.kept.values()) + 1e-9


def test_tilt_zero_is_uniform(vgg):
    model, x = vgg
    plans = [slimlib.plan_widths(model, x, keep_params=0.4, **how) for how in
             ({"rule": "uniform"}, {"rule": "tilt", "power": 0})]
    assert plans[0].widths == plans[1].widths


@pytest.mark.parametrize("power, want", [(1, [8, 8, 20, 20]), (-1, [20, 20, 20, 20]), (0.5, [10, 10, 20, 20])])
def test_tilt_keeps_more_of_wide_layers_where_its_power_is_positive(vgg, power, want):
    """At level 1/2 of widths 24 and 40: the widest keep a half, the others a half times (24 / 40) ** power."""
    model, x = vgg
    path = slimlib.width_path(model, x, rule="tilt", power=power)
    assert path.steps.at(0.5).tolist() == want
    fractions = np.array(path.steps.at(0.3)) / [24, 24, 40, 40]
    assert fractions[0] / fractions[2] == pytest.approx((24 / 40) ** power, rel=0.2)


def test_sensitivity_keeps_by_the_fourth_root_of_the_drop(vgg):
    model, x = vgg
    names = [g.name for g in slimlib.trace(model, x).slimmable()]
    drops = dict(zip(names, [-0.5, 0.0016, 0.0081, 0.0256], strict=True))  # a gain counts as 0.0001: 1, 2, 3, 4 to the fourth
    path = slimlib.width_path(model, x, rule="sensitivity", drops=drops)
    assert path.steps.at(1.0).tolist() == [6, 12, 30, 40]


def test_random_exponents_are_log_uniform_from_a_third_to_three(vgg):
    model, x = vgg
    layout, found = slimlib.trace(model, x), []
    for seed in range(50):
        path = slimlib.width_path(model, x, rule="random", seed=seed, layout=layout)
        found.append([np.log(0.5) / np.log(b[len(b) // 2 - 1]) for b in path.steps.breaks])  # half of a group is level ** e
    exponents = np.array(found).ravel()
    assert 1 / 3 <= exponents.min() < 0.4 and 2.5 < exponents.max() <= 3
    assert stats.kstest(np.log(exponents) / np.log(3), "uniform", args=(-1, 2)).pvalue > 0.01


def test_untrained_widths_are_those_of_the_same_network_drawn_anew(vgg):
    model, x = copy.deepcopy(vgg[0]), vgg[1]
    with torch.no_grad():
        for m in model.modules():  # as after training: few directions have most of the variance
            if isinstance(m, nn.Conv2d):
                m.weight.mul_(torch.linspace(0.01, 1, len(m.weight)).view(-1, 1, 1, 1) ** 2)
    trained = slimlib.plan_widths(model, x, threshold=0.7).widths
    for seed in (0, 3):
        fresh = slimlib.spectra(slimlib.fresh_copy(model, seed), x)
        path = slimlib.width_path(model, x, rule="pca_at_init", seed=seed)
        for breaks, values in zip(path.steps.breaks, fresh.values(), strict=True):
            np.testing.assert_allclose(breaks, slimlib.cumulative(values))
        assert path.plan(threshold=0.7).widths == slimlib.widths_at(fresh, 0.7) != trained


def test_permuted_deals_the_same_fractions_to_other_layers():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 16, 16, 3) for i in range(5)])
    x = torch.randn(1, 3, 20, 20)
    pca = slimlib.plan_widths(model, x, threshold=0.7)
    dealt = slimlib.plan_widths(model, x, threshold=0.7, rule="permuted", seed=3)
    assert sorted(pca.widths.values()) == sorted(dealt.widths.values()) and pca.widths != dealt.widths


def test_permuted_deals_by_its_seed_and_never_in_the_layers_own_order():
    torch.manual_seed(0)
    five = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 8, 8, 3) for i in range(6)])
    x = torch.randn(1, 3, 20, 20)
    own = slimlib.width_path(five, x).steps.breaks
    dealt = [slimlib.width_path(five, x, rule="permuted", seed=seed).steps.breaks for seed in range(20)]
    orders = {tuple(next(i for i, b in enumerate(own) if np.array_equal(b, c)) for c in curves) for curves in dealt}
    assert len(orders) > 10 and tuple(range(5)) not in orders and all(sorted(order) == [*range(5)] for order in orders)
    two = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 3))
    short, long = slimlib.width_path(two, x).steps.breaks
    for seed in range(8):  # of two orders one is the layers' own
        dealt = slimlib.width_path(two, x, rule="permuted", seed=seed).steps.breaks
        assert dealt[0].tolist() == long[[1, 3, 5, 7]].tolist(), "width k of 4 is that share of the 8"
        assert dealt[1].tolist() == short[[0, 0, 1, 1, 2, 2, 3, 3]].tolist(), "rounded up"


def test_global_rules_equal_brute_force(vgg):
    model, x = vgg
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    plan = slimlib.plan_widths(model, x, rule="global_l1", keep_macs=0.4)
    scores = {n: m.weight.detach().double().abs().flatten(1).mean(1).numpy() for n, m in convolutions.items()}
    dropped = sum(plan.full_widths.values()) - sum(plan.widths.values())
    pooled = sorted((s, n) for n, all_ in scores.items() for s in np.sort(all_)[:-1])[:dropped]
    assert plan.widths == {n: len(s) - sum(m == n for _, m in pooled) for n, s in scores.items()}


def test_the_best_filter_of_each_layer_stays_and_the_others_go_by_their_scores():
    """Two layers, of scores 1, 5, 6 and 2, 3, 4."""
    model, x = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)), torch.zeros(1, 1, 4, 4)
    with torch.no_grad():
        for layer, scores in ((model[0], [5.0, 1.0, 6.0]), (model[1], [4.0, 2.0, 3.0])):
            layer.weight.copy_(torch.tensor(scores).view(-1, 1, 1, 1).expand_as(layer.weight))
    steps = slimlib.width_path(model, x, rule="global_l1").steps
    assert steps.order.tolist() == [0, 1, 1, 0] and steps.widths(0).tolist() == [1, 1]


def test_global_bn_drops_the_least_scales_of_the_network(vgg):
    model, x = copy.deepcopy(vgg[0]), vgg[1]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.data[::2] *= -1  # the sign of a scale says nothing
    plan = slimlib.plan_widths(model, x, rule="global_bn", keep_macs=0.4)
    scores = [norm.weight.detach().abs().double().numpy() for norm in norms]
    dropped = sum(plan.full_widths.values()) - sum(plan.widths.values())
    pooled = sorted((s, i) for i, of in enumerate(scores) for s in np.sort(of)[:-1])[:dropped]
    assert list(plan.widths.values()) == [len(s) - sum(i == j for _, j in pooled) for i, s in enumerate(scores)]


def test_global_bn_is_not_moved_by_how_many_norms_read_a_channel():
    """As in DenseNet, whose first features every later block normalises anew."""
    how = {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, padding=1), "head": nn.Conv2d(8, 2, 1)}
    norms = {f"n{i}": nn.BatchNorm2d(8) for i in range(3)}
    model = Net(lambda m, x: m.head(m.n2(m.b(m.n0(y := m.a(x)).relu() + m.n1(y).relu()))), **how, **norms).eval()
    scores = torch.arange(1.0, 9.0)
    with torch.no_grad():
        for norm in norms.values():
            norm.weight.copy_(scores)
    steps = slimlib.width_path(model, torch.zeros(1, 3, 8, 8), rule="global_bn").steps
    assert sorted(steps.order[:4].tolist()) == [0, 0, 1, 1], "the least of both, in turn"


@pytest.mark.parametrize("number", [np.float32, np.float16, Fraction])
def test_shares_of_fewer_digits_are_worked_with_in_full(vgg, number, tmp_path):
    model, x = vgg
    asked = number(0.375)
    plan, want = (slimlib.plan_widths(model, x, keep_macs=keep) for keep in (asked, 0.375))
    assert plan.widths == want.widths and plan.keep_macs <= 0.375
    at, want = (slimlib.plan_widths(model, x, threshold=t) for t in (number(0.75), 0.75))
    assert at.widths == want.widths and type(at.threshold) is float
    at.save(tmp_path / "plan.json")
    values = slimlib.spectra(model, x)
    assert slimlib.widths_at(values, number(1)) == slimlib.widths_at(values, 1.0)


def test_a_norm_without_a_scale_of_its_own_is_folded_like_one_whose_scale_is_one():
    def build(affine):
        torch.manual_seed(0)
        return lively_norms(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, affine=affine), nn.ReLU(), nn.Conv2d(16, 8, 3),
                                          nn.BatchNorm2d(8, affine=affine), nn.ReLU(), nn.Conv2d(8, 4, 3)))

    bare, scaled, x = build(False), build(True), torch.randn(2, 3, 12, 12)
    for ours, theirs in zip(bare.modules(), scaled.modules(), strict=True):
        if isinstance(theirs, nn.BatchNorm2d):
            nn.init.ones_(theirs.weight)
            nn.init.zeros_(theirs.bias)
            theirs.load_state_dict(ours.state_dict(), strict=False)
        elif isinstance(theirs, nn.Conv2d):
            theirs.load_state_dict(ours.state_dict())
    for rule in ("pca_folded", "neyman"):
        plans = [slimlib.plan_widths(model, x, rule=rule, keep_macs=0.5) for model in (bare, scaled)]
        assert plans[0].widths == plans[1].widths, rule


def drops_the_cheapest(path, unit: str, lost) -> None:
    """Each step against an exhaustive look at what every group would lose (``lost(g, w)`` from w to w - 1) and save."""
    widths = np.array([g.width for g in path.groups])
    for g in path.steps.order:
        ratios = []
        for j, width in enumerate(widths):
            less = widths - np.eye(len(widths), dtype=int)[j]
            saved = path.costs.cost(unit, widths) - path.costs.cost(unit, less)
            ratios.append(lost(j, width) / saved if width > 1 else np.inf)
        assert ratios[g] == pytest.approx(min(ratios), rel=1e-12)
        widths[g] -= 1


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_budgeted_pca_drops_least_variance_per_cost(vgg, unit):
    path = slimlib.width_path(*vgg, rule="pca_budgeted", unit=unit)
    found = [*slimlib.spectra(*vgg).values()]
    drops_the_cheapest(path, unit, lambda g, w: found[g][w - 1])


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_neyman_drops_least_loss_per_cost(vgg, unit):
    """The loss of a group of n channels that keeps w is V / T (n / w - 1)."""
    path = slimlib.width_path(*vgg, rule="neyman", unit=unit)
    v, t = sampling.variances(vgg[0], path.layout, path.groups)
    loss = [[v[g] / t[g] * (n / w - 1) for w in range(1, n + 1)] for g, n in enumerate(path.full)]
    drops_the_cheapest(path, unit, lambda g, w: loss[g][w - 2] - loss[g][w - 1])


def rescaled(model, seed):
    """Filters times a random positive scale, the BatchNorm behind them compensating: the same function."""
    import copy

    other, g = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    modules = dict(other.named_modules())
    for name, norm_name in slimlib.trace(model, torch.randn(1, 3, 12, 12)).norm_after.items():
        layer, norm = modules[name], modules[norm_name]
        s = torch.exp(torch.randn(norm.num_features, generator=g).double())
        with torch.no_grad():
            layer.weight.mul_(s.float().view(-1, 1, 1, 1))
            norm.running_mean.mul_(s.float())
            scaled = (norm.running_var + norm.eps).double() * s**2 - norm.eps  # eps is part of sigma
            norm.running_var.copy_(scaled.float())
    return other


@pytest.mark.parametrize("seed", range(4))
def test_folded_widths_do_not_change_under_compensated_rescaling(vgg, seed):
    model, x = vgg
    other = rescaled(model, seed)
    images = torch.randn(8, 3, 12, 12)
    torch.testing.assert_close(other(images), model(images), rtol=1e-3, atol=1e-4)
    for rule, how in (("pca_folded", {}), ("neyman", {}), ("pca_budgeted", {"folded": True})):
        for keep in (0.3, 0.5, 0.7):
            a, b = (slimlib.plan_widths(m, x, rule=rule, keep_macs=keep, **how) for m in (model, other))
            assert a.widths == b.widths
    plain = [slimlib.plan_widths(m, x, keep_macs=0.3).widths for m in (model, other)]
    assert plain[0] != plain[1], "the plain spectrum is not a function of the network"


def test_hand_widths_are_the_published_ones():
    model = slimlib.models.vgg16()
    plan = slimlib.width_path(model, torch.zeros(1, 3, 32, 32), rule="hand", published="vgg16-A").steps.at(-1.0)
    assert plan[:13].tolist() == [32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256]
    model, x = slimlib.models.cifar_resnet(56), torch.zeros(1, 3, 32, 32)
    layout = slimlib.trace(model, x)
    a, b = (slimlib.width_path(model, x, rule="hand", published=f"resnet56-{which}", layout=layout).steps for which in "AB")
    # 10 % of each stage; 60, 30 and 10 %; whole are their layers 16, 20, 38, 54, and of B 18 and 34 as well
    assert a.at(-1.0).tolist() == [14] * 7 + [16, 14] + [32] + [28] * 8 + [64] + [57] * 7 + [64]
    assert b.at(-1.0).tolist() == [6] * 7 + [16, 16] + [32] + [22] * 6 + [32, 22] + [64] + [57] * 7 + [64]
    # elsewhere the fractions to a power: 6 / 16 squared of 16 is 2.25, its root of 16 is 9.8
    assert b.at(-2.0)[[0, 7, 10]].tolist() == [3, 16, 16] and b.at(-0.5)[[0, 7, 10]].tolist() == [10, 16, 27]
    with pytest.raises(slimlib.SlimlibError, match="resnet56-B"):
        slimlib.width_path(Chain(), torch.zeros(1, 3, 16, 16), rule="hand", published="resnet56-B")


def test_plan_survives_json(tmp_path, vgg):
    model, x = vgg
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    plan.save(tmp_path / "plan.json")
    assert slimlib.WidthPlan.load(tmp_path / "plan.json") == plan
    broken = json.loads((tmp_path / "plan.json").read_text()) | {"wdths": {}}
    (tmp_path / "plan.json").write_text(json.dumps(broken))
    with pytest.raises(slimlib.SlimlibError, match="wdths"):
        slimlib.WidthPlan.load(tmp_path / "plan.json")


def test_errors_name_parameter_and_remedy(vgg):
    model, x = vgg
    refused = {
        "keep_macs=0.0001 cannot be reached": {"keep_macs": 0.0001}, "threshold=0": {"threshold": 0.0},
        "keep_params=1.2": {"keep_params": 1.2}, "exactly one": {}, "rule='pcaa'": {"keep_macs": 0.5, "rule": "pcaa"},
        "coupling='outer'": {"keep_macs": 0.5, "coupling": "outer"}, "min_width=0": {"keep_macs": 0.5, "min_width": 0},
        "has no threshold": {"threshold": 0.5, "rule": "global_l1"}, "skip": {"keep_macs": 0.5, "skip": ["nope"]},
        "calibration must be given": {"keep_macs": 0.5, "rule": "activation_pca"},
        "spectra is given, but rule 'uniform' reads": {"keep_macs": 0.5, "rule": "uniform", "spectra": {"nonsense": 1}},
        "spectra is given, but rule 'pca_at_init' reads": {"keep_macs": 0.5, "rule": "pca_at_init", "spectra": {}},
        "center=False is given, but rule 'global_l1' reads": {"keep_macs": 0.5, "rule": "global_l1", "center": False},
    }
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for message, how in refused.items():
        with pytest.raises(slimlib.SlimlibError, match=message):
            slimlib.plan_widths(model, x, **how)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_cost_of_another_unit_is_refused(vgg):
    costs, full = slimlib.width_path(*vgg).costs, np.array([24, 24, 40, 40])
    for ask in (costs.cost, costs.saved_by_one):
        with pytest.raises(slimlib.SlimlibError, match="unit='flops' is not known; use 'macs' or 'params'"):
            ask("flops", full)


def test_the_steps_say_whether_their_level_is_a_threshold(vgg):
    """The rule's name does not: a function of one's own may be called as one of the rules, and do something else."""
    def random(r):
        return rules.uniform(r)

    def mine(r):
        return rules.proportional(r.full, np.linspace(0.5, 1, len(r.full)))

    model, x = vgg
    assert slimlib.plan_widths(model, x, rule=random, threshold=0.5).widths == {"0": 12, "3": 12, "6": 20, "9": 20}
    for rule, how in [(mine, {}), ("random", {}), ("tilt", {"power": 1})]:
        with pytest.raises(slimlib.SlimlibError, match="has no threshold"):
            slimlib.plan_widths(model, x, rule=rule, threshold=0.5, **how)


def test_bad_models_and_inputs_are_refused(vgg):
    model, x = vgg
    with pytest.raises(slimlib.SlimlibError, match="no Conv or Linear"):
        slimlib.plan_widths(nn.Sequential(nn.ReLU()), x, keep_macs=0.5)
    with pytest.raises(slimlib.SlimlibError, match="example_input of shape"):
        slimlib.plan_widths(model, torch.zeros(1, 4, 12, 12), keep_macs=0.5)
    with pytest.raises(slimlib.SlimlibError, match="no layer can be slimmed"):
        slimlib.plan_widths(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), x, keep_macs=0.5)
    broken = lively_norms(Residual())
    with torch.no_grad():
        broken.inner.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(slimlib.SlimlibError, match=r"inner\.weight holds NaN"):
        slimlib.plan_widths(broken, torch.zeros(1, 3, 16, 16), keep_macs=0.5)


def test_rank_bound_is_said():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3))
    plan = slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), threshold=1.0)
    assert plan.rank_bound == {"0": 26} and plan.widths == {"0": 26}
    with pytest.warns(UserWarning, match="rank of the filters") as said:
        bounded = slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), keep_macs=0.9)
        filled = slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), keep_macs=0.9, fill=True)
    assert bounded.widths == {"0": 26} and filled.widths == {"0": 57}, "filling spends the budget beyond the rank"
    path, beyond = (str(warning.message) for warning in said)
    assert f"widest plan at {bounded.keep_macs:.4f}" in path and "fill=True" in path
    assert f"widest plan at {bounded.keep_macs:.4f}" in beyond and beyond.endswith(f"filled beyond it, to {filled.keep_macs:.4f}")
    assert slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), keep_macs=0.4, center=False).rank_bound == {"0": 27}
    assert slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), keep_macs=0.4, rule="uniform").rank_bound == {}
    with pytest.warns(UserWarning, match="rank of the filters"):
        slimlib.plan_widths(model, torch.zeros(1, 3, 8, 8), keep_macs=0.9)


@pytest.mark.parametrize("plan", [
    lambda model, x: slimlib.plan_widths(model, x, keep_macs=0.99),
    lambda model, x: slimlib.plan_widths(model, x, keep_macs=0.99, fill=True),
    lambda model, x: slimlib.width_path(model, x).plan(keep_macs=0.99),
    lambda model, x: slimlib.width_path(model, x, unit="params").plan(keep_params=0.99, fill=True),
])  # fmt: skip
def test_a_warning_names_the_line_of_the_caller(plan):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plan(model, torch.zeros(1, 3, 8, 8))
    assert [(warning.filename, warning.lineno) for warning in said] == [(__file__, plan.__code__.co_firstlineno)]


def test_few_images_bound_a_rule_that_reads_responses_and_the_filters_are_not_blamed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 4))
    how = {"rule": "activation_pca", "calibration": torch.randn(9, 3, 4, 4)}
    with pytest.warns(UserWarning, match="rank of the responses to the calibration images bounds 1 group"):
        assert slimlib.plan_widths(model, torch.zeros(1, 3, 4, 4), keep_params=0.9, **how).rank_bound == {"1": 8}


@pytest.mark.parametrize("rule", ["hand", "random", "tilt", "sensitivity", "global_l1", "pca_budgeted", "neyman"])
def test_a_level_that_is_no_share_of_variance_is_no_threshold(vgg, rule):
    model, x = (slimlib.models.vgg16(), torch.zeros(1, 3, 32, 32)) if rule == "hand" else vgg
    how = {"published": "vgg16-A"} if rule == "hand" else how_for(rule, model, x)
    with pytest.raises(slimlib.SlimlibError, match=rf"threshold=0\.5: rule '{rule}' has no threshold; give keep_macs"):
        slimlib.plan_widths(model, x, rule=rule, threshold=0.5, **how)


def test_inner_coupling_leaves_shared_widths_whole():
    model = lively_norms(Residual())
    x = torch.randn(1, 3, 16, 16)
    inner, joint = (slimlib.plan_widths(model, x, keep_macs=0.5, rule="uniform", coupling=c) for c in ("inner", "joint"))
    assert set(inner.widths) == {"inner", "squeeze"} and "shares its width" in inner.whole["stem"]
    assert set(joint.widths) == {"stem", "inner", "squeeze"}
    assert "model's output" in joint.whole["head"]
