"""Variances and covariances of a layer's channels over images and positions, batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slimlib.filters import in_float64


def channel_axis(layer: nn.Module, x: torch.Tensor) -> int:
    """Where the channels are in what a layer reads or writes: (N, C, ...), of a Linear layer (N, ..., C)."""
    return x.dim() - 1 if isinstance(layer, nn.Linear) else 1


class ChannelStatistics:
    """Moments of each channel over everything added, float64 about a pivot, so that a constant has exactly no variance.

    ``joint`` keeps those of every pair of channels as well, which :meth:`covariance` needs.
    """

    def __init__(self, joint: bool = False):
        self.joint, self.count, self.pivot, self.first, self.second = joint, 0, None, 0.0, 0.0

    def add(self, x: torch.Tensor, axis: int) -> None:
        """Values of which ``axis`` is that of the channels."""
        channels = in_float64(x.movedim(axis, -1))  # channels-last images are read as they lie in memory
        self.pivot = channels.flatten(0, -2)[0].clone() if self.pivot is None else self.pivot
        channels = channels.sub_(self.pivot) if channels.dtype != x.dtype else channels - self.pivot
        places = tuple(range(channels.dim() - 1))
        self.count += channels[..., 0].numel()
        self.first = self.first + channels.sum(places)
        if self.joint:
            rows = channels.flatten(0, -2)
            self.second = self.second + rows.T @ rows
        else:
            self.second = self.second + channels.square_().sum(places)

    def variance(self) -> np.ndarray:
        """Of each channel, (C,)."""
        mean = self.first / self.count
        second = self.second.diagonal() if self.joint else self.second
        return (second / self.count - mean.square()).clamp_min(0).cpu().numpy()

    def covariance(self) -> torch.Tensor:
        """Of each two channels, (C, C), on the CPU."""
        mean = self.first / self.count
        return (self.second / self.count - torch.outer(mean, mean)).cpu()
