"""What is read off the graph of one eval-mode forward pass: the coupled channels, by Torch-Pruning's dependency graph.

Only the low level of Torch-Pruning is used: its dependency graph and the index mappings along its edges. Criteria, widths and
the cutting itself are slimlib's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import index_mapping

from slimlib._coupling import coupled
from slimlib._forward import ForwardFacts, forward_facts
from slimlib._grouping import RawGroup, read_group
from slimlib._index_mapping import steady_index_mapping, without_slopes
from slimlib._operations import Op, norm_after, operations
from slimlib.errors import SlimlibError
from slimlib.layout import LAYERS, Member


@dataclass
class RawGroups:
    groups: list[RawGroup]
    doubtful: dict[int, str]
    norm_after: dict[str, str]
    ops: list[Op]


def read(model: nn.Module, example_input: torch.Tensor) -> tuple[ForwardFacts, RawGroups]:
    """What one forward pass tells: costs and order, and all coupled groups of output channels, first layers in forward order.

    The dependency graph is read off the autograd graph of the same pass that counts, as a pass may take longer than the rest.
    """
    told: list[ForwardFacts | SlimlibError] = []

    def counted(model: nn.Module, example_input: torch.Tensor) -> list[torch.Tensor]:
        try:
            facts, outputs = forward_facts(model, example_input)
        except SlimlibError as error:  # raised once Torch-Pruning has gone on and taken its hooks off the model
            facts, outputs = error, [torch.zeros(1, requires_grad=True) + 0]
        told.append(facts)
        return outputs

    with steady_index_mapping(), _same_hooks(model):
        graph = tp.DependencyGraph()
        # with one slope for all channels it couples nothing, though one module may stand behind every layer
        graph.IGNORED_LAYERS_IN_TRACING += [m for m in model.modules() if isinstance(m, nn.PReLU) and m.num_parameters == 1]
        graph.build_dependency(model, example_input, forward_fn=counted, verbose=False)
        (facts,) = told
        if isinstance(facts, SlimlibError):
            raise facts
        without_slopes(graph)
        index_mapping.update_index_mapping(graph)
    return facts, _all_groups(graph, model, facts)


@contextmanager
def _same_hooks(model: nn.Module) -> Iterator[None]:
    """Afterwards modules have the forward hooks that they had: Torch-Pruning leaves its own where the pass is broken off."""
    before = [(module, set(module._forward_hooks)) for module in model.modules()]
    try:
        yield
    finally:
        for module, keys in before:
            for key in set(module._forward_hooks) - keys:
                del module._forward_hooks[key]


def _all_groups(graph, model: nn.Module, facts: ForwardFacts) -> RawGroups:
    names = {m: n for n, m in model.named_modules()}
    groups, doubtful, seen = [], {}, set()
    layers = sorted((m for m in graph.module2node if isinstance(m, LAYERS)), key=lambda m: facts.order.get(names[m], 10**9))
    most = max((max(m.weight.shape[:2]) for m in layers), default=0)
    elsewhere = {model.get_submodule(name) for name in facts.last_axis}
    for layer in layers:
        if layer in seen:
            continue
        width = graph.get_out_channels(layer)
        if width == 1:
            alone = Member(names[layer], "out", np.zeros(1, int), np.zeros((1, 1), int))
            groups.append(RawGroup(1, [alone], "it has a single channel"))
            continue
        raw, operation = read_group(graph, coupled(graph, layer, width, most, elsewhere), names, width, facts)
        seen.update(model.get_submodule(m.module) for m in raw.members if m.role == "out")
        if operation:
            doubtful[len(groups)] = operation
        groups.append(raw)
    for about_all, operation in ((facts.unread, "something that is computed and not read"),
                                 (facts.detached, "an output without a gradient"),
                                 (facts.severed, "something that is computed without gradients (detach, argmax, a comparison)"),
                                 (facts.reckoned, "a number that is worked out of the width")):
        doubtful = (dict.fromkeys(range(len(groups)), operation) if about_all else {}) | doubtful
    called = {names[m] for m in layers}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and name not in called:  # its weight is used without calling it
            n = module.weight.shape[0]
            member = Member(name, "out", np.arange(n), np.arange(n)[:, None])
            why = ("no gradient reaches it in the forward pass (torch.no_grad, detach, a re-entrant checkpoint)"
                   if name in facts.calls else
                   "it is not called as a module of its own in the forward pass")
            groups.append(RawGroup(n, [member], why))
    return RawGroups(groups, doubtful, norm_after(graph, layers, names, facts), operations(graph, names, facts))
