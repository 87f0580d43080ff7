"""What trials and traces could be blind to: by where a channel stands, by the example, by the machine, by what is returned."""

import copy
from collections import UserDict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib._counting import operation_counter
from tests.conftest import Chain, lively_norms
from tests.test_hidden_couplings import images, over_time, two
from tests.test_user_networks import Net, conv, pooled, slimmed_exactly_or_whole

# ---- operations that treat a channel by where it stands


def in_place(h):
    h = h.clone()
    h[:, : (h.shape[1] + 1) // 2].relu_()
    return h


def part_of(parts, which, h):
    """One part of a chunk through a ReLU, the others as they are."""
    chunks = list(h.chunk(parts, 1))
    chunks[which] = chunks[which].relu()
    return torch.cat(chunks, 1)


BY_PLACE = {
    "half by a mask": lambda h: h * (torch.arange(h.shape[1])[:, None, None] < h.shape[1] / 2),
    "every second by a mask": lambda h: h * (torch.arange(h.shape[1])[:, None, None] % 2),
    "half in place": in_place,
    "the first half": partial(part_of, 2, 0),
    "the last third": partial(part_of, 3, -1),
    "the first quarter": lambda h: torch.cat([h[:, : h.shape[1] // 4].relu(), h[:, h.shape[1] // 4 :]], 1),
    "turned round": lambda h: h.flip(1),
    "by the middle one": lambda h: h * h[:, h.shape[1] // 2].unsqueeze(1).sigmoid(),
    "by the last one": lambda h: h * h[:, -1:].sigmoid(),
}


@pytest.mark.parametrize("width", [3, 4, 5, 6, 7, 8, 13, 16])
@pytest.mark.parametrize("name", BY_PLACE)
def test_what_is_done_to_a_channel_by_its_place_is_never_slimmed_wrongly(name, width):
    """Of a few channels a trial that keeps them evenly spread would see nothing."""
    if name == "the first quarter" and width == 3:
        pytest.skip("a quarter of three is none, so nothing is done to a channel")
    network = two(BY_PLACE[name], width)
    assert "a" not in {g.name for g in slimlib.trace(network, images(2, 3, 8, 8)).slimmable("joint")}


@pytest.mark.parametrize("width", [3, 4, 5, 7, 8, 16, 32])
def test_what_is_done_to_every_channel_alike_is_slimmed_at_every_width(width):
    """Through operations that are not known, so that trials decide."""
    slimmed_exactly_or_whole(two(lambda h: F.instance_norm(h).cos().erf(), width), images(2, 3, 8, 8), {"a", "b"}, {})


def test_two_halves_of_which_one_is_changed_stay_whole():
    """A chunk that is concatenated again after something was done to one half."""
    network = two(lambda h: torch.cat([h.chunk(2, 1)[0], h.chunk(2, 1)[1].sigmoid()], 1))
    slimmed_exactly_or_whole(network, images(2, 3, 8, 8), {"b"}, {"a": "needs them all"})


def test_parts_of_a_chunk_that_cannot_be_followed_are_told_by_name():
    reason = {"a": "reshapes, splits or slices that cannot be followed"}
    slimmed_exactly_or_whole(two(partial(part_of, 4, 0)), images(2, 3, 8, 8), {"b"}, reason)


# ---- a number of features that is written down


def flattened(how):
    torch.manual_seed(0)
    return Net(lambda m, x: m.fc(how(m, F.adaptive_avg_pool2d(m.b(m.a(x).relu()).relu(), 1))), a=conv(3, 8), b=conv(8, 16),
               fc=nn.Linear(16, 4)).eval()  # fmt: skip


@pytest.mark.parametrize("how", [lambda m, h: h.view(-1, 16), lambda m, h: h.view(len(h), 16), lambda m, h: h.reshape((-1, 16)),
                                 lambda m, h: torch.reshape(h, (-1, 16)), lambda m, h: torch.reshape(h, shape=(-1, 16))])
def test_a_flattening_to_a_number_that_is_written_down_keeps_its_layer_whole(how):
    slimmed_exactly_or_whole(flattened(how), images(2, 3, 8, 8), {"a"}, {"b": "a reshape, which needs them all"})


@pytest.mark.parametrize("how", [lambda m, h: h.flatten(1), lambda m, h: torch.flatten(h, 1), lambda m, h: h.view(len(h), -1),
                                 lambda m, h: h.view(-1, h.shape[1]), lambda m, h: h.view(-1, m.fc.in_features),
                                 lambda m, h: nn.Flatten()(h), lambda m, h: h[:, :, 0, 0], lambda m, h: h.reshape((len(h), -1))])
def test_other_flattenings_are_slimmed(how):
    slimmed_exactly_or_whole(flattened(how), images(2, 3, 8, 8), {"a", "b"}, {})


# ---- the example


@pytest.mark.parametrize("front", [lambda x: torch.log(x + 1e-6), torch.sqrt, lambda x: x.pow(0.45), lambda x: within(x)])
def test_a_network_that_takes_some_numbers_only_comes_back_from_its_file(front, tmp_path):
    """What is traced anew for it must not ask for trials on numbers that the network does not take."""
    def build():
        torch.manual_seed(0)
        return Net(lambda m, x: m.fc(m.b(m.a(front(x)).relu()).relu().flatten(1)), a=nn.Conv2d(1, 16, 3), b=nn.Conv2d(16, 8, 3),
                   fc=nn.Linear(8 * 16, 4)).eval()  # fmt: skip

    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.01
    plan = slimlib.plan_widths(build(), x, keep_macs=0.5, rule="uniform")
    slim = slimlib.prune(build(), plan)
    assert {"a", "b"} == set(plan.widths)
    slimlib.save(slim, plan, tmp_path / "slim.safetensors")
    plan.save(tmp_path / "plan.json")
    assert torch.equal(slimlib.load(tmp_path / "slim.safetensors", build=build)(x), slim(x))
    assert torch.equal(slimlib.prune(build(), slimlib.WidthPlan.load(tmp_path / "plan.json"))(x), slim(x))
    assert set(slimlib.plan_widths(build(), torch.full_like(x, 0.5), keep_macs=0.5).widths) == {"a", "b"}


def within(x):
    assert x.min() >= 0 and x.max() > 0, "such images it was not made for"
    return x


def test_a_plan_from_a_file_for_a_layer_that_cannot_be_cut_is_refused_by_name(tmp_path):
    model = lively_norms(Chain())
    told = slimlib.plan_widths(model, images(2, 3, 16, 16), keep_macs=0.5).to_dict()
    last = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    told["widths"], told["full_widths"] = ({**told[of], last: model.get_submodule(last).out_features} for of in
                                           ("widths", "full_widths"))  # fmt: skip
    with pytest.raises(slimlib.SlimlibError, match=f"plan: layer {last} cannot be slimmed in this network: its width is"):
        slimlib.prune(model, slimlib.WidthPlan.from_dict(told))


def test_an_example_that_requires_a_gradient_is_no_layer():
    torch.manual_seed(0)
    network = Net(lambda m, x: m.c(m.b(m.a(x) + x).relu()), a=conv(3, 3), b=conv(3, 8), c=conv(8, 4)).eval()
    for x in (images(2, 3, 8, 8), images(2, 3, 8, 8).requires_grad_(), images(2, 3, 8, 8).requires_grad_() * 1):
        slimmed_exactly_or_whole(network, x, {"b"}, {"a": "a tensor that no layer makes"})


def test_an_example_that_is_no_number_is_refused():
    x = images(2, 3, 8, 8)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(slimlib.SlimlibError, match="example_input holds NaN or infinite values"):
        slimlib.plan_widths(Chain(), x, keep_macs=0.5)


def test_a_network_that_answers_with_nan_is_not_blamed_for_needing_all_channels():
    network = two(lambda h: h.cos() / 0.0 * 0.0)
    told = dict.fromkeys("ab", "the network answers the example with NaN")  # of all, as a number in it may be of any width
    slimmed_exactly_or_whole(network, images(2, 3, 8, 8), set(), told)


@pytest.mark.parametrize("variance", [-1.0, -2e-5])
def test_statistics_that_are_no_variance_are_refused(variance):
    model = Chain()
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var.fill_(variance)
    with pytest.raises(slimlib.SlimlibError, match=r"running_var holds .*, which with eps=1e-05 is no variance to divide by"):
        slimlib.plan_widths(model, images(2, 3, 8, 8), keep_macs=0.5)


# ---- layers that the graph shows elsewhere, or not at all


def test_networks_without_a_layer_that_has_a_gradient_are_answered_by_reasons():
    torch.manual_seed(0)
    head = nn.Parameter(torch.randn(8, 4))

    def frozen(m, x):
        with torch.no_grad():
            h = m.body(x).mean((2, 3))
        return h @ m.head

    network = Net(frozen, body=conv(3, 8), head=head)
    slimmed_exactly_or_whole(network, images(2, 3, 8, 8), set(), {"body": "no gradient reaches it"})
    network = Net(lambda m, x: F.conv2d(x, m.a.weight), a=conv(3, 8))
    slimmed_exactly_or_whole(network, images(2, 3, 8, 8), set(), {"a": "not called as a module"})


def test_what_runs_again_in_the_backward_pass_is_told_by_its_name():
    network = two(lambda h: h)
    network.written = lambda m, x: m.c(pooled(checkpoint(lambda h: m.b(h).relu(), m.a(x), use_reentrant=True)))
    assert "a re-entrant checkpoint" in slimlib.trace(network, images(2, 3, 8, 8)).whole()["b"]


def test_one_feature_of_a_linear_layer_on_the_last_axis_is_no_channel():
    torch.manual_seed(0)
    layers = {"a": nn.Conv1d(8, 8, 1), "g": nn.Linear(16, 1), "b": nn.Conv1d(8, 3, 1)}
    network = Net(lambda m, x: m.b(m.a(x) * m.g(x).sigmoid()), **layers).eval()
    slimmed_exactly_or_whole(network, images(2, 8, 16), set(), {"a": ""})


# ---- what is returned


@pytest.mark.parametrize("holder", [lambda h: SimpleNamespace(features=h), lambda h: {h}, lambda h: UserDict(features=h),
                                    lambda h: SimpleNamespace(inner=[SimpleNamespace(features=h)]),
                                    lambda h: h.detach().numpy(), lambda h: h.detach().numpy()[::-1]])  # fmt: skip
def test_features_that_are_returned_within_an_object_keep_their_layer_whole(holder):
    torch.manual_seed(0)
    network = Net(lambda m, x: (m.b(h := m.a(x).relu()), holder(h)), a=conv(3, 16), b=conv(16, 4)).eval()
    assert "a" not in {g.name for g in slimlib.trace(network, images(2, 3, 8, 8)).slimmable("joint")}


def test_objects_that_hold_each_other_are_looked_into_once():
    def answer(m, x):
        first, second = SimpleNamespace(logits=m.c(pooled(m.b(m.a(x).relu()).relu()))), SimpleNamespace()
        first.other, second.other = second, first
        return first

    torch.manual_seed(0)
    network = Net(answer, a=conv(3, 16), b=conv(16, 8), c=nn.Linear(8, 4)).eval()
    slimmed_exactly_or_whole(network, images(2, 3, 8, 8), {"a", "b"}, {})


def test_an_answer_in_which_no_tensor_is_seen_is_told_by_its_type():
    network = Net(lambda m, x: "a cat", a=conv(3, 16))
    with pytest.raises(slimlib.SlimlibError, match=r"that it returns has a gradient \(it returned a str, in which none"):
        slimlib.trace(network, images(2, 3, 8, 8))


# ---- the machine


@pytest.mark.parametrize("kind", [nn.LSTM, partial(nn.LSTM, num_layers=2, bidirectional=True), nn.GRU, nn.RNN])
def test_recurrent_layers_cost_the_same_in_every_type_of_number(kind):
    """On the CPU an LSTM in float32 is one kernel, which torch's counter does not know."""
    torch.manual_seed(0)
    recurrent, x = kind(12, 8, batch_first=True), torch.randn(4, 10, 12)
    products = 4 * 10 * sum(p.numel() for p in recurrent.parameters() if p.dim() == 2)
    for dtype in (torch.float32, torch.float64):
        with operation_counter() as counter:
            recurrent.to(dtype)(x.to(dtype))
        assert counter.get_total_flops() == 2 * products
    network = over_time(lambda h: h)
    network.g, written = kind(8, 8, batch_first=True), network.written
    network.written = lambda m, x: (written(m, x), m.g(m.b(m.a(x).relu()).transpose(1, 2))[0])
    plans = [slimlib.plan_widths(copy.deepcopy(network).to(dtype), images(2, 4, 20).to(dtype), keep_macs=0.9, rule="uniform")
             for dtype in (torch.float32, torch.float64)]
    assert plans[0].full_macs == plans[1].full_macs and plans[0].widths == plans[1].widths


def test_the_kernel_of_a_gpu_is_counted_by_its_matrices():
    """By the shapes alone that torch gives to it: weights and biases in one list."""
    shapes = ((10, 4, 12), [(32, 12), (32, 8), (32,), (32,)])
    with operation_counter() as counter:
        on_gpu = counter.flop_registry[torch.ops.aten._cudnn_rnn]
    count = on_gpu(*[torch.empty(shapes[0]), [torch.empty(s) for s in shapes[1]]], 4, None, None, None, out_val=torch.empty(0))
    assert count == 2 * 40 * (32 * 12 + 32 * 8)


def test_ordinary_networks_are_counted_as_torch_does():
    model, x = lively_norms(Chain()), images(2, 3, 16, 16)
    with operation_counter() as ours, FlopCounterMode(display=False) as its:
        model(x)
    assert ours.get_total_flops() == its.get_total_flops() > 0


@pytest.mark.parametrize("make", [slimlib.prune, slimlib.thin])
def test_what_is_made_in_inference_mode_can_be_trained(make):
    model, x = lively_norms(Chain()), images(2, 3, 16, 16)
    plan = slimlib.plan_widths(model, x, keep_macs=0.5)
    with torch.inference_mode():
        slim = make(model, plan)
    slim(x).sum().backward()
    assert not any(t.is_inference() for t in slim.state_dict().values())


def test_training_without_gradients_is_refused():
    pixels = np.random.default_rng(0).integers(256, size=(30, 16, 16, 3), dtype=np.uint8)
    data = slimlib.data.from_arrays(pixels[:20], np.arange(20) % 5, pixels[20:], np.arange(10) % 5)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), pytest.raises(slimlib.SlimlibError, match="model: gradients are off here"):
            slimlib.fit(Chain(), data, slimlib.Recipe(1, 0.1, batch_size=5), progress=False, validate="none")


@pytest.mark.parametrize(("rule", "with_images"), [("pca", False), ("activation_pca", True), ("neyman", False), ("neyman", True)])
def test_another_default_device_does_not_move_what_is_cut(rule, with_images):
    how = {"rule": rule} | ({"calibration": images(8, 3, 16, 16)} if with_images else {"skip": ["9"]})
    model, x = lively_norms(Chain()), images(2, 3, 16, 16)
    want = slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.5, **how))(x)
    with torch.device("meta"):
        slim = slimlib.prune(model, slimlib.plan_widths(model, x, keep_macs=0.5, **how))
    assert torch.equal(slim(x), want)
