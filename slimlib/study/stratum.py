"""One layer as a stratum of sampling theory: cut units at random, and measure the error of what the layer's reader sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimlib.errors import SlimlibError
from slimlib.filters import batchnorm_scale
from slimlib.layout import Group, Layout
from slimlib.modes import evaluation_mode
from slimlib.study.statistics import t_half_width

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Stratum:
    """What the n units of a layer bring to the one convolution that reads them, on some images.

    ``units``: (N, n, H, W), the units' outputs as the reader gets them; ``kernel``: (out, n, k, k), the reader's weights with
    the BatchNorm behind it folded in; ``reader``: the convolution itself, for its stride and padding. ``brought`` is V, the
    variance over images and places that the units bring, each alone, summed over units and outputs; ``total`` is the variance
    of their sum.
    """

    name: str
    units: Tensor
    kernel: Tensor
    reader: nn.Conv2d
    brought: float = 0.0
    total: float = 0.0

    @property
    def n(self) -> int:
        """Units of the layer."""
        return self.units.shape[1]

    def variance(self, scale: Tensor) -> float:
        """Variance, summed over outputs, of what the reader sums when each unit is multiplied by ``scale`` (n,)."""
        used = scale.nonzero()[:, 0]
        kernel = (self.kernel * scale.view(1, -1, 1, 1))[:, used]
        summed = F.conv2d(self.units[:, used], kernel, None, self.reader.stride, self.reader.padding, self.reader.dilation)
        return float(summed.transpose(0, 1).flatten(1).var(1, correction=0).sum())

    def error(self, kept: Iterable[int]) -> float:
        """Variance of the error when only ``kept`` are summed, scaled up by n / w to stand for all (Horvitz-Thompson)."""
        kept = torch.as_tensor(list(kept))
        scale = torch.full((self.n,), -1.0)
        scale[kept] += self.n / len(kept)
        return self.variance(scale) if scale.any() else 0.0

    def expected_error(self, width: int) -> float:
        """The mean of :meth:`error` over all choices of ``width`` units, exactly: (n/w - 1) (n V - total) / (n - 1)."""
        return (self.n / width - 1) * (self.n * self.brought - self.total) / (self.n - 1)


@torch.no_grad()
def stratum(model: nn.Module, layout: Layout, group: Group, images: Tensor) -> Stratum:
    """The layer ``group`` of ``model`` on ``images`` (N, C, H, W), normalised. Its one reader must be a plain convolution."""
    reader = only_reader(model, group)
    if reader is None:
        raise SlimlibError(f"layer={group.name!r} is not read by one plain convolution; choose a layer that is")
    member = next(m for m in group.members if m.role == "in")
    seen: dict[str, Tensor] = {}
    hook = reader.register_forward_pre_hook(lambda module, inputs: seen.update(units=inputs[0].detach()))
    try:
        with evaluation_mode(model):
            model(images)
    finally:
        hook.remove()
    kernel = reader.weight.detach()
    if member.module in layout.norm_after:
        norm = model.get_submodule(layout.norm_after[member.module])
        kernel = kernel * batchnorm_scale(norm).view(-1, 1, 1, 1)
    order = torch.as_tensor(member.positions[:, 0])
    units = seen["units"][:, order].contiguous(memory_format=torch.contiguous_format)
    bare = Stratum(group.name, units.cpu(), kernel[:, order].cpu(), reader)
    return replace(bare, brought=sum(bare.variance(one) for one in torch.eye(bare.n)), total=bare.variance(torch.ones(bare.n)))


def only_reader(model: nn.Module, group: Group) -> nn.Conv2d | None:
    """The convolution that alone reads a group, each unit of it in one channel; None where that is not so."""
    readers = [m for m in group.members if m.role == "in"]
    if len(readers) != 1 or readers[0].positions.shape != (group.width, 1):
        return None
    layer = model.get_submodule(readers[0].module)
    return layer if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros" else None


@torch.no_grad()
def experiment(layer: Stratum, widths: Iterable[int], draws: int = 100, level: float = 0.95) -> pd.DataFrame:
    """Random subsets of each width: the mean error and its t interval, beside the formulas; one row a width.

    ``error``, and ``low`` to ``high`` at this ``level``, from ``draws`` subsets, the same ones each time;
    ``exact`` :meth:`Stratum.expected_error`; ``uncorrelated`` V (n/w - 1).
    All as shares of ``total``, the variance of the full sum.
    """
    import pandas as pd

    generator, rows = np.random.default_rng(0), []
    for width in widths:
        if not 1 <= width < layer.n:
            raise SlimlibError(f"widths: {width} must lie between 1 and {layer.n - 1}, or there is nothing left to estimate")
        errors = [layer.error(generator.choice(layer.n, width, replace=False)) / layer.total for _ in range(draws)]
        mean, half = np.mean(errors), t_half_width(np.std(errors, ddof=1), draws, level)
        row = {"width": width, "level": level, "error": mean, "low": mean - half, "high": mean + half}
        row |= {"exact": layer.expected_error(width) / layer.total}
        rows.append(row | {"uncorrelated": layer.brought * (layer.n / width - 1) / layer.total})
    return pd.DataFrame(rows)
