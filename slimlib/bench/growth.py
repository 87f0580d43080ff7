"""How the cost of choosing widths grows with width, depth and network size: time and memory, a process a size."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

from slimlib.bench.measure import alone, timed
from slimlib.bench.widths import gram

NAME = "growth"
SIZES = {
    "width": [f"width {n}" for n in (64, 128, 256, 512, 1024)],
    "depth": [f"depth {n}" for n in (4, 8, 16, 32, 64)],
    "network": [f"network {name}" for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")],
    "layer": [f"layer {n}x{p}" for n, p in ((1024, 256), (2048, 512), (4096, 1024))],
}
LARGE = [f"layer {n}x{p}" for n, p in ((8192, 2048), (16384, 4096))]
MEANING = {
    "width": "four 3 x 3 convolutions of this many filters each",
    "depth": "this many 3 x 3 convolutions of 128 filters",
    "network": "torchvision's network, 224 x 224",
    "layer": "one linear layer of this many outputs x inputs",
}


def table(full: bool) -> list[dict[str, Any]]:
    """One row a size: axis, size, seconds to trace, to choose (all spectra and one budget), and of the bare calls; peak bytes."""
    sizes = [size for of in SIZES.values() for size in of] + (LARGE if full else [])
    return [alone(NAME, size) for size in sizes]


def measure(size: str) -> dict[str, Any]:
    """Times of one size; the large ones once, the others three times, of which the median counts."""
    import slimlib
    from slimlib import filters
    from slimlib.study.provenance import peak_bytes

    model, example = network(size)
    repeats = 1 if size in LARGE else 3
    layout = slimlib.trace(model, example)
    before = peak_bytes()

    def median(work: Any) -> float:
        return float(f"{statistics.median(timed(work)[0] for _ in range(repeats)):.6g}")

    told = {"axis": size.split()[0], "size": size.split()[1], "params": sum(p.numel() for p in model.parameters()),
            "trace_seconds": median(lambda: slimlib.trace(model, example)),
            "choose_seconds": median(lambda: _choose(model, example, layout)), "bytes_before": before}
    # What choosing needed is known now; the bare calls come after, so that they cannot raise that peak
    peak = peak_bytes()
    rows = [torch.cat(filters.filter_rows(model, g), dim=1) for g in layout.slimmable()]
    grams = [gram(x) for x in rows]
    told["eigenvalue_seconds"] = median(lambda: [torch.linalg.eigvalsh(one) for one in grams])
    return told | {"peak_bytes": peak}


def _choose(model: nn.Module, example: torch.Tensor, layout: Any) -> None:
    import slimlib

    slimlib.width_path(model, example, layout=layout).plan(keep_macs=0.5)


def network(size: str) -> tuple[nn.Module, torch.Tensor]:
    """The network of one size, and an input for it; weights drawn at random, as costs do not depend on their values."""
    axis, text = size.split()
    torch.manual_seed(0)
    if axis == "network":
        from slimlib import models

        return models.build(f"torchvision:{text}", num_classes=1000, in_channels=3).eval(), torch.randn(1, 3, 224, 224)
    if axis == "layer":
        outputs, inputs = map(int, text.split("x"))
        return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, 10)).eval(), torch.randn(1, inputs)
    width, depth = (int(text), 4) if axis == "width" else (128, int(text))
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 10, 1)).eval(), torch.randn(1, width, 8, 8)
