"""What a layer brings to its reader: the variances V and T of the rule ``neyman``.

A layer's n channels are a stratum, keeping w of them is a sample, and what the layer's reader sums up is the total to be
estimated (Neyman 1934). Estimating it from w of n channels has a variance of V (n / w - 1), where V is the variance that all
channels bring; T is the variance of what the reader's output joins, so V / T (n / w - 1) is the loss as a share of it.

V and T are functions of the network: they do not change when filters are rescaled and the BatchNorm behind them compensates.
They follow from weights and BatchNorm statistics alone, every normalised channel taken as Gaussian with mean beta and standard
deviation |gamma|; or, with ``calibration`` images, they are measured.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from slimlib.errors import SlimlibError
from slimlib.layout import CONV, Group, Layout

Moments = tuple[np.ndarray, np.ndarray]  # mean and variance of each channel

ACTIVATIONS: dict[str, Callable] = {
    "Relu": F.relu, "Silu": F.silu, "Gelu": F.gelu, "Hardswish": F.hardswish, "Hardtanh": F.relu6, "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh, "LeakyRelu": F.leaky_relu, "Elu": F.elu, "Hardsigmoid": F.hardsigmoid, "Mish": F.mish,
    "Softplus": F.softplus,
}
UNCHANGED = re.compile(r"^(MaxPool|AvgPool|AdaptiveAvgPool|AdaptiveMaxPool|MkldnnAdaptive|Mean|Slice|View|Reshape|Unsafe|"
                       r"NativeDropout|FusedDropout|Clone|Alias|ToCopy|Upsample|Squeeze|AsStrided)")
BATCH_NORM = nn.modules.batchnorm._BatchNorm


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


def activation_moments(name: str, mean: np.ndarray, variance: np.ndarray) -> Moments:
    """Mean and variance of an activation of Gaussian channels: closed form for ReLU, 80-point quadrature for others."""
    if name == "Relu":
        from torch.special import ndtr

        std = np.sqrt(np.maximum(variance, 1e-300))
        alpha = mean / std
        density = np.exp(-0.5 * alpha**2) / np.sqrt(2 * np.pi)
        mass = ndtr(torch.from_numpy(alpha)).numpy()
        first = mean * mass + std * density
        second = (mean**2 + variance) * mass + mean * std * density
        return first, np.maximum(second - first**2, 0.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    z = torch.from_numpy(mean[:, None] + np.sqrt(variance)[:, None] * nodes)
    values = ACTIVATIONS[name](z).numpy()
    first = values @ weights
    return first, np.maximum((values - first[:, None]) ** 2 @ weights, 0.0)


def _gains(model: nn.Module, layout: Layout, name: str, variance: np.ndarray) -> np.ndarray:
    """Variance that each input of a reader brings to its output: Var[input] x squared norm of its column, BatchNorm folded in."""
    layer = model.get_submodule(name)
    weight = layer.weight.detach().cpu().double()
    if getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)
    if name in layout.norm_after:
        norm = model.get_submodule(layout.norm_after[name])
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * scale.cpu().view(-1, *[1] * (weight.dim() - 1))
    squared = weight.square().flatten(2).sum(2) if weight.dim() > 2 else weight.square()  # (out, in / groups)
    groups = layer.groups if isinstance(layer, CONV) else 1
    columns = squared.view(groups, -1, squared.shape[1]).sum(1).reshape(-1).numpy()  # (in,)
    return np.repeat(variance, len(columns) // len(variance)) * columns


def _computed(model: nn.Module, layout: Layout, readers: list[str]) -> dict[str, tuple[np.ndarray, float]]:
    """Reader -> variance of each of its inputs, and T, from BatchNorm statistics carried along the traced operations."""
    follow = _Moments(model, layout)
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
                    own += sum(float(follow(i)[1].sum()) for i in layout.ops[user].inputs if i != norm)
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


class _Moments:
    """Moments of the channels after each traced operation, worked out on demand and kept."""

    def __init__(self, model: nn.Module, layout: Layout):
        self.model, self.ops, self.known = model, layout.ops, {}
        self.users = defaultdict(list)
        for i, op in enumerate(layout.ops):
            for source in op.inputs:
                self.users[source].append(i)

    def __call__(self, index: int) -> Moments:
        if index not in self.known:
            self.known[index] = self._after(self.ops[index])
        return self.known[index]

    def _after(self, op) -> Moments:
        module = self.model.get_submodule(op.module) if op.module else None
        if isinstance(module, BATCH_NORM) and module.affine:
            moments = tuple(p.detach().cpu().double().numpy() for p in (module.bias, module.weight.square()))
            built_in = getattr(module, "act", None)  # a norm with its activation, as timm has them
            if built_in is None or isinstance(built_in, nn.Identity):
                return moments
            name = {"ReLU": "Relu", "SiLU": "Silu", "GELU": "Gelu", "ReLU6": "Hardtanh"}.get(type(built_in).__name__)
            return activation_moments(name or self._unknown(op), *moments)
        name = op.kind.partition("Backward")[0].rstrip("_B")
        if name in ACTIVATIONS:
            return activation_moments(name, *self(op.inputs[0]))
        if name == "Add" and len(op.inputs) >= 1:
            parts = [self(i) for i in op.inputs]
            return sum(p[0] for p in parts), sum(p[1] for p in parts)
        if name == "Cat":
            parts = [self(i) for i in op.inputs]
            return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        if name.startswith("ConstantPad"):
            before, after = op.pad[4:6] if len(op.pad) > 4 else (0, 0)
            return tuple(np.pad(m, (before, after)) for m in self(op.inputs[0]))
        if UNCHANGED.match(name) and op.inputs:
            return self(op.inputs[0])
        return self._unknown(op)

    def _unknown(self, op):
        what = op.module or op.kind.partition("Backward")[0]
        raise SlimlibError(f"rule='neyman': channel moments cannot be followed through {what}; "
                           "give calibration= a few hundred training images, on which they are measured")


def _measured(model, layout: Layout, readers: list[str], images: torch.Tensor) -> dict[str, tuple[np.ndarray, float]]:
    """Reader -> variance of each of its inputs, and T, measured over images and positions."""
    inputs, outputs, joined = {}, {}, defaultdict(float)
    produced: dict[int, str] = {}
    hooks = []

    def variance(x: torch.Tensor, layer: nn.Module) -> np.ndarray:
        axis = x.dim() - 1 if isinstance(layer, nn.Linear) and x.dim() > 2 else 1
        return x.detach().double().transpose(0, axis).flatten(1).var(1, correction=0).cpu().numpy()

    def read(name):
        def hook(module, args, output):
            inputs[name] = variance(args[0], module)
            if name not in layout.norm_after:
                wrote(name, module, output)
        return hook

    def normalised(name):
        return lambda module, args, output: wrote(name, module, output)

    def wrote(name, module, output):
        outputs[name], produced[id(output)] = float(variance(output, module).sum()), name
        alive.append(output)  # or its id could be given to another tensor, whose additions would then be counted

    alive: list[torch.Tensor] = []

    class Joins(TorchFunctionMode):
        """Sees every addition, and adds to a reader's T the variance of what its output is added to."""

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in ("add", "add_", "__add__", "__iadd__", "__radd__") and len(args) == 2:
                for one, other in (args, args[::-1]):
                    if id(one) in produced and isinstance(other, torch.Tensor) and other.dim() == one.dim():
                        name = produced[id(one)]
                        joined[name] += float(variance(other, model.get_submodule(name)).sum())
            return func(*args, **(kwargs or {}))

    for name in readers:
        hooks.append(model.get_submodule(name).register_forward_hook(read(name)))
        if name in layout.norm_after:
            hooks.append(model.get_submodule(layout.norm_after[name]).register_forward_hook(normalised(name)))
    training = model.training
    try:
        with torch.no_grad(), Joins():
            model.eval()(images)
    finally:
        model.train(training)
        for h in hooks:
            h.remove()
    return {name: (inputs[name], outputs[name] + joined[name]) for name in readers}


