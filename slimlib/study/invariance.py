"""The same function, other weights: filters are rescaled and the BatchNorm behind them compensates. Which rules notice?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import slimlib
from slimlib.copying import copied
from slimlib.errors import SlimlibError
from slimlib.layout import Layout, output_first
from slimlib.modes import evaluation_mode

if TYPE_CHECKING:
    import pandas as pd


@torch.no_grad()
def rescaled(model: nn.Module, layout: Layout, spread: float = 0.5, seed: int = 0) -> nn.Module:
    """A copy of ``model`` that computes the same: every filter before a BatchNorm times its own positive number.

    The numbers are log-normal with ``spread`` as the standard deviation of their logarithm. The running mean is multiplied
    alike, and the running variance so that sigma, its constant epsilon included, is too.
    """
    if not layout.norm_after:
        raise SlimlibError("model: no layer of it is followed by a BatchNorm with running statistics, which could compensate")
    other, generator = copied(model), torch.Generator().manual_seed(seed)
    for name, norm_name in layout.norm_after.items():
        layer, norm = other.get_submodule(name), other.get_submodule(norm_name)
        scale = torch.exp(spread * torch.randn(norm.num_features, generator=generator, dtype=torch.float64))
        scale = scale.to(layer.weight.device)
        rows = output_first(layer)
        rows.mul_(scale.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(scale.to(layer.bias.dtype))
        norm.running_mean.mul_(scale.to(norm.running_mean.dtype))
        norm.running_var.copy_((norm.running_var.double() + norm.eps) * scale**2 - norm.eps)
    return other


def widths_under_rescaling(
    model: nn.Module, images: Tensor, rules: Sequence[str], keep_macs: float, draws: int = 5, spread: float = 0.5
) -> pd.DataFrame:
    """Widths that ``rules`` choose for ``model`` (draw 0) and for ``draws`` rescaled copies of it.

    One row a draw, rule and group: ``width``, ``full_width``, ``kept``, and ``change``, the greatest difference of the copy's
    outputs on ``images`` from the model's, as a share of the greatest output.
    """
    import pandas as pd

    layout, rows = slimlib.trace(model, images[:1]), []
    with torch.no_grad(), evaluation_mode(model):
        answer = model(images)
    for draw in range(draws + 1):
        other = rescaled(model, layout, spread, seed=draw) if draw else model
        with torch.no_grad(), evaluation_mode(other):  # a copy is in the modes of the model
            change = float((other(images) - answer).abs().max() / answer.abs().max())
        for rule in rules:
            plan = slimlib.plan_widths(other, images[:1], rule=rule, keep_macs=keep_macs, layout=layout)
            for group, width in plan.widths.items():
                row = {"draw": draw, "rule": rule, "group": group, "width": width, "full_width": plan.full_widths[group]}
                rows.append(row | {"kept": plan.kept[group], "change": change})
    return pd.DataFrame(rows)
