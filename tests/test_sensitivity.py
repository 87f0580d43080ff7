"""The scan: what begins alike is computed once, and the numbers are those of running every network whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import slimlib
from slimlib import models, prefix
from slimlib.criteria import choose_filters
from slimlib.data import Split
from slimlib.evaluation import evaluate
from slimlib.surgery import cut
from tests.conftest import MODELS, InOrder, lively_norms


@torch.no_grad()
def images(model, count=120):
    """Random images, labelled as the model labels them, so that whatever is cut costs accuracy."""
    torch.manual_seed(1)
    pixels = torch.randint(256, (count, 16, 16, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    split = Split(pixels, torch.zeros(count, dtype=torch.int64), (0.5,) * 3, (0.25,) * 3)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    head.bias -= model(split.normalised()).mean(0)  # or all images would be of one class
    return replace(split, labels=model(split.normalised()).argmax(1))


class Undecided(nn.Module):
    """Its forward pass depends on the values, so it cannot be written down as a graph."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3))
        return self.c(y) if y.sum() > 0 else -self.c(y)


class Measured(nn.Module):
    """Its forward pass reads a width off a layer, which a graph of it holds as a number."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3), keepdim=True).view(-1, self.b.out_channels))


def build(name):
    torch.manual_seed(0)
    made = {**MODELS, "undecided": Undecided, "measured": Measured, "resnet20": lambda: models.build("resnet20", 5, 3)}[name]()
    return lively_norms(made)


@pytest.mark.parametrize("coupling", ["inner", "joint"])
@pytest.mark.parametrize("name", [*MODELS, "resnet20", "undecided", "measured"])
def test_a_scan_equals_evaluating_every_thin_network_whole(name, coupling, capsys):
    model = build(name)
    split = images(model, 121)  # of which no thinned width makes whole rows of the dense one
    table = slimlib.sensitivity(model, split, ratios=(0.4, 0.8), coupling=coupling, progress=False)
    assert capsys.readouterr().err == "", "no traceback of an error that is caught"
    layout = slimlib.trace(model, split.normalised(slice(0, 1)))
    assert list(dict.fromkeys(table["group"])) == [g.name for g in layout.slimmable(coupling)]
    for row in table.itertuples():
        if row.ratio:
            keep = choose_filters(model, layout, {row.group: row.width})
            assert row.accuracy == evaluate(cut(model, layout, keep), split)
    assert evaluate(model, split) == 1 and np.allclose(table["drop"], 1 - table["accuracy"]) and table["drop"].max() > 0.02


def test_a_ratio_is_the_share_of_filters_that_go():
    model = build("grouped")
    table = slimlib.sensitivity(model, images(model), ratios=(0.25, 0.6, 0.99), progress=False)
    layout = slimlib.trace(model, images(model).normalised(slice(0, 1)))
    blocks = {g.name: g.blocks for g in layout.slimmable()}
    assert blocks["grouped"] == 3 and table[table["group"] == "grouped"]["width"].tolist() == [24, 18, 9, 3]
    for row in table.itertuples():
        per_block = row.full_width // blocks[row.group]
        assert row.width == blocks[row.group] * max(1, round((1 - row.ratio) * per_block)), "at least one stays in each block"


@pytest.mark.parametrize("criterion", ["l2", "gm", "random"])
def test_a_scan_removes_by_the_criterion_that_it_is_given(criterion):
    model = build("chain")
    split = images(model)
    layout = slimlib.trace(model, split.normalised(slice(0, 1)))
    table = slimlib.sensitivity(model, split, ratios=(0.3, 0.5, 0.8), criterion=criterion, progress=False)
    by_l1 = slimlib.sensitivity(model, split, ratios=(0.3, 0.5, 0.8), progress=False)
    for row in table[table["ratio"] > 0].itertuples():
        keep = choose_filters(model, layout, {row.group: row.width}, criterion)
        assert row.accuracy == evaluate(cut(model, layout, keep), split)
    assert table["accuracy"].tolist() != by_l1["accuracy"].tolist(), "or the criterion would not be missed"


def test_a_scan_asks_no_more_of_images_than_an_evaluation_does():
    model = build("chain")
    split = images(model)
    assert evaluate(model, InOrder(split)) == evaluate(model, split)
    scans = [slimlib.sensitivity(model, given, ratios=(0.5,), progress=False) for given in (split, InOrder(split))]
    assert scans[0].equals(scans[1])


@pytest.mark.parametrize("coupling", ["inner", "joint"])
def test_a_layout_from_before_pruning_gives_no_numbers(coupling):
    model = build("residual")
    split = images(model)
    x = split.normalised(slice(0, 2))
    plan = slimlib.plan_widths(model, x, keep_macs=0.6, rule="uniform", coupling="joint")
    slim = slimlib.prune(model, plan)
    with pytest.raises(slimlib.SlimlibError, match=r"^layout: layer 'stem' has \d filters on 3 channels, but .* for 8 filters"):
        slimlib.sensitivity(slim, split, (0.5,), coupling=coupling, layout=plan.layout, progress=False)
    own = slimlib.sensitivity(slim, split, (0.5,), coupling=coupling, progress=False)
    given = slimlib.sensitivity(slim, split, (0.5,), coupling=coupling, layout=slimlib.trace(slim, x), progress=False)
    assert own.equals(given)


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5])
def test_ratios_lie_between_nothing_and_all(ratio):
    model = build("chain")
    with pytest.raises(slimlib.SlimlibError, match="must lie strictly between 0 and 1"):
        slimlib.sensitivity(model, images(model), ratios=(0.5, ratio), progress=False)


def test_the_beginning_runs_once_and_the_scan_moves_on(monkeypatch):
    """The first block of a ResNet sees every image once for the whole of the later blocks, and when its own layers change."""
    model = build("resnet20")
    split = images(model)
    calls = []
    model.layer1[0].conv1.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    shared = prefix.SharedPrefix(model, split)
    assert shared.graph is not None
    layout = slimlib.trace(model, split.normalised(slice(0, 1)))
    calls.clear()
    for g in layout.slimmable()[3:]:
        for width in (4, 8):
            thin = cut(model, layout, choose_filters(model, layout, {g.name: width}))
            assert shared.accuracy(thin, [g.name]) == evaluate(thin, split)
    own = len(layout.slimmable()[3:]) * 2 * len(split)  # of the comparisons above: hooks are copied with the network
    assert sum(calls) == own + len(split)


class Elsewhere(nn.Sequential):
    """Stands in for a network on another device than the images: it answers once it has been moved."""

    here = False

    def to(self, *where, **how):
        self.here = True
        return super().to(*where, **how)

    def forward(self, x):
        if not self.here:
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().forward(x)


def test_the_model_is_moved_to_the_data_before_the_scan():
    split = images(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), 20)
    model = Elsewhere(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    assert len(slimlib.sensitivity(model, split, ratios=(0.5,), progress=False)) == 2


def test_answers_that_take_too_much_memory_are_not_kept(monkeypatch):
    monkeypatch.setattr(prefix, "MOST_BYTES", 1000)
    model = build("chain")
    split = images(model)
    shared = prefix.SharedPrefix(model, split)
    assert shared.accuracy(model, ["9"]) == evaluate(model, split) and shared.answers is split


class InPlace(nn.Module):
    """What follows the first layer writes over that layer's answers, and reads them again at the end."""

    def __init__(self):
        super().__init__()
        self.stem, self.act, self.a, self.b = nn.Conv2d(3, 8, 3), nn.SiLU(inplace=True), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.fc((self.b(torch.relu(self.a(self.act(x)))) + x).mean((2, 3)))


def test_kept_answers_stay_as_they_were():
    """An operation in place, first in what is left to run, would give every later network other values to start from."""
    torch.manual_seed(0)
    model = InPlace()
    split = images(model, 500)
    shared = prefix.SharedPrefix(model, split)
    layout = slimlib.trace(model, split.normalised(slice(0, 1)))
    for width in (6, 4, 2, 1):
        thin = cut(model, layout, choose_filters(model, layout, {"a": width}))
        assert shared.accuracy(thin, ["a"]) == evaluate(thin, split)
    assert shared.reached


def test_a_scan_leaves_no_trace_of_its_tracing():
    """Neither of what a pass keeps as an attribute, nor of the constants in it."""
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 10)

        def forward(self, x):
            self.features = self.conv(x * torch.tensor(2.0)).relu()
            return self.head(self.features.mean((2, 3)))

    model = Keeps().eval()
    split = slimlib.load_data("fashionmnist-10k", limit=100, device="cpu").val
    before = set(vars(model)) | {"features"}
    slimlib.sensitivity(model, split, ratios=(0.5,), progress=False)
    assert set(vars(model)) <= before and not isinstance(getattr(model, "features", None), torch.fx.Proxy)
    slimlib.evaluate(model, split)
    assert model.features.shape[1] == 4


def test_a_random_scan_can_be_drawn_again():
    torch.manual_seed(0)
    model, images = lively_norms(MODELS["chain"]()), np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)
    data = slimlib.data.from_arrays(images, np.arange(90) % 5, images, np.arange(90) % 5, device="cpu", val_fraction=0.5)
    scans = [slimlib.sensitivity(model, data, (0.5,), "random", seed=seed, progress=False) for seed in (0, 0, 1)]
    assert scans[0].equals(scans[1]) and not scans[0].equals(scans[2])


def test_a_scan_takes_as_many_images_at_a_time_as_is_asked():
    model, sizes = build("resnet20"), {"first": [], "last": []}
    split = images(model, 121)
    for name, layer in (("first", model.conv1), ("last", model.linear)):
        layer.register_forward_hook(lambda layer, given, out, name=name: sizes[name].append(len(out)))
    wide = slimlib.sensitivity(model, split, ratios=(0.8,), progress=False)
    assert max(map(max, sizes.values())) == 121
    for seen in sizes.values():
        seen.clear()
    narrow = slimlib.sensitivity(model, split, ratios=(0.8,), progress=False, batch_size=50)
    assert max(map(max, sizes.values())) == 50 and narrow.equals(wide)
    assert sizes["first"].count(50) < sizes["last"].count(50), "what the networks have in common is still run once"


@pytest.mark.parametrize("batch_size", [0, 2.5, True])
def test_a_number_of_images_at_a_time_that_is_none_is_refused(batch_size):
    model = build("chain")
    with pytest.raises(slimlib.SlimlibError, match=f"^batch_size={batch_size} must be a whole number of images, at least 1$"):
        slimlib.sensitivity(model, images(model), ratios=(0.5,), progress=False, batch_size=batch_size)
