"""What slimming means: the network without some channels answers as the whole one does with these channels set to zero."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from slimlib.layout import Layout
from slimlib.outputs import tensors_in
from slimlib.surgery import Keep, cut, dropped


def masked(model: nn.Module, layout: Layout, keep: Keep) -> nn.Module:
    """A copy of ``model`` at full width in which every dropped channel is zero wherever it is written.

    On it, and on the network that :func:`~slimlib.surgery.cut` returns, every input gives the same output.
    """
    copy_ = copy.deepcopy(model)
    with torch.no_grad():
        for name, sides in dropped(layout, keep).items():
            module = copy_.get_submodule(name)
            index = torch.as_tensor(sides.get("out", sides.get("norm", np.zeros(0, int))), dtype=torch.long)
            weight = getattr(module, "weight", None)
            if weight is not None and len(index) and not isinstance(module, nn.PReLU):
                weight.index_fill_(1 if getattr(module, "transposed", False) else 0, index.to(weight.device), 0)
                if module.bias is not None:
                    module.bias.index_fill_(0, index.to(weight.device), 0)
    return copy_


@torch.no_grad()
def masking_error(model: nn.Module, layout: Layout, keep: Keep, example_input: torch.Tensor) -> float:
    """Largest absolute difference between the cut and the masked network, over the scale of the masked one's outputs.

    Of several outputs, the worst. Raises ValueError where the two do not answer with tensors of the same shapes.
    """
    slim, reference = cut(model, layout, keep).eval(), masked(model, layout, keep).eval()
    got, want = ([t for t in tensors_in(network(example_input)) if t.is_floating_point()] for network in (slim, reference))
    if [t.shape for t in got] != [t.shape for t in want]:
        raise ValueError(f"the thin network answers with shapes {[tuple(t.shape) for t in got]}, not those of the dense one, "
                         f"{[tuple(t.shape) for t in want]}")
    errors = [(ours - its).abs().max() / its.abs().max().clamp_min(1e-12) for ours, its in zip(got, want, strict=True)]
    return float(torch.stack(errors).max())  # not a number, if one of them is none
