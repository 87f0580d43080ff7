"""The sampling rule taught, checked and refused: one layer cut by lot, rescaled filters, real networks, the chapter itself."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib import sampling, study
from slimlib._torchvision import import_torchvision
from slimlib.measuring import measured
from slimlib.notebooks import execute
from slimlib.study import stratum as strata
from slimlib.study.demonstration import network_at_hand
from slimlib.study.invariance import rescaled, widths_under_rescaling
from tests.conftest import lively_norms

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cut(chain):
    """The first layer of a chain, 8 units read by a convolution with a BatchNorm, on real-valued noise."""
    model, _ = chain
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    layout = slimlib.trace(model, images)
    return strata.stratum(model, layout, layout.slimmable()[0], images), model, layout, images


@pytest.mark.parametrize("width", [1, 3, 5, 7])
def test_mean_error_over_all_subsets_is_the_formula(cut, width):
    """Not a simulation: every choice of `width` of 8 units is tried."""
    layer = cut[0]
    errors = [layer.error(kept) for kept in itertools.combinations(range(8), width)]
    assert layer.expected_error(width) == pytest.approx(np.mean(errors), rel=1e-4)
    assert layer.error(range(8)) == 0.0


def test_what_the_units_bring_is_summed_by_the_reader(cut):
    """V and the total against the reader itself: its output after its BatchNorm, for one unit alone and for all."""
    layer, model, _, images = cut
    with torch.no_grad():
        units, reader = nn.Sequential(*list(model)[:4])(images), nn.Sequential(*list(model)[4:6])
        alone = [units * torch.eye(8)[k].view(1, -1, 1, 1) for k in range(8)]
        spread = [float(reader(x).transpose(0, 1).flatten(1).var(1, correction=0).sum()) for x in [*alone, units]]
    assert layer.brought == pytest.approx(sum(spread[:8]), rel=1e-4)
    assert layer.total == pytest.approx(spread[8], rel=1e-4)


def test_random_subsets_agree_with_the_formula_within_their_error(cut):
    table = strata.experiment(cut[0], [2, 6], draws=60, level=0.999)
    assert (table["low"] <= table["exact"]).all() and (table["exact"] <= table["high"]).all()
    assert (table["high"] - table["low"] < 0.6 * table["error"]).all(), "intervals so wide show nothing"
    layer = cut[0]
    assert table["uncorrelated"].tolist() == pytest.approx([layer.brought / layer.total * (8 / w - 1) for w in (2, 6)])
    with pytest.raises(slimlib.SlimlibError, match="between 1 and 7"):
        strata.experiment(cut[0], [8])


def test_a_layer_without_one_plain_reader_is_refused(cut):
    _, model, layout, images = cut
    with pytest.raises(slimlib.SlimlibError, match="layer='4' is not read by one plain convolution"):
        strata.stratum(model, layout, layout.slimmable()[1], images)


def test_rescaled_copies_compute_the_same_and_move_plain_widths_only():
    torch.manual_seed(0)
    model = lively_norms(slimlib.models.build("resnet_small", 10, 1))
    table = widths_under_rescaling(model, torch.randn(4, 1, 28, 28), ["pca", "pca_folded", "neyman"], 0.5, draws=1, spread=1.0)
    assert 0 < table["change"].max() < 1e-4
    two = widths_under_rescaling(model, torch.randn(1, 1, 28, 28), ["uniform"], 0.5, draws=2).groupby("draw")["change"].first()
    assert two[0] == 0 and two[1] != two[2], "each draw has numbers of its own"
    for rule, part in table.groupby("rule"):
        wide = part.pivot(index="group", columns="draw", values="width")
        assert wide.nunique(axis=1).eq(1).all() == (rule != "pca"), rule


def test_rescaling_reaches_biases_and_needs_a_norm(chain):
    model, x = chain
    layout = slimlib.trace(model, x)
    other = rescaled(model, layout, spread=1.0, seed=3)
    assert not torch.allclose(other[0].weight, model[0].weight)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x), rtol=1e-4, atol=1e-5)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))
    with pytest.raises(slimlib.SlimlibError, match="BatchNorm"):
        rescaled(plain, slimlib.trace(plain, x))


def test_measuring_in_batches_is_measuring_at_once():
    torch.manual_seed(0)
    model, x = lively_norms(slimlib.models.build("resnet_small", 10, 1)), torch.randn(20, 1, 28, 28)
    layout = slimlib.trace(model, x[:1])
    readers = ["layer1.0.conv2", "layer2.0.conv2", "layer3.1.conv2", "linear"]
    once, parts = (measured(model, layout, readers, x, batch_size=size) for size in (20, 7))
    for name in readers:
        np.testing.assert_allclose(parts[name].inputs, once[name].inputs, rtol=1e-5)
        assert parts[name].total == pytest.approx(once[name].total, rel=1e-5)


def test_what_has_no_norm_is_named_and_can_be_left_out(chain):
    model, x = chain
    with pytest.raises(slimlib.SlimlibError, match=r"followed through 9: no BatchNorm.*calibration=.*skip="):
        slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.6)
    assert slimlib.plan_widths(model, x, rule="neyman", keep_macs=0.6, skip=["9"]).keep_macs <= 0.6


def test_moments_without_data_agree_with_measured_ones_on_a_trained_network(real_file):
    """ResNet-20: each V and T within a factor of 1.6 of what 256 training images say, the ratios in almost the same order."""
    from scipy import stats

    real_file("weights/resnet20-12fca82f.th"), real_file("cifar10.npz")
    model = slimlib.models.pretrained("cifar10/resnet20")
    data = slimlib.data.with_normalisation(slimlib.load_data("cifar10", device="cpu"), *slimlib.models.PRETRAINED_NORMALISATION)
    layout = slimlib.trace(model, data.example_input)
    groups = layout.slimmable()
    v, t = sampling.variances(model, layout, groups)
    measured_v, measured_t = sampling.variances(model, layout, groups, data.train.normalised(slice(0, 256)))
    for computed, found in ((v, measured_v), (t, measured_t)):
        assert (np.maximum(computed / found, found / computed) < 1.6).all()
    assert stats.spearmanr(v / t, measured_v / measured_t).statistic > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("name", "calibrated", "refused"), [
    ("squeezenet1_1", True, "features.0"), ("mobilenet_v3_small", True, "features.1.block.1.fc1"),
    ("mnasnet0_5", False, "")])  # fmt: skip
def test_torchvision_networks_get_neyman_widths_or_a_reason(name, calibrated, refused):
    torch.manual_seed(0)
    model, x = lively_norms(getattr(import_torchvision().models, name)(weights=None)), torch.randn(4, 3, 64, 64)
    layout = slimlib.trace(model, x[:1])
    how = {"rule": "neyman", "keep_macs": 0.6, "coupling": "joint", "layout": layout}
    if refused:
        with pytest.raises(slimlib.SlimlibError, match=f"followed through {refused}"):
            slimlib.plan_widths(model, x[:1], **how)
    plan = slimlib.plan_widths(model, x[:1], **how, **({"calibration": x} if calibrated else {}))
    assert plan.macs <= 0.6 * plan.full_macs < plan.wider["macs"]
    slim = slimlib.prune(model, plan).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert slim(x[:1]).shape == (1, 1000)
    assert counter.get_total_flops() == 2 * plan.macs


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SLIMLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_profile_of_records_trains_nothing_to_look_into(nothing_at_hand):
    at_hand = network_at_hand(study.load_profile("laptop"))
    assert "UNTRAINED" in at_hand.label and not list(nothing_at_hand.rglob("*.safetensors"))
    with pytest.raises(slimlib.SlimlibError, match="model='vgg99' is not in profile 'laptop'"):
        network_at_hand(study.load_profile("laptop"), "vgg99")


@pytest.mark.slow
def test_the_chapter_is_whole_before_there_is_any_evidence(nothing_at_hand):
    """With a profile of records, no records, no published weights and no checkpoint: every cell runs and says so."""
    project = nothing_at_hand / "project"
    shutil.copytree(ROOT / "notebooks", project / "notebooks")
    (project / "book").mkdir()
    shutil.copy(ROOT / "book" / "claims.yml", project / "book")
    output = project / "book" / "results" / "laptop" / "10_a_better_rule.ipynb"
    small = {"profile": "laptop", "draws": 3, "images": 8}
    execute(project / "notebooks" / "10_a_better_rule.ipynb", output, small, root=project)
    text = output.read_text()
    assert "0 of 7 runs recorded" in text and text.count("no evidence yet") == 3 and "UNTRAINED" in text
    assert not list(nothing_at_hand.rglob("*.safetensors"))
    markdown = "".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    for label in ("better-rule-continuum", "better-rule-lot"):
        assert markdown.count(f":label: {label}") == markdown.count(f"{{solution-start}} {label}") == 1
