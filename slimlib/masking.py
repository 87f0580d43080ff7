"""What slimming means: the network without some channels answers as the whole one does with these channels set to zero."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import nn

from slimlib.copying import copied
from slimlib.cutting import Keep, dropped
from slimlib.layout import Group, Layout, is_depthwise, output_first

Told = tuple[torch.Tensor, torch.Tensor]
"""What a layer reads where channels are gone, (channels, all there is of each), and the largest number that it reads anywhere."""


def masked(model: nn.Module, layout: Layout, keep: Keep) -> nn.Module:
    """A copy of ``model`` at full width in which every dropped channel is zero wherever it is written, and is read nowhere: an
    activation may make something of the zero, as a sigmoid does.

    On it, and on the network that :func:`~slimlib.cutting.cut` returns, every input gives the same output.
    """
    copy_ = copied(model)
    with torch.no_grad():
        for name, sides in dropped(layout, keep).items():
            module = copy_.get_submodule(name)
            if isinstance(module, nn.PReLU) or getattr(module, "weight", None) is None:
                continue
            written, read = (torch.as_tensor(sides[s], dtype=torch.long, device=module.weight.device) if s in sides else None
                             for s in ("norm" if "norm" in sides else "out", "in"))
            if written is not None:
                output_first(module).index_fill_(0, written, 0)
                if module.bias is not None:
                    module.bias.index_fill_(0, written, 0)
            if read is not None and not is_depthwise(module):  # which is both in one
                _columns(module, read)
    return copy_


def _columns(module: nn.Module, index: torch.Tensor) -> None:
    """Zero what a layer has for these inputs: of a grouped convolution each group has its own."""
    if isinstance(module, nn.Linear):  # which may have very many, and fills them slowly
        module.weight.mul_(module.weight.new_ones(module.in_features).index_fill_(0, index, 0))
    elif module.transposed:
        output_first(module).index_fill_(1, index, 0)
    else:
        by_group = module.weight.unflatten(0, (module.groups, -1))
        by_group[index // by_group.shape[2], :, index % by_group.shape[2]] = 0


class Heard:
    """What layers of a masked network read where the channels were, noted by hooks on them."""

    def __init__(self, network: nn.Module, groups: Iterable[Group], keep: Keep):
        self.told: list[Told] = []
        for g in groups:
            for m in g.members:
                gone = m.positions[~np.isin(m.channels, keep[g.name])]
                if m.role == "in" and gone.size:
                    network.get_submodule(m.module).register_forward_pre_hook(partial(self._look, gone), with_kwargs=True)

    def _look(self, gone: np.ndarray, module: nn.Module, inputs: tuple, named: dict) -> None:
        read = next(value for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor))
        axis = read.dim() + 1 - module.weight.dim()  # the last for a Linear layer, else before those of the kernel
        there = read.movedim(axis, 0)[torch.as_tensor(gone.reshape(-1), device=read.device)]
        self.told.append((there.reshape(len(gone), -1), read.abs().max().clamp_min(1e-12)))

    def taken(self) -> list[Told]:
        """What was read since it was last taken, in the order of the layers' calls."""
        told, self.told = self.told, []
        return told


def tells_nothing(told: list[Told], beside: list[Told] | None) -> bool:
    """Is a layer told nothing where the channels were? What is the same there for another input, ``beside`` (a sigmoid of zero),
    tells nothing, but a sum over other channels does. Without another input, what is the same everywhere tells nothing."""
    if beside is None:
        apart = [(there - there[:, :1] if there.shape[1] > 1 else there, scale) for there, scale in told]
    else:
        apart = [(one - two, scale) for (one, scale), (two, _) in zip(told, beside, strict=True)]
    return all(bool(there.abs().max() / scale <= 1e-3) for there, scale in apart)


class OtherShapes(ValueError):
    """Two networks do not answer with tensors of the same shapes."""


def difference(got: list[torch.Tensor], want: list[torch.Tensor], beside: list[torch.Tensor] | None = None) -> float:
    """The largest deviation over all outputs: max ``|got - want|`` over the scale of ``want`` for floating and complex ones, the
    share of entries that differ for integer ones. Where both are the same infinity there is none.

    beside  what is wanted of another input: what is the same there is a constant (-1e9 for a choice that a mask forbids), and
            no scale
    """
    if [t.shape for t in got] != [t.shape for t in want]:
        raise OtherShapes(f"the thin network answers with shapes {[tuple(t.shape) for t in got]}, not those of the dense one, "
                          f"{[tuple(t.shape) for t in want]}")
    beside = beside if beside and len(beside) == len(want) else want  # a network may answer more to one input than to another
    triples = [three for three in zip(got, want, beside, strict=True) if three[1].numel()]
    errors = [_relative(*three) if three[1].is_floating_point() or three[1].is_complex()
              else (three[0] != three[1]).float().mean() for three in triples]
    return float(torch.stack([e.cpu().double() for e in errors]).max()) if errors else 0.0  # NaN, if one of them is


def _relative(ours: torch.Tensor, its: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    error = (ours - its).abs().masked_fill(ours == its, 0)
    finite = its.abs().masked_fill(~its.isfinite(), 0)
    varying = finite.masked_fill(its == other, 0).max() if its.shape == other.shape else finite.max()
    return error.max() / (varying if varying else finite.max()).clamp_min(1e-12)
