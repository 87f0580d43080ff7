"""Images through a network: those that do not pass are told by their shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from slimlib.errors import SlimlibError, first_line
from slimlib.modes import evaluation_mode

MACHINE_FAULTS = (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)
"""What tells of the machine, not of the network that was running on it: nothing is to be concluded from it."""


@contextmanager
def passing(images: Tensor, which: str = "the data's images", who: str = "model") -> Iterator[None]:
    """Says of what fails within that it failed on these images: they may have other channels than the network was made for, or
    another size. To be put around a first batch: what fails later has other causes."""
    try:
        yield
    except MACHINE_FAULTS:
        raise
    except Exception as error:  # whatever a model may raise
        raise SlimlibError(f"{which}, of shape {tuple(images.shape[1:])} and {images.dtype}, do not pass through the {who}: "
                           f"{first_line(error)}; give those that it was made for") from error


def pass_calibration(
    model: nn.Module, images: Tensor, batch_size: int, after_batch: Callable[[], None] = lambda: None
) -> None:
    """Passes a rule's images in evaluation mode and without gradients, so that its hooks see them; memory is that of a batch.

    images  (N, C, H, W), N >= 2, normalised; of anything else, and of images that do not fit the network, a SlimlibError says so
    """
    if not isinstance(images, Tensor) or images.dim() < 2 or len(images) < 2:
        told = f"of shape {tuple(images.shape)}" if isinstance(images, Tensor) else f"of type {type(images).__name__}"
        raise SlimlibError(f"calibration is {told}; give a batch of at least two normalised images (N, C, H, W)")
    with torch.no_grad(), evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            with nullcontext() if start else passing(images, "calibration images"):
                model(images[start : start + batch_size])
            after_batch()
