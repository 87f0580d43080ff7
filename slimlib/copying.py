"""Copies of networks as people have them: with an activation of the last pass still held somewhere."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimlib.errors import SlimlibError, first_line


def copied(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """``copy.deepcopy``, which by itself refuses a tensor that was computed with gradients (an activation kept as an attribute,
    for a heat map or by a hook). Such a tensor is copied without its graph, which belongs to the pass of the other network.
    Raises SlimlibError where the model holds what cannot be copied."""
    try:
        with _WithoutGraphs():
            return copy.deepcopy(model, memo)
    except TypeError as error:  # a lock, a generator, an open file
        raise SlimlibError(f"model: no copy can be made of it ({first_line(error)}); first remove what it holds besides its "
                           "layers (a lock, an open file), or give its class a __deepcopy__") from error


class _WithoutGraphs(TorchFunctionMode):
    """Sees every tensor that is about to be copied, wherever it is held."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))
