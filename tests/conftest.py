"""Small networks with awkward structure, and the real data where it is at hand."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from slimlib.masking import difference, masked
from slimlib.outputs import tensors_in
from slimlib.splits import Split
from slimlib.surgery import cut

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes share the cores, and so do those that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


def pytest_collection_modifyitems(items):
    """Files with slow tests first, then those with many: no process is left alone with a long file at the end."""
    files, slow = (Counter(item.path for item in some) for some in (items, [i for i in items if i.get_closest_marker("slow")]))
    items.sort(key=lambda item: (-slow[item.path], -files[item.path]))  # stable: the tests of a file stay together, in order


@pytest.fixture
def two_threads():
    """torch adds up the batch statistics of channels-last images, one by one: the fewer threads, the more
    digits are lost."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def real_file():
    """Path of a file under SLIMLIB_DATA, or skip with a reason."""
    def find(name: str) -> Path:
        folder = os.environ.get("SLIMLIB_DATA")
        if not folder:
            pytest.skip(f"SLIMLIB_DATA is not set: no {name}")
        path = Path(folder) / name
        if not path.exists():
            pytest.skip(f"{name} is not in SLIMLIB_DATA")
        return path
    return find


def lively_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """BatchNorms with statistics and scales as after training, so that a fault in their channels shows."""
    g = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.1)
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)
            if m.affine:
                m.weight.data.copy_(torch.rand(m.num_features, generator=g) + 0.5)
                m.bias.data.copy_(torch.randn(m.num_features, generator=g) * 0.1)
    return model.eval()


@torch.no_grad()
def masking_error(model: nn.Module, layout, keep, x: torch.Tensor) -> float:
    """How far the cut network's outputs are from those of the masked one, as a share of their scale."""
    return difference(*(tensors_in(make(model, layout, keep).eval()(x)) for make in (cut, masked)))


class Chain(nn.Sequential):
    """Convolutions, BatchNorms, a flattened image and two Linear layers."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(12 * 16, 10), nn.ReLU(), nn.Linear(10, 5))


class Residual(nn.Module):
    """A stream of 8 channels written by two layers, an inner layer, and a squeeze-excite gate."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.bn1 = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.back, self.bn2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        y = self.bn2(self.back(torch.relu(self.bn1(self.inner(x)))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(torch.relu(x + y * gate).mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution between pointwise ones, then a depthwise one, a chunk and a concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.bna = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.grouped, self.bng = nn.Conv2d(12, 24, 3, padding=1, groups=3), nn.BatchNorm2d(24)
        self.b = nn.Conv2d(24, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left, self.right = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 7, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.bng(self.grouped(torch.relu(self.bna(self.a(x))))))
        left, right = torch.relu(self.depthwise(torch.relu(self.b(x)))).chunk(2, dim=1)
        x = torch.cat([torch.relu(self.left(left)), torch.relu(self.right(right))], 1)
        return self.head(x.mean((2, 3)))


MODELS = {"chain": Chain, "residual": Residual, "grouped": Grouped}


@pytest.fixture(params=sorted(MODELS))
def network(request):
    """(name, model, example input) of each awkward network, seeded."""
    torch.manual_seed(0)
    return request.param, lively_norms(MODELS[request.param]()), torch.randn(2, 3, 16, 16)


@pytest.fixture
def chain():
    torch.manual_seed(0)
    return lively_norms(Chain()), torch.randn(2, 3, 16, 16)


class InOrder:
    """Labelled images that say no more than what a network is evaluated on must say."""

    def __init__(self, split: Split) -> None:
        self.device, self.in_order, self.count = split.device, split.in_order, len(split)

    def __len__(self) -> int:
        return self.count


def project_with_profile(root: Path, text: str, seeds: int = 1) -> Path:
    """A project that has the profile `small`: of records, with a recipe r and the studies of ``text``."""
    profiles = root / "notebooks" / "profiles"
    profiles.mkdir(parents=True)
    head = "{name: small, evidence: true, train: records, records: records, description: small"
    head += ", recipes: {r: {epochs: 1, lr: 0.1}}"
    (profiles / "small.yml").write_text(f"{head}, seeds: {seeds}, studies: {{{text}}}}}")
    return root
