"""What a network returns: a tensor, or tensors inside tuples, dicts, dataclasses and other objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass

import numpy as np
from torch import Tensor, from_numpy, nn
from torch.utils._pytree import tree_leaves


def tensors_in(output: object) -> list[Tensor]:
    """Every tensor of a forward pass's output, in order, those in the attributes of objects as well; an array of numpy's counts
    as a tensor without gradient. Whatever else it holds is passed over."""
    return list(_tensors(output, set()))


def _tensors(output: object, seen: set[int]) -> Iterator[Tensor]:
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
            yield from_numpy(np.ascontiguousarray(leaf))
        elif id(leaf) not in seen and not isinstance(leaf, (type, nn.Module)):  # a module's tensors are its own, and no answer
            seen.add(id(leaf))  # objects may hold each other
            yield from _tensors(_parts(leaf), seen)


def _parts(leaf: object) -> list[object]:
    if isinstance(leaf, (Mapping, Set)):
        return list(leaf.values() if isinstance(leaf, Mapping) else leaf)
    if is_dataclass(leaf):  # which may have slots
        return [getattr(leaf, field.name) for field in fields(leaf)]
    return list(getattr(leaf, "__dict__", {}).values())
