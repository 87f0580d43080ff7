"""Images that do not pass through a network, told by their shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from slimlib.errors import SlimlibError, first_line

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
