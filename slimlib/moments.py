"""Moments of a network's channels, carried along its traced operations without any data.

What a BatchNorm writes is taken as Gaussian with mean beta and standard deviation |gamma|, each channel by itself. Activations
act on that; additions add means and variances; pooling and reshaping are taken to leave them as they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from slimlib.errors import SlimlibError
from slimlib.layout import BATCH_NORM, Layout

Moments = tuple[np.ndarray, np.ndarray]  # mean and variance of each channel

ACTIVATIONS: dict[str, Callable] = {
    "Relu": F.relu, "Silu": F.silu, "Gelu": F.gelu, "Hardswish": F.hardswish, "Hardtanh": F.hardtanh, "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh, "LeakyRelu": F.leaky_relu, "Elu": torch.ops.aten.elu, "Hardsigmoid": F.hardsigmoid, "Mish": F.mish,
    "Softplus": F.softplus,
}
CONSTANTS = {  # what an activation must be told beside its input
    "LeakyRelu": ("negative_slope",), "Hardtanh": ("min_val", "max_val"), "Elu": ("alpha", "scale", "input_scale"),
    "Softplus": ("beta", "threshold"), "Gelu": ("approximate",),
}
BUILT_IN = {"ReLU": "Relu", "SiLU": "Silu", "GELU": "Gelu", "ReLU6": "Hardtanh", "LeakyReLU": "LeakyRelu"}
UNCHANGED = re.compile(r"^(MaxPool|AvgPool|AdaptiveAvgPool|AdaptiveMaxPool|MkldnnAdaptive|Mean|Slice|View|Reshape|Unsafe|"
                       r"NativeDropout|FusedDropout|Clone|Alias|ToCopy|Upsample|Squeeze|AsStrided)")


def activation_moments(name: str, mean: np.ndarray, variance: np.ndarray, **constants) -> Moments:
    """Mean and variance, (channels,) each, of an activation of Gaussian channels: closed form for ReLU, 80-point quadrature for
    others.

    ``constants``: those of :data:`CONSTANTS` that are not torch's defaults.
    """
    if name == "Relu":
        std = np.sqrt(np.maximum(variance, 1e-300))
        alpha = mean / std
        density = np.exp(-0.5 * alpha**2) / np.sqrt(2 * np.pi)
        mass = torch.special.ndtr(torch.from_numpy(alpha)).numpy()
        first = mean * mass + std * density
        second = (mean**2 + variance) * mass + mean * std * density
        return first, np.maximum(second - first**2, 0.0)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    z = torch.from_numpy(mean[:, None] + np.sqrt(variance)[:, None] * nodes)
    values = ACTIVATIONS[name](z, **constants).numpy()
    first = values @ weights
    return first, np.maximum((values - first[:, None]) ** 2 @ weights, 0.0)


def gaussian(norm: nn.Module) -> Moments:
    """Mean and variance of what a BatchNorm writes, beta and gamma^2; beta is 0 and gamma 1 where it has none of its own."""
    mean, variance = np.zeros(norm.num_features), np.ones(norm.num_features)
    if norm.bias is not None:
        mean = norm.bias.detach().cpu().double().numpy()
    if norm.weight is not None:
        variance = norm.weight.detach().square().cpu().double().numpy()
    return mean, variance


def built_in_activation(norm: nn.Module | None) -> nn.Module | None:
    """The activation that a norm holds, as timm has them."""
    built_in = getattr(norm, "act", None)
    return None if isinstance(built_in, nn.Identity) else built_in


class ChannelMoments:
    """Moments of the channels after each traced operation, worked out on demand and kept."""

    def __init__(self, model: nn.Module, layout: Layout):
        self.model, self.ops, self.known = model, layout.ops, {}
        self.users = defaultdict(list)
        for i, op in enumerate(layout.ops):
            for source in op.inputs:
                self.users[source].append(i)

    def __call__(self, index: int) -> Moments:
        if index not in self.known:
            self.known[index] = self._after(index, self.ops[index])
        return self.known[index]

    def _after(self, index: int, op) -> Moments:
        module = self.model.get_submodule(op.module) if op.module else None
        if isinstance(module, BATCH_NORM):
            moments = gaussian(module)
            if (built_in := built_in_activation(module)) is None:
                return moments
            name = BUILT_IN.get(type(built_in).__name__) or self.refuse(index)
            constants = {key: getattr(built_in, key) for key in CONSTANTS.get(name, ()) if hasattr(built_in, key)}
            return activation_moments(name, *moments, **constants)
        name, told = op.kind.partition("Backward")[0].rstrip("_B"), dict(op.constants)
        if name in ACTIVATIONS and told.keys() >= set(CONSTANTS.get(name, ())):
            return activation_moments(name, *self(op.inputs[0]), **{key: told[key] for key in CONSTANTS.get(name, ())})
        if name == "Add":
            parts = self.summands(index)
            if len({len(p[0]) for p in parts}) == 1:  # else one of them is a slice of channels
                return sum(p[0] for p in parts), sum(p[1] for p in parts)
        if name == "Cat":
            parts = [self(i) for i in op.inputs]
            return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        if name.startswith("ConstantPad"):
            return tuple(np.pad(m, op.pad or (0, 0)) for m in self(op.inputs[0]))
        if UNCHANGED.match(name) and op.inputs and not (name == "Slice" and told.get("axis") == 1):  # of positions alone
            return self(op.inputs[0])
        return self.refuse(index)

    def summands(self, index: int, but: int | None = None) -> list[Moments]:
        """Moments of what an addition adds up, ``but`` one operation. Raises where an operand stands there twice, as its
        covariance is unknown, is scaled (alpha), or leaves no trace in the graph (a number, a constant tensor)."""
        op = self.ops[index]
        if len(set(op.inputs)) < 2 or dict(op.constants).get("alpha", 1) != 1:
            self.refuse(index)
        return [self(i) for i in op.inputs if i != but]

    def refuse(self, index: int) -> NoReturn:
        """Raise; an operation outside any module is placed by the next module behind it."""
        op, i = self.ops[index], index
        what = op.module or op.kind.partition("Backward")[0]
        while not self.ops[i].module and self.users[i]:
            i = self.users[i][0]
        behind = "" if op.module or not self.ops[i].module else f", on the way to {self.ops[i].module}"
        raise SlimlibError(f"rule='neyman': channel moments cannot be followed through {what}{behind}: no BatchNorm says what "
                           "they are there; give calibration= a few hundred training images, on which they are measured, or "
                           "leave the layers concerned out with skip=")
