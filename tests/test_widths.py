"""Plans, budgets and rules."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import slimlib
from slimlib import rules
from tests.conftest import Chain, Residual, lively_norms

WITHOUT_EXTRAS = ["pca", "pca_budgeted", "uniform", "global_l1", "random", "permuted", "pca_at_init"]


@pytest.fixture(autouse=True)
def quiet_rank_bound():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rank of the filters.*")
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


def test_one_threshold_for_all_layers(vgg):
    model, x = vgg
    found = slimlib.spectra(model, x)
    plan = slimlib.plan_widths(model, x, threshold=0.8)
    assert plan.widths == slimlib.widths_at(found, 0.8)
    same = slimlib.plan_widths(model, x, threshold=0.8, spectra=found)
    assert same.widths == plan.widths
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


def test_permuted_deals_the_same_fractions_to_other_layers():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 16, 16, 3) for i in range(5)])
    x = torch.randn(1, 3, 20, 20)
    pca = slimlib.plan_widths(model, x, threshold=0.7)
    dealt = slimlib.plan_widths(model, x, threshold=0.7, rule="permuted", seed=3)
    assert sorted(pca.widths.values()) == sorted(dealt.widths.values()) and pca.widths != dealt.widths


def test_global_rules_equal_brute_force(vgg):
    model, x = vgg
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    plan = slimlib.plan_widths(model, x, rule="global_l1", keep_macs=0.4)
    scores = {n: m.weight.detach().double().abs().flatten(1).mean(1).numpy() for n, m in convolutions.items()}
    dropped = sum(plan.full_widths.values()) - sum(plan.widths.values())
    pooled = sorted((s, n) for n, all_ in scores.items() for s in np.sort(all_)[:-1])[:dropped]
    assert plan.widths == {n: len(s) - sum(m == n for _, m in pooled) for n, s in scores.items()}


def test_budgeted_pca_drops_least_variance_per_cost(vgg):
    """Each step against an exhaustive look at what every group would lose and save."""
    model, x = vgg
    path = slimlib.width_path(model, x, rule="pca_budgeted", unit="params")
    found = slimlib.spectra(model, x)
    widths = np.array([g.width for g in path.groups])
    for g in path.steps.order[:40]:
        ratios = []
        for j, group in enumerate(path.groups):
            less = widths - np.eye(len(widths), dtype=int)[j]
            saved = path.costs.params(widths) - path.costs.params(less)
            ratios.append(found[group.name][widths[j] - 1] / saved if widths[j] > 1 else np.inf)
        assert ratios[g] == pytest.approx(min(ratios), abs=0)
        widths[g] -= 1


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
    for rule in ("pca_folded", "neyman"):
        for keep in (0.3, 0.5, 0.7):
            a, b = (slimlib.plan_widths(m, x, rule=rule, keep_macs=keep) for m in (model, other))
            assert a.widths == b.widths
    plain = [slimlib.plan_widths(m, x, keep_macs=0.3).widths for m in (model, other)]
    assert plain[0] != plain[1], "the plain spectrum is not a function of the network"


def test_hand_widths_are_the_published_ones():
    model = slimlib.models.vgg16()
    plan = slimlib.width_path(model, torch.zeros(1, 3, 32, 32), rule="hand", published="vgg16-A").steps.at(-1.0)
    assert plan[:13].tolist() == [32, 64, 128, 128, 256, 256, 256, 256, 256, 256, 256, 256, 256]
    model = slimlib.models.cifar_resnet(56)
    widths = slimlib.width_path(model, torch.zeros(1, 3, 32, 32), rule="hand", published="resnet56-B").steps.at(-1.0)
    assert widths[:7].tolist() == [6] * 7 and widths[7:9].tolist() == [16, 16]
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


def test_inner_coupling_leaves_shared_widths_whole():
    model = lively_norms(Residual())
    x = torch.randn(1, 3, 16, 16)
    inner, joint = (slimlib.plan_widths(model, x, keep_macs=0.5, rule="uniform", coupling=c) for c in ("inner", "joint"))
    assert set(inner.widths) == {"inner", "squeeze"} and "shares its width" in inner.whole["stem"]
    assert set(joint.widths) == {"stem", "inner", "squeeze"}
    assert "model's output" in joint.whole["head"]
