"""Mends of how Torch-Pruning maps channel indices through reshapes, concatenations and splits."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from threading import RLock

from torch_pruning.dependency import index_mapping

_LOCK = RLock()  # the mends are made in the module that all threads share


@contextmanager
def steady_index_mapping():
    """Mends of Torch-Pruning 1.6.1 while the graph is built, undone afterwards.

    It fails at a reshape or a concatenation whose channels it cannot infer (ShuffleNet; a part of a split, joined to a sum of
    its parts), makes mappings without an end where it cannot infer the parts of a split (nn.GRU), and forgets at an expansion
    (grouped-query attention) whose channels it maps; all are probed here, so the mapping is left out. And it takes the parts of
    a split in the order in which the trace meets their readers; autograd knows which part each one reads.
    """
    with _LOCK:
        yield from _mended()


def _mended():
    names = ("update_reshape_index_mapping", "update_concat_index_mapping", "update_split_index_mapping",
             "update_expand_index_mapping")  # fmt: skip
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

    def no_expansion(graph, node):
        pass

    for name, mended in zip(names, (reshape_or_skip, concat_or_skip, split_by_number, no_expansion), strict=True):
        setattr(index_mapping, name, mended)
    try:
        yield
    finally:
        for name in names:
            setattr(index_mapping, name, original[name])
