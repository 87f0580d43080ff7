"""What is read off one eval-mode forward pass: execution order, costs, and the tensors that come from outside the layers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from slimlib._counting import operation_counter
from slimlib._watch import WITH_NUMBERS, Watch, tensors_among
from slimlib.errors import SlimlibError, first_line
from slimlib.layout import CONV, LAYERS, PER_CHANNEL_NORMS
from slimlib.outputs import tensors_in
from slimlib.passing import MACHINE_FAULTS
from slimlib.randomness import seeded


@dataclass(kw_only=True)
class ForwardFacts:
    """What one pass tells of a network."""

    order: dict[str, int]  # module -> when it is first called
    calls: dict[str, int]  # module -> how often it is called
    positions: dict[str, float]  # layer -> multiply-adds per weight element and example
    fixed_macs: int  # multiply-adds outside Conv and Linear modules, per example
    constants: set  # autograd's nodes of operations that also take a tensor which no layer makes
    numbers: set  # and of those that also take a number, or a tensor that was made of numbers alone
    reckoned: bool  # some sum, product or quotient does: the number may be worked out of the width of any layer
    broadcast: set  # autograd's nodes of operations that combine tensors of unequal numbers of axes
    flattened: set  # those of reshapes that work out how many features come of it, whatever the number of channels
    across: set  # and of those that mix neighbouring channels, too weakly for a trial to notice
    severed: bool  # something is read out of autograd's graph (detach, argmax, a comparison), which the graph does not show
    read_outside: set[str]  # layers whose weight is read otherwise than by calling them
    unread: bool  # something is computed that no output depends on, of which the graph of the outputs knows nothing
    detached: bool  # some output has no gradient, so the graph does not tell what it is made of
    last_axis: set[str]  # Linear layers called on more than (batch, channels): theirs is not the axis of a convolution
    ends: set  # autograd's nodes of the returned tensors, one that the model uses for nothing else each
    idle: tuple[str, ...]  # layers that are not called and whose weights no output depends on: branches that only train


def forward_facts(model: nn.Module, example_input: torch.Tensor) -> tuple[ForwardFacts, list[torch.Tensor]]:
    """The facts, multiply-adds counted by torch and by layer; and the outputs that have a gradient, each as a copy, so that a
    tensor which the model returns and reads as well is an end of the graph too."""
    calls = _Calls(len(example_input))
    own = (*LAYERS, *PER_CHANNEL_NORMS)  # of which a subclass may have modules in it
    hooks = [m.register_forward_hook(calls.hook(n), with_kwargs=True)
             for n, m in model.named_modules() if n and (isinstance(m, own) or not list(m.children()))]
    hooks += [m.register_forward_pre_hook(_beside_views) for m in model.modules() if getattr(m, "inplace", False) is True]
    try:
        # with gradients on: without, nn.MultiheadAttention takes a fused path that no counter sees into
        # with its own draws, should it draw in evaluation, and an example of its own, should it write over that
        with seeded(0), operation_counter() as counter, Watch(model.buffers()) as seen:
            output = model(example_input.clone())
    except MACHINE_FAULTS:
        raise
    except Exception as e:  # whatever a model may raise
        raise SlimlibError(f"example_input of shape {tuple(example_input.shape)} does not pass through the model: "
                           f"{first_line(e)}; give one batch of the shape that the model was made for; one "
                           "that takes more than a batch needs a wrapper that adds the rest") from e
    finally:
        for h in hooks:
            h.remove()
    if calls.unbatched and calls.first_size == example_input.numel() and len(example_input) > 1:
        raise SlimlibError(f"example_input of shape {tuple(example_input.shape)} is taken for one example by {calls.unbatched}; "
                           "give one batch, batch first (example_input[None])")
    macs = sum(p * model.get_submodule(n).weight.numel() for n, p in calls.positions.items())
    fixed = round(counter.get_total_flops() / 2 / len(example_input) - macs)
    returned = tensors_in(output)
    outputs = [tensor for tensor in returned if tensor.grad_fn is not None]
    if not outputs:
        unseen = "" if returned else f" (it returned a {type(output).__name__}, in which none is seen)"
        raise SlimlibError(f"model: no tensor that it returns has a gradient{unseen}, so its graph cannot be read; return what "
                           "the layers compute, not only what is chosen from it, and without torch.no_grad()")
    behind, leaves = _before(outputs)
    unread, detached = not seen.made <= behind, len(outputs) < len(returned)
    ends = [tensor.clone() for tensor in outputs]
    return ForwardFacts(
        order=calls.order, calls=dict(calls.calls), positions=dict(calls.positions), last_axis=calls.last_axis, fixed_macs=fixed,
        constants=seen.constants, numbers=seen.numbers, reckoned=any(WITH_NUMBERS.match(node.name()) for node in seen.numbers),
        broadcast=seen.broadcast, flattened=seen.flattened, across=seen.across, severed=seen.severed, unread=unread,
        detached=detached, read_outside=_read_outside(model, calls.calls, leaves), idle=_idle(model, calls.order, leaves),
        ends={tensor.grad_fn for tensor in ends},
    ), ends


def _beside_views(module, inputs):
    """An activation that writes over a view (what InstanceNorm returns, or Linear on tokens) would take the place of what wrote
    it in the graph: it is given a copy."""
    return tuple(x.clone() if isinstance(x, torch.Tensor) and x._is_view() else x for x in inputs)


class _Calls:
    """What a forward hook on every layer notes."""

    def __init__(self, batch: int):
        self.batch = batch
        self.order: dict[str, int] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.positions: dict[str, float] = defaultdict(float)
        self.last_axis: set[str] = set()
        self.first_size, self.unbatched = 0, ""  # elements that the first layer reads; its name, where it saw no batch

    def hook(self, name: str):
        def record(module, inputs, named, output):
            self.order.setdefault(name, len(self.order))
            self.calls[name] += 1
            if isinstance(module, LAYERS):
                self._layer(name, module, next(tensors_among((*inputs, *named.values()))), tensors_in(output)[0])
        return record

    def _layer(self, name: str, module: nn.Module, read: torch.Tensor, written: torch.Tensor) -> None:
        if not self.positions:
            self.first_size, self.unbatched = read.numel(), name if read.dim() < module.weight.dim() else ""
        if isinstance(module, nn.Linear) and read.dim() > 2:
            self.last_axis.add(name)
        if isinstance(module, CONV) and module.transposed:
            self.positions[name] += read.numel() / (self.batch * module.in_channels)
        else:
            self.positions[name] += written.numel() / (self.batch * module.weight.shape[0])


def _before(outputs: list[torch.Tensor]) -> tuple[set, Counter[int]]:
    """All of autograd's nodes that outputs depend on; and of parameters, by id, how many operations read them."""
    found, leaves, pending = set(), Counter(), [tensor.grad_fn for tensor in outputs]
    while pending:
        node = pending.pop()
        if hasattr(node, "variable"):  # autograd's leaves hold their parameters
            leaves[id(node.variable)] += 1
        if node is not None and node not in found:
            found.add(node)
            pending.extend(source for source, _ in node.next_functions)
    return found, leaves


def _idle(model: nn.Module, called: Mapping[str, int], leaves: Mapping[int, int]) -> tuple[str, ...]:
    return tuple(name for name, m in model.named_modules()
                 if isinstance(m, LAYERS) and name not in called and id(m.weight) not in leaves)


def _read_outside(model: nn.Module, calls: Mapping[str, int], leaves: Mapping[int, int]) -> set[str]:
    """Layers whose weight more operations read than calls of the layer do: a decoder that is its encoder transposed."""
    return {name for name, m in model.named_modules()
            if isinstance(m, LAYERS) and leaves.get(id(m.weight), 0) > calls.get(name, 0) > 0}
