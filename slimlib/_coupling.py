"""Which channels change together: a walk over Torch-Pruning's dependencies from one layer's outputs, and what is met on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.ops import OPTYPE

from slimlib._forward import ForwardFacts
from slimlib._index_mapping import is_slice_of_channels
from slimlib._probing import NEEDED, NO_RUN
from slimlib._trust import DOUBTFUL, doubt_about, is_attention, over_positions
from slimlib.layout import CONV, LAYERS, PER_CHANNEL_NORMS, Member, is_depthwise

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
LAST_AXIS = "a Linear layer on the last axis beside layers that have their channels on another"
ACROSS = "its channels pass through a response normalisation, which mixes neighbours"
ATTENTION = "it is the width of an attention product, which is scaled by it and whose multiply-adds plans count as constant"
PAD = ("it meets a padding that adds channels (zero-padded, option A shortcuts) or may do so; only the inner layers of its "
       "blocks can be slimmed")


@dataclass
class RawGroup:
    width: int
    members: list[Member]
    reason: str = ""
    splits: list[np.ndarray] = field(default_factory=list)
    misfit: str = ""  # which member has not the positions that the channels would have there
    by_linear: bool = False  # one of the layers that write it is a Linear one


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
        if not len(idxs):  # a slice past all of them: nothing goes on, but the slice is known of
            continue
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
                if len(there) or (dep.target.type == OPTYPE.SLICE and dep.target in node.outputs):
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


def read_group(graph, items: list[_Touched], names, width: int, facts: ForwardFacts) -> tuple[RawGroup, str]:
    """Members, reason to refuse (or ""), and the operation that makes the group doubtful (or "")."""
    raw, doubt, pooling, between = RawGroup(width, []), "", "", False
    for item in items:
        node, module = item.node, item.node.module
        if node.type in REFUSED:
            raw.reason = raw.reason or REFUSED[node.type]
        elif item.meet and (module not in names or node.type == OPTYPE.ELEMENTWISE):
            between = True
        elif is_attention(node):
            raw.reason = raw.reason or ATTENTION
        elif node.type == OPTYPE.SPLIT and node.module.offsets is not None:
            run = np.full(width, -1)
            run[item.roots] = np.searchsorted(np.asarray(node.module.offsets), item.idxs, side="right")
            raw.splits.append(run)
        elif module in names and node.type != OPTYPE.ELEMENTWISE and len(item.idxs):
            _add_member(raw, names[module], item, graph.is_out_channel_pruning_fn(item.handler))
        if item.lost:
            raw.reason = raw.reason or "its channels pass through reshapes, splits or slices that cannot be followed"
        if node.type == OPTYPE.SLICE and is_slice_of_channels(node) and node.grad_fn._saved_step > 1:
            raw.reason = raw.reason or "a slice takes its channels in steps, so which ones are read depends on how many there are"
        if not node.outputs and (raw.members[-1].role != "in" if module in names and raw.members else True):
            raw.reason = REFUSED[OPTYPE.OUTPUT]
        operation = doubt_about(node, names, facts)
        if operation == "pad":
            raw.reason = PAD
        elif node.grad_fn in facts.across:
            raw.reason = raw.reason or ACROSS
        else:
            doubt = operation if doubt in ("", *DOUBTFUL.values()) and operation else doubt  # what is of all channels says more
        pooling = pooling or over_positions(node)
    if between and not raw.reason:  # where they meet in a layer too, its name says more
        raw.reason = MEETING.format("what is made of them between layers")
    return raw, _settled(raw, doubt, pooling, facts.last_axis)


def _add_member(raw: RawGroup, name: str, item: _Touched, out: bool) -> None:
    module = item.node.module
    role = ("out" if out else "in") if isinstance(module, LAYERS) else "norm"
    member, fault = _member(name, role, item.roots, item.idxs)
    raw.members.append(member)
    raw.reason = raw.reason or (MEETING.format(name) if item.meet else fault) or _layer_fault(module)
    raw.misfit = raw.misfit or _misfit(module, member)
    raw.by_linear |= role == "out" and isinstance(module, nn.Linear)


def _settled(raw: RawGroup, doubt: str, pooling: str, last_axis: set[str]) -> str:
    """What is doubtful when all members are known. Those of a misfit need no trial, and have their reason here."""
    if 0 < sum(m.module in last_axis for m in raw.members) < len(raw.members):
        doubt = LAST_AXIS
    if raw.misfit and not raw.reason:
        raw.reason = NEEDED.format(doubt) + NO_RUN if doubt else raw.misfit
    return doubt or (pooling if raw.by_linear else "")  # which is over the channels, if these are on the last axis


def _misfit(module: nn.Module, member: Member) -> str:
    """What does not fit, in words: positions beyond those the module has; empty if all fit. (A Linear layer reads the image's
    columns, not channels.)"""
    if member.role == "norm":
        size = module.num_features if isinstance(module, PER_CHANNEL_NORMS) else module.num_parameters
    elif isinstance(module, CONV):
        size = module.out_channels if member.role == "out" else module.in_channels
    else:
        size = module.out_features if member.role == "out" else module.in_features
    return "" if member.positions.max() < size else f"its channels do not fit {member.module}, which has {size} there"


def _member(name: str, role: str, channels: np.ndarray, index: np.ndarray) -> tuple[Member, str]:
    """Sort (channel, position) pairs into a rectangular table, saying so when they do not form one."""
    by_channel = np.lexsort((index, channels))
    channels, index = channels[by_channel], index[by_channel]
    unique, counts = np.unique(channels, return_counts=True)
    if len(set(counts.tolist())) != 1:
        return Member(name, role, unique, unique[:, None]), f"its channels hold unequal numbers of inputs of {name}"
    return Member(name, role, unique, index.reshape(len(unique), -1)), ""


def _layer_fault(module: nn.Module) -> str:
    if not isinstance(module, CONV):
        return ""
    if module.groups == module.out_channels > 1 and not is_depthwise(module):
        return "a convolution in it has one filter per group of several inputs"
    return "a grouped transposed convolution is not followed" if module.transposed and module.groups > 1 else ""
