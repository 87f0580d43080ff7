"""Which channels change together: a walk over Torch-Pruning's dependencies from one layer's outputs, and what is met on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.ops import OPTYPE

from slimlib.layout import CONV, LAYERS, PER_CHANNEL_NORMS, TRUSTED, Member, is_depthwise

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
class RawGroup:
    width: int
    members: list[Member]
    reason: str = ""
    splits: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Touched:
    """What cutting the root's channels ``roots`` does at one node: ``handler`` there, at the positions ``idxs``."""

    node: object
    handler: object
    idxs: np.ndarray
    roots: np.ndarray
    meet: bool = False  # two of the root's channels arrive at one position
    lost: bool = False  # index mappings multiply the positions without end (reshapes in a circle)


def coupled(graph, layer: nn.Module, width: int, most: int) -> list[_Touched]:
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
            # a single channel beside several is broadcast over them, and stays
            if dep.is_triggered_by(handler) and not (graph.is_out_channel_pruning_fn(dep.handler) and _single(dep.target.module)):
                there, whose = _mapped(dep, idxs, roots)
                if len(there):
                    pending.append((dep.target, dep.handler, there, whose))
    return list(touched.values())


def _single(module: object) -> bool:
    """Does it write one channel only?"""
    if isinstance(module, LAYERS):
        return (module.out_channels if isinstance(module, CONV) else module.out_features) == 1
    return isinstance(module, PER_CHANNEL_NORMS) and module.num_features == 1


def _mapped(dep, idxs: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions behind a dependency, and the root channel at each."""
    if all(mapping is None for mapping in dep.index_mapping):
        return idxs, roots
    pairs = [_HybridIndex(idx=i, root_idx=r) for i, r in zip(idxs.tolist(), roots.tolist(), strict=True)]
    for mapping in dep.index_mapping:
        pairs = pairs if mapping is None else mapping(pairs)
    return np.array([p.idx for p in pairs], int), np.array([p.root_idx for p in pairs], int)


def read_group(graph, items: list[_Touched], names, width: int, constants: set) -> tuple[RawGroup, str]:
    """Members, reason to refuse (or ""), and the operation that makes the group doubtful (or "").

    ``constants``: the autograd nodes that also take a tensor which no layer makes.
    """
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
        operation = _operation(node, constants)
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


def _operation(node, constants: set) -> str:
    """"" for what acts on each channel by itself, "pad" for zero-padded channels, else a name: to be probed."""
    if node.type in DOUBTFUL:
        return "" if _flattens_pooled(node) else DOUBTFUL[node.type]
    if isinstance(node.module, LAYERS):
        return "" if type(node.module).forward in PLAIN_FORWARDS else f"a {type(node.module).__name__}"
    if node.type not in (OPTYPE.ELEMENTWISE, OPTYPE.CONCAT) or node.grad_fn is None:
        return ""
    name = node.grad_fn.name()
    if node.grad_fn in constants and "BatchNorm" not in name:  # whose running statistics are cut with it
        return f"a tensor that no layer makes, in the operation {name}"
    if node.type == OPTYPE.CONCAT:
        return "" if node.module.offsets is not None else "a concatenation"
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
