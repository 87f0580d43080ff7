"""Cutting channels out of a network.

All groups are cut at once from the dense tensors: for every module the kept rows and the kept inputs are worked out first,
then each tensor is indexed a single time. The result is a plain module of the same class, with its attributes brought up to
date.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from slimlib.copying import copied
from slimlib.errors import SlimlibError
from slimlib.layout import CONV, Layout, count_of, is_depthwise, output_first, size_by_role

Keep = Mapping[str, np.ndarray]  # group -> its kept channels, ascending
Index = torch.Tensor | slice  # what stays of a side of a layer, on the CPU whatever the default device
_CUT = ("weight", "bias", "running_mean", "running_var")  # what surgery replaces in a layer or norm


def cut(model: nn.Module, layout: Layout, keep: Keep) -> nn.Module:
    """A copy of ``model`` with only the kept channels of the groups named in ``keep``; the others stay whole.

    What else refers to a weight (a list of those to penalise) refers to the cut one in the copy.
    """
    gone = dropped(layout, keep)
    slim = copied(model, _left_out(model, set(gone)))
    for name, sides in gone.items():
        dense, module = model.get_submodule(name), slim.get_submodule(name)
        kept = _kept(name, dense, sides)
        if isinstance(module, CONV):
            _cut_convolution(dense, module, kept)
        elif isinstance(module, nn.Linear):
            _cut_linear(dense, module, kept)
        else:
            _cut_norm(dense, module, kept["norm"])
    return slim


def _left_out(model: nn.Module, cut_modules: Iterable[str]) -> dict[int, torch.Tensor]:
    """For ``copy.deepcopy``: the tensors that are about to be cut need no copy, as what stays of them is read off the dense
    ones. A tensor that stands in a second place (shared weights) is copied."""
    places = Counter(id(t) for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
    cut_ones = [getattr(model.get_submodule(name), key, None) for name in cut_modules for key in _CUT]
    return {id(t): nn.Parameter(t.new_empty(0), t.requires_grad) if isinstance(t, nn.Parameter) else t.new_empty(0)
            for t in cut_ones if t is not None and t.dim() and places[id(t)] == 1}


def dropped(layout: Layout, keep: Keep) -> dict[str, dict[str, np.ndarray]]:
    """module -> side ("out", "in", "norm") -> the indices that go."""
    gone: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for g in layout.groups:
        if g.name in keep and not g.reason:  # one that stays whole may have the name of its first writer in common
            stays = np.zeros(g.width, bool)
            stays[np.asarray(keep[g.name])] = True
            for m in g.members:
                gone[m.module][m.role].append(m.positions[~stays[m.channels]].reshape(-1))
    return {n: {s: np.unique(np.concatenate(parts)) for s, parts in sides.items()} for n, sides in gone.items()}


def _kept(name: str, layer: nn.Module, gone: Mapping[str, np.ndarray]) -> dict[str, Index]:
    """What stays on each side of a layer: all as a slice, which copies nothing, else a list of indices."""
    kept: dict[str, Index] = {}
    for side, size in size_by_role(layer).items():
        positions = gone.get(side, np.zeros(0, int))
        if side == "norm" and size == 1:  # a PReLU with one slope for all channels
            positions = positions[:0]
        if len(positions) and positions.max() >= size:
            raise SlimlibError(f"model: one of the channels that go is number {positions.max()} on the {side} side of {name}, "
                               f"which has {size}: it reads another axis than that of the channels, so the layers before it "
                               "cannot be slimmed; leave them whole with skip=")
        stays = np.ones(size, bool)
        stays[positions] = False
        kept[side] = torch.from_numpy(np.flatnonzero(stays)) if len(positions) else slice(None)
    return kept


def _set(dense: nn.Module, module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Give ``module`` a parameter or buffer of its own, as trainable as the dense one and laid out in memory like it."""
    old, new = getattr(dense, name), getattr(module, name)
    value = value.detach().contiguous(memory_format=_memory_format(old))
    if value.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():  # nothing was cut from it
        value = value.clone()
    if not new.numel():  # left out of the copy; filled in place, it is what all that refers to it sees
        new.data = value
    else:
        setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _memory_format(tensor: torch.Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(tensor.dim(), torch.contiguous_format)
    return wanted if tensor.is_contiguous(memory_format=wanted) and not tensor.is_contiguous() else torch.contiguous_format


def _cut_linear(dense: nn.Linear, module: nn.Linear, kept: Mapping[str, Index]) -> None:
    out, inputs = kept["out"], kept["in"]
    _set(dense, module, "weight", dense.weight[out][:, inputs])
    if dense.bias is not None:
        _set(dense, module, "bias", dense.bias[out])
    module.out_features, module.in_features = module.weight.shape


def _cut_convolution(dense: nn.Module, conv: nn.Module, kept: Mapping[str, Index]) -> None:
    weight = output_first(dense)
    out, inputs = kept["out"], kept["in"]
    if is_depthwise(dense):
        weight = weight[out]
        conv.groups = conv.in_channels = len(weight)
    elif dense.groups == 1:
        weight = weight[out][:, inputs]
        conv.in_channels = weight.shape[1]
    else:  # each group of filters reads its own run of inputs, of which equally many stay
        rows, columns = (torch.arange(size, device="cpu") for size in (dense.out_channels, dense.in_channels))
        rows, columns = rows[out], columns[inputs]
        own = columns.reshape(dense.groups, -1) % (dense.in_channels // dense.groups)
        weight = weight[rows[:, None], own[rows // (dense.out_channels // dense.groups)]]
        conv.in_channels = len(columns)
    conv.out_channels = len(weight)
    _set(dense, conv, "weight", weight.transpose(0, 1) if dense.transposed else weight)
    if dense.bias is not None:
        _set(dense, conv, "bias", dense.bias[out])


def _cut_norm(dense: nn.Module, norm: nn.Module, kept: Index) -> None:
    """BatchNorm, InstanceNorm or PReLU: every tensor with one entry a channel."""
    count = size_by_role(dense)["norm"]
    for name, tensor in [*dense.named_parameters(recurse=False), *dense.named_buffers(recurse=False)]:
        if tensor.shape == (count,):
            _set(dense, norm, name, tensor[kept])
    setattr(norm, count_of(dense), count if isinstance(kept, slice) else len(kept))
