"""Criteria against brute force on trained filters: the sets that are pruned must be identical, for every group of a network.

The reference is written in NumPy, one filter and one distance at a time, and knows nothing of groups or members: which layers
write a group is written down here by hand. Filters: the published CIFAR-10 ResNets, and a VGG trained here for one epoch.
"""

import numpy as np
import pytest
import torch

import slimlib
from slimlib import models
from slimlib.criteria import CRITERIA, choose_filters

RANKING = [name for name in CRITERIA if name != "random"]
FRACTIONS = (0.1, 0.35, 0.5, 0.8)


def weights(model, layer: str) -> np.ndarray:
    return model.get_submodule(layer).weight.detach().double().numpy()


def naive(model, layers: list[str], norms: list[str], criterion: str) -> list[float]:
    """One score a channel, from the definition: l1 and bn add over the layers, l2 and gm see their filters end to end."""
    if criterion == "bn":
        scales = [weights(model, norm) for norm in norms]
        return [sum(abs(float(s[i])) for s in scales) for i in range(len(scales[0]))]
    all_weights = [weights(model, layer) for layer in layers]
    filters = [np.concatenate([w[i].ravel() for w in all_weights]) for i in range(len(all_weights[0]))]
    if criterion == "l1":
        return [float(np.abs(f).sum()) for f in filters]
    if criterion == "l2":
        return [float(np.sqrt((f * f).sum())) for f in filters]
    return [sum(float(np.sqrt(((f - g) ** 2).sum())) for g in filters) for f in filters]


def pruned(scores: list[float], width: int) -> set[int]:
    """The channels of lowest score; of equal ones the later goes first."""
    by_rank = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return set(by_rank[width:])


def compare(model, example_input, writers: dict[str, tuple[list[str], list[str]]], coupling: str) -> int:
    """Every group, criterion and fraction of a network; returns how many sets were compared."""
    layout = slimlib.trace(model, example_input)
    groups = {g.name: g.width for g in layout.slimmable(coupling)}
    assert set(groups) == set(writers), "the groups are not those written down"
    compared = 0
    for criterion in RANKING:
        scores = {name: naive(model, *writers[name], criterion) for name in groups}
        for fraction in FRACTIONS:
            widths = {name: max(1, round(fraction * full)) for name, full in groups.items()}
            kept = choose_filters(model, layout, widths, criterion)
            for name, full in groups.items():
                want = pruned(scores[name], widths[name])
                assert set(range(full)) - set(kept[name].tolist()) == want, (criterion, name, widths[name])
                compared += 1
    return compared


@pytest.mark.parametrize(("name", "file", "blocks"), [
    ("resnet20", "resnet20-12fca82f.th", 3), ("resnet56", "resnet56-4bfd9763.th", 9)])
def test_published_resnets(real_file, name, file, blocks):
    """Block-inner widths: each block's first convolution, the only ones that option A leaves free."""
    real_file(f"weights/{file}")
    model = models.pretrained(f"cifar10/{name}")
    inner = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(blocks)]
    writers = {f"{block}.conv1": ([f"{block}.conv1"], [f"{block}.bn1"]) for block in inner}
    assert compare(model, torch.zeros(1, 3, 32, 32), writers, "inner") == len(inner) * len(RANKING) * len(FRACTIONS)


def test_a_stream_of_a_published_resnet(real_file):
    """The 16 channels of a residual stream, ten layers wide: trained filters of ResNet-56's first stage, as one joint group.

    Option A ties that stream to the padded ones, so the stage is put into a network of its own.
    """
    real_file("weights/resnet56-4bfd9763.th")
    whole = models.pretrained("cifar10/resnet56")
    stage = torch.nn.Sequential(whole.conv1, whole.bn1, torch.nn.ReLU(), whole.layer1, torch.nn.AdaptiveAvgPool2d(1),
                                torch.nn.Flatten(), torch.nn.Linear(16, 10)).eval()
    writers = {f"3.{b}.conv1": ([f"3.{b}.conv1"], [f"3.{b}.bn1"]) for b in range(9)}
    stream = ["0", *(f"3.{b}.conv2" for b in range(9))], ["1", *(f"3.{b}.bn2" for b in range(9))]
    assert compare(stage, torch.zeros(1, 3, 32, 32), writers | {"0": stream}, "joint") == 10 * len(RANKING) * len(FRACTIONS)


def test_a_trained_vgg():
    """A chain of layers, trained here on the embedded images: BatchNorm scales and filters have left their first values."""
    data = slimlib.load_data("fashionmnist-10k", device="cpu", limit=300)
    torch.manual_seed(0)
    model = models.vgg_small()
    slimlib.fit(model, data, slimlib.Recipe(epochs=1, lr=0.05, batch_size=32), progress=False, validate="none")
    writers = {f"conv{i}": ([f"conv{i}"], [f"bn{i}"]) for i in range(1, 7)}
    assert all(model.get_submodule(norm).weight.std() > 1e-3 for _, (norm,) in writers.values())
    assert compare(model, data.example_input, writers, "inner") == 6 * len(RANKING) * len(FRACTIONS)
