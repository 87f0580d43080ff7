"""The same architecture with freshly drawn weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from slimlib import arguments
from slimlib.arguments import A_MODEL, kind
from slimlib.copying import copied
from slimlib.errors import SlimlibError
from slimlib.randomness import seeded


def fresh_copy(model: nn.Module, seed: int = 0, reset: Callable[[nn.Module], None] | None = None) -> nn.Module:
    """A copy of ``model`` with weights drawn under ``seed``: by ``reset(copy)`` if given, else by the network's own
    ``reset_parameters``, else by that of each of its layers. What was drawn is trainable, also where ``model`` is frozen, but for
    what ``reset`` freezes; parameters that it leaves alone are as they were. The global random state is left as it was.

    Raises SlimlibError naming the parameters that no layer can draw; pass ``reset`` then.
    """
    kind("model", model, nn.Module, A_MODEL)
    seed = arguments.seed("seed", seed)
    if reset is not None:
        kind("reset", reset, Callable, "a function that draws the weights of the network that it is given")
    network = copied(model)
    frozen = [p for p in network.parameters() if not p.requires_grad and (p.is_floating_point() or p.is_complex())]
    before = [(p.detach().clone(), p._version) for p in frozen]
    for parameter in frozen:
        parameter.requires_grad_(True)  # before the drawing, so that ``reset`` may freeze what it likes
    with seeded(seed):
        (reset or _reset)(network)
    for parameter, (values, version) in zip(frozen, before, strict=True):
        if parameter._version == version and torch.equal(parameter, values):
            parameter.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return network


def _reset(network: nn.Module) -> None:
    if hasattr(network, "reset_parameters"):
        network.reset_parameters()
        return
    drawn = set()
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
            drawn.update(id(p) for p in module.parameters(recurse=False))
    for module in reversed(list(network.modules())):  # an outer one draws anew what the layers within it have drawn
        if hasattr(module, "_reset_parameters") and not hasattr(module, "reset_parameters"):  # torch's attention, transformer
            module._reset_parameters()
            drawn.update(id(p) for p in module.parameters())
    left = [n for n, p in network.named_parameters() if id(p) not in drawn]
    if left:
        raise SlimlibError(f"model: no layer draws the parameters {', '.join(left[:5])}; pass reset= a function that does")
