"""Cutting: keep-all is the identity, keeping S equals zeroing the rest, and what was planned is what comes out."""

import copy
from dataclasses import replace
from functools import partial
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch_pruning.dependency import index_mapping

import slimlib
from slimlib._index_mapping import steady_index_mapping
from slimlib.cost import cost_model
from slimlib.criteria import CRITERIA, choose_filters
from slimlib.masking import OtherShapes, difference, masked
from slimlib.surgery import cut
from tests.conftest import MODELS, Chain, lively_norms, masking_error


def random_keep(groups, rng):
    keep = {}
    for g in groups:
        per_block = rng.integers(1, g.width // g.blocks + 1)
        runs = [np.flatnonzero(g.block_of == b) for b in range(g.blocks)]
        keep[g.name] = np.sort(np.concatenate([rng.choice(run, per_block, replace=False) for run in runs]))
    return keep


@pytest.mark.parametrize("coupling", ["inner", "joint"])
def test_keeping_everything_is_the_identity(network, coupling):
    _, model, x = network
    layout = slimlib.trace(model, x)
    keep = {g.name: np.arange(g.width) for g in layout.slimmable(coupling)}
    same = cut(model, layout, keep)
    assert torch.equal(same(x), model(x))
    for (name, a), (_, b) in zip(model.state_dict().items(), same.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("seed", range(5))
def test_keeping_some_equals_zeroing_the_rest(network, seed):
    _, model, x = network
    layout = slimlib.trace(model, x)
    keep = random_keep(layout.slimmable("joint"), np.random.default_rng(seed))
    slim, reference = cut(model, layout, keep), masked(model, layout, keep)
    torch.testing.assert_close(slim(x), reference(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(slim(x), model(x), rtol=1e-3) or all(len(k) == g.width for k, g in
                                                                       zip(keep.values(), layout.slimmable("joint"), strict=True))
    assert masking_error(model, layout, keep, x) < 1e-4


def test_the_difference_of_two_answers_is_that_of_the_worst_number():
    """On this all tests of exactness rest: a single wrong number among many, in any of the outputs, must show."""
    want = [torch.full((2, 50), 4.0), torch.zeros(0), torch.arange(4)]
    assert difference([t.clone() for t in want], want) == 0
    wrong = want[0].clone()
    wrong[1, 7] = 5.0
    assert difference([wrong, *want[1:]], want) == pytest.approx(1 / 4)
    assert difference([want[0], want[1], torch.tensor([0, 1, 2, 0])], want) == pytest.approx(1 / 4), "of choices, the share"
    assert np.isnan(difference([want[0] * float("nan"), *want[1:]], want))
    with pytest.raises(OtherShapes, match="shapes"):
        difference([want[0][:1], *want[1:]], want)


@pytest.mark.parametrize("seed", range(3))
def test_costs_equal_counting_the_built_network(network, seed):
    _, model, x = network
    layout = slimlib.trace(model, x)
    groups = layout.slimmable("joint")
    costs, keep = cost_model(model, layout, groups), random_keep(groups, np.random.default_rng(seed))
    widths = np.array([len(keep[g.name]) for g in groups])
    slim = cut(model, layout, keep)
    with FlopCounterMode(display=False) as counter:
        slim(x)
    assert costs.macs(widths) * 2 * len(x) == counter.get_total_flops()
    assert costs.params(widths) == sum(p.numel() for p in slim.parameters())
    for unit in ("macs", "params"):
        for j, saved in enumerate(costs.saved_by_one(unit, widths.astype(float))):
            if widths[j] > groups[j].blocks and groups[j].blocks == 1:
                less = widths - np.eye(len(widths), dtype=int)[j]
                assert round(saved) == costs.cost(unit, widths) - costs.cost(unit, less)


class Loop(nn.Module):
    """A layer that reads what it wrote: its group is on both of its sides."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.b(torch.relu(self.a(x)))))).mean((2, 3)))


@pytest.mark.parametrize("unit", ["macs", "params"])
def test_a_channel_that_is_on_both_sides_of_a_layer_is_saved_once(unit):
    model, x = Loop(), torch.randn(1, 3, 8, 8)
    layout = slimlib.trace(model, x)
    costs = cost_model(model, layout, layout.slimmable("joint"))
    assert [g.name for g in layout.slimmable("joint")] == ["a"]
    for width in range(2, 7):
        saved = costs.cost(unit, np.array([width])) - costs.cost(unit, np.array([width - 1]))
        assert costs.saved_by_one(unit, np.array([float(width)])) == pytest.approx([saved])


@pytest.mark.parametrize("criterion", ["l1", "l2", "gm", "random"])
def test_prune_leaves_the_model_and_gives_the_plan(network, criterion):
    _, model, x = network
    before = copy.deepcopy(model.state_dict())
    plan = slimlib.plan_widths(model, x, keep_macs=0.6, rule="uniform", coupling="joint")
    slim = slimlib.prune(model, plan, criterion=criterion)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert sum(p.numel() for p in slim.parameters()) == plan.params
    assert type(slim) is type(model) and slim(x).shape == model(x).shape
    for name, width in plan.widths.items():
        assert slim.get_submodule(name).weight.shape[0] == width


def test_criteria_equal_brute_force(chain):
    model, x = chain
    model[5].weight.data[::2] *= -1  # the sign of a scale does not matter
    layout = slimlib.trace(model, x)
    g = next(g for g in layout.groups if g.name == "4")
    w, gamma = model[4].weight.detach().double(), model[5].weight.detach()
    rows = [w[i].flatten() for i in range(12)]
    brute = {
        "l1": [r.abs().sum() for r in rows], "l2": [(r * r).sum() ** 0.5 for r in rows],
        "gm": [sum(((a - b) ** 2).sum() ** 0.5 for b in rows) for a in rows], "bn": list(gamma.abs()),
    }
    for name, scores in brute.items():
        want = sorted(sorted(range(12), key=lambda i: -float(scores[i]))[:5])
        got = slimlib.criteria.choose_filters(model, layout, {"4": 5}, name)["4"]
        assert got.tolist() == want, (name, g)


def test_scores_of_a_joint_group_are_of_all_its_layers_filters():
    """The stream of the residual network: l1 and bn add over the layers, l2 and gm see a channel's filters end to end."""
    torch.manual_seed(0)
    model = lively_norms(MODELS["residual"]())
    (group,) = (g for g in slimlib.trace(model, torch.zeros(1, 3, 16, 16)).slimmable("joint") if g.name == "stem")
    layers = [m.module for m in group.writers()]
    with torch.no_grad():  # of very different sizes, so that the norm of both together is not the sum of the norms
        model.stem.weight.mul_(torch.linspace(0.1, 3, 8).view(-1, 1, 1, 1))
        model.back.weight.mul_(torch.linspace(3, 0.1, 8).view(-1, 1, 1, 1))
        model.bn.weight[:4] *= -1
    assert {"stem", "back"} <= set(layers)
    rows = np.concatenate([model.get_submodule(n).weight.detach().double().flatten(1).numpy() for n in layers], axis=1)
    np.testing.assert_allclose(CRITERIA["l1"](model, group), np.abs(rows).sum(1))
    np.testing.assert_allclose(CRITERIA["l2"](model, group), np.linalg.norm(rows, axis=1))
    np.testing.assert_allclose(CRITERIA["gm"](model, group), [np.linalg.norm(rows - row, axis=1).sum() for row in rows])
    np.testing.assert_allclose(CRITERIA["bn"](model, group), sum(n.weight.detach().abs() for n in (model.bn, model.bn2)))


@pytest.mark.parametrize("coupling", ["inner", "joint"])
def test_a_criterion_of_ones_own_keeps_what_it_scores_highest(network, coupling):
    _, model, x = network
    plan = slimlib.plan_widths(model, x, keep_macs=0.6, rule="uniform", coupling=coupling)
    groups = {g.name: g for g in plan.layout.groups}
    asked = []

    def last(model, group):  # those at the end of each block
        asked.append(group.name)
        return list(range(group.width))

    slim = slimlib.prune(model, plan, criterion=last)
    assert set(asked) == set(plan.widths)
    keep = {name: np.sort(np.concatenate([np.flatnonzero(groups[name].block_of == b)[-(width // groups[name].blocks):]
                                          for b in range(groups[name].blocks)])) for name, width in plan.widths.items()}
    for key, want in cut(model, plan.layout, keep).state_dict().items():
        assert torch.equal(slim.state_dict()[key], want), key


def test_a_function_stands_beside_the_criterion_of_its_name(chain):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.6, skip=["9"])  # behind which there is no BatchNorm
    for name in set(CRITERIA) - {"random"}:
        mine, theirs = (slimlib.prune(model, plan, criterion=which).state_dict() for which in (CRITERIA[name], name))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs), name
    first, again = (slimlib.prune(model, plan, criterion=CRITERIA["random"], seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize(("score", "told"), [
    (lambda model, group: torch.zeros(3), r"criterion '<lambda>' gave scores of shape \(3,\) for 0; it must give 8 finite ones"),
    (partial(lambda model, group, by: torch.zeros(8, 1), by=2), r"'<lambda>' gave scores of shape \(8, 1\) for 0"),
    (lambda model, group: torch.full((group.width,), torch.nan), "must give 8 finite ones, one a channel"),
])
def test_scores_that_rank_nothing_are_refused(chain, score, told):
    model, x = chain
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.5), criterion=score)


@pytest.mark.parametrize("criterion", ["l1", "l2", "gm", "bn"])
def test_of_equal_filters_the_first_stay(chain, criterion):
    model, x = chain
    with torch.no_grad():
        model[4].weight.copy_(model[4].weight[:1].expand_as(model[4].weight).clone())
        model[5].weight.fill_(0.5)
    assert choose_filters(model, slimlib.trace(model, x), {"4": 5}, criterion)["4"].tolist() == [0, 1, 2, 3, 4]


def test_random_filters_are_those_of_the_seed(chain):
    model, x = chain
    plan = slimlib.plan_from_widths(model, x, {"0": 4, "4": 6, "9": 5})
    chosen = {seed: choose_filters(model, plan.layout, plan.widths, "random", seed) for seed in range(5)}
    assert len({tuple(keep["4"]) for keep in chosen.values()}) > 1, "all seeds choose alike"
    for seed, keep in chosen.items():
        slim = slimlib.prune(model, plan, criterion="random", seed=seed)
        assert torch.equal(slim[0].weight, model[0].weight[keep["0"]])
        assert torch.equal(slim[4].weight, model[4].weight[keep["4"]][:, keep["0"]])


def test_bn_criterion_without_norm_is_refused_by_name(chain):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    with pytest.raises(slimlib.SlimlibError, match=r"criterion='bn'.*9"):
        slimlib.prune(model, plan, criterion="bn")
    with pytest.raises(slimlib.SlimlibError, match="criterion='L1'"):
        slimlib.prune(model, plan, criterion="L1")


def test_attention_is_drawn_as_it_draws_itself():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16))
    attention = slimlib.fresh_copy(model, seed=1)[1].self_attn
    assert not attention.out_proj.bias.any() and not attention.in_proj_bias.any() and attention.in_proj_weight.std() > 0


def test_thin_is_fresh_seeded_and_leaves_the_global_state(chain):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    state = torch.random.get_rng_state()
    a, b, c = (slimlib.thin(model, plan, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a[0].weight, c[0].weight)
    assert a[1].running_var.eq(1).all() and a[1].weight.eq(1).all()
    slim = slimlib.prune(model, plan)
    assert [p.shape for p in a.parameters()] == [p.shape for p in slim.parameters()]


def test_thin_draws_as_it_is_told(chain):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)

    def threes(network):
        for p in network.parameters():
            nn.init.constant_(p, 3.0)

    assert all((p == 3).all() for p in slimlib.thin(model, plan, reset=threes).parameters())


def test_save_and_load(tmp_path, network):
    name, model, x = network
    plan = slimlib.plan_widths(model, x, keep_params=0.6, coupling="joint", rule="uniform")
    slim = slimlib.prune(model, plan).eval()
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    again = slimlib.load(tmp_path / "slim.safetensors", build=MODELS[name])
    assert not again.training
    assert torch.equal(again(x), slim(x))
    assert [p.name for p in tmp_path.iterdir()] == ["slim.safetensors"]


def test_a_plan_for_another_network_is_refused(chain):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    wider = nn.Sequential(*Chain())
    wider[0] = nn.Conv2d(3, 9, 3)
    with pytest.raises(slimlib.SlimlibError, match="layer 0 has 9 filters"):
        slimlib.prune(wider, plan)


def test_exported_network_answers_the_same(network):
    _, model, x = network
    plan = slimlib.plan_widths(model, x, keep_macs=0.6, rule="uniform", coupling="joint")
    slim = slimlib.prune(model, plan).eval()
    exported = torch.export.export(slim, (x,))
    torch.testing.assert_close(exported.module()(x), slim(x))


def test_trainability_survives(chain):
    model, x = chain
    model[4].weight.requires_grad_(False)
    slim = slimlib.prune(lively_norms(model), slimlib.plan_widths(model, x, keep_macs=0.5))
    assert not slim[4].weight.requires_grad and slim[0].weight.requires_grad


def test_threads_mend_the_library_one_after_the_other():
    """They are made in the module that all threads share; undone too early, or kept, they would be wrong."""
    original, entered = index_mapping.update_reshape_index_mapping, Event()

    def trace():
        with steady_index_mapping():
            entered.set()

    other = Thread(target=trace)
    with steady_index_mapping():
        other.start()
        assert not entered.wait(0.3)
    other.join()
    assert entered.is_set() and index_mapping.update_reshape_index_mapping is original


def test_tracing_does_not_depend_on_the_callers_gradient_mode(chain):
    model, x = chain
    with torch.no_grad():
        quiet = slimlib.plan_widths(model, x, keep_macs=0.5)
    assert quiet == slimlib.plan_widths(model, x, keep_macs=0.5)


@pytest.mark.parametrize("part", ["all", "some"])
def test_what_thin_draws_can_learn_though_the_teacher_is_frozen(chain, part):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    for p in [*model.parameters()][: 4 if part == "some" else None]:
        p.requires_grad_(False)
    student = slimlib.thin(model, plan)
    assert all(p.requires_grad for p in student.parameters()) and not model[0].weight.requires_grad


def test_what_a_reset_leaves_or_freezes_stays_frozen(chain):
    model, _ = chain
    model.table = nn.Parameter(torch.ones(3), requires_grad=False)
    model.index = nn.Parameter(torch.arange(3), requires_grad=False)
    model.requires_grad_(False)

    def reset(network):
        for m in network.modules():
            if hasattr(m, "reset_parameters"):
                m.reset_parameters()
        network[9].weight.requires_grad_(False)

    drawn = slimlib.fresh_copy(model, reset=reset)
    assert {n for n, p in drawn.named_parameters() if not p.requires_grad} == {"table", "index", "9.weight"}


def test_what_else_refers_to_a_weight_refers_to_the_cut_one(chain):
    model, x = chain
    model.penalised, model.also = [model[0].weight, model[4].weight], {"norm": (model[1].running_mean,)}
    slim = slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.5))
    assert slim.penalised[0] is slim[0].weight and slim.penalised[1] is slim[4].weight
    assert slim.also["norm"][0] is slim[1].running_mean and slim[0].weight.numel() < model[0].weight.numel()
    assert model.penalised[0] is model[0].weight and len(model[0].weight) == 8


def test_a_kept_activation_is_no_obstacle(chain):
    """copy.deepcopy refuses a tensor with a graph; such a one is copied without it, and the model keeps its own."""
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    model.feature = model[0](x)  # as for a heat map, or by a hook
    model[2].held = [{"squared": (model.feature**2, model.feature)}]
    for made in (slimlib.prune(model, plan), slimlib.thin(model, plan), slimlib.fresh_copy(model)):
        squared, same = made[2].held[0]["squared"]
        assert same is made.feature and squared.grad_fn is None and same.grad_fn is None
        assert torch.equal(same, model.feature) and same.data_ptr() != model.feature.data_ptr()
    assert model.feature.grad_fn is not None and model[2].held[0]["squared"][1] is model.feature


class Counted(nn.BatchNorm2d):
    """With tensors that have no entry a channel."""

    def __init__(self, width):
        super().__init__(width)
        self.register_buffer("steps", torch.zeros(1))
        self.register_buffer("clip", torch.ones(2))
        self.slope = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.arange(width))


def test_a_norm_with_tensors_of_its_own(chain):
    model, x = chain
    model[1] = Counted(8)
    plan = slimlib.plan_widths(model.eval(), x, keep_macs=0.5, rule="uniform")
    slim = slimlib.prune(model, plan)
    shapes = {k: tuple(v.shape) for k, v in slim[1].state_dict().items()}
    width = (plan.widths["0"],)
    assert shapes == {"weight": width, "bias": width, "running_mean": width, "running_var": width, "seen": width,
                      "num_batches_tracked": (), "steps": (1,), "clip": (2,), "slope": (3,)}
    assert sum(p.numel() for p in slim.parameters()) == plan.params and width < (8,)


@pytest.mark.parametrize("side", ["in", "out", "norm"])
def test_a_position_that_a_layer_has_not_is_refused_by_name(chain, side):
    """As where a Linear is traced on another axis than the channels'."""
    model, x = chain
    layout = slimlib.trace(model, x)
    group = next(g for g in layout.groups if g.name == "0")
    beyond = [replace(m, positions=m.positions + 6) if m.role == side else m for m in group.members]
    name = next(m.module for m in group.members if m.role == side)
    with pytest.raises(slimlib.SlimlibError, match=rf"number 13 on the {side} side of {name}, which has 8: .* with skip="):
        cut(model, replace(layout, groups=(replace(group, members=tuple(beyond)),)), {"0": np.arange(4)})


def test_plans_of_earlier_versions_are_read(chain):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    older = {k: v for k, v in plan.to_dict().items() if k != "input_dtype"}
    assert slimlib.WidthPlan.from_dict(older) == plan
    assert slimlib.prune(model, slimlib.WidthPlan.from_dict(older))(x).shape == (2, 5)
    with pytest.raises(slimlib.SlimlibError, match="plan: input_dtype='int65' is no type of torch"):
        slimlib.prune(model, slimlib.WidthPlan.from_dict(older | {"input_dtype": "int65"}))


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("built", [torch.float32, torch.float64])
def test_a_network_comes_back_in_the_type_it_was_saved_in(chain, tmp_path, saved, built):
    model, x = chain
    plan = slimlib.plan_widths(model.to(saved), x.to(saved), keep_macs=0.5)
    slim = slimlib.prune(model, plan)
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    again = slimlib.load(tmp_path / "slim.safetensors", build=lambda: Chain().to(built)).eval()
    assert {k: (v.dtype, v.tolist()) for k, v in again.state_dict().items()} == {
        k: (v.dtype, v.tolist()) for k, v in slim.state_dict().items()}
    assert torch.equal(again(x.to(saved)), slim(x.to(saved)))


class TwiceHeld(nn.Module):
    """A network, and a layer beside it that is not called."""

    def __init__(self, net, also):
        super().__init__()
        self.net, self.also = net, also

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("coupling", ["inner", "joint"])
def test_a_cut_network_shares_no_memory_with_the_dense_one(network, coupling):
    """Also where nothing was cut from a tensor, and where one stands in two places."""
    _, net, x = network
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    model = TwiceHeld(net, nn.Conv2d(first.in_channels, first.out_channels, first.kernel_size))
    model.also.weight = first.weight
    layout = slimlib.trace(model, x)
    keep = {g.name: np.arange(g.width)[: g.width if i % 2 else None] for i, g in enumerate(layout.slimmable(coupling))}
    keep[layout.slimmable(coupling)[-1].name] = np.arange(layout.slimmable(coupling)[-1].blocks)
    slim = cut(model, layout, keep)
    dense = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    for name, t in slim.state_dict().items():
        assert t.untyped_storage().data_ptr() not in dense and t.is_contiguous(), name
    assert torch.equal(slim.also.weight, first.weight)


class WithAuxiliaryHead(nn.Module):
    """As GoogLeNet and Inception: a second head that runs in training alone, on channels that surgery takes away."""

    def __init__(self):
        super().__init__()
        self.body, self.aux = Chain(), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return (self.body(x), self.aux(nn.Sequential(*list(self.body)[:7])(x))) if self.training else self.body(x)


@pytest.mark.parametrize("cut_to", [slimlib.prune, slimlib.thin])
def test_a_branch_that_only_trains_is_told_of_by_name(cut_to):
    model, x = WithAuxiliaryHead(), torch.randn(2, 3, 16, 16)
    plan = slimlib.plan_widths(model, x, keep_macs=0.5, rule="uniform")
    with pytest.warns(UserWarning, match=r"^model: left as they were, .* use them: aux; if they run .*, so remove them first \("):
        slim = cut_to(model, plan)
    slim.eval()(x)
    with pytest.raises(RuntimeError, match="12 channels, but got"):
        slim.train()(x)


def test_a_weight_that_is_read_without_its_layer_being_called_is_no_branch_that_only_trains():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)  # reads the weight of its out_proj

        def forward(self, x):
            y = torch.relu(self.first(x))
            return self.head(self.attention(y, y, y, need_weights=False)[0].mean(1))

    assert slimlib.trace(Attends(), torch.randn(2, 4, 8)).idle == ()


@pytest.mark.parametrize("cut_to", [slimlib.prune, slimlib.thin])
@pytest.mark.parametrize(("layer", "shape", "wanted"), [
    (nn.Conv2d, (2, 3, 8, 8), torch.channels_last), (nn.ConvTranspose2d, (2, 3, 8, 8), torch.channels_last),
    (nn.Conv3d, (2, 3, 8, 8, 8), torch.channels_last_3d)])
def test_the_slim_network_keeps_the_memory_format(cut_to, layer, shape, wanted):
    def model() -> nn.Module:
        return nn.Sequential(layer(3, 8, 3), nn.ReLU(), layer(8, 6, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                             nn.Linear(6, 5))

    for dense, own in ((model(), torch.contiguous_format), (model().to(memory_format=wanted), wanted)):
        slim = cut_to(dense, slimlib.plan_widths(dense, torch.randn(shape), keep_params=0.5, rule="uniform"))
        for name in ("0", "2"):
            assert slim.get_submodule(name).weight.is_contiguous(memory_format=own), name


class Tokens(nn.Module):
    """An embedding, which takes whole numbers alone."""

    def __init__(self):
        super().__init__()
        self.embedding, self.first, self.head = nn.Embedding(20, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.first(self.embedding(x)).relu().mean(1))


def test_a_plan_knows_the_type_of_the_example_that_its_layout_was_traced_with(tmp_path):
    model, tokens = Tokens(), torch.randint(20, (2, 5))
    layout = slimlib.trace(model, tokens)
    for plan in (slimlib.plan_widths(model, None, keep_params=0.9, rule="uniform", layout=layout),
                 slimlib.plan_from_widths(model, None, {"first": 4}, layout=layout)):
        assert plan.input_dtype == "int64"
        plan.save(tmp_path / "plan.json")
        assert slimlib.prune(model, slimlib.WidthPlan.load(tmp_path / "plan.json"))(tokens).shape == (2, 3)
    with pytest.raises(slimlib.SlimlibError, match=r"traced with an example of int64, this one is of torch\.float32"):
        slimlib.plan_widths(model, torch.zeros(2, 5), keep_params=0.9, layout=layout)


@pytest.mark.parametrize("build, told", [
    (nn.Identity, r"model \(Identity\) has no Conv or Linear layer"), (lambda: None, "what build returns is of type NoneType"),
])  # fmt: skip
def test_what_builds_another_kind_of_thing_is_refused(chain, tmp_path, build, told):
    model, x = chain
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    slimlib.save(slimlib.prune(model, plan), plan, tmp_path / "slim.safetensors")
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.load(tmp_path / "slim.safetensors", build=build)
    if build is nn.Identity:
        with pytest.raises(slimlib.SlimlibError, match=told):
            slimlib.prune(nn.Identity(), plan)


def test_what_holds_arrays_is_equal_to_itself_alone_and_may_be_a_key(chain):
    """A comparison of the fields would end in numpy's error about the truth of an array."""
    model, x = chain
    layout, again = slimlib.trace(model, x), slimlib.trace(model, x)
    path, other = (slimlib.width_path(model, x, layout=one) for one in (layout, again))
    for one, two in ((layout, again), (layout.groups[0], again.groups[0]), (path, other), (path.steps, other.steps),
                     (path.costs, other.costs)):
        assert one == one and one != two and len({one, two}) == 2
    assert layout.groups[0] in layout.groups
