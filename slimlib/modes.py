"""States that a model is in for a while, and looking at it without leaving a trace on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

REGISTERED = set(vars(nn.Module())) - {"_buffers"}  # what torch keeps of any module, where no activation is


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the context the whole model is in evaluation mode; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def in_channels_last(model: nn.Module) -> Iterator[None]:
    """Store the weights channels-last meanwhile: the same numbers in the order that convolutions are fastest in. Kernels whose
    memory another parameter shares stay as they lie: stored anew, each would have numbers of its own."""
    sharers = Counter(parameter.data_ptr() for parameter in model.parameters())
    kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4 and sharers[parameter.data_ptr()] == 1]
    own = [parameter.is_contiguous(memory_format=torch.channels_last) and not parameter.is_contiguous() for parameter in kernels]
    try:
        for kernel in kernels:
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for kernel, was_so in zip(kernels, own, strict=True):  # the caller's own choice
            kernel.data = kernel.data.contiguous(memory_format=torch.channels_last if was_so else torch.contiguous_format)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every buffer holds what it held before, whatever the model counts or averages while it runs."""
    named = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    before = [(*place, None if place[2] is None else place[2].clone()) for place in named
              if place[2] is None or not (is_lazy(place[2]) or place[2].is_meta)]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            module._buffers[name] = buffer
            # an unchanged buffer is not written: that would bump its version and break a backward pass still to come
            if buffer is not None and not _equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


def _equal(a: Tensor, b: Tensor) -> bool:
    """With NaN equal to NaN."""
    return torch.equal(a, b) or (a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all()))


@contextmanager
def unmarked(model: nn.Module) -> Iterator[None]:
    """Afterwards no attribute of a module (nor a list or dict in one) holds a tensor of an autograd graph that was not there,
    as in models that keep their features for Grad-CAM: such a tensor keeps the graph alive, and no copy can be made of it.
    """
    before = {module: dict(vars(module)) for module in model.modules()}
    contents = {id(value): (value, value.copy()) for held in before.values() for name, value in held.items()
                if name not in REGISTERED and isinstance(value, (dict, list))}
    try:
        yield
    finally:
        for module in model.modules():
            held = before.get(module, {})
            for name, value in list(vars(module).items()):
                if name in REGISTERED:
                    continue
                if id(value) in contents and list(graph_tensors(value)):
                    value.clear()
                    (value.update if isinstance(value, dict) else value.extend)(contents[id(value)][1])
                elif value is not held.get(name) and list(graph_tensors(value)):
                    vars(module).pop(name)
                    vars(module).update({name: held[name]} if name in held else {})


def graph_tensors(value: object, depth: int = 3) -> Iterator[Tensor]:
    """The tensors of an autograd graph in an attribute, or in the lists, tuples and dicts there."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value
    elif isinstance(value, (list, tuple, dict)) and depth:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from graph_tensors(inner, depth - 1)
