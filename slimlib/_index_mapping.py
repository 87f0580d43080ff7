"""Mends of how Torch-Pruning maps channel indices through reshapes, concatenations and splits."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from threading import RLock

from torch import nn
from torch_pruning.dependency import index_mapping
from torch_pruning.ops import OPTYPE

from slimlib._operations import as_signed, sliced_axis
from slimlib.layout import LAYERS, PER_CHANNEL_NORMS

_LOCK = RLock()  # the mends are made in the module that all threads share


@contextmanager
def steady_index_mapping():
    """Mends of Torch-Pruning 1.6.1 while the graph is built, undone afterwards.

    It fails at a reshape or a concatenation whose channels it cannot infer (ShuffleNet; a part of a split, joined to a sum of
    its parts), makes mappings without an end where it cannot infer the parts of a split (nn.GRU), and forgets at an expansion
    (grouped-query attention) whose channels it maps; all are probed here, so the mapping is left out. And it takes the parts of
    a split in the order in which the trace meets their readers; autograd knows which part each one reads. Of slices it takes
    places counted from the end for very large ones, and other axes than that of the channels for it.
    """
    with _LOCK:
        theirs = {name: getattr(index_mapping, name) for name in _MENDS}
        vars(index_mapping).update(_MENDS)
        try:
            yield
        finally:
            vars(index_mapping).update(theirs)


def _reshape_or_skip(graph, node):
    with suppress(ZeroDivisionError):
        _THEIR_RESHAPE(graph, node)


def _concat_or_skip(graph, node):
    with suppress(TypeError):
        _THEIR_CONCAT(graph, node)


def _split_by_number(graph, node):
    _THEIR_SPLIT(graph, node)
    for reader in node.outputs:
        parts = {nr for f, nr in getattr(reader.grad_fn, "next_functions", ()) if f is node.grad_fn}
        for dep, reverse in _edges_between(node, reader):
            offsets = node.module.offsets or []
            if len(offsets) < 2:  # not worked out (in a recurrent layer): what is split there is probed
                dep.index_mapping[0] = None
            elif len(parts) == 1 and isinstance(dep.index_mapping[0], index_mapping._SplitIndexMapping):
                (nr,) = parts
                if nr + 2 > len(offsets):  # parts that nobody reads are left out; they are all of one size
                    offsets = [i * offsets[1] for i in range(nr + 2)]
                dep.index_mapping[0] = index_mapping._SplitIndexMapping(offsets[nr : nr + 2], reverse=reverse)


def _no_expansion(graph, node):
    pass


def _slice_of_channels(graph, node):
    if is_slice_of_channels(node):
        start, stop, step = _run(node.grad_fn)
        for source in node.inputs:
            for dep, reverse in _edges_between(source, node):
                dep.index_mapping[0] = index_mapping._SliceIndexMapping(1, start, step, stop, reverse=reverse)


def _edges_between(node, reader) -> list[tuple]:
    """The dependencies between a node and one that reads it, each with whether it leads back, from the reader to the node."""
    return [(d, False) for d in node.dependencies if d.target is reader] + [
        (d, True) for d in reader.dependencies if d.target is node]


_THEIR_RESHAPE, _THEIR_CONCAT, _THEIR_SPLIT = (
    index_mapping.update_reshape_index_mapping, index_mapping.update_concat_index_mapping,
    index_mapping.update_split_index_mapping)  # fmt: skip
_MENDS = {
    "update_reshape_index_mapping": _reshape_or_skip, "update_concat_index_mapping": _concat_or_skip,
    "update_split_index_mapping": _split_by_number, "update_expand_index_mapping": _no_expansion,
    "update_slice_index_mapping": _slice_of_channels,
}  # fmt: skip


def is_slice_of_channels(node) -> bool:
    """Does a slice cut the channels? Theirs is the second axis; of three the last, unless the nearest layer has the second."""
    if node.type != OPTYPE.SLICE or not hasattr(node.grad_fn, "_saved_self_sym_sizes"):
        return False
    axis, axes = sliced_axis(node.grad_fn)
    if axes != 3:
        return axis == 1
    beside = _nearest(node, "inputs") or _nearest(node, "outputs")
    return axis == (2 if beside is None or isinstance(beside, nn.Linear) else 1)


def _nearest(node, way: str) -> nn.Module | None:
    """The nearest layer or norm before a node ("inputs") or behind it ("outputs")."""
    seen, pending = {node}, [node]
    for at in pending:  # which grows
        for neighbour in getattr(at, way):
            if isinstance(neighbour.module, (*LAYERS, *PER_CHANNEL_NORMS)):
                return neighbour.module
            if neighbour not in seen:
                seen.add(neighbour)
                pending.append(neighbour)
    return None


def _run(grad_fn) -> tuple[int, int, int]:
    """Start, stop and step of a slice, from the front."""
    size = grad_fn._saved_self_sym_sizes[sliced_axis(grad_fn)[0]]
    return slice(as_signed(grad_fn._saved_start), as_signed(grad_fn._saved_end), grad_fn._saved_step).indices(size)


def without_slopes(graph) -> None:
    """Takes the reshaped slope of a PReLU off its inputs: Torch-Pruning counts channels by the last input, and one slope for all
    channels says nothing of them."""
    for node in graph.module2node.values():
        if node.grad_fn is not None and "Prelu" in node.grad_fn.name():
            node.inputs = [source for source in node.inputs if source.inputs or source.type != OPTYPE.RESHAPE]
