"""What a walk over coupled channels has met, read as a group: its members, why it stays whole, and what is doubtful about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import nn
from torch_pruning.ops import OPTYPE

from slimlib._coupling import Touched
from slimlib._forward import ForwardFacts
from slimlib._index_mapping import is_slice_of_channels
from slimlib._probing import Fault
from slimlib._trust import DOUBTFUL, doubt_about, is_attention, over_positions
from slimlib.layout import CONV, LAYERS, Member, is_depthwise, size_by_role

OUTPUT = "its width is the width of the model's output"
REFUSED = {
    OPTYPE.OUTPUT: OUTPUT,
    OPTYPE.PARAMETER: "it shares its width with a parameter that belongs to no layer (a class token, a layer scale)",
    OPTYPE.MHA: "it is the width of an attention layer",
    OPTYPE.LN: "a LayerNorm normalises over it, so removing channels would change those that stay",
    OPTYPE.GN: "a GroupNorm normalises over it, so removing channels would change those that stay",
    OPTYPE.LSTM: "it is the width of a recurrent layer",
    OPTYPE.EMBED: "it is the width of an embedding",
    OPTYPE.CUSTOMIZED: "it passes through a layer that the dependency graph does not know",
}
MEETING = "several of its channels meet in one channel of {} (a gate over halves)"
BETWEEN = MEETING.format("what is made of them between layers")
LOST = "its channels pass through reshapes, splits or slices that cannot be followed"
IN_STEPS = "a slice takes its channels in steps, so which ones are read depends on how many there are"
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


def read_group(graph, items: list[Touched], names, width: int, facts: ForwardFacts) -> tuple[RawGroup, str]:
    """Members, reason to refuse (or ""), and the operation that makes the group doubtful (or "").

    ``names``: module -> its name. Of several reasons the first in the list is told: those of single nodes stand there as they
    are met, before them those that overrule all others, behind them those that are known when all nodes are.
    """
    raw, pooling, misfit, by_linear, between = RawGroup(width, []), "", "", False, False
    reasons: list[str] = []
    operations: list[str] = []  # the doubtful ones
    for item in items:
        node, module = item.node, item.node.module
        in_layer = module in names and node.type != OPTYPE.ELEMENTWISE
        if in_layer and node.type not in REFUSED and len(item.idxs):
            member, faults = _member(names[module], item, graph.is_out_channel_pruning_fn(item.handler))
            raw.members.append(member)
            reasons += faults
            misfit = misfit or _misfit(module, member)
            by_linear |= member.role == "out" and isinstance(module, nn.Linear)
        elif node.type == OPTYPE.SPLIT and node.module.offsets is not None and not item.meet:
            parts = np.full(width, -1)  # that each channel goes to
            parts[item.roots] = np.searchsorted(np.asarray(node.module.offsets), item.idxs, side="right")
            raw.splits.append(parts)
        between |= item.meet and not in_layer
        pooling = pooling or over_positions(node)
        reasons += _refusals(item)
        only_read = module in names and raw.members and raw.members[-1].role == "in"  # what a layer makes of it is another group
        if not node.outputs and not only_read:
            reasons.insert(0, OUTPUT)
        operation = doubt_about(node, names, facts)
        if operation == "pad":
            reasons.insert(0, PAD)
        elif node.grad_fn in facts.across:
            reasons.append(ACROSS)
        elif operation:
            operations.append(operation)
    on_last_axis = sum(m.module in facts.last_axis for m in raw.members)
    doubt = LAST_AXIS if 0 < on_last_axis < len(raw.members) else _doubt(operations)
    if between:  # where they meet in a layer too, its name says more
        reasons.append(BETWEEN)
    if misfit:  # which needs no trial
        reasons.append(Fault.NO_RUN.told(doubt) if doubt else misfit)
    raw.reason = reasons[0] if reasons else ""
    return raw, doubt or (pooling if by_linear else "")  # which is over the channels, if these are on the last axis


def _refusals(item: Touched) -> Iterator[str]:
    """Why channels that come to this node cannot go, whatever layer it may be."""
    node = item.node
    if node.type in REFUSED:
        yield REFUSED[node.type]
    if is_attention(node) and not item.meet:
        yield ATTENTION
    if item.lost:
        yield LOST
    if node.type == OPTYPE.SLICE and is_slice_of_channels(node) and node.grad_fn._saved_step > 1:
        yield IN_STEPS


def _doubt(operations: list[str]) -> str:
    """Of doubtful operations the first that is of all channels, which says most; else the last."""
    of_all = [operation for operation in operations if operation not in DOUBTFUL.values()]
    return [*of_all, *reversed(operations), ""][0]


def _member(name: str, item: Touched, out: bool) -> tuple[Member, list[str]]:
    """The place of the group in a layer, which writes it (``out``) or reads it, and why it cannot be cut there."""
    module = item.node.module
    by_channel = np.lexsort((item.idxs, item.roots))
    channels, counts = np.unique(item.roots, return_counts=True)
    positions, faults = channels[:, None], []
    if len(set(counts.tolist())) == 1:
        positions = item.idxs[by_channel].reshape(len(channels), -1)
    else:
        faults.append(f"its channels hold unequal numbers of inputs of {name}")
    if item.meet:  # which says more
        faults.insert(0, MEETING.format(name))
    if fault := _layer_fault(module):
        faults.append(fault)
    return Member(name, ("out" if out else "in") if isinstance(module, LAYERS) else "norm", channels, positions), faults


def _misfit(module: nn.Module, member: Member) -> str:
    """What does not fit, in words: positions beyond those the module has; empty if all fit. (A Linear layer reads the image's
    columns, not channels.)"""
    size = size_by_role(module)[member.role]
    return "" if member.positions.max() < size else f"its channels do not fit {member.module}, which has {size} there"


def _layer_fault(module: nn.Module) -> str:
    if not isinstance(module, CONV):
        return ""
    if module.groups == module.out_channels > 1 and not is_depthwise(module):
        return "a convolution in it has one filter per group of several inputs"
    return "a grouped transposed convolution is not followed" if module.transposed and module.groups > 1 else ""
