"""Which channels change together: a walk over Torch-Pruning's dependencies from one layer's outputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.ops import OPTYPE

from slimlib.layout import LAYERS, PER_CHANNEL_NORMS, declared


@dataclass
class Touched:
    """What cutting the root's channels ``roots`` does at one node: ``handler`` there, at the positions ``idxs``."""

    node: object
    handler: object
    idxs: np.ndarray
    roots: np.ndarray
    meet: bool = False  # two of the root's channels arrive at one position
    lost: bool = False  # index mappings multiply the positions without end (reshapes in a circle)


def coupled(graph, layer: nn.Module, width: int, most: int, elsewhere: Collection[nn.Module]) -> list[Touched]:
    """Everything that cutting output channels of ``layer`` touches, in the order in which it is met.

    The closure that Torch-Pruning's ``get_pruning_group`` computes, over the same dependencies and index mappings. There each
    set of indices that arrives at a node is followed again, as often as there are paths (minutes on ShuffleNet), and of two
    channels that meet in one position one is forgotten; here each position is followed once, and a meeting is noted. Positions
    from ``most`` on, where no layer of the network has any, are not followed. ``elsewhere``: layers that have their channels on
    another axis, where one of theirs is broadcast over no others.
    """
    root = graph.module2node[layer]
    start = (root, graph.get_pruner_of_module(layer).prune_out_channels, np.arange(width), np.arange(width))
    owner: dict[tuple, np.ndarray] = {}  # (node, handler) -> the root channel at each position, -1 where none has come
    touched: dict[tuple, Touched] = {}
    pending = [start]
    while pending:
        node, handler, idxs, roots = pending.pop()
        place = touched.setdefault((node, handler), Touched(node, handler, np.empty(0, int), np.empty(0, int)))
        if not len(idxs):  # a slice past all of them: nothing goes on, but the slice is known of
            continue
        if idxs.min() < 0 or idxs.max() >= most:
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
            target = dep.target.module
            broadcast = graph.is_out_channel_pruning_fn(dep.handler) and _single(target) and target not in elsewhere
            if dep.is_triggered_by(handler) and not broadcast:
                there, whose = _mapped(dep, idxs, roots)
                if len(there) or (dep.target.type == OPTYPE.SLICE and dep.target in node.outputs):
                    pending.append((dep.target, dep.handler, there, whose))
    return list(touched.values())


def _single(module: object) -> bool:
    """Does it write one channel only?"""
    if isinstance(module, LAYERS):
        return declared(module)[0] == 1
    return isinstance(module, PER_CHANNEL_NORMS) and module.num_features == 1


def _mapped(dep, idxs: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions behind a dependency, and the root channel at each."""
    if all(mapping is None for mapping in dep.index_mapping):
        return idxs, roots
    pairs = [_HybridIndex(idx=i, root_idx=r) for i, r in zip(idxs.tolist(), roots.tolist(), strict=True)]
    for mapping in dep.index_mapping:
        pairs = pairs if mapping is None else mapping(pairs)
    return np.array([p.idx for p in pairs], int), np.array([p.root_idx for p in pairs], int)
