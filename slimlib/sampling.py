"""What a layer brings to its reader: the variances V and T of the rule ``neyman``.

A layer's n channels are a stratum, keeping w of them is a sample, and what the layer's reader sums up is the total to be
estimated (Neyman 1934). Estimating it from w of n channels has a variance of V (n / w - 1), where V is the variance that all
channels bring; T is the variance of what the reader's output joins, so V / T (n / w - 1) is the loss as a share of it.

V and T are functions of the network: they do not change when filters are rescaled and the BatchNorm behind them compensates.
They follow from weights and BatchNorm statistics alone, every normalised channel taken as Gaussian with mean beta and standard
deviation |gamma| (:mod:`slimlib.moments`); or, with ``calibration`` images, they are measured.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimlib.channel_statistics import ChannelStatistics
from slimlib.errors import SlimlibError
from slimlib.filters import batchnorm_scale
from slimlib.layout import CONV, Group, Layout
from slimlib.modes import evaluation_mode
from slimlib.moments import ChannelMoments


def variances(
    model: nn.Module, layout: Layout, groups: tuple[Group, ...], calibration: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """V and T of every group, float64 arrays of shape (groups,), in the order of ``groups``.

    ``calibration``: a batch of unlabelled training images (N, C, H, W), normalised; without it the moments are computed, which
    needs BatchNorm behind the layers. Where several layers read a group, their losses add: V is the sum, and T such that V / T
    is the sum of ratios. Raises SlimlibError naming the first operation through which the moments cannot be followed.
    """
    readers = sorted({m.module for g in groups for m in g.members if m.role == "in"})
    read = _computed(model, layout, readers) if calibration is None else _measured(model, layout, readers, calibration)
    v, t = np.zeros(len(groups)), np.zeros(len(groups))
    for j, g in enumerate(groups):
        brought = {m.module: float(_gains(model, layout, m.module, read[m.module][0])[m.positions].sum())
                   for m in g.members if m.role == "in"}
        if dead := [name for name in brought if not read[name][1] > 0]:
            raise SlimlibError(f"rule='neyman': the output of {dead[0]}, which reads {g.name}, does not vary, so there is "
                               f"nothing to lose a share of; train the network first, or leave it out with skip=[{g.name!r}]")
        ratio = sum(b / read[name][1] for name, b in brought.items())
        v[j] = sum(brought.values())
        if not ratio > 0:
            raise SlimlibError(f"rule='neyman': the channels of {g.name} bring no variance to {', '.join(brought) or 'any layer'}"
                               "; its BatchNorm scales may be zero: train the network first, or skip this layer")
        t[j] = v[j] / ratio
    return v, t


def _gains(model: nn.Module, layout: Layout, name: str, variance: np.ndarray) -> np.ndarray:
    """Variance that each input of a reader brings to its output: Var[input] x squared norm of its column, BatchNorm folded in."""
    layer = model.get_submodule(name)
    weight = layer.weight.detach().cpu().double()
    if getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)
    if name in layout.norm_after:
        norm = model.get_submodule(layout.norm_after[name])
        weight = weight * batchnorm_scale(norm, torch.float64).cpu().view(-1, *[1] * (weight.dim() - 1))
    squared = weight.square().flatten(2).sum(2) if weight.dim() > 2 else weight.square()  # (out, in / groups)
    groups = layer.groups if isinstance(layer, CONV) else 1
    columns = squared.view(groups, -1, squared.shape[1]).sum(1).reshape(-1).numpy()  # (in,)
    if len(columns) % len(variance):
        raise SlimlibError(f"rule='neyman': {name} reads {len(columns)} channels, but moments are known for {len(variance)}: "
                           "they are sliced or mixed on the way; give calibration= a few hundred training images")
    return np.repeat(variance, len(columns) // len(variance)) * columns


def _computed(model: nn.Module, layout: Layout, readers: list[str]) -> dict[str, tuple[np.ndarray, float]]:
    """Reader -> variance of each of its inputs, and T, from BatchNorm statistics carried along the traced operations."""
    if again := [op for op in layout.ops if op.calls > 1]:
        raise SlimlibError(f"rule='neyman': {again[0].module} is called {again[0].calls} times in one pass, on inputs of "
                           "different moments; give calibration= a few hundred training images, on which they are measured")
    follow = ChannelMoments(model, layout)
    found = {}
    for index, op in enumerate(layout.ops):
        if op.module not in readers:
            continue
        variance = follow(op.inputs[0])[1]
        own = _own_variance(model, layout, op.module, variance)
        users = follow.users[index]
        if op.module in layout.norm_after and users:
            norm = next(i for i in _norm_chain(layout, index) if layout.ops[i].module == layout.norm_after[op.module])
            users = follow.users[norm]
            for user in users:
                if layout.ops[user].kind.startswith("Add"):
                    own += sum(float(joins.sum()) for _, joins in follow.summands(user, but=norm))
        found[op.module] = (variance, own)
    return found


def _norm_chain(layout: Layout, index: int):
    """Operations after ``index`` in order, which are few until its BatchNorm."""
    reached = {index}
    for i in range(index + 1, len(layout.ops)):
        if reached & set(layout.ops[i].inputs):
            reached.add(i)
            yield i


def _own_variance(model: nn.Module, layout: Layout, name: str, variance: np.ndarray) -> float:
    """Variance of a reader's own output: sum of gamma^2 of its BatchNorm, or of what its inputs bring where it has none."""
    if name in layout.norm_after:
        return float(model.get_submodule(layout.norm_after[name]).weight.detach().double().square().sum())
    return float(_gains(model, layout, name, variance).sum())


class _Joins(TorchFunctionMode):
    """Sees every addition, and tallies for a reader what its output is added to.

    A tensor counts as that output only until something is done to it in place, which its version tells: what a residual block
    adds up in place is the stream from then on, and what that is added to later is none of the block's concern.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.tallies = model, defaultdict(ChannelStatistics)
        self.forget()

    def forget(self) -> None:
        """Between batches: drop what was written, and count a reader's additions from the first again."""
        self.written: dict[int, tuple[str, int]] = {}
        self.alive: list[torch.Tensor] = []  # or an id could be given to another tensor, whose additions would then count
        self.seen: dict[str, int] = defaultdict(int)

    def wrote(self, reader: str, output: torch.Tensor) -> None:
        self.written[id(output)] = reader, output._version
        self.alive.append(output)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("add", "add_", "__add__", "__iadd__", "__radd__") and len(args) == 2:
            for one, other in (args, args[::-1]):
                reader, version = self.written.get(id(one), ("", 0))
                if reader and one._version == version and isinstance(other, torch.Tensor) and other.dim() == one.dim():
                    self.tallies[reader, self.seen[reader]].add(other, self.model.get_submodule(reader))
                    self.seen[reader] += 1
        return func(*args, **(kwargs or {}))


def _measured(
    model: nn.Module, layout: Layout, readers: list[str], images: torch.Tensor, batch_size: int = 64
) -> dict[str, tuple[np.ndarray, float]]:
    """Reader -> variance of each of its inputs, and T, measured over images and positions; memory is that of one batch."""
    if not isinstance(images, torch.Tensor) or images.dim() < 2 or len(images) < 2:
        raise SlimlibError("calibration must be a batch of at least two normalised images (N, C, H, W)")
    inputs: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    outputs: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    joins = _Joins(model)

    def read(name):
        return lambda layer, args, output: inputs[name].add(args[0], layer)

    def wrote(name):
        def hook(module, args, output):
            outputs[name].add(output, module)
            joins.wrote(name, output)
        return hook

    hooks = []
    for name in readers:
        hooks.append(model.get_submodule(name).register_forward_hook(read(name)))
        hooks.append(model.get_submodule(layout.norm_after.get(name, name)).register_forward_hook(wrote(name)))
    try:
        # tensors made in the caller's inference mode would have no version
        with torch.inference_mode(False), torch.no_grad(), joins, evaluation_mode(model):
            for start in range(0, len(images), batch_size):
                model(images[start : start + batch_size])
                joins.forget()
    finally:
        for h in hooks:
            h.remove()
    totals = {name: float(outputs[name].variance().sum()) for name in readers}
    for (name, _), tally in joins.tallies.items():
        totals[name] += float(tally.variance().sum())
    return {name: (inputs[name].variance(), totals[name]) for name in readers}
