"""What a layer brings to its reader: the variances V and T of the rule ``neyman``.

A layer's n channels are a stratum, keeping w of them is a sample, and what the layer's reader sums up is the total to be
estimated (Neyman 1934). Estimating it from w of n channels has a variance of about V (n / w - 1), where V is the sum of the
variances that the channels bring, each alone. T is the variance of the reader's output where it is used: its own, plus that of
what it is added to. So V / T (n / w - 1) is the loss as a share of it.

V and T do not change when filters are rescaled and the BatchNorm behind them compensates.
They follow from weights and BatchNorm statistics alone, every normalised channel taken as Gaussian with mean beta and standard
deviation |gamma| (:mod:`slimlib.moments`); or, with ``calibration`` images, they are measured.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slimlib.errors import SlimlibError
from slimlib.filters import batchnorm_scale
from slimlib.layout import CONV, Group, Layout, output_first
from slimlib.measuring import Reading, measured
from slimlib.moments import ChannelMoments, built_in_activation, gaussian


def variances(
    model: nn.Module, layout: Layout, groups: tuple[Group, ...], calibration: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """V and T of every group, float64 arrays of shape (groups,), in the order of ``groups``.

    ``calibration``: a batch of unlabelled training images (N, C, H, W), normalised; without it the moments are computed, which
    needs BatchNorm behind the layers. Where several layers read a group, their losses add: V is the sum, and T such that V / T
    is the sum of ratios. Raises SlimlibError naming the first operation through which the moments cannot be followed.
    """
    readers = sorted({m.module for g in groups for m in g.members if m.role == "in"})
    read = _computed(model, layout, readers) if calibration is None else measured(model, layout, readers, calibration)
    v, t = np.zeros(len(groups)), np.zeros(len(groups))
    for j, g in enumerate(groups):
        brought = {m.module: float(_gains(model, layout, m.module, read[m.module])[m.positions].sum())
                   for m in g.members if m.role == "in"}
        if dead := [name for name in brought if not read[name].total > 0]:
            raise SlimlibError(f"rule='neyman': the output of {dead[0]}, which reads {g.name}, does not vary, so there is "
                               f"nothing to lose a share of; train the network first, or leave it out with skip=[{g.name!r}]")
        ratio = sum(b / read[name].total for name, b in brought.items())
        v[j] = sum(brought.values())
        if not ratio > 0:
            raise SlimlibError(f"rule='neyman': the channels of {g.name} bring no variance to {', '.join(brought) or 'any layer'}"
                               "; its BatchNorm scales may be zero: train the network first, or skip this layer")
        t[j] = v[j] / ratio
    return v, t


def _gains(model: nn.Module, layout: Layout, name: str, read: Reading) -> np.ndarray:
    """Variance that each input of a reader brings to what it joins: Var[input] x squared norm of its column, into which the
    BatchNorm behind it is folded and what scales its output on the way."""
    variance = read.inputs
    layer = model.get_submodule(name)
    weight = output_first(layer).detach().cpu().double()
    if name in layout.norm_after:
        norm = model.get_submodule(layout.norm_after[name])
        weight = weight * batchnorm_scale(norm, torch.float64).cpu().view(-1, *[1] * (weight.dim() - 1))
    squared = weight.square().flatten(2).sum(2) if weight.dim() > 2 else weight.square()  # (out, in / groups)
    squared = squared * torch.as_tensor(read.scale, device="cpu").square().view(-1, 1)
    groups = layer.groups if isinstance(layer, CONV) else 1
    columns = squared.view(groups, -1, squared.shape[1]).sum(1).reshape(-1).numpy()  # (in,)
    if len(columns) % len(variance):
        raise SlimlibError(f"rule='neyman': {name} reads {len(columns)} channels, but moments are known for {len(variance)}: "
                           "they are sliced or mixed on the way; give calibration= a few hundred training images")
    return np.repeat(variance, len(columns) // len(variance)) * columns


def _computed(model: nn.Module, layout: Layout, readers: list[str]) -> dict[str, Reading]:
    """What is read of each reader, from BatchNorm statistics carried along the traced operations."""
    if again := [op for op in layout.ops if op.calls > 1]:
        raise SlimlibError(f"rule='neyman': {again[0].module} is called {again[0].calls} times in one pass, on inputs of "
                           "different moments; give calibration= a few hundred training images, on which they are measured")
    follow, found = ChannelMoments(model, layout), {}
    place = {op.module: i for i, op in enumerate(layout.ops)}

    def joins(i: int) -> bool:
        return layout.ops[i].kind.startswith(("Add", "Sub"))  # the variance of a difference is that of a sum

    def scaled_to_join(i: int) -> bool:
        return layout.ops[i].kind.startswith(("Mul", "Div")) and any(joins(j) or scaled_to_join(j) for j in follow.users[i])

    for index, op in enumerate(layout.ops):
        if op.module not in readers:
            continue
        variance = follow(op.inputs[0])[1]
        own = _own_variance(model, layout, op.module, variance)
        norm = layout.norm_after.get(op.module)
        end = index if norm is None else place[norm]
        activated = norm is not None and built_in_activation(model.get_submodule(norm)) is not None
        for user in () if activated else follow.users[end]:  # what an activation made of it is another thing
            if joins(user):
                own += sum(float(joining.sum()) for _, joining in follow.summands(user, but=end))
            elif scaled_to_join(user):
                follow.refuse(user)  # the scale of a branch leaves no trace of its size
        found[op.module] = Reading(variance, own)
    return found


def _own_variance(model: nn.Module, layout: Layout, name: str, variance: np.ndarray) -> float:
    """Variance of a reader's own output: sum of gamma^2 of its BatchNorm, or of what its inputs bring where it has none."""
    if name in layout.norm_after:
        return float(gaussian(model.get_submodule(layout.norm_after[name]))[1].sum())
    return float(_gains(model, layout, name, Reading(variance)).sum())
