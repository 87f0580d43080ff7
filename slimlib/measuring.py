"""The variances of the rule ``neyman``, measured on images instead of computed: of what layers read, and of what they join."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimlib.channel_statistics import ChannelStatistics, channel_axis
from slimlib.errors import SlimlibError
from slimlib.layout import Layout
from slimlib.modes import evaluation_mode

# torch's names of functions, without the underscores of some
SUMS = {"add", "iadd", "radd", "sub", "isub", "subtract"}
SCALINGS = {"mul", "rmul", "multiply", "div", "truediv", "divide", "dropout", "clone", "contiguous", "to"}
MOVES = {"permute", "transpose", "swapaxes", "movedim"}


class Reading(NamedTuple):
    """What is known of a layer that reads a group."""

    inputs: np.ndarray  # variance of each of its inputs
    total: float = 0.0  # T, that of what its output joins
    scale: np.ndarray | float = 1.0  # of each of its outputs, between it and what it joins


class _Written(NamedTuple):
    """A tensor that is a reader's ``output``, or that output scaled or with its axes moved."""

    reader: str
    output: torch.Tensor
    axis: int  # of the channels
    version: int  # of the tensor: once something is done to it in place it is this no more


class _Joins(TorchFunctionMode):
    """Sees every addition and subtraction, and tallies what a reader's output is combined with.

    The output may be scaled on the way, by a number, a weight of each channel or a gate, and its axes may move. What a residual
    block adds up in place is the stream from then on, and what that is added to later is none of the block's concern.
    """

    def __init__(self):
        super().__init__()
        self.joined: dict[tuple[str, int], ChannelStatistics] = defaultdict(ChannelStatistics)
        self.plain: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)  # of outputs that are scaled: before,
        self.scaled: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)  # and after
        self.forget()

    def forget(self) -> None:
        """Between batches: drop what was written, and count a reader's additions from the first again."""
        self.written: dict[int, _Written] = {}
        self.alive: list[torch.Tensor] = []  # or an id could be given to another tensor, whose additions would then count
        self.seen: dict[str, int] = defaultdict(int)

    def wrote(self, reader: str, output: torch.Tensor, tensor: torch.Tensor, axis: int) -> None:
        self.written[id(tensor)] = _Written(reader, output, axis, tensor._version)
        self.alive.append(tensor)

    def _known(self, value: object) -> _Written | None:
        written = self.written.get(id(value))
        return written if written and written.version == value._version else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").strip("_")
        if name in SUMS and len(args) == 2:
            alpha = kwargs.get("alpha", 1)  # of the second
            self._join(args[0], 1, args[1], alpha)
            self._join(args[1], alpha, args[0], 1)
        before = [(a, self._known(a)) for a in args] if name in SCALINGS or name in MOVES else []
        result = func(*args, **kwargs)
        for source, known in before:
            if known and result is not source and isinstance(result, torch.Tensor) and result.dim() == source.dim():
                axis = known.axis
                if name in MOVES:  # done to a tensor of one number, and two along this axis
                    marked = torch.empty([1 + (i == axis) for i in range(source.dim())])
                    axis = func(marked, *args[1:], **kwargs).shape.index(2)
                self.wrote(known.reader, known.output, result, axis)
        return result

    def _join(self, own: object, weight: float, other: object, its_weight: float) -> None:
        known = self._known(own)
        if known is None or not isinstance(other, torch.Tensor) or other.dim() != own.dim():
            return
        self.joined[known.reader, self.seen[known.reader]].add(_times(its_weight, other), known.axis)
        self.seen[known.reader] += 1
        if own is not known.output or weight != 1:
            self.plain[known.reader].add(known.output, self.written[id(known.output)].axis)
            self.scaled[known.reader].add(_times(weight, own), known.axis)

    def scale(self, reader: str) -> np.ndarray | float:
        """Standard deviation of each output where it is added up, as a multiple of what the reader wrote."""
        if reader not in self.scaled:
            return 1.0
        before, after = self.plain[reader].variance(), self.scaled[reader].variance()
        return np.sqrt(np.divide(after, before, out=np.ones_like(after), where=before > 0))


def _times(weight: float, x: torch.Tensor) -> torch.Tensor:
    return x if weight == 1 else weight * x


def measured(
    model: nn.Module, layout: Layout, readers: list[str], images: torch.Tensor, batch_size: int = 64
) -> dict[str, Reading]:
    """What is read of each reader, over images and positions; memory is that of one batch."""
    if not isinstance(images, torch.Tensor) or images.dim() < 2 or len(images) < 2:
        raise SlimlibError("calibration must be a batch of at least two normalised images (N, C, H, W)")
    inputs: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    outputs: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    joins = _Joins()

    def read(name):
        return lambda layer, args, output: inputs[name].add(args[0], channel_axis(layer, args[0]))

    def wrote(name):
        def hook(module, args, output):
            axis = channel_axis(module, output)
            outputs[name].add(output, axis)
            joins.wrote(name, output, output, axis)
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
    found = {}
    for name in readers:
        scale = joins.scale(name)
        joined = sum(float(tally.variance().sum()) for (reader, _), tally in joins.joined.items() if reader == name)
        found[name] = Reading(inputs[name].variance(), float((outputs[name].variance() * np.square(scale)).sum()) + joined, scale)
    return found
