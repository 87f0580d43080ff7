"""What is read off the graph of one eval-mode forward pass: the coupled channels, by Torch-Pruning's dependency graph.

Only the low level of Torch-Pruning is used: its dependency graph and the index mappings along its edges. Criteria, widths and
the cutting itself are slimlib's own.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency import index_mapping
from torch_pruning.ops import OPTYPE

from slimlib._coupling import RawGroup, coupled, read_group
from slimlib._forward import ForwardFacts, forward_facts
from slimlib.errors import SlimlibError
from slimlib.layout import LAYERS, Member


@dataclass
class RawGroups:
    groups: list[RawGroup]
    doubtful: dict[int, str]
    norm_after: dict[str, str]
    ops: list[Op]


@dataclass(frozen=True)
class Op:
    """One node of the traced graph: ``module`` is a name or "", ``kind`` a type or an autograd operation's name, ``inputs`` the
    indices of the nodes before it, ``pad`` the amounts of a padding (last dimension first, as torch has them), ``calls`` how
    often a module is called in one pass."""

    kind: str
    module: str
    inputs: tuple[int, ...]
    pad: tuple[int, ...] = ()
    calls: int = 1


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

    with _steady_index_mapping():
        graph = tp.DependencyGraph()
        # with one slope for all channels it couples nothing, though one module may stand behind every layer
        graph.IGNORED_LAYERS_IN_TRACING += [m for m in model.modules() if isinstance(m, nn.PReLU) and m.num_parameters == 1]
        graph.build_dependency(model, example_input, forward_fn=counted, verbose=False)
        (facts,) = told
        if isinstance(facts, SlimlibError):
            raise facts
        index_mapping.update_index_mapping(graph)
    return facts, _all_groups(graph, model, facts)


@contextmanager
def _steady_index_mapping():
    """Mends of Torch-Pruning 1.6.1 while the graph is built, undone afterwards.

    It fails at a reshape or a concatenation whose channels it cannot infer (ShuffleNet; a part of a split, joined to a sum of
    its parts), and makes mappings without an end where it cannot infer the parts of a split (nn.GRU); all are probed here, so
    the mapping is left out. And it takes the parts of a split in the order in which the trace meets their readers; autograd
    knows which part each one reads.
    """
    names = ("update_reshape_index_mapping", "update_concat_index_mapping", "update_split_index_mapping")
    original = {name: getattr(index_mapping, name) for name in names}

    def reshape_or_skip(graph, node):
        with suppress(ZeroDivisionError):
            original["update_reshape_index_mapping"](graph, node)

    def concat_or_skip(graph, node):
        with suppress(TypeError):
            original["update_concat_index_mapping"](graph, node)

    def split_by_number(graph, node):
        original["update_split_index_mapping"](graph, node)
        for reader in node.outputs:
            parts = {nr for f, nr in getattr(reader.grad_fn, "next_functions", ()) if f is node.grad_fn}
            for dep, reverse in [(d, False) for d in node.dependencies if d.target is reader] + [
                (d, True) for d in reader.dependencies if d.target is node
            ]:
                offsets = node.module.offsets or []
                if len(offsets) < 2:  # not worked out (in a recurrent layer): what is split there is probed
                    dep.index_mapping[0] = None
                elif len(parts) == 1 and isinstance(dep.index_mapping[0], index_mapping._SplitIndexMapping):
                    (nr,) = parts
                    if nr + 2 > len(offsets):  # parts that nobody reads are left out; they are all of one size
                        offsets = [i * offsets[1] for i in range(nr + 2)]
                    dep.index_mapping[0] = index_mapping._SplitIndexMapping(offsets[nr : nr + 2], reverse=reverse)

    for name, mended in zip(names, (reshape_or_skip, concat_or_skip, split_by_number), strict=True):
        setattr(index_mapping, name, mended)
    try:
        yield
    finally:
        for name in names:
            setattr(index_mapping, name, original[name])


def _all_groups(graph, model: nn.Module, facts: ForwardFacts) -> RawGroups:
    names = {m: n for n, m in model.named_modules()}
    groups, doubtful, seen = [], {}, set()
    layers = sorted((m for m in graph.module2node if isinstance(m, LAYERS)), key=lambda m: facts.order.get(names[m], 10**9))
    most = max(max(m.weight.shape[:2]) for m in layers)
    for layer in layers:
        if layer in seen:
            continue
        width = graph.get_out_channels(layer)
        if width == 1:
            alone = Member(names[layer], "out", np.zeros(1, int), np.zeros((1, 1), int))
            groups.append(RawGroup(1, [alone], "it has a single channel"))
            continue
        raw, operation = read_group(graph, coupled(graph, layer, width, most), names, width, facts.constants)
        seen.update(model.get_submodule(m.module) for m in raw.members if m.role == "out")
        if operation:
            doubtful[len(groups)] = operation
        groups.append(raw)
    if facts.unread:
        doubtful = dict.fromkeys(range(len(groups)), "something that is computed and not read") | doubtful
    called = {names[m] for m in layers}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and name not in called:  # its weight is used without calling it
            n = module.weight.shape[0]
            member = Member(name, "out", np.arange(n), np.arange(n)[:, None])
            groups.append(RawGroup(n, [member], "it is not called as a module of its own in the forward pass"))
    return RawGroups(groups, doubtful, _norm_after(graph, layers, names), _operations(graph, names, facts.calls))


def _through_batch_norm(node):
    """The node after ``node``; a norm with a built-in activation shows its bare operation first, which is stepped over."""
    after = node.outputs[0]
    if after.type == OPTYPE.ELEMENTWISE and after.grad_fn is not None and "BatchNorm" in after.grad_fn.name():
        after = after.outputs[0] if len(after.outputs) == 1 else after
    return after


def _norm_after(graph, layers, names) -> dict[str, str]:
    """Layer -> the BatchNorm that alone reads its output."""
    found = {}
    for layer in layers:
        node = graph.module2node[layer]
        if len(node.outputs) == 1:
            after = _through_batch_norm(node)
            if after.type == OPTYPE.BN and after.module.running_var is not None and after.module.affine:
                found[names[layer]] = names[after.module]
    return found


def _operations(graph, names, calls: dict[str, int]) -> list[Op]:
    """The traced graph, inputs before users; a layer that reads what it wrote itself, being called again, comes before that."""
    index: dict = {}
    ops: list[Op] = []
    opened = set()
    for start in graph.module2node.values():
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                module = names.get(node.module, "")
                kind = node.grad_fn.name() if not module and node.grad_fn is not None else type(node.module).__name__
                index[node] = len(ops)
                pad = tuple(getattr(node.grad_fn, "_saved_pad", ()) if kind.startswith("ConstantPad") else ())
                inputs = tuple(index[i] for i in node.inputs if i in index)
                ops.append(Op(kind, module, inputs, pad, calls.get(module, 1)))
            elif node not in opened:
                opened.add(node)
                stack.append((node, True))
                stack.extend((i, False) for i in node.inputs if i not in opened)
    return ops
