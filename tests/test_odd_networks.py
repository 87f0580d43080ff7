"""Networks that do something unusual with their channels: slimmed exactly, or whole for a reason, and left as they were."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib.criteria import choose_filters
from tests.conftest import lively_norms, masking_error
from tests.test_user_networks import Net, conv, pooled, slimmed_exactly_or_whole, two

IMAGES, TOKENS, SERIES = (2, 3, 12, 12), (2, 7, 12), (2, 4, 16)


class Scaled(nn.BatchNorm2d):
    """A norm with a forward of its own that acts on each channel by itself, as timm's with their activation."""

    def forward(self, x):
        return F.silu(super().forward(x))


class Mixing(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Shifting(nn.BatchNorm2d):
    def __init__(self, width: int):
        super().__init__(width)
        self.shift = nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x):
        return super().forward(x) + self.shift


class Active(nn.Conv2d):
    """A layer with a module in it."""

    def __init__(self, *sizes: int):
        super().__init__(*sizes, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Standardised(nn.Conv2d):
    """Its forward is torch's; what that calls is not."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight, bias).flip(1)


class Frozen(nn.Module):
    """A norm of constant statistics, written out."""

    def __init__(self, width: int):
        super().__init__()
        self.mean, self.var = nn.Buffer(torch.randn(width)), nn.Buffer(torch.rand(width) + 0.5)

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var)


def hooked(model: Net, hook: Callable, name: str = "a") -> Net:
    model.get_submodule(name).register_forward_hook(hook)
    return model


def image_norm(**how) -> nn.InstanceNorm2d:
    """Of 16 channels, no two alike."""
    norm = nn.InstanceNorm2d(16, affine=True, **how)
    for tensor in (*norm.parameters(), *(b for b in norm.buffers() if b.dim())):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def centred(*axes: int) -> Net:
    return Net(lambda m, x: m.c(m.b((lambda h: h - h.mean(axes, keepdim=True))(m.a(x).relu())).relu()),
               a=nn.Linear(12, 20), b=nn.Linear(20, 16), c=nn.Linear(16, 5))


def centred_images(layer: type, axis: int) -> Net:
    return Net(lambda m, x: m.c(m.b((lambda h: h - h.mean(axis, keepdim=True))(m.a(x).relu())).relu()),
               a=layer(4, 20, 1), b=layer(20, 16, 1), c=layer(16, 5, 1))


def attention(product: Callable, value: int = 12) -> Net:
    """One head on tokens."""
    return Net(lambda m, x: (lambda y: m.head((y + m.o(product(m.q(y), m.k(y), m.v(y)))).mean(1)))(m.e(x).relu()),
               e=nn.Linear(12, 16), q=nn.Linear(16, 8), k=nn.Linear(16, 8), v=nn.Linear(16, value), o=nn.Linear(value, 16),
               head=nn.Linear(16, 3))


def written_out(q, k, v):
    return torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v


def in_one(q, k, v):
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


def non_local() -> Net:
    def forward(m, x):
        x = m.stem(x).relu()
        n, _, h, w = x.shape
        a = torch.softmax(m.q(x).flatten(2).transpose(1, 2) @ m.k(x).flatten(2), -1)
        y = (a @ m.v(x).flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, -1, h, w)
        return m.head(pooled(x + m.o(y)))

    return Net(forward, stem=conv(3, 16), q=nn.Conv2d(16, 8, 1), k=nn.Conv2d(16, 8, 1), v=nn.Conv2d(16, 8, 1),
               o=nn.Conv2d(8, 16, 1), head=nn.Linear(16, 4))


def before_the_head(forward: Callable, **more) -> Net:
    return Net(forward, a=conv(3, 16), head=nn.Linear(16, 5), **more)


RELU = lambda m, x: x.relu()  # noqa: E731
OUTPUT, MACS = "model's output", "a product outside Conv and Linear layers"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str], dict[str, str]]] = {
    # name: (network, shape of its input, groups that are slimmed under joint coupling, layer -> why it is whole)
    "a gate over two halves that are joined, called first": (  # both halves hold a's channels: what one loses, so does the other
        lambda: Net(lambda m, x: (lambda g, a: m.head(pooled(torch.cat([a, m.norm(a).relu()], 1) * g)))(
            m.gate(x).sigmoid(), m.a(x).relu()), gate=nn.Conv2d(3, 32, 1), a=conv(3, 16), norm=nn.BatchNorm2d(16),
            head=nn.Linear(32, 5)), IMAGES, set(), {"gate": "meet in one channel", "a": "meet in one channel"}),
    "keys shared by two heads (grouped-query attention)": (
        lambda: Net(lambda m, x: m.head((lambda q, k: F.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(2).mean(1))(
            m.q(x).view(2, 7, 4, 3).transpose(1, 2),
            m.k(x).view(2, 7, 2, 3).transpose(1, 2)[:, :, None].expand(2, 2, 2, 7, 3).reshape(2, 4, 7, 3))),
            q=nn.Linear(12, 12), k=nn.Linear(12, 6), head=nn.Linear(12, 5)), TOKENS, set(), {}),
    "the features are returned too": (
        lambda: before_the_head(lambda m, x: (lambda f: (m.head(f), f))(pooled(m.a(x).relu()))), IMAGES, set(), {"a": OUTPUT}),
    "the map before the norm is returned too": (
        lambda: before_the_head(lambda m, x: (lambda f: (m.head(pooled(m.norm(f).relu())), f))(m.a(x)),
                                norm=nn.BatchNorm2d(16)), IMAGES, set(), {"a": OUTPUT}),
    "one of two maps is returned too": (
        lambda: Net(lambda m, x: (lambda f: {"out": m.head(pooled(m.b(f).relu())), "f": f})(m.a(x).relu()), a=conv(3, 16),
                    b=conv(16, 12), head=nn.Linear(12, 5)), IMAGES, {"b"}, {"a": OUTPUT}),
    "the features are returned without a gradient": (
        lambda: before_the_head(lambda m, x: (lambda f: (m.head(f), f.detach()))(pooled(m.a(x).relu()))), IMAGES, set(),
        {"a": "an output without a gradient, which needs them all: without some, the network answers with other shapes"}),
    "the channel that is largest is returned": (
        lambda: before_the_head(lambda m, x: (lambda f: (m.head(f), f.argmax(1)))(pooled(m.a(x).relu()))), IMAGES, set(),
        {"a": "an output without a gradient"}),
    "attention written out": (
        lambda: attention(written_out), TOKENS, {"e"}, {"q": MACS, "k": MACS, "v": MACS}),
    "attention in one operation": (
        lambda: attention(in_one, 8), TOKENS, {"e"}, dict.fromkeys("qkv", "an attention product")),
    "a non-local block": (non_local, IMAGES, {"stem"}, {"q": MACS, "k": MACS, "v": MACS}),
    "a mean over channels, from the end": (lambda: centred(-1), (3, 12), {"b"}, {"a": "a mean"}),
    "a mean over channels, from the start": (lambda: centred(1), (3, 12), {"b"}, {"a": "a mean"}),
    "a mean over the channels of tokens": (lambda: centred(2), TOKENS, {"b"}, {"a": "needs them all"}),
    "a mean over tokens": (lambda: centred(1), TOKENS, {"a", "b"}, {}),
    "a mean over the channels of a series": (lambda: centred_images(nn.Conv1d, -2), SERIES, {"b"}, {"a": "a mean"}),
    "a mean over the channels of a volume": (lambda: centred_images(nn.Conv3d, -4), (2, 4, 3, 3, 3), {"b"}, {"a": "a mean"}),
    "a mean over a series": (lambda: centred_images(nn.Conv1d, -1), SERIES, {"a", "b"}, {}),
    "pooling that takes the channels for an image": (
        lambda: Net(lambda m, x: m.c(m.b(F.avg_pool2d(m.a(x).relu(), 3, 1, 1)).relu()), a=nn.Linear(12, 20),
                    b=nn.Linear(20, 16), c=nn.Linear(16, 5)), TOKENS, {"b"}, {"a": "the operation AvgPool2D"}),
    "pooling over neighbouring channels": (
        lambda: two(lambda m, x: F.avg_pool3d(x, 3, 1, 1).relu()), IMAGES, {"b"}, {"a": "the operation AvgPool3D"}),
    "a Linear layer along as many places as channels": (
        lambda: nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Conv1d(16, 2, 3)),
        SERIES, set(), {"0": "a Linear layer on the last axis", "2": "a Linear layer on the last axis"}),
    "a Linear layer along more places than channels": (
        lambda: nn.Sequential(nn.Conv1d(4, 16, 3, padding=1), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Conv1d(16, 2, 3)),
        (2, 4, 24), set(), {"0": "a Linear layer on the last axis", "2": "a Linear layer on the last axis"}),
    "a norm of tokens behind a Linear layer": (
        lambda: nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(16, 4)), TOKENS, set(),
        {"0": "a Linear layer on the last axis"}),
    "a norm with a forward of its own": (lambda: two(lambda m, x: m.norm(x), norm=Scaled(16)), IMAGES, {"a", "b"}, {}),
    "a norm that mixes": (lambda: two(lambda m, x: m.norm(x), norm=Mixing(16)), IMAGES, {"b"}, {"a": "a Mixing"}),
    "a norm with a shift": (lambda: two(lambda m, x: m.norm(x), norm=Shifting(16)), IMAGES, {"b"}, {"a": "a Shifting"}),
    "a norm of buffers": (lambda: two(lambda m, x: m.norm(x).relu(), norm=Frozen(16)), IMAGES, {"b"},
                          {"a": "a tensor that no layer makes"}),
    "a convolution whose insides are another": (
        lambda: Net(lambda m, x: m.head(pooled(m.a(x).relu())), a=Standardised(3, 16, 3), head=nn.Linear(16, 5)), IMAGES,
        set(), {"a": "a Standardised"}),
    "a layer with a module in it": (
        lambda: Net(lambda m, x: m.head(pooled(m.b(m.a(x)))), a=Active(3, 16, 3), b=Active(16, 8, 3), head=nn.Linear(8, 5)),
        IMAGES, {"a", "b"}, {}),
    "a norm of each image": (lambda: two(lambda m, x: m.norm(x).relu(), norm=image_norm()), IMAGES, {"a", "b"}, {}),
    "a norm of each image, with statistics": (
        lambda: two(lambda m, x: m.norm(x).relu(), norm=image_norm(track_running_stats=True)), IMAGES, {"a", "b"}, {}),
    "a norm of each image that has no tensors": (
        lambda: two(lambda m, x: m.norm(x).relu(), norm=nn.InstanceNorm2d(16)), IMAGES, {"a", "b"}, {}),
    "a norm of a flattened image": (
        lambda: nn.Sequential(conv(3, 8), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(8 * 144), nn.Linear(8 * 144, 5)), IMAGES,
        {"0"}, {}),
    "a transposed convolution in groups": (
        lambda: two(lambda m, x: m.t(x), t=nn.ConvTranspose2d(16, 16, 3, groups=4)), IMAGES, {"b"},
        dict.fromkeys("at", "a grouped transposed convolution is not followed")),
    "a transposed convolution by channel": (
        lambda: two(lambda m, x: m.t(x), t=nn.ConvTranspose2d(16, 16, 3, groups=16)), IMAGES, {"b"},
        dict.fromkeys("at", "a grouped transposed convolution is not followed")),
    "one filter for two channels": (
        lambda: Net(lambda m, x: m.head(pooled(m.b(m.a(x).relu()))), a=conv(3, 16), b=nn.Conv2d(16, 8, 3, groups=8),
                    head=nn.Linear(8, 5)), IMAGES, set(), dict.fromkeys("ab", "one filter per group of several inputs")),
    "a hook that only looks": (lambda: hooked(two(RELU), lambda module, x, y: None), IMAGES, {"a", "b"}, {}),
    "a hook that doubles": (lambda: hooked(two(RELU), lambda module, x, y: 2 * y), IMAGES, {"a", "b"}, {}),
    "a hook that multiplies each channel": (
        lambda: hooked(two(RELU), lambda module, x, y: y * torch.ones(1, 16, 1, 1)), IMAGES, {"b"}, {"a": "a hook on a"}),
    "a hook that turns the channels around": (
        lambda: hooked(two(RELU), lambda module, x, y: y.flip(1)), IMAGES, {"b"}, {"a": "a hook on a"}),
    "a hook that looks at a norm": (
        lambda: hooked(two(lambda m, x: m.norm(x).relu(), norm=nn.BatchNorm2d(16)), lambda module, x, y: y.flip(1), "norm"),
        IMAGES, {"b"}, {"a": "a hook on norm"}),
    "an activation of zero that is not zero": (
        lambda: nn.Sequential(conv(3, 8), nn.Sigmoid(), nn.Flatten(), nn.Linear(1152, 4)), IMAGES, {"0"}, {}),
    "a number that is added": (
        lambda: Net(lambda m, x: m.head((m.a(x) + 1).exp().flatten(1)), a=conv(3, 8), head=nn.Linear(1152, 4)), IMAGES,
        {"a"}, {}),
    "channels in another order before a head of zeros": (
        lambda: (lambda m: (nn.init.zeros_(m.head.weight), m)[1])(two(lambda m, x: x.relu().flip(1))), IMAGES, {"b"},
        {"a": "the operation Flip"}),
    "channels in another order behind a tiny scale": (
        lambda: (lambda m: (nn.init.constant_(m.norm.weight, 1e-6), m)[1])(
            Net(lambda m, x: m.head(pooled(m.stem(x) + m.norm(m.b(m.a(x).relu().flip(1))))), stem=conv(3, 8), a=conv(3, 16),
                b=conv(16, 8), norm=nn.BatchNorm2d(8), head=nn.Linear(8, 5))), IMAGES, {"stem"}, {"a": "the operation Flip"}),
    "a parameter of whole numbers": (
        lambda: two(RELU, places=nn.Parameter(torch.arange(4), requires_grad=False)), IMAGES, {"a", "b"}, {}),
    "features that are kept": (
        lambda: Net(lambda m, x: m.head(pooled(kept(m, m.b(m.a(x).relu()).relu()))), a=conv(3, 16), b=conv(16, 8),
                    head=nn.Linear(8, 5), maps=[]), IMAGES, {"a", "b"}, {}),
    "features that are kept, to be probed": (
        lambda: Net(lambda m, x: m.head(kept(m, F.adaptive_avg_pool2d(m.a(x).relu(), 2)).flatten(1)), a=conv(3, 16),
                    head=nn.Linear(64, 5), maps=[]), IMAGES, {"a"}, {}),
}  # fmt: skip


def kept(model: Net, features: torch.Tensor) -> torch.Tensor:
    """As for a heat map: in an attribute, and in a list."""
    model.features = features
    model.maps.append(features)
    return features


def built(name: str) -> tuple[nn.Module, torch.Tensor, set[str], dict[str, str]]:
    build, shape, slimmed, whole = NETWORKS[name]
    torch.manual_seed(0)
    model = build()
    if "tiny" not in name:
        lively_norms(model)
    return model.eval(), torch.randn(shape), slimmed, whole


@pytest.mark.parametrize("name", NETWORKS)
def test_slimmed_exactly_or_whole_for_a_reason(name):
    slimmed_exactly_or_whole(*built(name))


@pytest.mark.parametrize("name", ["features that are kept", "features that are kept, to be probed"])
def test_a_model_that_keeps_its_features_is_left_as_it_was(name):
    model, x, slimmed, _ = built(name)
    attributes = set(vars(model))
    plan = slimlib.plan_widths(model, x, keep_params=0.7, coupling="joint")
    assert set(plan.widths) == slimmed
    assert set(vars(model)) == attributes and model.maps == []
    assert slimlib.prune(model, plan)(x).shape == (2, 5)
    model(x)  # by its owner, with gradients: what is kept then is his, and is in no one's way
    features = model.features
    assert slimlib.trace(model, x).slimmable("joint")
    assert model.features is features and len(model.maps) == 1 and model.maps[0] is features
    slim = slimlib.prune(model, plan)
    assert slim.features.grad_fn is None and torch.equal(slim.features, features) and features.grad_fn is not None


def test_what_a_hook_kept_is_taken_off_again():
    model, x = two(RELU).eval(), torch.randn(IMAGES)
    model.a.register_forward_hook(lambda module, inputs, output: setattr(module, "seen", output))
    model.b.register_forward_hook(lambda module, inputs, output: setattr(model, "seen", output))
    assert {g.name for g in slimlib.trace(model, x).slimmable()} == {"a", "b"}
    assert "seen" not in vars(model.a) | vars(model)
    copy.deepcopy(model)


class Needy(nn.Module):
    """Raises, after its first layer."""

    def __init__(self, error: BaseException):
        super().__init__()
        self.a, self.error = conv(3, 8), error

    def forward(self, x):
        self.a(x)
        raise self.error


@pytest.mark.parametrize("error", [AssertionError("four channels are needed"), AttributeError("images\nof two lines"),
                                   KeyError("image"), NotImplementedError(), ValueError(), ZeroDivisionError("by zero")],
                         ids=lambda error: type(error).__name__)  # fmt: skip
def test_whatever_a_forward_pass_raises_is_told_and_no_hook_stays(error):
    model, told = Needy(error), str(error).splitlines()[0] if str(error) else type(error).__name__
    with pytest.raises(slimlib.SlimlibError, match=f"example_input of shape .* does not pass through the model: {told}; give"):
        slimlib.trace(model, torch.randn(IMAGES))
    assert not any(module._forward_hooks for module in model.modules())


def test_no_hook_stays_where_the_user_breaks_off():
    model = Needy(KeyboardInterrupt())
    model.a.register_forward_hook(print_nothing)
    with pytest.raises(KeyboardInterrupt):
        slimlib.trace(model, torch.randn(IMAGES))
    assert list(model.a._forward_hooks.values()) == [print_nothing] and not model._forward_hooks
    pickle.dumps(model.a)


class Exact(nn.Module):
    """Doubtful, as it mixes channels; and where it is thin, its own code raises what it is told."""

    def __init__(self, error: BaseException | None = None):
        super().__init__()
        self.a, self.b, self.error = conv(3, 8), conv(8, 5), error

    def forward(self, x):
        x = self.a(x)
        if x.shape[1] != 8:
            raise self.error
        return self.b(torch.fft.fft(x, dim=1).real)


def test_what_a_thin_network_raises_is_a_property_of_it():
    (reason,) = {g.reason for g in slimlib.trace(Exact(AssertionError("eight channels")), torch.randn(IMAGES)).groups
                 if g.name == "a"}
    assert "without some, the network does not run" in reason


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   torch.AcceleratorError("an illegal memory access", 700)],
                         ids=["memory of a GPU", "memory of the host", "a fault of a GPU"])  # fmt: skip
def test_what_fails_in_the_machine_is_no_property_of_the_network(error):
    with pytest.raises(type(error)):
        slimlib.trace(Exact(error), torch.randn(IMAGES))
    with pytest.raises(type(error)):
        slimlib.trace(Needy(error), torch.randn(IMAGES))


@pytest.mark.parametrize("function", ["cut", "masked"])
def test_a_fault_of_slimlib_is_no_property_of_the_network(function, monkeypatch):
    def fails(model, layout, keep):
        raise AssertionError("a fault of slimlib")

    monkeypatch.setattr(f"slimlib._probing.{function}", fails)
    with pytest.raises(AssertionError, match="a fault of slimlib"):
        slimlib.trace(Exact(), torch.randn(IMAGES))


def print_nothing(module, inputs, output):
    """A hook that can be pickled."""


@pytest.mark.parametrize("example", [torch.zeros(0, 3, 12, 12), torch.tensor(1.0)], ids=["no example", "a number"])
def test_an_example_that_is_none_is_refused(example):
    with pytest.raises(slimlib.SlimlibError, match=r"example_input of shape \(.*\) holds no example; give one batch"):
        slimlib.trace(two(RELU), example)


@pytest.mark.parametrize("network,shape", [
    (lambda: nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5)), (12,)),
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)), (3, 12, 12)),
    (lambda: Net(lambda m, x: m.b(m.a(x.flatten()).relu()), a=nn.Linear(12, 24), b=nn.Linear(24, 5)), (3, 4)),
], ids=["a vector", "an image", "a flattened image"])  # fmt: skip
def test_one_example_without_a_batch_is_refused(network, shape):
    with pytest.raises(slimlib.SlimlibError, match=r"is taken for one example by [0a]; give one batch, batch first"):
        slimlib.trace(network(), torch.randn(shape))


def test_a_model_that_takes_the_examples_one_by_one():
    model = Net(lambda m, x: torch.stack([m.b(m.a(one).relu()) for one in x]), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 5, 3))
    plan = slimlib.plan_widths(model, torch.randn(IMAGES), keep_macs=0.5)
    with FlopCounterMode(display=False) as counter:
        slimlib.prune(model, plan)(torch.randn(IMAGES))
    assert counter.get_total_flops() == 2 * 2 * plan.macs


def test_inference_mode_is_named_with_its_remedy():
    with torch.inference_mode():
        model = two(RELU)
    with pytest.raises(slimlib.SlimlibError, match=r"a.weight was made within torch.inference_mode\(\); give copy.deepcopy"):
        slimlib.trace(model, torch.randn(IMAGES))
    model = copy.deepcopy(model)
    assert slimlib.trace(model, torch.randn(IMAGES)).slimmable()
    with torch.inference_mode(), pytest.raises(slimlib.SlimlibError, match=r"inference_mode\(\); call this outside it"):
        slimlib.trace(model, torch.randn(IMAGES))


def test_a_quantised_layer_is_refused():
    model = two(RELU)
    model.a.weight = nn.Parameter(torch.zeros(16, 3, 3, 3, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(slimlib.SlimlibError, match=r"the weight of a is of torch\.uint8; give the model as it was before"):
        slimlib.trace(model, torch.randn(IMAGES))


@pytest.mark.parametrize("make,size,inputs", [
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), IMAGES, 3),
    (lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), TOKENS, 12),
], ids=["convolution", "linear layer"])  # fmt: skip
def test_a_layer_cut_by_hand_must_say_so(make, size, inputs):
    model = make()
    for name, value in model[0].named_parameters():
        setattr(model[0], name, nn.Parameter(value.detach()[:5]))
    model[2].weight = nn.Parameter(model[2].weight.detach()[:, :5])
    assert model(torch.randn(size)) is not None, "torch does not mind"
    told = f"the weight of 0 has 5 filters on {inputs} inputs, but the layer says 8 on {inputs}; let it say what its weight has"
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.trace(model, torch.randn(size))
    model[0].__dict__["out_channels" if len(size) == 4 else "out_features"] = 5
    with pytest.raises(slimlib.SlimlibError, match="the weight of 2 has 4 filters on 5 inputs, but the layer says 4 on 8"):
        slimlib.trace(model, torch.randn(size))
    model[2].__dict__["in_channels" if len(size) == 4 else "in_features"] = 5
    assert slimlib.trace(model, torch.randn(size)).slimmable()[0].width == 5


@pytest.mark.parametrize("activation,told", [
    (nn.LeakyReLU(0.25), {"negative_slope": 0.25}), (nn.Hardtanh(-1, 1), {"min_val": -1, "max_val": 1}),
    (nn.ELU(3.0), {"alpha": 3.0}), (nn.GELU("tanh"), {"approximate": "tanh"}), (nn.Softplus(2.0, 5.0), {"beta": 2.0}),
], ids=["leaky ReLU", "hard tanh", "ELU", "GELU", "softplus"])  # fmt: skip
def test_the_constants_of_an_activation_are_read(activation, told):
    ops = slimlib.trace(two(lambda m, x: activation(x)), torch.randn(IMAGES)).ops
    (found,) = [dict(op.constants) for op in ops if op.kind.casefold().startswith(type(activation).__name__.casefold())]
    assert told.items() <= found.items()


def test_a_zero_that_a_sigmoid_makes_a_half_is_read_nowhere():
    """The masked network is the thin one at full width, whatever the activation makes of a zero."""
    torch.manual_seed(0)
    model = Net(lambda m, x: m.head(pooled(m.c(m.b(m.a(x).sigmoid()).exp()))), a=conv(3, 12), b=nn.Conv2d(12, 8, 3, groups=2),
                c=nn.ConvTranspose2d(8, 6, 3), head=nn.Linear(6, 5))
    x = torch.randn(IMAGES)
    layout = slimlib.trace(model, x)
    plan = slimlib.plan_from_widths(model, x, {"a": 6, "b": 4}, layout=layout)
    assert masking_error(model, layout, choose_filters(model, layout, plan.widths), x) < 1e-6


def test_what_a_model_counts_while_it_runs_is_put_back():
    def forward(m, x):
        m.calls += 1
        m.mean = 0.9 * m.mean + 0.1 * x.mean()
        return m.head(pooled(m.a(x).relu()) + m.mean)

    model = before_the_head(forward)
    model.register_buffer("calls", torch.tensor(0))
    model.register_buffer("mean", torch.tensor(1.0))
    before = model.mean
    slimlib.plan_widths(model.eval(), torch.randn(IMAGES), keep_macs=0.5)
    assert model.calls == 0 and model.mean is before and before == 1


ADDS, MOVES = "a padding that adds channels", "removing channels is not the same as zeroing them"
PADDINGS = {
    # channels by the number of axes; what is put on the others moves none
    "the only axis": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.ConstantPad1d((2, 0), 1.0), nn.Linear(10, 3)),
                      (4, 6), ADDS),
    "channels of a series": (lambda: nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.ConstantPad2d((0, 0, 2, 0), 1.0),
                                                   nn.Conv1d(10, 2, 3)), SERIES, ADDS),
    "places of a series": (lambda: nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.ConstantPad1d((2, 1), 1.0),
                                                 nn.Conv1d(8, 2, 3)), SERIES, ""),
    "channels of tokens": (lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.ConstantPad1d((2, 0), 1.0), nn.Linear(10, 3)),
                           TOKENS, MOVES),
    "the last of four axes": (lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.ConstantPad1d((2, 0), 1.0), nn.Linear(10, 3)),
                              (2, 5, 5, 12), MOVES),
    "every side of a volume": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.ConstantPad3d(1, 1.0), nn.Conv3d(8, 2, 3)),
                               (2, 3, 6, 6, 6), ""),
    "channels of a volume": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), Padded((0,) * 6 + (2, 0)), nn.Conv3d(10, 2, 3)),
                             (2, 3, 6, 6, 6), ADDS),
}


class Padded(nn.Module):
    def __init__(self, amounts: tuple[int, ...]):
        super().__init__()
        self.amounts = amounts

    def forward(self, x):
        return F.pad(x, self.amounts)


@pytest.mark.parametrize("name", PADDINGS)
def test_a_padding_before_the_channels_leaves_them_whole_and_others_do_not(name):
    build, shape, why = PADDINGS[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    slimmed_exactly_or_whole(model, x, set() if why else {"0"}, {"0": why} if why else {})


def test_a_plan_from_a_file_is_traced_in_the_type_of_the_layers():
    """Other parameters may come first and be of another."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).double()
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    x = torch.randn(IMAGES, dtype=torch.float64)
    plan = slimlib.plan_widths(model, x, keep_macs=0.6)
    kept = slimlib.prune(model, slimlib.WidthPlan.from_dict(plan.to_dict()))
    assert kept[0].out_channels == plan.widths["0"]


def test_a_buffer_with_nan_in_it_is_not_written_to():
    """That would raise its version, and a backward pass that still needs it would fail."""
    model = Net(lambda m, x: m.head(pooled(m.a(x))) * m.missing.nan_to_num(1.0), a=conv(3, 8), head=nn.Linear(8, 5))
    model.register_buffer("missing", torch.tensor([1.0, torch.nan, 2.0, 3.0, 4.0]))
    answer = (model(torch.randn(IMAGES)) * model.missing).sum()
    slimlib.trace(model, torch.randn(IMAGES))
    answer.backward()
