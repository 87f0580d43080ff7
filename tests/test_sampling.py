"""The sampling rule: known values, and Gaussian moments against simulation."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import slimlib
from slimlib import moments, responses, sampling
from slimlib._torchvision import import_torchvision
from slimlib.channel_statistics import ChannelStatistics, channel_axis
from slimlib.filters import batchnorm_scale
from slimlib.layout import Member
from slimlib.measuring import Reading, measured
from slimlib.study import invariance, stratum
from tests.conftest import lively_norms
from tests.test_user_networks import Net, conv, pooled

V = [1.346, 1.897, 2.003, 5.157, 2.933, 3.190, 24.046, 24.903, 44.446]
T = [5.960, 7.996, 10.114, 19.761, 17.178, 16.547, 63.227, 59.875, 158.953]


def test_resnet20_variances_and_widths(real_file):
    real_file("weights/resnet20-12fca82f.th")
    model, x = slimlib.models.pretrained("cifar10/resnet20"), torch.zeros(1, 3, 32, 32)
    layout = slimlib.trace(model, x)
    v, t = sampling.variances(model, layout, layout.slimmable())
    np.testing.assert_allclose(v, V, atol=6e-4)
    np.testing.assert_allclose(t, T, atol=6e-4)
    macs = slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.35, layout=layout)
    params = slimlib.plan_widths(model, x, rule="neyman", keep_params=0.35, layout=layout)
    assert list(macs.widths.values()) == [5, 5, 5, 12, 9, 9, 30, 27, 22]
    assert list(params.widths.values()) == [14, 14, 13, 17, 12, 13, 21, 19, 16]


@pytest.mark.parametrize("name", ["Relu", "Silu", "Gelu", "Tanh"])
def test_activation_moments_equal_simulation(name):
    mean, std = np.array([-1.0, 0.0, 0.7]), np.array([0.5, 1.0, 2.0])
    z = torch.from_numpy(np.random.default_rng(0).normal(mean, std, (400_000, 3)))
    values = moments.ACTIVATIONS[name](z).numpy()
    got = moments.activation_moments(name, mean, std**2)
    np.testing.assert_allclose(got[0], values.mean(0), atol=0.01)
    np.testing.assert_allclose(got[1], values.var(0), rtol=0.02, atol=1e-3)


ACTS = {
    "LeakyReLU": nn.LeakyReLU(0.5), "ReLU6": nn.ReLU6(), "Hardtanh": nn.Hardtanh(-1, 1.5), "ELU": nn.ELU(3.0), "SELU": nn.SELU(),
    "GELU": nn.GELU(), "GELU by tanh": nn.GELU("tanh"), "Softplus": nn.Softplus(3.0), "Softplus, cut": nn.Softplus(1, 0.5),
    "in place": nn.LeakyReLU(0.3, inplace=True), "Tanh": nn.Tanh(), "Mish": nn.Mish(),
}  # fmt: skip


def behind_a_norm(act) -> Net:
    torch.manual_seed(0)
    return lively_norms(Net(lambda m, x: m.head(pooled(m.last(m.b(act(m.norm(m.a(x))))))), a=conv(3, 16),
                            norm=nn.BatchNorm2d(16), b=conv(16, 8), last=nn.BatchNorm2d(8), head=nn.Linear(8, 5)))


@pytest.mark.parametrize("name", ACTS)
def test_an_activation_is_taken_with_its_constants(name):
    """Followed from the BatchNorm to the next layer, against a sample of what the BatchNorm is taken to write."""
    model, act = behind_a_norm(ACTS[name]), ACTS[name]
    layout = slimlib.trace(model, torch.randn(2, 3, 12, 12))
    follow = moments.ChannelMoments(model, layout)
    reader = next(op for op in layout.ops if op.module == "b")
    mean, std = model.norm.bias.detach().double().numpy(), model.norm.weight.detach().abs().double().numpy()
    values = act(torch.from_numpy(np.random.default_rng(0).normal(mean, std, (200_000, 16)))).numpy()
    got = follow(reader.inputs[0])
    np.testing.assert_allclose(got[0], values.mean(0), atol=0.03)
    np.testing.assert_allclose(got[1], values.var(0), rtol=0.1)


@pytest.mark.parametrize("name, act", {
    "a number": lambda x: (x + 3.0).relu(), "a weight": lambda x: torch.add(x, x.relu(), alpha=0.5), "itself": lambda x: x + x,
    "a tensor": lambda x: (x + torch.linspace(-1, 0, 12)).relu(),
}.items())  # fmt: skip
def test_a_sum_that_the_trace_does_not_tell_is_refused(name, act):
    """The graph keeps no trace of what is added, beside the channels of a layer."""
    model, x = behind_a_norm(act), torch.randn(64, 3, 12, 12)
    with pytest.raises(slimlib.SlimlibError, match=r"moments cannot be followed through Add, on the way to b.*calibration="):
        slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.6)
    assert slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.6, calibration=x).keep_macs <= 0.6


def test_an_activation_inside_a_norm_is_taken_with_its_constants():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.LeakyReLU(0.5)

        def forward(self, x):
            return self.act(super().forward(x))

    model = behind_a_norm(lambda x: x)
    norm = NormAct(16)
    norm.load_state_dict(model.norm.state_dict())
    model.norm = norm.eval()
    op = SimpleNamespace(module="norm", kind="NormAct", inputs=(), constants=(), pad=())
    follow = moments.ChannelMoments(model, SimpleNamespace(ops=[op]))
    want = moments.activation_moments("LeakyRelu", norm.bias.detach().double().numpy(),
                                      norm.weight.detach().double().square().numpy(), negative_slope=0.5)
    np.testing.assert_allclose(follow(0), want)


def test_what_cannot_be_followed_is_refused_by_name():
    from tests.conftest import Residual, lively_norms

    torch.manual_seed(0)
    model, x = lively_norms(Residual()), torch.randn(64, 3, 16, 16)
    with pytest.raises(slimlib.SlimlibError, match="calibration"):
        slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.5, coupling="joint")
    plan = slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.5, coupling="joint", calibration=x)
    assert plan.keep_macs <= 0.5


@pytest.mark.parametrize("seed", range(6))
def test_measured_variances_equal_those_of_the_outputs(seed):
    """Only ``back`` meets the stream, through bn2 and its gate; no other reader's output is added to anything."""
    from tests.conftest import Residual, lively_norms

    torch.manual_seed(seed)
    model, x, outputs = lively_norms(Residual()), torch.randn(64, 3, 16, 16), {}
    layout = slimlib.trace(model, x)
    behind = {name: layout.norm_after.get(name, name) for name in ("stem", "inner", "back", "squeeze", "excite", "head")}
    for name, module in behind.items():
        model.get_submodule(module).register_forward_hook(lambda m, a, out, name=name: outputs.update({name: out.detach()}))
    read = measured(model, layout, [name for name in behind if name != "stem"], x)
    stream = outputs.pop("stem").relu()
    gated = outputs.pop("back") * outputs["excite"].sigmoid()
    assert read["back"].total == pytest.approx(summed_variance(gated) + summed_variance(stream), rel=1e-5)
    for name, output in outputs.items():
        assert read[name].total == pytest.approx(summed_variance(output), rel=1e-5), name


def summed_variance(x: torch.Tensor) -> float:
    """Of all channels, over images and positions."""
    return float(x.double().transpose(0, 1).flatten(1).var(1, correction=0).sum())


def test_what_a_residual_output_is_added_to_counts():
    """Measured T of a block's last layer is its own variance and the shortcut's."""
    torch.manual_seed(0)
    model = slimlib.models.build("resnet_small", 10, 1).eval()
    x, seen = torch.randn(32, 1, 28, 28), {}
    block = model.layer1[0]
    block.register_forward_pre_hook(lambda m, a: seen.update(shortcut=a[0].detach()))
    block.bn2.register_forward_hook(lambda m, a, out: seen.update(own=out.detach().clone()))
    layout = slimlib.trace(model, x)
    found = measured(model, layout, ["layer1.0.conv2"], x)["layer1.0.conv2"].total
    want = sum(map(summed_variance, seen.values()))
    assert found == pytest.approx(want, rel=1e-5)


def test_responses_have_the_spectra_of_their_covariance(chain):
    """Also about a mean that is a thousand times the spread."""
    model, x = chain[0], torch.randn(40, *chain[1].shape[1:], generator=torch.Generator().manual_seed(2))
    model[0].bias.data += 1000
    groups = slimlib.trace(model, x[:1]).slimmable()
    found = responses.response_spectra(model, groups, x, batch_size=16)
    with torch.no_grad():
        written = model[0](x).double().movedim(1, 0).flatten(1).numpy()
    want = np.linalg.eigvalsh(np.cov(written, bias=True))[::-1]
    assert np.allclose(found["0"], want, rtol=1e-9)


def test_widths_are_not_read_off_the_rounding_of_a_dead_layer(chain):
    model, x = chain[0], torch.randn(40, *chain[1].shape[1:], generator=torch.Generator().manual_seed(2))
    model[4].weight.data.zero_()
    model[4].bias = nn.Parameter(torch.linspace(0.1, 0.7, 12))
    with pytest.raises(slimlib.SlimlibError, match="4 answers all calibration images alike"):
        slimlib.plan_widths(model, x[:1], keep_macs=0.5, rule="activation_pca", calibration=x)


def test_each_thing_that_an_output_is_added_to_counts_by_itself():
    """One output that is added to two others: T is its variance and that of either."""
    torch.manual_seed(0)

    def forward(m, x):
        h = m.a(x).relu()
        y, one, two = m.b(h), m.c(x), 5 + 3 * m.d(x)  # of other means and variances
        return m.head(pooled(torch.cat([(y + one).relu(), (two + y).relu()], 1)))

    model = Net(forward, a=conv(3, 4), b=conv(4, 6), c=conv(3, 6), d=conv(3, 6), head=nn.Linear(12, 2)).eval()
    x = torch.randn(8, 3, 12, 12)
    with torch.no_grad():
        joined = [model.b(model.a(x).relu()), model.c(x), 5 + 3 * model.d(x)]
    want = sum(map(summed_variance, joined))
    assert measured(model, slimlib.trace(model, x), ["b"], x, batch_size=3)["b"].total == pytest.approx(want, rel=1e-5)


def residual(in_place: bool, relu_first: bool) -> Net:
    """Three blocks on one stream, the second with a shortcut layer; ``relu_first``: before the addition as well."""
    torch.manual_seed(0)

    def block(m, i, stream):
        out = m.norms[2 * i + 1](m.layers[2 * i + 1](F.relu(m.norms[2 * i](m.layers[2 * i](stream)), inplace=in_place)))
        shortcut = m.shortcut_norm(m.shortcut(stream)) if i == 1 else stream
        out = F.relu(out, inplace=in_place) if relu_first else out
        if in_place:
            out += shortcut
            return out.relu_()
        return (out + shortcut).relu()

    def forward(m, x):
        x = F.relu(m.stem_norm(m.stem(x)), inplace=in_place)
        for i in range(3):
            x = block(m, i, x)
        return m.head(pooled(x))

    widths = (8, 12, 8, 12, 8, 12, 8)
    layers = nn.ModuleList(conv(a, b) for a, b in pairwise(widths))
    return lively_norms(Net(forward, stem=conv(3, 8), stem_norm=nn.BatchNorm2d(8), layers=layers,
                            norms=nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:]), shortcut=conv(8, 8),
                            shortcut_norm=nn.BatchNorm2d(8), head=nn.Linear(8, 5)))


def same_measured(one: nn.Module, other: nn.Module, x: torch.Tensor, coupling: str, keep: float = 0.5) -> None:
    """V, T and widths of two networks that compute the same."""
    found = []
    for model in (one, other):
        layout = slimlib.trace(model, x[:1])
        plan = slimlib.plan_widths(model, x[:1], rule="neyman", keep_macs=keep, calibration=x, layout=layout, coupling=coupling)
        found.append((*sampling.variances(model, layout, layout.slimmable(coupling), x), plan.widths))
    for ours, its in zip(*(each[:2] for each in found), strict=True):
        np.testing.assert_allclose(ours, its, rtol=1e-5)
    assert found[0][2] == found[1][2]


@pytest.mark.parametrize("coupling", ["inner", "joint"])
@pytest.mark.parametrize("relu_first", [False, True])
def test_a_network_that_adds_in_place_is_measured_like_one_that_does_not(coupling, relu_first):
    """In place, what a block wrote becomes the stream itself, whose later additions are no longer that block's."""
    models = [residual(in_place, relu_first) for in_place in (True, False)]
    x = torch.randn(16, 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(models[0](x), models[1](x))
    same_measured(*models, x, coupling)


def test_additions_are_told_apart_within_inference_mode():
    """Tensors made there do not count what is done to them in place."""
    model, x = residual(in_place=True, relu_first=False), torch.randn(8, 3, 12, 12)
    layout = slimlib.trace(model, x[:1])
    want = sampling.variances(model, layout, layout.slimmable(), x)
    with torch.inference_mode():
        np.testing.assert_array_equal(sampling.variances(model, layout, layout.slimmable(), x.clone()), want)
    apart = residual(in_place=False, relu_first=False)
    np.testing.assert_allclose(sampling.variances(apart, layout, layout.slimmable(), x), want, rtol=1e-5)


EACH = torch.linspace(-1, 2, 8)  # a scale of each channel


@pytest.mark.parametrize("join, factor", [
    (lambda x, y: torch.add(x, y, alpha=0.5), 0.5), (lambda x, y: torch.add(y, x, alpha=2) / 2, 0.5), (torch.sub, -1),
    (lambda x, y: x.clone().sub_(y, alpha=3), -3), (lambda x, y: -(y - x), -1), (lambda x, y: x + 2 * (y / 3), 2 / 3),
    (lambda x, y: F.dropout(y.contiguous() * EACH.view(8, 1, 1), training=False) + x, EACH),
    (lambda x, y: (x.permute(0, 2, 3, 1) + EACH * y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), EACH),
    (lambda x, y: (x.transpose(1, 2) + y.movedim(2, 1).mul(EACH.view(8, 1))).transpose(1, 2), EACH),
    (lambda x, y: x + y.mul_(0.5), 0.5), (lambda x, y: y.mul_(EACH.view(8, 1, 1)).neg_() + x, -EACH), (lambda x, y: x + -y, -1),
    (lambda x, y: sum([y, x]), 1), (lambda x, y: (y + 0.5) + (x - 0.5), 1), (lambda x, y: torch.add(x, other=y), 1),
    (lambda x, y: (y - EACH.view(1, 8, 1, 1)) / 2 + x + EACH.view(8, 1, 1) / 2, 0.5),
], ids=["alpha", "alpha of the other", "difference", "difference in place", "negative", "numbers", "weights", "last", "moved",
        "scaled in place", "both in place", "negated", "sum", "a number added", "by name", "weights added"])  # fmt: skip
def test_what_scales_a_branch_counts_like_its_norm(join, factor):
    """A branch that is scaled before it joins the stream, and one whose norm has that factor in it, lose the same share."""
    outside, inside = branch(join), branch(torch.add)
    with torch.no_grad():
        inside.norm.weight *= factor
        inside.norm.bias *= factor
        x = torch.randn(16, 3, 12, 12)
        torch.testing.assert_close(outside(x), inside(x))
    lost = []
    for model in (outside, inside):
        layout = slimlib.trace(model, x[:1])
        v, t = sampling.variances(model, layout, tuple(g for g in layout.slimmable("joint") if g.name == "a"), x)
        lost.append(v / t)
    np.testing.assert_allclose(*lost, rtol=1e-5)


def branch(join) -> Net:
    """A stem, and two layers whose output joins it."""
    torch.manual_seed(0)
    return lively_norms(Net(lambda m, x: m.head(pooled(join(m.stem(x), m.norm(m.b(m.a(x).relu()))).relu())), stem=conv(3, 8),
                            a=conv(3, 12), b=conv(12, 8), norm=nn.BatchNorm2d(8), head=nn.Linear(8, 5)))


@pytest.mark.parametrize("by_hand, of_torch", [
    (lambda x, y: x + y * torch.sigmoid(y), lambda x, y: x + F.silu(y)),
    (lambda x, y: x + 1 / (2 + y.square()), lambda x, y: x + (2 + y.square()).reciprocal()),
], ids=["swish", "divisor"])  # fmt: skip
def test_what_is_done_by_hand_counts_as_what_torch_does(by_hand, of_torch):
    """An activation is no scale: behind it the reader's output is not what joins the stream."""
    same_measured(branch(by_hand), branch(of_torch), torch.randn(16, 3, 12, 12), "inner", keep=0.9)


def test_of_two_branches_that_meet_each_is_the_others_stream():
    torch.manual_seed(0)
    model = lively_norms(Net(lambda m, x: m.head(pooled((m.n(m.b(m.a(x))) - 2 * m.o(m.d(m.c(x)))).relu())), a=conv(3, 12),
                             b=conv(12, 8), n=nn.BatchNorm2d(8), c=conv(3, 10), d=conv(10, 8), o=nn.BatchNorm2d(8),
                             head=nn.Linear(8, 5)))  # fmt: skip
    x = torch.randn(16, 3, 12, 12)
    read = measured(model, slimlib.trace(model, x), ["b", "d"], x)
    with torch.no_grad():
        sides = model.n(model.b(model.a(x))), 2 * model.o(model.d(model.c(x)))
    want = sum(map(summed_variance, sides))
    assert [read[name].total for name in "bd"] == pytest.approx([want, want], rel=1e-5)
    assert read["b"].scale == 1 and read["d"].scale == pytest.approx(np.full(8, 2.0), rel=1e-5)


def test_a_reader_without_a_norm_joins_the_stream_as_well():
    """As the last convolution of a block that normalises first; its own part of T is what its inputs bring."""
    torch.manual_seed(0)
    model = lively_norms(Net(lambda m, x: (lambda s: m.head(pooled(s + m.b(m.norm(m.a(s.relu())).relu()))))(m.first(m.stem(x))),
                             stem=conv(3, 8), first=nn.BatchNorm2d(8), a=conv(8, 12), norm=nn.BatchNorm2d(12), b=conv(12, 8),
                             head=nn.Linear(8, 5)))  # fmt: skip
    layout = slimlib.trace(model, torch.randn(2, 3, 12, 12))
    v, t = sampling.variances(model, layout, layout.slimmable())
    assert [g.name for g in layout.slimmable()] == ["a"]
    assert t - v == pytest.approx([float(model.first.weight.detach().double().square().sum())])


@pytest.mark.parametrize("name", ["LeakyReLU", "GELU"])
def test_a_norm_that_holds_its_activation_is_measured_like_one_before_it(name):
    torch.manual_seed(0)
    model = behind_a_norm(ACTS[name])
    x, layout = torch.randn(8, 3, 12, 12), slimlib.trace(model, torch.randn(2, 3, 12, 12))
    want = measured(model, layout, ["b"], x)["b"]
    holds = type("NormAct", (nn.BatchNorm2d,), {"forward": lambda self, x: self.act(nn.BatchNorm2d.forward(self, x))})(8)
    holds.load_state_dict(model.last.state_dict())
    holds.act, model.last = ACTS[name], holds.eval()
    got = measured(model, layout, ["b"], x)["b"]
    assert got.total == pytest.approx(want.total, rel=1e-6)
    np.testing.assert_allclose(got.inputs, want.inputs, rtol=1e-6)


def test_calibration_images_that_say_nothing_are_named(chain):
    model, x = chain[0], torch.randn(4, *chain[1].shape[1:])
    for images, told in ((x[:, :1], r"calibration images, of shape \(1, .*do not pass through the model"),
                         ((255 * x).byte(), r"calibration images, of shape .*torch\.uint8, do not pass"),
                         (x * float("nan"), "calibration images make .* NaN")):
        for rule in ("neyman", "activation_pca"):
            with pytest.raises(slimlib.SlimlibError, match=told):
                slimlib.plan_widths(model, x[:1], rule=rule, keep_macs=0.5, calibration=images)


def test_an_activation_in_a_norm_ends_the_branch_like_one_behind_it():
    """What is added to the stream is what the activation made; T is the variance of what the layer itself wrote."""
    class NormAct(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x))

    def build(norm, act):
        torch.manual_seed(0)
        branch = lambda m, y: act(m.norm(m.b(m.mid(m.a(y)).relu())))  # noqa: E731
        return lively_norms(Net(lambda m, x: m.head(pooled((y := m.first(m.stem(x)).relu()) + branch(m, y))), stem=conv(3, 8),
                                first=nn.BatchNorm2d(8), a=conv(8, 6), mid=nn.BatchNorm2d(6), b=conv(6, 8), norm=norm(8),
                                head=nn.Linear(8, 5)))

    found = []
    for norm, act in ((nn.BatchNorm2d, torch.relu), (NormAct, lambda x: x)):
        model = build(norm, act)
        layout = slimlib.trace(model, torch.randn(2, 3, 12, 12))
        groups = tuple(g for g in layout.groups if g.name == "a")
        found.append(sampling.variances(model, layout, groups))
    np.testing.assert_allclose(found[1], found[0])


def test_a_norm_over_another_axis_than_the_channels_is_not_taken_for_theirs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(16, 4))
    x = torch.randn(8, 7, 12)
    layout = slimlib.trace(lively_norms(model), x)
    assert layout.norm_after == {}
    assert slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.6, calibration=x).keep_macs <= 0.6


def test_a_layer_with_several_rows_a_channel_answers_with_all_of_them():
    torch.manual_seed(0)
    layer, images = nn.Linear(5, 12), torch.randn(64, 5)
    model = nn.Sequential(layer)
    rows = np.arange(12).reshape(4, 3)
    member = Member("0", "out", np.arange(4), rows)
    group = SimpleNamespace(name="0", width=4, writers=lambda: [member])
    found = responses.response_spectra(model, (group,), images)["0"]
    covariance = np.cov(layer(images).detach().double().numpy().T, bias=True)
    want = np.linalg.eigvalsh(sum(covariance[np.ix_(rows[:, i], rows[:, i])] for i in range(3)))[::-1]
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_layers_that_are_called_by_name_are_measured():
    torch.manual_seed(0)
    how = {"a": conv(3, 12), "b": conv(12, 8), "head": nn.Linear(8, 5)}
    by_place = Net(lambda m, x: m.head(pooled(m.b(m.a(x).relu()))), **how)
    by_name = Net(lambda m, x: m.head(input=pooled(m.b(input=m.a(input=x).relu()))), **how)
    same_measured(by_place, by_name, torch.randn(8, 3, 12, 12), "inner")


def test_a_block_of_linear_layers_on_the_last_axis_is_measured_like_one_of_convolutions():
    """As in ConvNeXt: channels are moved to the end and back, and scaled, before they join the stream."""
    def linear(m, x):
        return m.b(F.gelu(m.a(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)

    def network(block, a, b):
        torch.manual_seed(0)
        return Net(lambda m, x: m.head(pooled(stream(m.stem(x), block, m))), stem=conv(3, 8), a=a, b=b, head=nn.Linear(8, 5))

    def stream(x, block, m):
        return x + EACH.view(8, 1, 1) * block(m, x)

    one = network(linear, nn.Linear(8, 12), nn.Linear(12, 8))
    other = network(lambda m, x: m.b(F.gelu(m.a(x))), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1))
    other.load_state_dict({k: v.view(other.state_dict()[k].shape) for k, v in one.state_dict().items()})
    same_measured(one, other, torch.randn(16, 3, 12, 12), "inner", keep=0.7)


def test_a_scaled_branch_is_not_computed_but_measured():
    """How large a gate makes a branch is in no weight; taken by itself, the branch would seem to matter more than it does."""
    from tests.conftest import Residual

    torch.manual_seed(0)
    model, x = lively_norms(Residual()), torch.randn(16, 3, 16, 16)
    with pytest.raises(slimlib.SlimlibError, match=r"cannot be followed through Mul.*calibration="):
        slimlib.plan_widths(model, x[:1], rule="neyman", keep_macs=0.5, skip=["squeeze"])
    slimlib.plan_widths(model, x[:1], rule="neyman", keep_macs=0.5, skip=["squeeze"], calibration=x)


def test_torchvision_resnets_are_measured_as_if_they_added_out_of_place():
    block = import_torchvision().models.resnet.BasicBlock

    class OutOfPlace(block):
        def forward(self, x):
            out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
            return (out + (x if self.downsample is None else self.downsample(x))).relu()

    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(lively_norms(import_torchvision().models.resnet18(weights=None)))
    for module in models[1].modules():
        if isinstance(module, block):
            module.__class__ = OutOfPlace
        elif isinstance(module, nn.ReLU):
            module.inplace = False
    same_measured(*models, torch.randn(4, 3, 64, 64), "joint")


READERS = {
    "convolution": (nn.Conv2d(6, 4, 3), lambda w: w.transpose(0, 1)), "linear": (nn.Linear(6, 4), lambda w: w.T),
    "transposed": (nn.ConvTranspose2d(6, 4, 3), lambda w: w),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), lambda w: torch.cat([w[:2].transpose(0, 1), w[2:].transpose(0, 1)])),
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
def test_what_an_input_brings_is_its_variance_times_its_column(kind):
    layer, by_input = READERS[kind]
    variance = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    want = variance * by_input(layer.weight.detach().double()).flatten(1).square().sum(1).numpy()
    got = sampling._gains(nn.Sequential(layer), SimpleNamespace(norm_after={}), "0", Reading(variance))
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_flattened_channel_brings_all_its_positions(chain):
    """The Linear layer reads 12 channels of 16 positions, one channel after the other."""
    model, x = chain
    layout = slimlib.trace(model, x)
    v, _ = sampling.variances(model, layout, layout.slimmable()[1:2])
    norm = model[5]
    _, variance = moments.activation_moments("Relu", norm.bias.detach().double().numpy(),
                                             norm.weight.detach().double().square().numpy())
    columns = model[9].weight.detach().double().view(10, 12, 16).square().sum((0, 2)).numpy()
    assert v == pytest.approx([(variance * columns).sum()])


def test_losses_of_several_readers_add():
    from tests.conftest import Residual

    torch.manual_seed(0)
    model, x = lively_norms(Residual()), torch.randn(16, 3, 16, 16)
    layout = slimlib.trace(model, x)
    (stream,) = (g for g in layout.slimmable("joint") if g.name == "stem")
    readers = [m for m in stream.members if m.role == "in"]
    read = measured(model, layout, [m.module for m in readers], x)
    brought = [sampling._gains(model, layout, m.module, read[m.module])[m.positions].sum() for m in readers]
    v, t = sampling.variances(model, layout, (stream,), x)
    assert len(readers) > 1 and v == pytest.approx([sum(brought)])
    assert v / t == pytest.approx([sum(b / read[m.module].total for b, m in zip(brought, readers, strict=True))])


def test_variances_are_over_all_axes_but_that_of_the_channels():
    x = 100 + torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    for layer, channels in ((nn.Linear(5, 2), x.flatten(0, 1)), (nn.Conv1d(7, 2, 1), x.transpose(1, 2).flatten(0, 1))):
        tally = ChannelStatistics()
        for part in x.split(2):
            tally.add(part, channel_axis(layer, part))
        np.testing.assert_allclose(tally.variance(), channels.var(0, correction=0).numpy(), rtol=1e-9)
        constant = ChannelStatistics()
        for _ in range(3):
            constant.add(torch.full_like(x[:1], 0.1), channel_axis(layer, x))
        assert (constant.variance() == 0).all(), "exactly, as what does not vary is refused by that"


def test_channels_that_are_joined_or_padded_keep_their_order():
    """Behind a concatenation of two BatchNorms, with zeros before and after as in option A shortcuts."""
    torch.manual_seed(0)
    model = lively_norms(Net(lambda m, x: m.head(pooled(m.c(F.pad(torch.cat([m.one(m.a(x)), m.two(m.b(x))], 1),
                                                                  (0, 0, 0, 0, 1, 3))))),
                             a=conv(3, 4), b=conv(3, 6), one=nn.BatchNorm2d(4), two=nn.BatchNorm2d(6), c=conv(14, 5),
                             head=nn.Linear(5, 2)))  # fmt: skip
    layout = slimlib.trace(model, torch.randn(2, 3, 12, 12))
    follow = moments.ChannelMoments(model, layout)
    mean, variance = follow(next(op for op in layout.ops if op.module == "c").inputs[0])
    norms = (model.one, model.two)
    np.testing.assert_allclose(mean, np.r_[0, *(n.bias.detach().double().numpy() for n in norms), 0, 0, 0])
    np.testing.assert_allclose(variance, np.r_[0, *(n.weight.detach().double().square().numpy() for n in norms), 0, 0, 0])


def test_summands_of_an_addition_add_their_moments():
    """Behind the sum of two BatchNorms and a ReLU, and behind one of three, against a sample of what they are taken to write."""
    def forward(m, x):
        both = m.one(m.a(x)) + m.two(m.b(x))
        return m.head(pooled(m.c(both.relu()) + m.d((m.three(m.e(x)) + both).relu())))

    torch.manual_seed(0)
    norms = {name: nn.BatchNorm2d(8) for name in ("one", "two", "three")}
    model = lively_norms(Net(forward, **norms, **{name: conv(3, 8) for name in "abe"}, c=conv(8, 6), d=conv(8, 6),
                             head=nn.Linear(6, 5)))
    with torch.no_grad():
        for i, norm in enumerate(norms.values()):
            norm.bias.add_(0.4 * i - 0.2)
    layout = slimlib.trace(model, torch.randn(2, 3, 12, 12))
    follow, generator = moments.ChannelMoments(model, layout), np.random.default_rng(0)
    drawn = [generator.normal(n.bias.detach().numpy(), n.weight.detach().abs().numpy(), (200_000, 8)) for n in norms.values()]
    for reader, summands in (("c", drawn[:2]), ("d", drawn)):
        mean, variance = follow(next(op for op in layout.ops if op.module == reader).inputs[0])
        values = np.maximum(sum(summands), 0)
        np.testing.assert_allclose(mean, values.mean(0), atol=0.02)
        np.testing.assert_allclose(variance, values.var(0), rtol=0.03)


def test_a_reader_that_never_varies_is_refused_by_name(chain):
    model, x = chain
    with torch.no_grad():
        model[11].weight.zero_()
    with pytest.raises(slimlib.SlimlibError, match=r"output of 11, which reads 9.*skip=\['9'\]"):
        slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.5, calibration=x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scale_of_a_batchnorm_is_what_it_multiplies_by(dtype):
    norm = lively_norms(nn.BatchNorm2d(6)).to(dtype)
    with torch.no_grad():
        want = norm(torch.ones(1, 6, 1, 1, dtype=dtype)) - norm(torch.zeros(1, 6, 1, 1, dtype=dtype))
    for scale, of in ((batchnorm_scale(norm), dtype), (batchnorm_scale(norm, torch.float64), torch.float64)):
        assert scale.dtype == of and not scale.requires_grad
        torch.testing.assert_close(scale, want.view(6).to(of), rtol=1e-5, atol=1e-6)


def test_looking_at_a_layer_or_at_rescaled_copies_leaves_a_model_in_its_modes(chain):
    """And what they find is of the model in evaluation mode, copies included."""
    model, x = chain
    layout = slimlib.trace(model, x)

    def look():
        found = stratum.stratum(model, layout, layout.slimmable()[0], x)
        return found.total, invariance.widths_under_rescaling(model, x, ["uniform"], 0.5, draws=1)["change"].max()

    want = look()
    model.train()[1].eval()
    modes, mean = [m.training for m in model.modules()], model[5].running_mean.clone()
    assert look() == want and want[1] < 1e-4
    assert [m.training for m in model.modules()] == modes and torch.equal(model[5].running_mean, mean)


def test_a_norm_that_shifts_nothing_has_a_mean_of_zero():
    norm = nn.BatchNorm2d(4, bias=False)
    nn.init.normal_(norm.weight)
    mean, variance = moments.gaussian(norm)
    np.testing.assert_array_equal(mean, np.zeros(4))
    np.testing.assert_allclose(variance, norm.weight.detach().double().square(), rtol=1e-6)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, bias=False), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    plan = slimlib.plan_widths(model.eval(), torch.zeros(1, 3, 12, 12), rule="neyman", keep_macs=0.5)
    assert 1 <= plan.widths["0"] < 8
