"""A network's weights as one short text: equal for equal networks.

It is made of names and raw bytes. Networks whose tensors differ in shape or type alone, with the same bytes under the same names,
would share it; it tells states of one network apart, not architectures.
"""

from __future__ import annotations

import hashlib
import pickle

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the parameters and buffers with their names, as 64 hexadecimal digits; the device does not matter.

    What a module adds to its state dict by ``get_extra_state`` counts as well: torch asks that it can be pickled.
    """
    told = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        told.update(name.encode())
        if isinstance(value, torch.Tensor):
            told.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        else:
            told.update(pickle.dumps(value))
    return told.hexdigest()
