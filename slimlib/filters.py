"""A layer's filters as the rows of a matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slimlib.layout import Group, Layout, output_first


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """The values without gradient in double precision, on the CPU where they lie on Apple's GPUs, which have none."""
    return (x.detach().cpu() if x.device.type == "mps" else x.detach()).double()


def batchnorm_scale(norm: nn.Module, dtype: torch.dtype | None = None) -> torch.Tensor:
    """gamma / sqrt(var + eps), (channels,): what a BatchNorm in evaluation mode multiplies each channel by, without gradient.

    Computed in ``dtype`` (default: the norm's own) on the norm's device; in float64 on the CPU where that is one of Apple's GPUs.
    The norm must have statistics; gamma is 1 where it has none.
    """
    def as_asked(x: torch.Tensor) -> torch.Tensor:
        return in_float64(x) if dtype == torch.float64 else x.detach().to(dtype=dtype)

    deviation = (as_asked(norm.running_var) + norm.eps).sqrt()
    return (1.0 if norm.weight is None else as_asked(norm.weight)) / deviation


@torch.no_grad()
def filter_rows(
    model: nn.Module, group: Group, fold: Layout | None = None, device: torch.device | str = "cpu"
) -> list[torch.Tensor]:
    """For each layer that writes the group, its filters as rows: float64, shape (width, positions), on ``device``.

    With ``fold``, rows are scaled by gamma / sqrt(var + eps) of the BatchNorm that the layout puts after the layer.
    """
    all_rows = []
    for m in group.writers():
        layer = model.get_submodule(m.module)
        rows = in_float64(output_first(layer)).to(device).flatten(1)
        if fold is not None and m.module in fold.norm_after:
            norm = model.get_submodule(fold.norm_after[m.module])
            rows = rows * batchnorm_scale(norm, torch.float64).to(device)[:, None]
        if len(m.channels) == group.width and m.positions.shape[1] == 1 and len(rows) == group.width:
            all_rows.append(rows[torch.from_numpy(m.positions[:, 0])] if (np.diff(m.positions[:, 0]) != 1).any() else rows)
        else:  # a member that holds part of the group, or several rows a channel
            placed = rows.new_zeros(group.width, m.positions.shape[1] * rows.shape[1])
            placed[torch.from_numpy(m.channels)] = rows[torch.from_numpy(m.positions)].flatten(1)
            all_rows.append(placed)
    return all_rows
