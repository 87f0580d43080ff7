"""The variances of the rule ``neyman``, measured on images instead of computed: of what layers read, and of what they join."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimlib.channel_statistics import ChannelStatistics, channel_axis
from slimlib.errors import SlimlibError
from slimlib.filters import batchnorm_scale
from slimlib.layout import Layout
from slimlib.moments import built_in_activation
from slimlib.passing import pass_calibration

# torch's names of functions, without the underscores of some
SUMS = {"add", "iadd", "radd", "sub", "isub", "subtract"}
SCALINGS = {"mul", "imul", "rmul", "multiply", "div", "itruediv", "truediv", "divide"}
SAME = {"neg", "negative", "dropout", "clone", "contiguous", "to"}
MOVES = {"permute", "transpose", "swapaxes", "movedim"}


class Reading(NamedTuple):
    """What is known of a layer that reads a group."""

    inputs: np.ndarray  # variance of each of its inputs
    total: float = 0.0  # T, that of its output, and of what this is added to
    scale: np.ndarray | float = 1.0  # of each of its outputs, between it and what it joins


class _Branch:
    """What is tallied of one reader: of what it reads and writes, and of the additions that its output goes to."""

    def __init__(self):
        self.inputs, self.outputs = ChannelStatistics(), ChannelStatistics()
        self.plain, self.scaled = ChannelStatistics(), ChannelStatistics()  # outputs that are scaled on the way: before, after
        self.joined: list[ChannelStatistics] = []  # what the output is added to: first in a pass, second, ...
        self.turn = 0  # additions so far in this pass

    def look(self, layer: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> None:
        """The forward hook on the reader."""
        value = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
        self.inputs.add(value, channel_axis(layer, value))
        self.outputs.add(output, channel_axis(layer, output))

    def join(self, other: torch.Tensor, axis: int) -> None:
        """The output is added to ``other``, whose channels are along ``axis``."""
        if self.turn == len(self.joined):
            self.joined.append(ChannelStatistics())
        self.joined[self.turn].add(other, axis)
        self.turn += 1

    def reading(self, norm: nn.Module | None) -> Reading:
        """What the tallies come to; ``norm``: the BatchNorm behind the reader, if there is one."""
        scale = 1.0
        if self.scaled.count:  # standard deviation of each output where it is added up, as a multiple of what the reader wrote
            before, after = self.plain.variance(), self.scaled.variance()
            scale = np.sqrt(np.divide(after, before, out=np.ones_like(after), where=before > 0))
        own = self.outputs.variance() * np.square(scale)
        if norm is not None:
            own *= batchnorm_scale(norm, torch.float64).square().cpu().numpy()
        joined = sum(float(tally.variance().sum()) for tally in self.joined)
        return Reading(self.inputs.variance(), float(own.sum()) + joined, scale)


class _Written(NamedTuple):
    """A tensor that is a reader's output, or that output shifted, scaled or with its axes moved."""

    branch: _Branch  # of the reader
    output: torch.Tensor  # as the reader wrote it,
    written_axis: int  # with the channels there
    axis: int  # where they are in the tensor
    version: int  # of the tensor: once something is done to it in place it is this no more


class _Joins(TorchFunctionMode):
    """Sees every addition and subtraction, and tallies what a reader's output is combined with, in the reader's branch.

    The output may be shifted or scaled on the way, by a number, a weight of each channel or a gate that is smaller than it, and
    its axes may move. What a residual block adds up in place is the stream from then on, and what that is added to later is none
    of the block's concern.
    """

    def __init__(self, branches: dict[str, _Branch]):
        super().__init__()
        self.branches = branches  # reader -> what is tallied of it
        self.forget()

    def forget(self) -> None:
        """Between batches: drop what was written, and count a reader's additions from the first again."""
        self.written: dict[int, _Written] = {}
        self.alive: list[torch.Tensor] = []  # or an id could be given to another tensor, whose additions would then count
        for branch in self.branches.values():
            branch.turn = 0

    def wrote(self, branch: _Branch, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        """A forward hook, bound to a branch, on the module that writes what is added up: the reader, or the norm behind it."""
        axis = channel_axis(module, output)
        self._keep(output, _Written(branch, output, axis, axis, 0))

    def _keep(self, tensor: torch.Tensor, known: _Written) -> None:
        self.written[id(tensor)] = known._replace(version=tensor._version)
        self.alive.append(tensor)

    def _known(self, value: object) -> _Written | None:
        written = self.written.get(id(value))
        return written if written and written.version == value._version else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
        name = name.strip("_")
        operands = (*args, kwargs["other"]) if "other" in kwargs else args
        if name in SUMS and len(operands) == 2:
            alpha = kwargs.get("alpha", 1)  # of the second
            self._join(operands[0], 1, operands[1], alpha)
            self._join(operands[1], alpha, operands[0], 1)
        source, known = self._followed(name, operands) or (None, None)
        if known and in_place and known.output is source:  # it is about to be written over
            known = known._replace(output=source.clone())
        result = func(*args, **kwargs)
        if known and isinstance(result, torch.Tensor) and result.dim() == source.dim():
            if name in MOVES:  # done to a tensor of one number, and two along the axis of the channels
                marked = torch.empty([1 + (i == known.axis) for i in range(source.dim())])
                known = known._replace(axis=func(marked, *args[1:], **kwargs).shape.index(2))
            self._keep(result, known)
        return result

    def _followed(self, name: str, operands: tuple) -> tuple[torch.Tensor, _Written] | None:
        """The operand whose place an operation's result takes: it is what a reader wrote, changed in scale, shift or axes."""
        for at, source in enumerate(operands):
            if (known := self._known(source)) is None:
                continue
            others = [other for i, other in enumerate(operands) if i != at]
            if name in SAME or name in MOVES:
                return source, known
            if name in SCALINGS and all(_elements(other) < source.numel() for other in others):
                return None if at and "div" in name else (source, known)  # as a divisor it is no branch
            if name in SUMS and not any(_is_stream(other, source) for other in others):
                return source, known
        return None

    def _join(self, own: object, weight: float, other: object, its_weight: float) -> None:
        known = self._known(own)
        if known is None or not _is_stream(other, own):
            return
        branch = known.branch
        branch.join(_times(its_weight, other), known.axis)
        if own is not known.output or weight != 1:
            branch.plain.add(known.output, known.written_axis)
            branch.scaled.add(_times(weight, own), known.axis)


def _elements(value: object) -> int:
    return value.numel() if isinstance(value, torch.Tensor) else 1


def _is_stream(value: object, own: torch.Tensor) -> bool:
    """Is this something that an output is added to, and no number or weight that is the same for all images?"""
    return isinstance(value, torch.Tensor) and value.dim() == own.dim() and len(value) == len(own)


def _times(weight: float, x: torch.Tensor) -> torch.Tensor:
    return x if weight == 1 else weight * x


def measured(
    model: nn.Module, layout: Layout, readers: list[str], images: torch.Tensor, batch_size: int = 64
) -> dict[str, Reading]:
    """Reader -> what is known of it from ``images`` (N, C, H, W), normalised; over images and positions. Memory is that of one
    batch. Raises SlimlibError where images do not pass, or make a layer read or write what is not finite."""
    branches = {name: _Branch() for name in readers}
    joins = _Joins(branches)
    hooks, norms = [], {name: model.get_submodule(layout.norm_after[name]) for name in readers if name in layout.norm_after}
    for name, branch in branches.items():
        layer = model.get_submodule(name)
        hooks.append(layer.register_forward_hook(branch.look, with_kwargs=True))
        if built_in_activation(norms.get(name)) is None:  # what comes out of one is added to nothing as the reader wrote it
            hooks.append(norms.get(name, layer).register_forward_hook(partial(joins.wrote, branch)))
    try:
        # tensors made in the caller's inference mode would have no version
        with torch.inference_mode(False), joins:
            pass_calibration(model, images, batch_size, after_batch=joins.forget)
    finally:
        for h in hooks:
            h.remove()
    found = {}
    for name, branch in branches.items():
        found[name] = reading = branch.reading(norms.get(name))
        if not np.isfinite([reading.total, *reading.inputs]).all():
            raise SlimlibError(f"calibration images make {name} read or write NaN or infinite values; give finite, normalised "
                               "images")
    return found
