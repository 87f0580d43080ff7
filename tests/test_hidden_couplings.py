"""What the traced graph does not show, or shows wrongly: such layers are slimmed exactly or stay whole."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib
from slimlib import data, sampling
from slimlib.criteria import choose_filters
from slimlib.cutting import cut
from slimlib.masking import difference
from slimlib.tracing import given_or_traced
from tests.conftest import lively_norms
from tests.random_networks import RandomNetwork
from tests.test_user_networks import Net, conv, pooled, slimmed_exactly_or_whole


def two(middle, width=16, reads=None):
    torch.manual_seed(0)
    return Net(lambda m, x: m.c(pooled(m.b(middle(m.a(x))).relu())), a=conv(3, width), b=conv(reads or width, 8),
               c=nn.Linear(8, 5)).eval()  # fmt: skip


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def labelled(x):
    """As images of a data set, of which all are of the first class."""
    pixels = (255 * x.sigmoid()).to(torch.uint8).contiguous(memory_format=torch.channels_last)
    return data.Split(pixels, torch.zeros(len(x), dtype=torch.int64), mean=(0.5,) * 3, std=(0.5,) * 3)


def over_time(middle):
    torch.manual_seed(0)
    return Net(lambda m, x: m.c(m.b(middle(m.a(x).relu())).relu().mean(2)), a=nn.Conv1d(4, 16, 3, padding=1),
               b=nn.Conv1d(16, 8, 3), c=nn.Linear(8, 5)).eval()  # fmt: skip


def rows(middle, reads=16):
    torch.manual_seed(0)
    return Net(lambda m, x: m.c(m.b(middle(m.a(x).relu())).relu()), a=nn.Linear(10, 16), b=nn.Linear(reads, 8),
               c=nn.Linear(8, 5)).eval()  # fmt: skip


# ---- slices


@pytest.mark.parametrize("crop", [lambda x: x[:, :, -4:], lambda x: x[:, :, 2:], lambda x: x[:, :, 1:-1], lambda x: x[:, :, ::2]])
def test_a_crop_in_time_takes_no_channel(crop):
    slimmed_exactly_or_whole(over_time(crop), images(2, 4, 20), {"a", "b"}, {})


def test_a_slice_of_the_batch_takes_no_channel():
    model, x = rows(lambda h: h[-2:]), images(4, 10)
    layout = slimlib.trace(model, x)
    assert {g.name for g in layout.slimmable()} == {"a", "b"}
    plan = slimlib.plan_widths(model, x, keep_params=0.5, layout=layout)
    assert slimlib.prune(model, plan)(x).shape == (2, 5)


@pytest.mark.parametrize("start", [-8, 8])
@pytest.mark.parametrize(("make", "x"), [(two, images(2, 3, 12, 12)), (rows, images(4, 10))])
def test_a_slice_of_channels_counted_from_either_end_leaves_them_whole(make, x, start):
    slimmed_exactly_or_whole(make(lambda h: h[:, start:], reads=8), x, {"b"}, {"a": "a slice"})


@pytest.mark.parametrize("one", [slice(-1, None), slice(15, None), slice(1, 2)])
def test_one_channel_that_gates_the_rest_leaves_them_whole(one):
    layout = slimlib.trace(two(lambda h: h.relu() * h[:, one].sigmoid()), images(2, 3, 12, 12))
    assert {g.name for g in layout.slimmable()} == {"b"} and layout.whole()["a"]


@pytest.mark.parametrize("width", [8, 16, 32, 34])
def test_the_last_channel_may_be_read_by_its_place(width):
    model = two(lambda h: h.relu() * h[:, -1].sigmoid()[:, None], width)
    slimmed_exactly_or_whole(model, images(2, 3, 12, 12), {"b"}, {"a": "not the same as zeroing"})


def test_every_second_channel_is_another_one_when_some_are_gone():
    slimmed_exactly_or_whole(two(lambda h: h[:, ::2], reads=8), images(2, 3, 12, 12), {"b"}, {"a": "in steps"})


def test_moments_do_not_pass_through_a_slice_of_channels():
    """Eight of sixteen channels, pooled to two places each, are sixteen inputs: as many as there were channels."""
    torch.manual_seed(0)
    model = Net(lambda m, x: m.d(F.adaptive_avg_pool2d(m.n(m.a(x)).relu()[:, :8], (1, 2)).flatten(1)), a=conv(3, 16),
                n=nn.BatchNorm2d(16), d=nn.Linear(16, 5)).eval()  # fmt: skip
    layout = slimlib.trace(model, images(2, 3, 12, 12))
    with pytest.raises(slimlib.SlimlibError, match="moments cannot be followed through Slice"):
        sampling.variances(model, layout, tuple(g for g in layout.groups if g.name == "a"))


@pytest.mark.parametrize("crop", [lambda m, h: m.n(h)[:, :, :-4].relu(), lambda m, h: m.n(h).relu()[:, :, 2:].sigmoid(),
                                  lambda m, h: (m.n(h)[:, :, 4:] + m.d(h)[:, :, :-4]).relu()])
def test_a_crop_in_time_that_no_layer_reads_or_writes_takes_no_channel(crop):
    torch.manual_seed(0)
    model = lively_norms(Net(lambda m, x: m.c(m.b(crop(m, m.a(x))).relu().mean(2)), a=nn.Conv1d(4, 32, 3, padding=1),
                             n=nn.BatchNorm1d(32), d=nn.Conv1d(32, 32, 1), b=nn.Conv1d(32, 8, 3), c=nn.Linear(8, 5)))  # fmt: skip
    assert {"a", "b"} <= {g.name for g in slimlib.trace(model, images(2, 4, 20)).slimmable("joint")}


def test_moments_pass_through_a_slice_of_the_batch():
    torch.manual_seed(0)
    model = lively_norms(Net(lambda m, x: m.c(pooled(m.b(m.n(m.a(x)).relu()[-2:]).relu())), a=conv(3, 16), n=nn.BatchNorm2d(16),
                             b=conv(16, 8), c=nn.Linear(8, 5)))  # fmt: skip
    layout = slimlib.trace(model, images(4, 3, 8, 8))
    v, _ = sampling.variances(model, layout, tuple(g for g in layout.groups if g.name == "a"))
    assert v > 0


def test_what_stands_beside_a_layer_in_a_concatenation_does_not_bind_it():
    torch.manual_seed(0)
    model = Net(lambda m, x: m.c(m.b(torch.cat([m.norm(m.d(x)), m.a(x)], 1)).relu().mean((2, 3))), a=conv(3, 16), d=conv(3, 8),
                norm=nn.GroupNorm(2, 8), b=conv(24, 8), c=nn.Linear(8, 5)).eval()  # fmt: skip
    slimmed_exactly_or_whole(model, images(2, 3, 12, 12), {"a", "b"}, {"d": "GroupNorm"})


def test_a_slice_within_a_gradient_is_passed():
    """A force field: the answer is the gradient of an energy, whose graph has the backward passes of its operations."""
    def forward(m, x):
        x = x.requires_grad_()
        energy = m.c(m.a(x[:, 2:]).tanh()).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    torch.manual_seed(0)
    model = Net(forward, a=nn.Linear(8, 16), c=nn.Linear(16, 1)).eval()
    assert slimlib.trace(model, images(4, 10)).whole()


# ---- what autograd's graph does not show


def test_features_that_are_read_without_their_gradient_are_read():
    torch.manual_seed(0)
    model = Net(lambda m, x: (lambda h: (m.c(pooled(m.b(h).relu())), m.d(pooled(h.detach()))))(m.a(x).relu()), a=conv(3, 16),
                b=conv(16, 8), c=nn.Linear(8, 5), d=nn.Linear(16, 5)).eval()  # fmt: skip
    slimmed_exactly_or_whole(model, images(2, 3, 12, 12), {"b"}, {"a": "without gradients"})


def test_a_layer_under_no_grad_is_not_said_to_be_never_called():
    def forward(m, x):
        with torch.no_grad():
            h = m.a(x).relu()
        return m.c(pooled(m.b(h).relu()))

    torch.manual_seed(0)
    model = Net(forward, a=conv(3, 16), b=conv(16, 8), c=nn.Linear(8, 5)).eval()
    slimmed_exactly_or_whole(model, images(2, 3, 12, 12), {"b"}, {"a": "no gradient reaches it"})


def test_a_weight_that_decodes_as_well_ties_its_layer():
    torch.manual_seed(0)
    model = Net(lambda m, x: m.c(F.linear(m.b(m.a(x).relu()).relu(), m.b.weight.t()).relu()), a=nn.Linear(20, 32),
                b=nn.Linear(32, 12), c=nn.Linear(32, 5)).eval()  # fmt: skip
    layout = slimlib.trace(model, images(4, 20))
    assert not layout.slimmable() and all("weight of b elsewhere" in layout.whole()[name] for name in "ab")


def test_an_autoencoder_of_tied_weights_keeps_the_multiply_adds_that_plans_do_not_count():
    torch.manual_seed(0)
    model = Net(lambda m, x: F.linear(F.linear(m.b(m.a(x).relu()).relu(), m.b.weight.t()).relu(), m.a.weight.t()),
                a=nn.Linear(20, 32), b=nn.Linear(32, 12)).eval()  # fmt: skip
    assert not slimlib.trace(model, images(4, 20)).slimmable()


def test_a_layer_that_is_called_twice_is_not_taken_for_one_read_elsewhere():
    torch.manual_seed(0)
    model = Net(lambda m, x: m.c(pooled(m.b(m.b(m.a(x)).relu()).relu())), a=conv(3, 8), b=conv(8, 8), c=nn.Linear(8, 5)).eval()
    slimmed_exactly_or_whole(model, images(2, 3, 12, 12), {"a"}, {})


def test_a_number_may_come_as_a_tensor():
    model = two(lambda h: h * torch.tensor(h.shape[1] ** -0.5))
    slimmed_exactly_or_whole(model, images(2, 3, 12, 12), {"b"}, {"a": "a number in the operation Mul"})


# ---- activations that write over what they are given


@pytest.mark.parametrize("act", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("affine", [True, False])
def test_an_activation_in_place_behind_an_instance_norm_is_one_beside_it(act, affine):
    def network(in_place):
        torch.manual_seed(0)
        layers = [conv(3, 16), nn.InstanceNorm2d(16, affine=affine), act(inplace=in_place), conv(16, 8)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()

    slimmed_exactly_or_whole(network(False), images(2, 3, 12, 12), {"0", "3"}, {})
    slimmed_exactly_or_whole(network(True), images(2, 3, 12, 12), {"0", "3"}, {})


def test_an_activation_in_place_on_tokens_is_one_beside_them():
    torch.manual_seed(0)
    acts = [nn.ReLU(inplace=True) for _ in range(2)]
    model = nn.Sequential(nn.Linear(10, 16), acts[0], nn.Linear(16, 8), acts[1], nn.Linear(8, 5)).eval()
    slimmed_exactly_or_whole(model, images(4, 7, 10), {"0", "2"}, {})


def test_one_slope_for_all_channels_says_nothing_of_how_many_there_are():
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 8), nn.PReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 6), nn.ReLU(), nn.Linear(6, 3))
    slimmed_exactly_or_whole(model.eval(), images(2, 3, 12, 12), {"0", "4"}, {})


def test_groups_of_one_name_are_not_cut_for_one_another():
    """A group is named after the first layer that writes it, and parts of one layer may be groups of their own."""
    assert slimlib.trace(RandomNetwork(356).eval(), images(2, 3, 8, 8)).groups, "which has such, and is probed"
    model, x = two(torch.relu), images(2, 3, 12, 12)
    layout = slimlib.trace(model, x)
    first, second, *_ = layout.groups
    same_name = replace(layout, groups=(first, replace(second, name=first.name, reason="it stays whole")))
    widths = {first.name: 5}
    keep = choose_filters(model, same_name, widths)
    assert keep[first.name].tolist() == choose_filters(model, layout, widths)[first.name].tolist()
    assert cut(model, same_name, keep).b.out_channels == model.b.out_channels


# ---- probing


def pixel_norm(h):
    return h.relu() * torch.rsqrt(h.relu().square().mean(1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("forbidden", [-1e9, -torch.inf])
@pytest.mark.parametrize(("middle", "slimmed"), [(pixel_norm, {"inner.b"}), (lambda h: h.relu().flip(2), {"inner.a", "inner.b"})])
def test_a_mask_over_the_answers_hides_no_fault_and_makes_none(forbidden, middle, slimmed):
    mask = torch.tensor([False, False, True, False, True])
    model = Net(lambda m, x: m.inner(x).masked_fill(mask, forbidden), inner=two(middle)).eval()
    assert {g.name for g in slimlib.trace(model, images(2, 3, 12, 12)).slimmable()} == slimmed


def test_differences_are_judged_by_what_varies():
    want, other = torch.tensor([[1.0, -1e9, -torch.inf]]), torch.tensor([[2.0, -1e9, -torch.inf]])
    got = want.clone()
    assert difference([got], [want], [other]) == 0
    got[0, 0] = 1.5
    assert difference([got], [want], [other]) == pytest.approx(0.5)
    assert difference([got], [want]) < 1e-8, "without another input the largest number is the scale"
    assert difference([got], [want], [other, other]) < 1e-8, "nor where the other answers are others in number"


def test_a_gate_that_is_shut_is_opened_to_look_behind_it():
    def forward(m, x):
        h = m.a(x).relu()
        return m.c(pooled(x.mean(1, keepdim=True) + m.gamma * m.b(h / (h.mean(1, keepdim=True) + 0.1))))

    torch.manual_seed(0)
    model = Net(forward, a=conv(3, 16), b=conv(16, 8), c=nn.Linear(8, 5)).eval()
    model.gamma = nn.Parameter(torch.zeros(1))
    assert "a" in slimlib.trace(model, images(2, 3, 12, 12)).whole()
    assert model.gamma.item() == 0


def test_a_network_that_draws_numbers_is_compared_at_the_same_draws():
    def forward(m, x):
        mean, spread = m.b(m.a(x).relu()).chunk(2, 1)
        return m.d(m.c(mean + spread.exp() * torch.randn_like(mean)).relu())

    torch.manual_seed(0)
    model = Net(forward, a=nn.Linear(10, 16), b=nn.Linear(16, 8), c=nn.Linear(4, 12), d=nn.Linear(12, 10)).eval()
    state = torch.get_rng_state()
    assert {"a", "c"} <= {g.name for g in slimlib.trace(model, images(4, 10)).slimmable()}
    assert torch.equal(state, torch.get_rng_state())


# ---- the model and the example are left as they were


def test_an_example_that_the_model_writes_over_is_as_it_was():
    model = Net(lambda m, x: m.c(pooled(m.b(m.a(x.sub_(0.5).div_(0.25)).relu()).relu())), a=conv(3, 16), b=conv(16, 8),
                c=nn.Linear(8, 5)).eval()  # fmt: skip
    x = images(2, 3, 12, 12)
    before = x.clone()
    assert {g.name for g in slimlib.trace(model, x).slimmable()} == {"a", "b"}
    assert torch.equal(x, before)


def test_a_buffer_that_is_filled_in_the_first_pass_is_empty_again():
    def forward(m, x):
        m.grid = torch.ones(1)
        return m.c(pooled(m.a(x).relu()))

    model = Net(forward, a=conv(3, 16), c=nn.Linear(16, 5)).eval()
    model.register_buffer("grid", None)
    names = set(model.state_dict())
    slimlib.trace(model, images(2, 3, 12, 12))
    assert set(model.state_dict()) == names


def test_what_a_model_keeps_of_an_evaluation_can_be_trained_with():
    class Windowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.grid = conv(1, 8), nn.Linear(8, 3), None

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.hann_window(x.shape[-1]) + 0.5
            return self.c(pooled(self.a(x).relu() * self.grid))

    labels = torch.arange(30) % 3
    pixels = (images(30, 8, 8, 1) * 40 + 128).clamp(0, 255).byte().numpy()
    split = data.from_arrays(pixels, labels.numpy(), pixels[:9], labels[:9].numpy())
    model = Windowed()
    slimlib.evaluate(model, split)
    slimlib.fit(model, split, slimlib.Recipe(epochs=1, batch_size=10, lr=0.05), progress=False)


# ---- refusals by name


def test_what_cannot_be_copied_is_said_so():
    import threading

    model = two(torch.relu)
    model.lock = threading.Lock()
    plan = slimlib.plan_widths(two(torch.relu), images(2, 3, 12, 12), keep_macs=0.5)
    with pytest.raises(slimlib.SlimlibError, match=r"model: no copy can be made of it .*lock.*; first remove what"):
        slimlib.prune(model, plan)


def test_a_model_without_values_is_refused():
    model = two(torch.relu).to("meta")
    with pytest.raises(slimlib.SlimlibError, match=r"a\.weight is on the meta device"):
        slimlib.trace(model, images(2, 3, 12, 12))


def test_a_scripted_part_is_refused():
    model = two(torch.relu)
    model.b = torch.jit.script(model.b)
    with pytest.raises(slimlib.SlimlibError, match="b is a ScriptModule"):
        slimlib.trace(model, images(2, 3, 12, 12))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("model", "who"), [(lambda: torch.jit.script(nn.Sequential(conv(3, 8), nn.ReLU())), "the model"),
                                            (lambda: torch.jit.trace(two(torch.relu), images(2, 3, 12, 12)), "the model"),
                                            (lambda: nn.Sequential(torch.jit.script(conv(3, 8)), nn.ReLU()), "0")])
def test_a_scripted_network_is_refused_for_being_scripted(model, who):
    """It has layers, only that nobody sees them."""
    with pytest.raises(slimlib.SlimlibError, match=f"^model: {who} is a ScriptModule, into which no hook can look; give the mod"):
        slimlib.trace(model(), images(2, 3, 12, 12))


def test_widths_are_given_by_name():
    with pytest.raises(slimlib.SlimlibError, match="widths is of type list; give a mapping"):
        slimlib.plan_from_widths(two(torch.relu), images(2, 3, 12, 12), ["a"])


@pytest.mark.parametrize("plan", [
    lambda model, x, layout: slimlib.plan_widths(model, x, keep_macs=0.5, layout=layout),
    lambda model, x, layout: slimlib.plan_from_widths(model, x, {"a": 3}, layout=layout),
])
def test_a_layout_of_another_network_is_refused(plan):
    x = images(2, 3, 12, 12)
    other = slimlib.trace(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4)), x)
    with pytest.raises(slimlib.SlimlibError, match="layout: the model has no layer '0'"):
        plan(two(torch.relu), x, other)


WITH_A_LAYOUT = {
    "plan_widths": lambda model, x, layout: slimlib.plan_widths(model, x, keep_macs=0.5, layout=layout),
    "another rule": lambda model, x, layout: slimlib.plan_widths(model, x, keep_macs=0.9, rule="uniform", layout=layout),
    "width_path": lambda model, x, layout: slimlib.width_path(model, x, coupling="joint", layout=layout),
    "plan_from_widths": lambda model, x, layout: slimlib.plan_from_widths(model, x, {}, layout=layout),
}


@pytest.mark.parametrize("plan", WITH_A_LAYOUT.values(), ids=WITH_A_LAYOUT)
@pytest.mark.parametrize("dense", [False, True])
def test_a_layout_from_before_or_after_pruning_is_refused(network, plan, dense):
    """All its layers have the names that they had; in the other network they have other widths."""
    _, model, x = network
    layout = slimlib.trace(model, x)
    slim = slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.6, rule="uniform", coupling="joint", layout=layout))
    own = slimlib.trace(slim, x)
    told = r"^layout: layer '\w+' has \d+ .*, but the layout was made for \d+ .*; give what slimlib\.trace returns for this"
    with pytest.raises(slimlib.SlimlibError, match=told):
        plan(model, x, own) if dense else plan(slim, x, layout)
    plan(slim, x, own)
    plan(copy.deepcopy(model), x, layout)


def beside(layer, **more):
    """a and b as of `two`, a norm between them, and beside b another layer that reads a and writes as many channels."""
    torch.manual_seed(0)
    model = Net(lambda m, x: (lambda h: m.c(pooled(m.b(h).relu() + m.s(h))))(m.n(m.a(x)).relu()), a=conv(3, 16),
                n=nn.BatchNorm2d(16), b=conv(16, 8), s=layer, c=nn.Linear(8, 5))  # fmt: skip
    for name, part in more.items():
        setattr(model, name, part)
    return lively_norms(model)


def by_hand(layer, rows, columns):
    """A layer of which somebody has cut the weight, and not what it says of itself; it runs."""
    layer.weight = nn.Parameter(layer.weight[:rows, :columns].detach())
    layer.bias = nn.Parameter(layer.bias[: rows if not getattr(layer, "transposed", False) else columns].detach())
    return layer


def other(**parts):
    """The network of `beside` with other parts, of which some may be taken from it."""
    model = beside(nn.Conv2d(16, 8, 1))
    for name, part in parts.items():
        setattr(model, name, part(model) if callable(part) and not isinstance(part, nn.Module) else part)
    return model


@pytest.mark.parametrize(("model", "told"), [
    (other(a=conv(3, 12), n=nn.BatchNorm2d(12), b=conv(12, 8), s=nn.Conv2d(12, 8, 1)),
     "layer 'a' has 12 filters on 3 channels, but the layout was made for 16 filters on 3 channels"),
    (other(a=conv(1, 16)), "layer 'a' has 16 filters on 1 channel, but the layout was made for 16 filters on 3 channels"),
    (other(s=nn.Conv2d(16, 8, 1, groups=2)),
     "layer 's' has 8 filters on 16 channels in 2 groups, but the layout was made for 8 filters on 16 channels;"),
    (other(s=nn.ConvTranspose2d(16, 6, 1)), "layer 's' has 6 filters on 16 channels, but the layout was made for 8"),
    (other(c=nn.Linear(8, 7)), "layer 'c' has 7 filters on 8 inputs, but the layout was made for 5 filters on 8 inputs"),
    (other(n=nn.Identity()), "layer 'n' has no channels, but the layout was made for 16 channels"),
    (other(b=nn.Identity()), "layer 'b' has no channels, but the layout was made for 8 filters on 16 channels"),
    (other(n=nn.BatchNorm2d(20)), "layer 'n' has 20 channels, but the layout was made for 16 channels"),
    (other(a=by_hand(conv(3, 16), 12, 3)), "layer 'a' has 12 filters on 3 channels, but the layout was made for 16 filters on 3"),
    (other(s=by_hand(nn.ConvTranspose2d(16, 8, 1), 16, 6)), "layer 's' has 6 filters on 16 channels, but the layout was made"),
    (other(b=nn.LazyConv2d(8, 3)), "layer 'b' has 8 filters on 0 channels, but the layout was made for 8 filters on 16"),
    (other(extra=nn.Linear(3, 4)), "layer 'extra' has 4 filters on 3 inputs, but the layout was made without it"),
    (other(s=lambda m: m.b), "the model has no layer 's'"),
    (nn.Conv2d(3, 8, 1), "the model has no layer 'a'"),
])  # fmt: skip
def test_a_layout_is_of_one_network_in_each_of_its_layers(model, told):
    x = images(2, 3, 12, 12)
    layout = slimlib.trace(other(), x)
    with pytest.raises(slimlib.SlimlibError, match=f"^layout: {told}"):
        slimlib.plan_widths(model, x, keep_macs=0.9, coupling="joint", rule="uniform", layout=layout)


@pytest.mark.parametrize("same", [
    lambda m: m.to(torch.float64), lambda m: m.to(memory_format=torch.channels_last), lambda m: m.requires_grad_(False),
    lambda m: nn.utils.parametrizations.weight_norm(m.a) and m, lambda m: nn.utils.parametrizations.spectral_norm(m.b) and m,
    lambda m: nn.utils.prune.l1_unstructured(m.b, "weight", 0.3) and m, torch.fx.symbolic_trace, copy.deepcopy,
])  # fmt: skip
def test_a_layout_serves_its_network_in_another_form(same):
    """Other types, weights that are computed, another class: none of it changes which channels there are."""
    x = images(2, 3, 12, 12)
    model = two(torch.relu)
    layout = slimlib.trace(model, x)
    want = slimlib.plan_widths(model, x, keep_macs=0.7, rule="uniform", layout=layout)
    model = same(two(torch.relu)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert slimlib.plan_widths(model, x, keep_macs=0.7, rule="uniform", layout=layout).widths == want.widths
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def shared(again):
    torch.manual_seed(0)
    model = Net(lambda m, x: m.c(pooled(m.again(m.b(m.a(x).relu()).relu()).relu())), a=conv(3, 8), b=conv(8, 8),
                c=nn.Linear(8, 5)).eval()  # fmt: skip
    model.again = model.b if again is None else again
    return model


def test_a_layer_under_two_names_is_one_layer():
    x, how = images(2, 3, 12, 12), {"keep_macs": 0.9, "rule": "uniform", "coupling": "joint"}
    layout = slimlib.trace(shared(None), x)
    for model in (shared(None), copy.deepcopy(shared(None))):
        assert slimlib.plan_widths(model, x, layout=layout, **how).widths
    with pytest.raises(slimlib.SlimlibError, match=r"^layout: layer 'again' has .* made without it"):
        slimlib.plan_widths(shared(conv(8, 8)), x, layout=layout, **how)
    with pytest.raises(slimlib.SlimlibError, match=r"^layout: the model has no layer 'again'"):
        slimlib.plan_widths(shared(None), x, layout=slimlib.trace(shared(conv(8, 8)), x), **how)


@pytest.mark.parametrize(("make", "x"), [
    (lambda: Net(lambda m, x: m.b(m.a(x).relu()), a=nn.ConvTranspose2d(3, 6, 2), b=nn.ConvTranspose2d(6, 8, 2)),
     images(2, 3, 6, 6)),
    (lambda: Net(lambda m, x: m.b(m.g(m.a(x).relu()).relu()), a=conv(3, 6), g=nn.ConvTranspose2d(6, 12, 3, groups=3),
                 b=conv(12, 8)), images(2, 3, 6, 6)),
    (lambda: Net(lambda m, x: m.b(F.pad(m.a(x), (0, 0, 0, 0, 2, 2)) + m.s(x)), a=conv(3, 6), s=conv(3, 10), b=conv(10, 8)),
     images(2, 3, 6, 6)),
    (lambda: Net(lambda m, x: m.b(m.p(m.a(x)) + m.q(m.s(x))), a=conv(3, 6), p=nn.PReLU(), s=conv(3, 6), q=nn.PReLU(6),
                 b=conv(6, 8)), images(2, 3, 6, 6)),
    (lambda: nn.Conv2d(3, 8, 3), images(2, 3, 6, 6)),
    (lambda: RandomNetwork(3), images(2, 3, 12, 12)),
])  # fmt: skip
def test_any_network_is_the_one_that_its_layout_is_of(make, x):
    """Transposed layers, in groups or not; rows that a padding leaves in no group; slopes; a layer that is the whole model."""
    model = make().eval()
    layout = slimlib.trace(model, x)
    assert given_or_traced(layout, model, x) is layout is given_or_traced(layout, copy.deepcopy(model), x)


def test_a_layout_is_of_the_size_at_which_it_was_traced():
    """Of any batch size, but a plan of another image size would tell the multiply-adds of the one that was traced."""
    model = two(torch.relu)
    layout = slimlib.trace(model, images(2, 3, 12, 12))
    assert slimlib.plan_widths(model, images(5, 3, 12, 12), keep_macs=0.7, layout=layout).widths
    for use in (lambda x: slimlib.plan_widths(model, x, keep_macs=0.7, layout=layout),
                lambda x: slimlib.sensitivity(model, labelled(x), layout=layout, progress=False)):
        with pytest.raises(slimlib.SlimlibError, match=r"with an example of shape \(3, 12, 12\) .* this one has \(3, 24, 24\)"):
            use(images(2, 3, 24, 24))
    with pytest.raises(slimlib.SlimlibError, match=r"^example_input is of type list; give a tensor, batch first"):
        slimlib.width_path(model, [1, 2], layout=layout)


FROM_A_WIDTH = {
    "the number": lambda h: h.shape[1] ** -0.5,
    "numpy's": lambda h: np.float32(h.shape[1] ** -0.5),
    "a whole number of numpy's": lambda h: np.int64(h.shape[1]),
    "a tensor of its like": lambda h: h.new_tensor(h.shape[1] ** -0.5),
    "filled": lambda h: h.new_full((), h.shape[1] ** -0.5),
    "a tensor of numpy's": lambda h: torch.from_numpy(np.array(h.shape[1], np.float32)),
    "by a constructor": lambda h: torch.FloatTensor([h.shape[1]]) ** -0.5,
    "a sum of ones": lambda h: torch.ones(h.shape[1]).sum(),
    "one of several": lambda h: torch.tensor([1.0, h.shape[1] ** -0.5])[1],
    "the last of a count": lambda h: torch.arange(h.shape[1] + 1)[-1].float().rsqrt(),
}


@pytest.mark.parametrize("number", FROM_A_WIDTH.values(), ids=FROM_A_WIDTH)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["on its own channels", "on those of another layer"])
def test_a_number_that_is_worked_out_of_a_width_keeps_the_layer_whole(number, elsewhere):
    torch.manual_seed(0)

    def forward(m, x):
        h = m.a(x).relu()
        return m.c(pooled(m.b(h) * number(h) if elsewhere else m.b(h * number(h)).relu()))

    model = Net(forward, a=conv(3, 16), b=conv(16, 8), c=nn.Linear(8, 5)).eval()
    layout = slimlib.trace(model, images(2, 3, 12, 12))
    assert "a number" in layout.whole()["a"] and [g.name for g in layout.slimmable()] == ["b"]


def test_a_number_that_no_width_makes_costs_no_layer():
    halved = lambda m, x: m.c(pooled(m.b(m.a(x).relu() * 0.5) / m.scale))  # noqa: E731
    model = Net(halved, a=conv(3, 16), b=conv(16, 8), c=nn.Linear(8, 5)).eval()
    model.register_buffer("scale", torch.tensor(3.0))
    assert [g.name for g in slimlib.trace(model, images(2, 3, 12, 12)).slimmable()] == ["a", "b"]


READ_OUT = {
    "the highest channel": lambda m, h: m.e(h.argmax(1)).movedim(-1, 1),
    "a share of active channels": lambda m, h: (h > 0).float().mean(1, keepdim=True),
    "active channels in a layer": lambda m, h: m.d((h > 0).float()).sigmoid(),
}


@pytest.mark.parametrize("read", READ_OUT.values(), ids=READ_OUT)
def test_features_that_are_read_through_a_comparison_are_seen(read):
    torch.manual_seed(0)

    def forward(m, x):
        h = m.a(x)
        return m.c(pooled(m.b(h.relu()) + read(m, h)))

    model = Net(forward, a=conv(3, 16), b=conv(16, 8), d=conv(16, 8), e=nn.Embedding(16, 8), c=nn.Linear(8, 5)).eval()
    whole = slimlib.trace(model, images(2, 3, 12, 12)).whole("joint")
    assert "without gradients (detach, argmax, a comparison)" in whole["a"]


@pytest.mark.parametrize("middle", [
    lambda h: h * h.topk(8, 1).values.mean(1, keepdim=True), lambda h: h * h.amax(1, keepdim=True),
], ids=["of the eight largest", "of the largest"])  # fmt: skip
def test_what_only_few_channels_would_change_is_tried_with_few(middle):
    assert "a" in slimlib.trace(two(middle, width=64), images(2, 3, 12, 12)).whole()


def test_a_response_normalisation_mixes_channels_whatever_the_scale_of_the_example():
    for scale in (1e-3, 1.0, 255.0):
        assert "a" in slimlib.trace(two(nn.LocalResponseNorm(5)), scale * images(2, 3, 12, 12)).whole()


def test_a_vector_along_another_axis_of_the_same_length_is_no_channel():
    model = Net(lambda m, x: m.c(pooled(m.b((m.a(x) + m.d(x.mean((0, 2, 3)))).relu()))), a=conv(3, 12), d=nn.Linear(3, 12),
                b=conv(12, 8), c=nn.Linear(8, 5)).eval()  # fmt: skip
    x = images(2, 3, 12, 12)
    slim = slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.9, coupling="joint", rule="uniform"))
    assert slim(x).shape == (2, 5) and "a" in slimlib.trace(model, x).whole("joint")


@pytest.mark.parametrize("computed", [
    lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3), nn.utils.spectral_norm,
    nn.utils.parametrizations.spectral_norm, nn.utils.parametrizations.orthogonal, nn.utils.parametrizations.weight_norm,
], ids=["a mask", "spectral_norm", "parametrised", "orthogonal", "weight_norm"])  # fmt: skip
def test_weights_that_came_to_be_computed_are_named_though_a_plan_is_at_hand(computed):
    model, x = two(torch.relu), images(2, 3, 12, 12)
    plan = slimlib.plan_widths(model, x, keep_macs=0.5, rule="uniform")
    computed(model.a)
    for use in (slimlib.prune, slimlib.thin):
        with pytest.raises(slimlib.SlimlibError, match="the weight of a is computed from other tensors at each pass"):
            use(model, plan)


def test_what_is_no_layout_is_named():
    plan = slimlib.plan_widths(two(torch.relu), images(2, 3, 12, 12), keep_macs=0.7)
    with pytest.raises(slimlib.SlimlibError, match=r"^layout is of type WidthPlan; give what slimlib\.trace returns"):
        slimlib.plan_widths(two(torch.relu), images(2, 3, 12, 12), keep_macs=0.7, layout=plan)
    with pytest.raises(slimlib.SlimlibError, match=r"^model is of type str; give a torch\.nn\.Module"):
        slimlib.plan_widths("resnet18", images(2, 3, 12, 12), keep_macs=0.7, layout=plan.layout)


def test_a_plan_of_another_network_is_refused_where_widths_and_parameters_agree():
    """The widths that it chooses are those of this network too; another layer has others, and yet the parameters are as many."""
    def chain(second, third):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, second), nn.ReLU(), nn.Linear(second, third), nn.ReLU(),
                             nn.Linear(third, 5)).eval()

    plan = slimlib.plan_widths(chain(4, 7), images(2, 10), keep_macs=0.9, rule="uniform", skip=["2", "4"])
    assert plan.full_params == sum(p.numel() for p in chain(6, 3).parameters())
    told = r"^plan: layer '2' has 6 filters on 16 inputs, but the plan was made for 4 filters .*; give the dense network that"
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.prune(chain(6, 3), plan)


def test_a_state_that_is_no_tensor_is_refused_by_name(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            pass

    model = two(torch.relu)
    model.c = Counting(8, 5)
    plan = slimlib.plan_widths(model, images(2, 3, 12, 12), keep_macs=0.5)
    with pytest.raises(slimlib.SlimlibError, match=r"c\._extra_state in its state dict is no tensor .* and remove get_extra"):
        slimlib.save(slimlib.prune(model, plan), plan, tmp_path / "slim.safetensors")


NAN = float("nan")


@pytest.mark.parametrize(("rule", "options", "told"), [
    ("tilt", {"power": NAN}, "power=nan must be a finite number"),
    ("tilt", {"power": "a"}, "^power='a' must be a finite number"),
    ("tilt", {"power": [1.0]}, r"^power=\[1.0\] must be a finite number"),
    ("sensitivity", {"drops": {"a": NAN, "b": 0.1}}, "drops: that of a"),
    ("sensitivity", {"drops": {"a": 0.1, "b": "much"}}, "drops: that of b is 'much'; give finite numbers"),
    ("sensitivity", {"drops": 0.5}, "^drops is of type float; give a mapping of groups to the accuracy"),
    ("sensitivity", {"drops": ["a", "b"]}, "^drops is of type list; give a mapping of groups to the accuracy"),
])
def test_an_option_that_is_no_number_is_named(rule, options, told):
    with pytest.raises(slimlib.SlimlibError, match=told):
        slimlib.plan_widths(two(torch.relu), images(2, 3, 12, 12), keep_macs=0.5, rule=rule, **options)


def test_drops_may_be_a_column_of_a_table():
    drops = {"a": 0.1, "b": 0.2}
    plans = [slimlib.plan_widths(two(torch.relu), images(2, 3, 12, 12), keep_macs=0.5, rule="sensitivity", drops=given)
             for given in (drops, pd.Series(drops))]  # fmt: skip
    assert plans[0] == plans[1]


# ---- files


def test_weights_of_a_wrapped_model_fit_it_and_the_bare_one(tmp_path):
    model = two(torch.relu)
    wrapped = nn.DataParallel(copy.deepcopy(model))
    torch.save(wrapped.state_dict(), tmp_path / "wrapped.pt")
    torch.manual_seed(3)
    for fresh in (nn.DataParallel(two(torch.relu)), two(torch.relu)):
        for parameter in fresh.parameters():
            parameter.data.zero_()
        loaded = slimlib.storage.load_weights(fresh, tmp_path / "wrapped.pt")
        assert all(torch.equal(ours, its) for ours, its in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("padding", [0, 1])
def test_a_network_of_padded_sequences_can_be_loaded(tmp_path, padding):
    """Tokens of padding alone are sequences without an entry, on which it cannot run."""
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.read = nn.Embedding(20, 8, padding_idx=padding), nn.LSTM(8, 8, batch_first=True)
            self.a, self.c = nn.Linear(8, 16), nn.Linear(16, 5)

        def forward(self, t):
            lengths = (t != padding).sum(1)
            packed = nn.utils.rnn.pack_padded_sequence(self.embed(t), lengths, batch_first=True, enforce_sorted=False)
            return self.c(self.a(self.read(packed)[1][0][-1]).relu())

    torch.manual_seed(0)
    model, tokens = Sequences().eval(), torch.randint(2, 20, (2, 15))
    plan = slimlib.plan_widths(model, tokens, keep_params=0.9)
    slim = slimlib.prune(model, plan)
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    again = slimlib.load(tmp_path / "slim.safetensors", build=Sequences)
    assert torch.equal(again(tokens), slim.eval()(tokens))
