"""Groups whose channels pass through operations that are not known: thinned on trial."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from slimlib.layout import Group, Layout
from slimlib.masking import masking_error


def probed(
    layout: Layout, doubtful: dict[int, str], model: nn.Module, example_input: torch.Tensor, unread: bool = False
) -> Layout:
    """Thin the doubtful groups; refuse those at which the network fails or differs from zero-masking the same channels.

    All are tried at once, and halves of them where that goes wrong, so a network without fault costs one probe; or two, where
    it computes what no output depends on (``unread``): there a fault shows only when too few channels are left.
    """
    groups = list(layout.groups)
    asked = [i for i in doubtful if not groups[i].reason and groups[i].width > groups[i].blocks]
    if not asked:
        return layout
    if example_input.is_floating_point() and bool((example_input == example_input.flatten()[0]).all()):
        # an image of one colour, as plans are traced with again, would let a fault pass
        noise = torch.randn(example_input.shape, generator=torch.Generator().manual_seed(0))
        example_input = noise.to(example_input)
    pending = [(asked, narrow) for narrow in ((False, True) if unread else (False,))]
    while pending:
        batch, narrow = pending.pop()
        batch = [i for i in batch if not groups[i].reason]
        fault = _fault(model, layout, [groups[i] for i in batch], example_input, narrow) if batch else ""
        if fault and len(batch) > 1:
            pending += [(batch[: len(batch) // 2], narrow), (batch[len(batch) // 2 :], narrow)]
        elif fault:
            (i,) = batch
            groups[i] = replace(groups[i], reason=f"its channels pass through {doubtful[i]}, which needs them all: {fault}")
    return replace(layout, groups=tuple(groups))


def _fault(model: nn.Module, layout: Layout, groups: list[Group], example_input: torch.Tensor, narrow: bool) -> str:
    """What goes wrong when the groups are thinned, or ""; ``narrow``: to one channel a block, else to about half."""
    turn: dict[tuple[int, int], int] = defaultdict(int)
    keep = {}
    for g in groups:  # groups of one width get other numbers of channels: else one that binds two of them would not be seen
        keep[g.name] = _some(g, None if narrow else turn[g.width, g.blocks])
        turn[g.width, g.blocks] += 1
    try:
        error = masking_error(model, layout, keep, example_input)
    except (RuntimeError, ValueError, IndexError, AssertionError):
        return "without some, the network does not run"
    return "" if error <= 1e-3 else "removing channels is not the same as zeroing them there"


def _some(g: Group, turn: int | None) -> np.ndarray:
    """About half of the channels, others in each block, so that a wrong index is seen: what survives it survives any choice.

    The first is not among them, as it would stand in for itself in a slice. How many is no multiple of 2 or 3 where that can
    be, so that a reshape into parts is seen; another number each ``turn``, one a block for None.
    """
    size = g.width // g.blocks
    counts = sorted(range(1, size), key=lambda c: (c == 1, c % 2 == 0 and g.blocks == 1, c % 3 == 0, abs(c - size / 2))) or [1]
    count = 1 if turn is None else counts[turn % len(counts)]
    runs = [np.flatnonzero(g.block_of == b) for b in range(g.blocks)]
    chosen = [(np.arange(count) * size // count + 1 + b % 2) % size for b in range(g.blocks)]
    return np.sort(np.concatenate([run[places] for run, places in zip(runs, chosen, strict=True)]))
