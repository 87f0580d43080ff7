"""Groups whose channels pass through operations that are not known: thinned on trial."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from slimlib.layout import Group, Layout
from slimlib.masking import masking_error


def probed(layout: Layout, doubtful: dict[int, str], model: nn.Module, example_input: torch.Tensor) -> Layout:
    """Thin the doubtful groups; refuse those at which the network fails or differs from zero-masking the same channels.

    All are tried at once, and halves of them where that goes wrong, so a network without fault costs one probe.
    """
    groups = list(layout.groups)
    asked = [i for i in doubtful if not groups[i].reason and groups[i].width > groups[i].blocks]
    if not asked:
        return layout
    if example_input.is_floating_point() and bool((example_input == example_input.flatten()[0]).all()):
        # an image of one colour, as plans are traced with again, would let a fault pass
        noise = torch.randn(example_input.shape, generator=torch.Generator().manual_seed(0))
        example_input = noise.to(example_input)
    pending = [asked]
    while pending:
        batch = pending.pop()
        fault = _fault(model, layout, [groups[i] for i in batch], example_input) if batch else ""
        if fault and len(batch) > 1:
            pending += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        elif fault:
            (i,) = batch
            groups[i] = replace(groups[i], reason=f"its channels pass through {doubtful[i]}, which needs them all: {fault}")
    return replace(layout, groups=tuple(groups))


def _fault(model: nn.Module, layout: Layout, groups: list[Group], example_input: torch.Tensor) -> str:
    """What goes wrong when the groups are thinned, or ""."""
    try:
        error = masking_error(model, layout, {g.name: _every_other(g) for g in groups}, example_input)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return "without some, the network does not run"
    return "" if error <= 1e-3 else "removing channels is not the same as zeroing them there"


def _every_other(g: Group) -> np.ndarray:
    """Half of the channels, others in each block, so that a wrong index is seen: what survives it survives any choice."""
    runs = [np.flatnonzero(g.block_of == b) for b in range(g.blocks)]
    return np.sort(np.concatenate([run[b % 2 :: 2][: max(1, len(run) // 2)] for b, run in enumerate(runs)]))
