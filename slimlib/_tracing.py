"""What is read off one eval-mode forward pass: execution order, costs, and the coupled channels of Torch-Pruning's graph.

Only the low level of Torch-Pruning is used: its dependency graph and the index mappings along its edges. Criteria, widths and
the cutting itself are slimlib's own.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency import index_mapping
from torch_pruning.ops import OPTYPE

from slimlib.errors import SlimlibError
from slimlib.layout import CONV, LAYERS, TRUSTED, Member, is_depthwise

PLAIN_FORWARDS = {t.forward for t in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}
REFUSED = {
    OPTYPE.OUTPUT: "its width is the width of the model's output",
    OPTYPE.PARAMETER: "it shares its width with a parameter that belongs to no layer (a class token, a layer scale)",
    OPTYPE.MHA: "it is the width of an attention layer",
    OPTYPE.LN: "a LayerNorm normalises over it, so removing channels would change those that stay",
    OPTYPE.GN: "a GroupNorm normalises over it, so removing channels would change those that stay",
    OPTYPE.LSTM: "it is the width of a recurrent layer",
    OPTYPE.EMBED: "it is the width of an embedding",
    OPTYPE.CUSTOMIZED: "it passes through a layer that the dependency graph does not know",
}
MEETING = "several of its channels meet in one channel of {} (a gate over halves)"
DOUBTFUL = {OPTYPE.RESHAPE: "a reshape", OPTYPE.SPLIT: "a split or chunk", OPTYPE.UNBIND: "an unbind",
            OPTYPE.EXPAND: "an expand", OPTYPE.SLICE: "a slice"}


@dataclass
class ForwardFacts:
    order: dict[str, int]  # module -> when it is first called
    positions: dict[str, float]  # layer -> multiply-adds per weight element and example
    fixed_macs: int  # multiply-adds outside Conv and Linear modules, per example


@dataclass
class RawGroup:
    width: int
    members: list[Member]
    reason: str = ""
    splits: list[np.ndarray] = field(default_factory=list)


@dataclass
class RawGroups:
    groups: list[RawGroup]
    doubtful: dict[int, str]
    norm_after: dict[str, str]
    ops: list[Op]


@dataclass(frozen=True)
class Op:
    """One node of the traced graph: ``module`` is a name or "", ``kind`` a type or an autograd operation's name, ``inputs`` the
    indices of the nodes before it, ``pad`` the amounts of a padding (last dimension first, as torch has them)."""

    kind: str
    module: str
    inputs: tuple[int, ...]
    pad: tuple[int, ...] = ()


def read(model: nn.Module, example_input: torch.Tensor) -> tuple[ForwardFacts, RawGroups]:
    """What one forward pass tells: costs and order, and all coupled groups of output channels, first layers in forward order.

    The dependency graph is read off the autograd graph of the same pass that counts, as a pass may take longer than the rest.
    """
    told: list[ForwardFacts | SlimlibError] = []

    def counted(model: nn.Module, example_input: torch.Tensor) -> torch.Tensor:
        try:
            facts, output = _forward_facts(model, example_input)
        except SlimlibError as error:  # raised once Torch-Pruning has gone on and taken its hooks off the model
            facts, output = error, torch.zeros(1, requires_grad=True) + 0
        told.append(facts)
        return output

    with _steady_index_mapping():
        graph = tp.DependencyGraph().build_dependency(model, example_input, forward_fn=counted, verbose=False)
        (facts,) = told
        if isinstance(facts, SlimlibError):
            raise facts
        index_mapping.update_index_mapping(graph)
    return facts, _all_groups(graph, model, facts.order)


def _forward_facts(model: nn.Module, example_input: torch.Tensor) -> tuple[ForwardFacts, torch.Tensor]:
    """Order of execution and multiply-adds of one example, counted by ``torch.utils.flop_counter`` and by layer; the output."""
    order: dict[str, int] = {}
    positions: dict[str, float] = defaultdict(float)
    batch = example_input.shape[0]

    def hook(name):
        def record(module, inputs, output):
            order.setdefault(name, len(order))
            if isinstance(module, CONV) and module.transposed:
                positions[name] += inputs[0].numel() / (batch * module.in_channels)
            elif isinstance(module, LAYERS):
                positions[name] += output.numel() / (batch * module.weight.shape[0])
        return record

    hooks = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if n and not list(m.children())]
    try:
        # with gradients on: without, nn.MultiheadAttention takes a fused path that no counter sees into
        with FlopCounterMode(display=False) as counter:
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
    return ForwardFacts(order, dict(positions), round(counter.get_total_flops() / 2 / batch - macs)), output


@contextmanager
def _steady_index_mapping():
    """Two mends of Torch-Pruning 1.6.1 while the graph is built, undone afterwards.

    It divides by zero at a reshape whose channels it cannot infer (ShuffleNet); such a reshape is probed here anyway, so the
    mapping is left out. And it takes the parts of a split in the order in which the trace meets their readers; autograd knows
    which part each one reads.
    """
    names = ("update_reshape_index_mapping", "update_split_index_mapping")
    original = {name: getattr(index_mapping, name) for name in names}

    def reshape_or_skip(graph, node):
        with suppress(ZeroDivisionError):
            original["update_reshape_index_mapping"](graph, node)

    def split_by_number(graph, node):
        original["update_split_index_mapping"](graph, node)
        for reader in node.outputs:
            parts = {nr for f, nr in getattr(reader.grad_fn, "next_functions", ()) if f is node.grad_fn}
            for dep, reverse in [(d, False) for d in node.dependencies if d.target is reader] + [
                (d, True) for d in reader.dependencies if d.target is node
            ]:
                if len(parts) == 1 and isinstance(dep.index_mapping[0], index_mapping._SplitIndexMapping):
                    (nr,) = parts
                    offsets = node.module.offsets
                    if nr + 2 > len(offsets):  # parts that nobody reads are left out; they are all of one size
                        offsets = [i * offsets[1] for i in range(nr + 2)]
                    dep.index_mapping[0] = index_mapping._SplitIndexMapping(offsets[nr : nr + 2], reverse=reverse)

    for name, mended in zip(names, (reshape_or_skip, split_by_number), strict=True):
        setattr(index_mapping, name, mended)
    try:
        yield
    finally:
        for name in names:
            setattr(index_mapping, name, original[name])


def _all_groups(graph, model: nn.Module, order: dict[str, int]) -> RawGroups:
    names = {m: n for n, m in model.named_modules()}
    groups, doubtful, seen = [], {}, set()
    layers = sorted((m for m in graph.module2node if isinstance(m, LAYERS)), key=lambda m: order.get(names[m], 10**9))
    most = max(max(m.weight.shape[:2]) for m in layers)
    for layer in layers:
        if layer in seen:
            continue
        width = graph.get_out_channels(layer)
        raw, operation = _read_group(graph, _coupled(graph, layer, width, most), names, width)
        seen.update(model.get_submodule(m.module) for m in raw.members if m.role == "out")
        if operation:
            doubtful[len(groups)] = operation
        groups.append(raw)
    called = {names[m] for m in layers}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and name not in called:  # its weight is used without calling it
            n = module.weight.shape[0]
            member = Member(name, "out", np.arange(n), np.arange(n)[:, None])
            groups.append(RawGroup(n, [member], "it is not called as a module of its own in the forward pass"))
    return RawGroups(groups, doubtful, _norm_after(graph, layers, names), _operations(graph, names))


@dataclass
class _Touched:
    """What cutting the root's channels ``roots`` does at one node: ``handler`` there, at the positions ``idxs``."""

    node: object
    handler: object
    idxs: np.ndarray
    roots: np.ndarray
    meet: bool = False  # two of the root's channels arrive at one position
    lost: bool = False  # index mappings multiply the positions without end (reshapes in a circle)


def _coupled(graph, layer: nn.Module, width: int, most: int) -> list[_Touched]:
    """Everything that cutting output channels of ``layer`` touches, in the order in which it is met.

    The closure that Torch-Pruning's ``get_pruning_group`` computes, over the same dependencies and index mappings. There each
    set of indices that arrives at a node is followed again, as often as there are paths (minutes on ShuffleNet), and of two
    channels that meet in one position one is forgotten; here each position is followed once, and a meeting is noted. Positions
    from ``most`` on, where no layer of the network has any, are not followed.
    """
    root = graph.module2node[layer]
    start = (root, graph.get_pruner_of_module(layer).prune_out_channels, np.arange(width), np.arange(width))
    owner: dict[tuple, np.ndarray] = {}  # (node, handler) -> the root channel at each position, -1 where none has come
    touched: dict[tuple, _Touched] = {}
    pending = [start]
    while pending:
        node, handler, idxs, roots = pending.pop()
        place = touched.setdefault((node, handler), _Touched(node, handler, np.empty(0, int), np.empty(0, int)))
        if idxs.max() >= most:
            place.lost = True
            continue
        known = owner.get((node, handler), np.full(width, -1))
        if idxs.max() >= len(known):
            known = np.pad(known, (0, int(idxs.max()) + 1 - len(known)), constant_values=-1)
        owner[node, handler] = known
        fresh = known[idxs] < 0
        known[idxs[fresh]] = roots[fresh]
        place.meet |= bool((known[idxs] != roots).any())
        if not fresh.any():
            continue
        idxs = np.unique(idxs[fresh])
        roots = known[idxs]
        place.idxs, place.roots = np.concatenate([place.idxs, idxs]), np.concatenate([place.roots, roots])
        for dep in reversed(node.dependencies):
            if dep.is_triggered_by(handler):
                there, whose = _mapped(dep, idxs, roots)
                if len(there):
                    pending.append((dep.target, dep.handler, there, whose))
    return list(touched.values())


def _mapped(dep, idxs: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions behind a dependency, and the root channel at each."""
    if all(mapping is None for mapping in dep.index_mapping):
        return idxs, roots
    pairs = [_HybridIndex(idx=i, root_idx=r) for i, r in zip(idxs.tolist(), roots.tolist(), strict=True)]
    for mapping in dep.index_mapping:
        pairs = pairs if mapping is None else mapping(pairs)
    return np.array([p.idx for p in pairs], int), np.array([p.root_idx for p in pairs], int)


def _read_group(graph, items: list[_Touched], names, width: int) -> tuple[RawGroup, str]:
    """Members, reason to refuse (or ""), and the operation that makes the group doubtful (or "")."""
    raw, doubt = RawGroup(width, []), ""
    for item in items:
        node, module = item.node, item.node.module
        channels, index = item.roots, item.idxs
        if node.type in REFUSED:
            raw.reason = raw.reason or REFUSED[node.type]
        elif item.lost:
            raw.reason = raw.reason or "its channels pass through reshapes that cannot be followed"
        elif node.type == OPTYPE.SPLIT and node.module.offsets is not None:
            run = np.full(width, -1)
            run[channels] = np.searchsorted(np.asarray(node.module.offsets), index, side="right")
            raw.splits.append(run)
        elif module in names and node.type != OPTYPE.ELEMENTWISE:
            out = graph.is_out_channel_pruning_fn(item.handler)
            role = ("out" if out else "in") if isinstance(module, LAYERS) else "norm"
            member, fault = _member(names[module], role, channels, index)
            raw.members.append(member)
            raw.reason = raw.reason or (MEETING.format(names[module]) if item.meet else fault) or _layer_fault(module)
        if not node.outputs and (raw.members[-1].role != "in" if module in names and raw.members else True):
            raw.reason = REFUSED[OPTYPE.OUTPUT]
        operation = _operation(node)
        if operation == "pad":
            raw.reason = ("it meets a padding that adds channels (zero-padded, option A shortcuts) or may do so; only the "
                          "inner layers of its blocks can be slimmed")
        elif not raw.reason or not doubt:
            doubt = doubt or operation
    return raw, doubt


def _member(name: str, role: str, channels: np.ndarray, index: np.ndarray) -> tuple[Member, str]:
    """Sort (channel, position) pairs into a rectangular table, saying so when they do not form one."""
    by_channel = np.lexsort((index, channels))
    channels, index = channels[by_channel], index[by_channel]
    unique, counts = np.unique(channels, return_counts=True)
    fault = ""
    if len(set(counts.tolist())) != 1:
        fault = f"its channels hold unequal numbers of inputs of {name}"
    if fault:
        return Member(name, role, unique, unique[:, None]), fault
    return Member(name, role, unique, index.reshape(len(unique), -1)), ""


def _layer_fault(module: nn.Module) -> str:
    if not isinstance(module, CONV):
        return ""
    if module.groups == module.out_channels > 1 and not is_depthwise(module):
        return "a convolution in it has one filter per group of several inputs"
    return "a grouped transposed convolution is not followed" if module.transposed and module.groups > 1 else ""


def _operation(node) -> str:
    """"" for what acts on each channel by itself, "pad" for zero-padded channels, else a name: to be probed."""
    if node.type in DOUBTFUL:
        return "" if _flattens_pooled(node) else DOUBTFUL[node.type]
    if isinstance(node.module, LAYERS):
        return "" if type(node.module).forward in PLAIN_FORWARDS else f"a {type(node.module).__name__}"
    if node.type != OPTYPE.ELEMENTWISE or node.grad_fn is None:
        return ""
    name = node.grad_fn.name()
    if name.startswith(("ConstantPad", "Pad")):
        pad = getattr(node.grad_fn, "_saved_pad", ())
        return "pad" if len(pad) > 4 and any(pad[4:]) else ""
    if name.startswith("Mean"):  # pooling over the image is per channel; a mean over channels is not
        dims = getattr(node.grad_fn, "_saved_dim", ())
        spatial = dims and 1 not in dims and 2**64 - 3 not in dims and -3 not in dims
        return "" if spatial else "a mean"
    own_weight = name.startswith("TBackward") and not node.inputs  # a Linear layer's transposed weight, not what it reads
    return "" if own_weight or TRUSTED.match(name) else f"the operation {name}"


def _flattens_pooled(node) -> bool:
    """A flattening of an image pooled to one pixel, as before most classifiers: each channel is one input of the Linear."""
    sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", ()) if node.type == OPTYPE.RESHAPE else ()
    return (len(sizes) > 2 and all(s == 1 for s in sizes[2:]) and bool(node.outputs)
            and all(isinstance(o.module, nn.Linear) and o.module.in_features == sizes[1] for o in node.outputs))


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


def _operations(graph, names) -> list[Op]:
    """The traced graph, inputs before users."""
    index: dict = {}
    ops: list[Op] = []
    for start in graph.module2node.values():
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if node in index:
                continue
            if ready:
                module = names.get(node.module, "")
                kind = node.grad_fn.name() if not module and node.grad_fn is not None else type(node.module).__name__
                index[node] = len(ops)
                pad = tuple(getattr(node.grad_fn, "_saved_pad", ()) if kind.startswith("ConstantPad") else ())
                ops.append(Op(kind, module, tuple(index[i] for i in node.inputs if i in index), pad))
            else:
                stack.append((node, True))
                stack.extend((i, False) for i in node.inputs if i not in index)
    return ops
