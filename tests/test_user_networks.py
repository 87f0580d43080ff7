"""Networks as people write them: each is slimmed exactly, or what stays whole, and why, is said by name."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib._counting import operation_counter
from slimlib.criteria import choose_filters
from slimlib.outputs import tensors_in
from tests.conftest import lively_norms, masking_error
from tests.random_networks import RandomNetwork


class Net(nn.Module):
    """Some layers, and what is done with them."""

    def __init__(self, forward: Callable, **layers):
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.written(self, x)


@dataclass
class Answer:
    logits: torch.Tensor
    note: str = ""


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Running(torch.autograd.Function):
    """A sum that runs over the channels."""

    @staticmethod
    def forward(ctx, x):
        return x.cumsum(1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def two(middle: Callable, **more) -> Net:
    """a, something, b, ReLU, pooling, head: 16 and 8 channels."""
    return Net(lambda m, x: m.head(pooled(m.b(middle(m, m.a(x))).relu())),
               a=conv(3, 16), b=conv(16, 8), head=nn.Linear(8, 5), **more)


def pooled(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


class Plus(nn.Module):
    def forward(self, x):
        return x + 0.1


@pytest.mark.parametrize("batch", [1, 2])
def test_a_constant_where_channels_were_tells_nothing_whatever_the_batch(batch):
    """Of one example a Linear layer reads a single number a channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.Softplus(), Plus(), nn.Linear(16, 12), nn.ELU(), Plus(), nn.Linear(12, 5)).eval()
    groups = slimlib.trace(model, torch.zeros(batch, 20)).groups
    assert [g.reason for g in groups[:2]] == ["", ""]


def test_a_constant_that_ends_at_a_border_tells_nothing():
    torch.manual_seed(0)
    model = two(lambda m, x: F.pad(x + 0.5, (0, 1, 0, 1))).eval()
    assert [g.name for g in slimlib.trace(model, torch.randn(1, 3, 12, 12)).groups if not g.reason] == ["a", "b"]


NOT_MADE = "a tensor that no layer makes"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str], dict[str, str]]] = {
    # name: (network, groups that are slimmed under joint coupling, layer -> why it is whole)
    "one PReLU slope behind all layers": (
        lambda: Net(lambda m, x: m.head(pooled(m.act(m.b(m.act(m.a(x)))))),
                    a=conv(3, 16), b=conv(16, 24), act=nn.PReLU(), head=nn.Linear(24, 5)), {"a", "b"}, {}),
    "PReLU slopes by channel behind all layers": (
        lambda: Net(lambda m, x: m.head(pooled(m.act(m.b(m.act(m.a(x)))))),
                    a=conv(3, 16), b=conv(16, 16), act=nn.PReLU(16), head=nn.Linear(16, 5)), {"a"}, {}),
    "one BatchNorm behind two layers": (
        lambda: Net(lambda m, x: m.head(pooled(m.norm(m.b(m.norm(m.a(x)).relu())).relu())),
                    a=conv(3, 16), b=conv(16, 16), norm=nn.BatchNorm2d(16), head=nn.Linear(16, 5)), {"a"}, {}),
    "a layer that reads what it wrote": (
        lambda: Net(lambda m, x: m.head(pooled(m.b(m.b(m.b(m.a(x).relu()).relu()).relu()))),
                    a=conv(3, 16), b=conv(16, 16), head=nn.Linear(16, 5)), {"a"}, {}),
    "a layer under two names": (
        lambda: (lambda same: Net(lambda m, x: m.head(pooled(m.c(m.b(m.a(x).relu()).relu()))),
                                  a=conv(3, 16), b=same, c=same, head=nn.Linear(16, 5)))(conv(16, 16)), {"a"}, {}),
    "one layer on two inputs": (
        lambda: Net(lambda m, x: m.head(torch.cat([pooled(m.b(m.a(x).relu())), pooled(m.b(m.c(x).relu()))], 1)),
                    a=conv(3, 16), b=conv(16, 24), c=conv(3, 16), head=nn.Linear(48, 5)), {"a", "b"}, {}),
    "tied weights": (
        lambda: tied(nn.Linear(16, 20), nn.Linear(16, 20), nn.Linear(20, 5)), {"c"}, {"a": "a shares its weight with b"}),
    "tied to the transpose": (
        lambda: tied(nn.Linear(16, 20), nn.Linear(20, 16), nn.Linear(16, 5)), {"c"}, {"a": "a shares its weight with b"}),
    "a dict with nothing in it": (
        lambda: Net(lambda m, x: {"out": m.head(pooled(m.a(x).relu())), "aux": None}, a=conv(3, 16), head=nn.Linear(16, 5)),
        {"a"}, {}),
    "a dataclass": (
        lambda: Net(lambda m, x: Answer(m.head(pooled(m.a(x).relu()))), a=conv(3, 16), head=nn.Linear(16, 5)), {"a"}, {}),
    "scores and what was chosen by them": (
        lambda: Net(lambda m, x: (lambda y: (y, y.argmax(1)))(m.head(pooled(m.a(x).relu()))), a=conv(3, 16),
                    head=nn.Linear(16, 5)), {"a"}, {}),
    "two heads": (
        lambda: Net(lambda m, x: (lambda y: (m.head(y), m.second(y)))(pooled(m.a(x).relu())), a=conv(3, 16),
                    head=nn.Linear(16, 5), second=nn.Linear(16, 2)), {"a"}, {}),
    "a gate of one channel": (
        lambda: Net(lambda m, x: m.head(pooled(m.a(x) * torch.sigmoid(m.norm(m.gate(m.b(x).relu()))))), a=conv(3, 16),
                    b=conv(3, 8), gate=nn.Conv2d(8, 1, 1), norm=nn.BatchNorm2d(1), head=nn.Linear(16, 5)),
        {"a", "b"}, {"gate": "a single channel"}),
    "a gate of one channel that comes first": (
        lambda: Net(lambda m, x: m.head(pooled(torch.sigmoid(m.gate(x)) * m.a(x))), gate=conv(3, 1), a=conv(3, 16),
                    head=nn.Linear(16, 5)), {"a"}, {"gate": "a single channel"}),
    "numbers": (lambda: two(lambda m, x: (2 * x - 0.5) / 3 + x * 0.1), {"a", "b"}, {}),
    "a factor of the width": (
        lambda: two(lambda m, x: x * x.shape[1] ** -0.5), {"b"}, {"a": "a number in the operation MulBackward0"}),
    "a divisor of the width": (
        lambda: two(lambda m, x: x / x.shape[1]), {"b"}, {"a": "a number in the operation DivBackward0"}),
    "a factor of the width in a sum": (
        lambda: two(lambda m, x: torch.add(x, x.relu(), alpha=x.shape[1] ** -0.5)), {"b"},
        {"a": "a number in the operation AddBackward0"}),
    "a power of the width": (
        lambda: two(lambda m, x: x.sigmoid() ** (8 / x.shape[1])), {"b"}, {"a": "the operation PowBackward0"}),
    "a power": (lambda: two(lambda m, x: x.relu() ** 2), {"a", "b"}, {}),
    "a summand of the width": (
        lambda: two(lambda m, x: x + x.shape[1] / 16), {"b"}, {"a": "a number in the operation AddBackward0"}),
    "the input before the channels": (
        lambda: Net(lambda m, x: m.head(pooled(m.b(torch.cat([x, m.a(x).relu()], 1)).relu())), a=conv(3, 16), b=conv(19, 8),
                    head=nn.Linear(8, 5)), {"b"}, {"a": NOT_MADE}),
    "the input behind the channels": (
        lambda: Net(lambda m, x: m.head(pooled(m.b(torch.cat([m.a(x).relu(), x], 1)).relu())), a=conv(3, 16), b=conv(19, 8),
                    head=nn.Linear(8, 5)), {"a", "b"}, {}),
    "a change to the input": (
        lambda: Net(lambda m, x: x - m.b(m.a(x).relu()), a=conv(3, 16), b=conv(16, 3)), {"a"}, {"b": "model's output"}),
    "a number for each channel in a buffer": (
        lambda: two(lambda m, x: (x * m.scale).relu(), scale=nn.Buffer(torch.rand(16, 1, 1))), {"b"}, {"a": NOT_MADE}),
    "a number for each channel in a parameter": (
        lambda: two(lambda m, x: (x * m.scale).relu(), scale=nn.Parameter(torch.rand(16, 1, 1))), {"b"}, {"a": "a parameter"}),
    "a constant image": (lambda: two(lambda m, x: (x * torch.linspace(0.5, 1, 12)).relu()), {"a", "b"}, {}),
    "an operation of one's own": (lambda: two(lambda m, x: Squared.apply(x)), {"a", "b"}, {}),
    "one of one's own that mixes": (lambda: two(lambda m, x: Running.apply(x)), {"b"}, {"a": "the operation Running"}),
    "channels in another order": (lambda: two(lambda m, x: x.flip(1).relu()), {"b"}, {"a": "the operation Flip"}),
    "channels picked by a list": (lambda: two(lambda m, x: x[:, [3, 2, 1, 0, *range(4, 16)]].relu()), {"b"}, {"a": "Index"}),
    "a softmax over channels": (lambda: two(lambda m, x: x.softmax(1)), {"b"}, {"a": "the operation Softmax"}),
    "two parts of unequal size": (
        lambda: Net(lambda m, x: m.head(torch.cat([pooled(m.b(part).relu() if part.shape[1] == 4 else m.c(part).relu())
                                                   for part in m.a(x).relu().split([4, 12], 1)], 1)),
                    a=conv(3, 16), b=conv(4, 8), c=conv(12, 6), head=nn.Linear(14, 5)), {"b", "c"}, {"a": "unequal runs"}),
    "a weight used outside its layer": (
        lambda: Net(lambda m, x: m.head(pooled(F.conv2d(m.a(x).relu(), m.b.weight, m.b.bias))), a=conv(3, 16), b=conv(16, 24),
                    head=nn.Linear(24, 5)), set(), {"a": "Convolution", "b": "not called as a module"}),
    "a part without gradients": (
        lambda: two(lambda m, x: x.detach().relu()), {"b"}, {"a": "no gradient reaches it"}),
    "a part computed twice to save memory": (
        lambda: Net(lambda m, x: m.head(pooled(checkpoint(lambda y: m.b(m.a(y).relu()).relu(), x, use_reentrant=False))),
                    a=conv(3, 16), b=conv(16, 24), head=nn.Linear(24, 5)), {"a", "b"}, {}),
    "a layer that is never called": (
        lambda: two(lambda m, x: x.relu(), spare=conv(3, 9)), {"a", "b"}, {"spare": "not called as a module"}),
    "an LSTM": (lambda: recurrent(nn.LSTM), {"b"}, {"a": "recurrent"}),
    "a GRU": (lambda: recurrent(nn.GRU), {"b"}, {"a": "belongs to no layer"}),
    "several devices' wrapper": (lambda: nn.DataParallel(two(lambda m, x: x.relu())), {"module.a", "module.b"}, {}),
}  # fmt: skip


def tied(one: nn.Linear, other: nn.Linear, third: nn.Linear) -> Net:
    other.weight = one.weight if one.weight.shape == other.weight.shape else nn.Parameter(one.weight.t())
    if one.weight is other.weight:  # side by side, added
        return Net(lambda m, x: m.head(m.c(m.a(pixels(x)).relu() + m.b(pixels(x))).relu()), a=one, b=other, c=third,
                   head=nn.Linear(5, 3))
    return Net(lambda m, x: m.head(m.c(m.b(m.a(pixels(x)).relu()).relu()).relu()), a=one, b=other, c=third, head=nn.Linear(5, 3))


def pixels(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :16]


def recurrent(kind: type[nn.RNNBase]) -> Net:
    return Net(lambda m, x: m.head(m.b(m.r(m.a(x[:, 0]).relu())[0][:, -1]).relu()), a=nn.Linear(12, 24),
               r=kind(24, 10, batch_first=True), b=nn.Linear(10, 8), head=nn.Linear(8, 5))


def slimmed_exactly_or_whole(model: nn.Module, x: torch.Tensor, slimmed: set[str], whole: dict[str, str]) -> None:
    """Assert that the groups named are slimmed and answer as the masked network does, and the reasons of those left whole."""
    layout = slimlib.trace(model, x)
    reasons = layout.whole("joint")
    for layer, reason in whole.items():
        assert reason in reasons[layer]
    assert {g.name for g in layout.slimmable("joint")} == slimmed
    if not slimmed:
        return
    path = slimlib.width_path(model, x, rule="uniform", coupling="joint", layout=layout)
    least, most = (path.costs.params(path.widths(step)) for step in (0, len(path) - 1))
    for share in (0.4, 0.75):  # of the way from the narrowest network to the whole one
        plan = path.plan(keep_params=float((least + share * (most - least)) / most))
        slim = slimlib.prune(model, plan).eval()
        assert set(plan.widths) == slimmed and max(plan.kept.values()) < 1
        assert masking_error(model, layout, choose_filters(model, layout, plan.widths), x) < 1e-4
        with operation_counter() as counter:  # torch's own, and it knows an LSTM in float32
            answers = tensors_in(slim(x))
        assert [t.shape for t in answers] == [t.shape for t in tensors_in(model(x))]
        assert counter.get_total_flops() == 2 * len(x) * plan.macs
        assert sum(p.numel() for p in slim.parameters()) == plan.params


@pytest.mark.parametrize("name", NETWORKS)
def test_slimmed_exactly_or_whole_for_a_reason(name):
    build, slimmed, whole = NETWORKS[name]
    torch.manual_seed(0)
    slimmed_exactly_or_whole(lively_norms(build()), torch.randn(2, 3, 12, 12), slimmed, whole)


RELU = lambda m, x: x.relu()  # noqa: E731
REFUSED = {
    "weight_norm": (lambda: two(RELU, spare=parametrizations.weight_norm(conv(3, 4))), "weight of spare is"),
    "spectral_norm": (lambda: two(RELU, spare=parametrizations.spectral_norm(conv(3, 4))), "weight of spare is"),
    "a pruning mask": (lambda: two(RELU, spare=masked(conv(3, 4))), "weight of spare is .* in torch.nn.utils.prune"),
    "a layer without shape": (lambda: two(RELU, spare=nn.LazyConv2d(4, 3)), "no shape yet; run it once on an example first"),
    "only a choice": (lambda: Net(lambda m, x: m.a(x).argmax(1), a=conv(3, 8)), "no tensor that it returns has a gradient"),
    "a compiled script": (lambda: torch.jit.trace(two(RELU).eval(), torch.zeros(2, 3, 12, 12)), "the model is a ScriptModule"),
}


def masked(layer: nn.Conv2d) -> nn.Conv2d:
    return prune.l1_unstructured(layer, "weight", 0.3)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Lazy modules")
def test_refused_by_name_with_the_remedy(name):
    build, told = REFUSED[name]
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.trace(build(), torch.zeros(2, 3, 12, 12))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_remedies_for_computed_weights_work():
    x = torch.zeros(2, 3, 12, 12)
    layers = [parametrizations.weight_norm(conv(3, 4)), masked(conv(3, 4)), weight_norm(conv(3, 4))]
    torch.nn.utils.parametrize.remove_parametrizations(layers[0], "weight")
    prune.remove(layers[1], "weight")
    torch.nn.utils.remove_weight_norm(layers[2])
    for layer in layers:
        assert slimlib.plan_widths(two(lambda m, x: x.relu(), spare=layer), x, keep_macs=0.5).keep_macs <= 0.5


def test_an_example_of_one_colour_hides_no_fault():
    """Without biases, zeros stay zeros in any order of the channels."""
    model = two(lambda m, x: x.flip(1).relu())
    for layer in (model.a, model.b, model.head):
        layer.bias = None
    for example in (torch.zeros(2, 3, 12, 12), torch.randn(2, 3, 12, 12)):
        assert "the operation Flip" in slimlib.trace(model, example).whole("joint")["a"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_taken_for_a_fault(dtype):
    torch.manual_seed(0)
    layers = [part for i in range(6) for part in (conv(32 if i else 3, 32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 144, 20), nn.ReLU(), nn.Linear(20, 5)).to(dtype).eval()
    x = torch.randn(2, 3, 12, 12).to(dtype)
    assert {g.name for g in slimlib.trace(model, x).slimmable()} == {"0", "2", "4", "6", "8", "10", "13"}
    slim = slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.5))
    assert slim(x).dtype == dtype and {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_is_evaluated_in_its_own_type(dtype):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 12, 12, 3), np.uint8)
    data = slimlib.data.from_arrays(pixels, np.arange(40) % 5, pixels, np.arange(40) % 5)
    torch.manual_seed(0)
    model = Net(lambda m, x: m.head(pooled(m.norm(m.a(x)).relu())), a=conv(3, 16), norm=nn.BatchNorm2d(16), head=nn.Linear(16, 5))
    model = model.to(dtype)
    slimlib.calibrate_batchnorm(model, data.train)
    with torch.no_grad():
        right = model.eval()(data.test.normalised().to(dtype)).argmax(1) == data.test.labels
    assert slimlib.evaluate(model, data) == right.double().mean().item()
    assert {p.dtype for p in model.parameters()} == {dtype}


class Tokens(nn.Module):
    """Reads whole numbers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.a, self.b = nn.Embedding(30, 8), nn.Linear(8, 24), nn.Linear(24, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, tokens):
        return self.head(self.b(self.a(self.embedding(tokens)).relu()).relu().mean(1))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_network_that_reads_whole_numbers_goes_through_files(tmp_path, dtype):
    torch.manual_seed(0)
    model, tokens = Tokens().eval(), torch.randint(0, 30, (2, 7), dtype=dtype)
    plan = slimlib.plan_widths(model, tokens, keep_params=0.7)
    slim = slimlib.prune(model, plan)
    plan.save(tmp_path / "plan.json")
    again = slimlib.prune(model, slimlib.WidthPlan.load(tmp_path / "plan.json"))
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    loaded = slimlib.load(tmp_path / "slim.safetensors", Tokens).eval()
    assert torch.equal(again(tokens), slim(tokens)) and torch.equal(loaded(tokens), slim(tokens))
    given = slimlib.plan_from_widths(model, tokens, {"a": 5})
    assert slimlib.prune(model, slimlib.WidthPlan.from_dict(given.to_dict())).a.out_features == 5


def parts() -> nn.Module:
    """10 layers in a row: 0 in a stem of its own."""
    body = [part for i in range(6) for part in (conv(16, 16), nn.ReLU())]
    return nn.Sequential(OrderedDict(stem=nn.Sequential(conv(3, 16), nn.ReLU()), body=nn.Sequential(*body), pool=nn.Flatten(),
                                     head=nn.Linear(16 * 144, 5))).eval()


@pytest.mark.parametrize("skip, left", [
    ("body.10", {"body.10"}), (["body.10"], {"body.10"}), ({"stem"}, {"stem.0"}), ("stem.0", {"stem.0"}),
    (["body", "stem.0"], None), (["body.0", "body.2", "head"], {"body.0", "body.2"}), ((), set()),
])  # fmt: skip
def test_layers_that_are_left_out_are_told(skip, left):
    """A name in one word is one name; a module stands for the layers in it."""
    torch.manual_seed(0)
    model, x = parts(), torch.randn(2, 3, 12, 12)
    if left is None:
        with pytest.raises(slimlib.SlimlibError, match=r"no layer can be slimmed .*left out with skip=\['stem\.0'\]"):
            slimlib.plan_widths(model, x, keep_params=0.9, rule="uniform", skip=skip)
        return
    plan = slimlib.plan_widths(model, x, keep_params=0.9, rule="uniform", skip=skip)
    every = {"stem.0", *(f"body.{i}" for i in range(0, 12, 2))}
    assert set(plan.widths) == every - left and set(plan.whole) == {*left, "head"} and "model's output" in plan.whole["head"]
    assert all(plan.whole[name].startswith("left out with skip=[") for name in left)
    assert slimlib.prune(model, plan)(x).shape == (2, 5)
    assert slimlib.prune(model, slimlib.WidthPlan.from_dict(plan.to_dict()))(x).shape == (2, 5)


def test_a_layer_is_left_out_by_any_of_its_names_and_with_those_that_share_its_width():
    model, x = NETWORKS["a layer under two names"][0](), torch.randn(2, 3, 12, 12)
    shared = Net(lambda m, x: m.head(pooled((m.a(x) + m.b(x)).relu())), a=conv(3, 16), b=conv(3, 16), head=nn.Linear(16, 5))
    with pytest.raises(slimlib.SlimlibError, match="no layer can be slimmed"):
        slimlib.plan_widths(model, x, keep_macs=0.9, coupling="joint", skip="c")
    model = nn.Sequential(conv(3, 3), shared)
    plan = slimlib.plan_widths(model, x, keep_macs=0.9, coupling="joint", rule="uniform", skip="1.b")
    assert set(plan.widths) == {"0"} and plan.whole["1.a"] == plan.whole["1.b"] == "left out with skip=['1.b']"


def test_whole_numbers_may_be_of_numpy():
    model, x = parts(), torch.randn(2, 3, 12, 12)
    plans = [slimlib.plan_widths(model, x, keep_macs=0.7, rule="uniform", min_width=n, round_to=n) for n in (4, np.int64(4))]
    assert plans[0] == plans[1] and slimlib.WidthPlan.from_dict(json.loads(json.dumps(plans[1].to_dict()))) == plans[0]


@pytest.mark.parametrize("name", ["PReLU slopes by channel behind all layers", "one BatchNorm behind two layers",
                                  "a layer that reads what it wrote", "one layer on two inputs"])
def test_neyman_asks_for_images_where_a_module_is_called_again(name):
    torch.manual_seed(0)
    model, x = lively_norms(NETWORKS[name][0]()), torch.randn(8, 3, 12, 12)
    with pytest.raises(slimlib.SlimlibError, match=r"is called [23] times in one pass.*calibration="):
        slimlib.width_path(model, x, rule="neyman", coupling="joint")
    assert len(slimlib.width_path(model, x, rule="neyman", coupling="joint", calibration=x)) > 1


@pytest.mark.parametrize("name", [name for name, (_, slimmed, _) in NETWORKS.items() if slimmed])
def test_every_way_to_fill_the_widths_and_the_way_through_a_file(name, tmp_path):
    build = NETWORKS[name][0]
    torch.manual_seed(0)
    model, x = lively_norms(build()), torch.randn(4, 3, 12, 12)
    layout = slimlib.trace(model, x)
    images = {"calibration": x}
    for rule, options in {"global_l1": {}, "random": {}, "activation_pca": images, "neyman": images}.items():
        path = slimlib.width_path(model, x, rule=rule, coupling="joint", layout=layout, **options)
        least, most = (path.costs.params(path.widths(step)) for step in (0, len(path) - 1))
        plan = path.plan(keep_params=float((least + most) / 2 / sum(p.numel() for p in model.parameters())), fill=True)
        for criterion in ("l2", "gm", "random") if rule == "random" else ("l1",):
            slim = slimlib.prune(model, plan, criterion).eval()
            answers = tensors_in(slim(x))
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    loaded = slimlib.load(tmp_path / "slim.safetensors", build).eval()
    assert all(torch.equal(*pair) for pair in zip(answers, tensors_in(loaded(x)), strict=True))
    if any(isinstance(m, Net) and "scale" in m._parameters for m in model.modules()):
        with pytest.raises(slimlib.SlimlibError, match="no layer draws the parameters scale; pass reset="):
            slimlib.thin(model, plan)
    else:
        assert len(tensors_in(slimlib.thin(model, plan)(x))) == len(answers)


@pytest.mark.parametrize("first", [*range(0, 60, 10), 450])
def test_networks_put_together_at_random_are_slimmed_exactly(first):
    x, slimmed = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), 0
    for seed in range(first, first + 10):
        model = lively_norms(RandomNetwork(seed))
        layout = slimlib.trace(model, x)
        for coupling in ("inner", "joint"):
            path = slimlib.width_path(model, x, rule="random", seed=seed, coupling=coupling, layout=layout)
            least, most = (path.costs.params(path.widths(step)) for step in (0, len(path) - 1))
            dense = sum(p.numel() for p in model.parameters())
            for share in (0.2, 0.7):
                plan = path.plan(keep_params=float((least + share * (most - least)) / dense))
                slim = slimlib.prune(model, plan, criterion="random", seed=seed).eval()
                kept = choose_filters(model, layout, plan.widths, "random", seed)
                assert masking_error(model, layout, kept, x) < 1e-4, (seed, coupling, model.steps)
                with FlopCounterMode(display=False) as counter:
                    slim(x)
                assert counter.get_total_flops() == 2 * len(x) * plan.macs, (seed, coupling, model.steps)
                slimmed += len(plan.widths)
    assert slimmed > 40
