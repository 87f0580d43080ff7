"""What a network returns: a tensor, or tensors inside tuples, dicts and dataclasses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from torch import Tensor
from torch.utils._pytree import tree_leaves


def tensors_in(output: object) -> list[Tensor]:
    """Every tensor of a forward pass's output, in order; whatever else it holds is passed over."""
    found: list[Tensor] = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += tensors_in([getattr(leaf, field.name) for field in fields(leaf)])
    return found
