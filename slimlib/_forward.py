"""What is read off one eval-mode forward pass: execution order, costs, and the tensors that come from outside the layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from slimlib.errors import SlimlibError
from slimlib.layout import CONV, LAYERS
from slimlib.outputs import tensors_in


@dataclass
class ForwardFacts:
    order: dict[str, int]  # module -> when it is first called
    calls: dict[str, int]  # module -> how often it is called
    positions: dict[str, float]  # layer -> multiply-adds per weight element and example
    fixed_macs: int  # multiply-adds outside Conv and Linear modules, per example
    constants: set  # autograd's nodes of operations that also take a tensor which no layer makes
    unread: bool  # something is computed that no output depends on, of which the graph of the outputs knows nothing


def forward_facts(model: nn.Module, example_input: torch.Tensor) -> tuple[ForwardFacts, list[torch.Tensor]]:
    """The facts, multiply-adds counted by ``torch.utils.flop_counter`` and by layer; and the outputs that have a gradient."""
    order: dict[str, int] = {}
    calls: dict[str, int] = defaultdict(int)
    positions: dict[str, float] = defaultdict(float)
    batch = example_input.shape[0]

    def hook(name):
        def record(module, inputs, output):
            order.setdefault(name, len(order))
            calls[name] += 1
            if isinstance(module, CONV) and module.transposed:
                positions[name] += inputs[0].numel() / (batch * module.in_channels)
            elif isinstance(module, LAYERS):
                positions[name] += output.numel() / (batch * module.weight.shape[0])
        return record

    hooks = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if n and not list(m.children())]
    try:
        # with gradients on: without, nn.MultiheadAttention takes a fused path that no counter sees into
        with FlopCounterMode(display=False) as counter, _Watch() as seen:
            output = model(example_input)
    except (RuntimeError, ValueError, IndexError, TypeError) as e:
        raise SlimlibError(
            f"example_input of shape {tuple(example_input.shape)} does not pass through the model: "
            f"{str(e).splitlines()[0]}; give one batch of the shape that the model was made for"
        ) from e
    finally:
        for h in hooks:
            h.remove()
    macs = sum(p * model.get_submodule(n).weight.numel() for n, p in positions.items())
    fixed = round(counter.get_total_flops() / 2 / batch - macs)
    outputs = [tensor for tensor in tensors_in(output) if tensor.grad_fn is not None]
    if not outputs:
        raise SlimlibError("model: no tensor that it returns has a gradient, so its graph cannot be read; return what the layers "
                           "compute, not only what is chosen from it, and without torch.no_grad()")
    unread = not seen.made <= _before(outputs)
    return ForwardFacts(order, dict(calls), dict(positions), fixed, seen.constants, unread), outputs


def _before(outputs: list[torch.Tensor]) -> set:
    """All of autograd's nodes that outputs depend on."""
    found, pending = set(), [tensor.grad_fn for tensor in outputs]
    while pending:
        node = pending.pop()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(source for source, _ in node.next_functions)
    return found


class _Watch(TorchFunctionMode):
    """Notes autograd's nodes of all operations, and of those that combine what layers made with a tensor that none did: the
    graph shows no trace of that tensor, and where it has one entry a channel (a scale kept as a buffer, the network's input),
    the channels cannot go."""

    def __init__(self):
        super().__init__()
        self.made: set = set()
        self.constants: set = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = [tensor.grad_fn for tensor in _tensors((result,)) if tensor.grad_fn is not None]
        self.made.update(made)
        if made and any(not t.requires_grad and t.numel() > 1 for t in _tensors((*args, *kwargs.values()))):
            self.constants.update(made)
        return result


def _tensors(values: Iterable[object]) -> Iterator[torch.Tensor]:
    """The tensors among the values, and in the lists among them: as operations take and return them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (inner for inner in value if isinstance(inner, torch.Tensor))
