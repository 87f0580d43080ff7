"""Parameters and multiply-adds as functions of the widths, without building the network.

A layer's weight tensor has out x in x kernel elements, and both sizes are sums of group widths and constants. So every cost is
a sum of products of two affine functions of the widths: exact, and evaluated for many plans at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from slimlib.errors import SlimlibError
from slimlib.layout import CONV, LAYERS, Group, Layout, declared, is_depthwise, size_by_role

UNITS = ("macs", "params")


def must_be_unit(unit: str) -> None:
    """Refuse what is none of :data:`UNITS`."""
    if not isinstance(unit, str) or unit not in UNITS:
        raise SlimlibError(f"unit={unit!r} is not known; use 'macs' or 'params'")


@dataclass(frozen=True, eq=False)
class CostModel:
    """``out = out_fixed + out_per_width @ widths`` rows a layer, likewise ``in``; weights = kernel x out x in.

    Shapes: (layers, groups) for the ``per_width`` matrices, (layers,) for the other arrays, (groups,) for ``extra_per_width``
    (biases and norms). ``extra_params`` and ``fixed_macs`` are what no width changes. MACs are conv + linear multiply-adds of one
    example, without bias or BatchNorm.
    """

    out_fixed: np.ndarray
    out_per_width: np.ndarray
    in_fixed: np.ndarray
    in_per_width: np.ndarray
    kernel: np.ndarray
    positions: np.ndarray
    extra_per_width: np.ndarray
    extra_params: float
    fixed_macs: float

    def params(self, widths: np.ndarray) -> np.ndarray:
        """Elements of all parameters at ``widths`` (..., groups); int64, shape (...)."""
        return self._total(widths, self.kernel, self.extra_per_width, self.extra_params)

    def macs(self, widths: np.ndarray) -> np.ndarray:
        """Multiply-adds of one example at ``widths`` (..., groups); int64, shape (...)."""
        return self._total(widths, self.kernel * self.positions, np.zeros_like(self.extra_per_width), self.fixed_macs)

    def cost(self, unit: str, widths: np.ndarray) -> np.ndarray:
        """:meth:`macs` or :meth:`params`, by ``unit``; another one is refused."""
        must_be_unit(unit)
        return self.macs(widths) if unit == "macs" else self.params(widths)

    def saved_by_one(self, unit: str, widths: np.ndarray) -> np.ndarray:
        """What dropping one more channel of each group alone saves at ``widths`` (groups,); shape (groups,)."""
        must_be_unit(unit)
        weight = self.kernel * (self.positions if unit == "macs" else 1.0)
        out, in_ = self._sizes(widths)
        both = self.out_per_width * self.in_per_width  # a layer that reads and writes the same group
        saved = (weight * in_) @ self.out_per_width + (weight * out) @ self.in_per_width - weight @ both
        return saved + (0.0 if unit == "macs" else self.extra_per_width)

    def _sizes(self, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return widths @ self.out_per_width.T + self.out_fixed, widths @ self.in_per_width.T + self.in_fixed

    def _total(self, widths, weight, per_width, constant) -> np.ndarray:
        widths = np.asarray(widths, float)
        out, in_ = self._sizes(widths)
        return np.rint((out * in_) @ weight + widths @ per_width + constant).astype(np.int64)


def cost_model(model: nn.Module, layout: Layout, groups: tuple[Group, ...]) -> CostModel:
    """The costs of ``model`` as functions of the widths of ``groups``, everything else at full width."""
    column = {g.name: j for j, g in enumerate(groups)}
    layers = [n for n, m in model.named_modules() if isinstance(m, LAYERS) and n in layout.positions]
    row = {n: i for i, n in enumerate(layers)}
    shape = (len(layers), len(groups))
    out_w, in_w, per_width = np.zeros(shape), np.zeros(shape), np.zeros(len(groups))
    for g in groups:
        for m in g.members:
            module, share = model.get_submodule(m.module), m.positions.size / g.width  # entries a channel
            if m.role == "norm":
                entries = size_by_role(module)["norm"]  # a PReLU may have one for all
                per_channel = [p for p in module.parameters(recurse=False) if p.shape == (entries,) != (1,)]
                per_width[column[g.name]] += share * len(per_channel)
            elif m.role == "out":
                out_w[row[m.module], column[g.name]] += share
                per_width[column[g.name]] += share * (module.bias is not None)
            else:
                in_w[row[m.module], column[g.name]] += share / module.groups if isinstance(module, CONV) else share

    full = np.array([g.width for g in groups], float)
    outs, ins, kernel = np.zeros(len(layers)), np.zeros(len(layers)), np.ones(len(layers))
    for name, i in row.items():
        module = model.get_submodule(name)
        outs[i], ins[i] = declared(module)
        if isinstance(module, CONV):
            ins[i] /= module.groups
            kernel[i] = np.prod(module.kernel_size)
            if is_depthwise(module):
                in_w[i] = 0.0
    elements = sum(p.numel() for p in model.parameters())
    constant = elements - (kernel * outs * ins).sum() - full @ per_width
    return CostModel(out_fixed=outs - out_w @ full, out_per_width=out_w, in_fixed=ins - in_w @ full, in_per_width=in_w,
                     kernel=kernel, positions=np.array([layout.positions[n] for n in layers]), extra_per_width=per_width,
                     extra_params=constant, fixed_macs=layout.fixed_macs)
