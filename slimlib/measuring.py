"""The variances of the rule ``neyman``, measured on images instead of computed: of what layers read, and of what they join."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimlib.calibration import pass_calibration
from slimlib.channel_statistics import ChannelStatistics, channel_axis
from slimlib.errors import SlimlibError
from slimlib.filters import batchnorm_scale
from slimlib.layout import Layout
from slimlib.moments import built_in_activation

# torch's names of functions, without the underscores of some
SUMS = {"add", "iadd", "radd", "sub", "isub", "subtract"}
SCALINGS = {"mul", "imul", "rmul", "multiply", "div", "itruediv", "truediv", "divide"}
SAME = {"neg", "negative", "dropout", "clone", "contiguous", "to"}
MOVES = {"permute", "transpose", "swapaxes", "movedim"}


class Reading(NamedTuple):
    """What is known of a layer that reads a group."""

    inputs: np.ndarray  # variance of each of its inputs
    total: float = 0.0  # T, that of what its output joins
    scale: np.ndarray | float = 1.0  # of each of its outputs, between it and what it joins


class _Written(NamedTuple):
    """A tensor that is a reader's output, or that output shifted, scaled or with its axes moved."""

    reader: str
    output: torch.Tensor  # as the reader wrote it,
    written_axis: int  # with the channels there
    axis: int  # where they are in the tensor
    version: int  # of the tensor: once something is done to it in place it is this no more


class _Joins(TorchFunctionMode):
    """Sees every addition and subtraction, and tallies what a reader's output is combined with.

    The output may be shifted or scaled on the way, by a number, a weight of each channel or a gate that is smaller than it, and
    its axes may move. What a residual block adds up in place is the stream from then on, and what that is added to later is none
    of the block's concern.
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

    def wrote(self, reader: str, output: torch.Tensor, axis: int) -> None:
        self._keep(output, _Written(reader, output, axis, axis, 0))

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
        followed = self._followed(name, operands)
        if followed and in_place and followed[1].output is followed[0]:  # it is about to be written over
            followed = followed[0], followed[1]._replace(output=followed[0].clone())
        result = func(*args, **kwargs)
        if followed and isinstance(result, torch.Tensor) and result.dim() == followed[0].dim():
            source, known = followed
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
        self.joined[known.reader, self.seen[known.reader]].add(_times(its_weight, other), known.axis)
        self.seen[known.reader] += 1
        if own is not known.output or weight != 1:
            self.plain[known.reader].add(known.output, known.written_axis)
            self.scaled[known.reader].add(_times(weight, own), known.axis)

    def scale(self, reader: str) -> np.ndarray | float:
        """Standard deviation of each output where it is added up, as a multiple of what the reader wrote."""
        if reader not in self.scaled:
            return 1.0
        before, after = self.plain[reader].variance(), self.scaled[reader].variance()
        return np.sqrt(np.divide(after, before, out=np.ones_like(after), where=before > 0))


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
    inputs: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    outputs: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    joins = _Joins()

    def look(name):
        def hook(layer, args, kwargs, output):
            value = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
            inputs[name].add(value, channel_axis(layer, value))
            outputs[name].add(output, channel_axis(layer, output))
        return hook

    def wrote(name):
        return lambda module, args, output: joins.wrote(name, output, channel_axis(module, output))

    hooks, norms = [], {name: model.get_submodule(layout.norm_after[name]) for name in readers if name in layout.norm_after}
    for name in readers:
        layer = model.get_submodule(name)
        hooks.append(layer.register_forward_hook(look(name), with_kwargs=True))
        if built_in_activation(norms.get(name)) is None:  # what comes out of one is added to nothing as the reader wrote it
            hooks.append(norms.get(name, layer).register_forward_hook(wrote(name)))
    try:
        # tensors made in the caller's inference mode would have no version
        with torch.inference_mode(False), joins:
            pass_calibration(model, images, batch_size, after_batch=joins.forget)
    finally:
        for h in hooks:
            h.remove()
    found = {}
    for name in readers:
        scale = joins.scale(name)
        own = outputs[name].variance() * np.square(scale)
        if name in norms:
            own *= batchnorm_scale(norms[name], torch.float64).square().cpu().numpy()
        joined = sum(float(tally.variance().sum()) for (reader, _), tally in joins.joined.items() if reader == name)
        found[name] = Reading(inputs[name].variance(), float(own.sum()) + joined, scale)
        if not np.isfinite([found[name].total, *found[name].inputs]).all():
            raise SlimlibError(f"calibration images make {name} read or write NaN or infinite values; give finite, normalised "
                               "images")
    return found
