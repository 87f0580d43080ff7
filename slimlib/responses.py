"""PCA of a layer's responses instead of its filters: what needs data, and what 3AS does without.

Zhang et al. (2016) chose ranks by it, Garg et al. (2020) and Suau et al. (2020, PFA) widths.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slimlib.channel_statistics import ChannelStatistics, channel_axis
from slimlib.errors import SlimlibError
from slimlib.layout import Group
from slimlib.passing import pass_calibration


@torch.no_grad()
def response_spectra(
    model: nn.Module, groups: tuple[Group, ...], images: torch.Tensor, batch_size: int = 100
) -> dict[str, np.ndarray]:
    """Group -> eigenvalues of the covariance of its layers' outputs over images and positions; float64, descending.

    The outputs are those of the convolution or linear layer itself, before BatchNorm and activation. ``images``: a normalised
    batch (N, C, H, W), not needing labels. The members of a joint group add their covariances. Raises SlimlibError where images
    do not pass, or make a layer write what is not finite.
    """
    told = {m.module: ChannelStatistics(joint=True) for g in groups for m in g.writers()}

    def add(name):
        return lambda layer, args, output: told[name].add(output, channel_axis(layer, output))

    hooks = [model.get_submodule(n).register_forward_hook(add(n)) for n in told]
    try:
        pass_calibration(model, images, batch_size)
    finally:
        for h in hooks:
            h.remove()
    found = {}
    for g in groups:
        total = torch.zeros(g.width, g.width, dtype=torch.float64, device="cpu")
        for m in g.writers():
            covariance = told[m.module].covariance()
            index = torch.from_numpy(m.channels)
            for rows in map(torch.from_numpy, m.positions.T):  # a channel may have several
                total[index[:, None], index] += covariance[rows[:, None], rows]
        if not total.isfinite().all():
            raise SlimlibError(f"calibration images make {g.name} write NaN or infinite values; give finite, normalised images")
        found[g.name] = torch.linalg.eigvalsh(total).flip(0).clamp_min(0).numpy()
    return found
