"""Unlabelled images, passed through a network on which a rule measures something meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from slimlib.errors import SlimlibError
from slimlib.modes import evaluation_mode
from slimlib.passing import passing


def pass_calibration(
    model: nn.Module, images: torch.Tensor, batch_size: int, after_batch: Callable[[], None] = lambda: None
) -> None:
    """Passes ``images`` in evaluation mode and without gradients, so that the caller's hooks see them; memory is that of a batch.

    images  (N, C, H, W), N >= 2, normalised; of anything else, and of images that do not fit the network, a SlimlibError says so
    """
    if not isinstance(images, torch.Tensor) or images.dim() < 2 or len(images) < 2:
        told = f"of shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) else f"of type {type(images).__name__}"
        raise SlimlibError(f"calibration is {told}; give a batch of at least two normalised images (N, C, H, W)")
    with torch.no_grad(), evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            with nullcontext() if start else passing(images, "calibration images"):
                model(images[start : start + batch_size])
            after_batch()
