"""Cost of choosing widths: beside the eigenvalue calls it cannot do without, beside scikit-learn, beside measuring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch

import slimlib
from slimlib import models
from slimlib.bench.measure import Comparison, Contestant, Race
from slimlib.errors import SlimlibError
from slimlib.filters import filter_rows

BUDGETS = tuple(round(0.3 + 0.03 * i, 2) for i in range(20))
SCAN_IMAGES = 500


def races() -> Iterator[Race]:
    whole, known = "slimlib, trace included", "slimlib, network traced before"
    calls, bare, sklearn = "Gram matrices and eigenvalues", "eigenvalues of ready Gram matrices", "scikit-learn, layer by layer"
    for coupling in ("inner", "joint"):
        contestants = {whole: lambda c=coupling: lambda: _all_budgets(c, None), known: _known(coupling), calls: _calls(coupling),
                       bare: _bare(coupling)}
        lines = [Comparison(known, calls, "time", 1.3), Comparison(whole, calls, "time", 1.3), Comparison(known, bare, "time")]
        if coupling == "inner":  # the wide joint groups would take scikit-learn minutes
            contestants[sklearn] = _sklearn(coupling)
            lines += [Comparison(known, sklearn, "speed", 3.0), Comparison(whole, sklearn, "speed", 3.0)]
        yield Race(f"widths resnet50 {coupling}", f"ResNet-50, coupling={coupling!r}: widths for {len(BUDGETS)} budgets at once",
                   contestants, tuple(lines), agree=_check_sklearn if coupling == "inner" else None)
    yield Race(
        "widths further budget", "ResNet-50: one more budget, of a path that is there, after the first",
        {"further budget": _further, "first budget": lambda: lambda: slimlib.plan_widths(*resnet50(), keep_macs=BUDGETS[0])},
        (Comparison("further budget", "first budget", "time", 0.01),))
    yield Race(
        "widths sensitivity scan", f"ResNet-20: all widths by PCA, or a scan of every layer at 4 ratios on {SCAN_IMAGES} images",
        {"slimlib, trace included": lambda: lambda: _paths_of(_small()), "sensitivity scan": _scan},
        (Comparison("slimlib, trace included", "sensitivity scan", "speed"),), rounds=3)


@cache
def resnet50() -> tuple[torch.nn.Module, torch.Tensor]:
    """An untrained ResNet-50 and an example for it, made once."""
    torch.manual_seed(0)
    return models.build("torchvision:resnet50", num_classes=1000, in_channels=3).eval(), torch.randn(1, 3, 224, 224)


@cache
def _small() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return models.build("resnet20", num_classes=10, in_channels=1).eval(), torch.randn(1, 1, 28, 28)


def _all_budgets(coupling: str, layout) -> None:
    path = slimlib.width_path(*resnet50(), coupling=coupling, layout=layout)
    for share in BUDGETS:
        path.plan(keep_macs=share if coupling == "joint" else 0.5 + share / 2)  # inner widths alone cannot go as low


def _known(coupling: str) -> Contestant:
    def prepare():
        layout = slimlib.trace(*resnet50())
        return lambda: _all_budgets(coupling, layout)
    return prepare


def _rows(coupling: str) -> list[torch.Tensor]:
    """For each group its filters, centred, in float64: shape (width, positions)."""
    model, example = resnet50()
    groups = slimlib.trace(model, example).slimmable(coupling)
    rows = [filter_rows(model, group) for group in groups]
    return [torch.cat([r - r.mean(1, keepdim=True) for r in of], dim=1) for of in rows]


def gram(x: torch.Tensor) -> torch.Tensor:
    """The smaller one of the two Gram matrices of a layer's filters (width, positions)."""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x


def _calls(coupling: str) -> Contestant:
    def prepare():
        rows = _rows(coupling)

        def solve() -> None:
            for x in rows:
                torch.linalg.eigvalsh(gram(x))
        return solve
    return prepare


def _bare(coupling: str) -> Contestant:
    def prepare():
        grams = [gram(x) for x in _rows(coupling)]

        def solve() -> None:
            for one in grams:
                torch.linalg.eigvalsh(one)
        return solve
    return prepare


def _sklearn(coupling: str) -> Contestant:
    """What a user of scikit-learn writes: positions are the samples and filters the features."""
    def prepare():
        from sklearn.decomposition import PCA

        layers = [x.T.numpy() for x in _rows(coupling)]

        def fit() -> None:
            for samples in layers:
                PCA().fit(samples)
        return fit
    return prepare


def _check_sklearn() -> None:
    """Before they are timed: both find the same shares of variance, in the first layer."""
    from sklearn.decomposition import PCA

    model, example = resnet50()
    name, values = next(iter(slimlib.spectra(model, example).items()))
    theirs = PCA().fit(_rows("inner")[0].T.numpy()).explained_variance_ratio_
    if not np.allclose(theirs, (values / values.sum())[:len(theirs)], atol=1e-9):
        raise SlimlibError(f"bench: scikit-learn finds other shares of variance in {name}; the two cannot be compared")


def _further():
    path = slimlib.width_path(*resnet50())

    def further() -> float:
        start = time.perf_counter()
        for share in BUDGETS:
            path.plan(keep_macs=0.5 + share / 2)
        return (time.perf_counter() - start) / len(BUDGETS)
    return further


def _paths_of(network: tuple[torch.nn.Module, torch.Tensor]) -> None:
    path = slimlib.width_path(*network)
    for share in BUDGETS:
        path.plan(keep_macs=share)


def _scan():
    part = slimlib.load_data("fashionmnist-10k", device="cpu").val.first(SCAN_IMAGES)
    return lambda: slimlib.sensitivity(_small()[0], part, progress=False)
