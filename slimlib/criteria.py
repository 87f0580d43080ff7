"""Which filters stay, once the width is chosen: one score a channel, the highest stay.

``l1``, ``l2`` and ``gm`` read a channel's rows in the layers that write it, each filter flattened with its own weights only, as
in the papers (Torch-Pruning's defaults mix in BatchNorm and next-layer weights). In a joint group the members' rows count as one
long row, side by side; so their l1 scores add. ``bn`` reads the BatchNorms behind, whose scales add, and ``random`` nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from slimlib import arguments
from slimlib.arguments import kind, name_of
from slimlib.errors import SlimlibError
from slimlib.filters import filter_rows, in_float64
from slimlib.layout import BATCH_NORM, Group, Layout


def l1(model: nn.Module, group: Group) -> torch.Tensor:
    """Sum of absolute weights of each filter (Li et al. 2017, section 3.1). Shape (width,), float64."""
    return sum(torch.linalg.vector_norm(rows, ord=1, dim=1) for rows in filter_rows(model, group))


def l2(model: nn.Module, group: Group) -> torch.Tensor:
    """Euclidean norm of each filter (as He et al. 2018, soft filter pruning). Shape (width,), float64."""
    return sum(rows.square().sum(1) for rows in filter_rows(model, group)).sqrt()


def gm(model: nn.Module, group: Group) -> torch.Tensor:
    """Sum of Euclidean distances to all other filters: small for those near the geometric median (He et al. 2019, eq. 7).
    Shape (width,), float64."""
    rows = torch.cat(filter_rows(model, group), dim=1)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def bn(model: nn.Module, group: Group) -> torch.Tensor:
    """Sum of ``|gamma|`` of the BatchNorms after the group's layers (Liu et al. 2017, network slimming). Shape (width,),
    float64."""
    return batchnorm_scales(model, group, "criterion='bn'", "use 'l1', 'l2', 'gm' or 'random'")[0]


def batchnorm_scales(model: nn.Module, group: Group, asks: str, remedy: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of ``|gamma|`` over the BatchNorms that read a channel, and how many do; each of shape (width,), float64.

    Raises SlimlibError where a channel has none, with what ``asks`` and the ``remedy``.
    """
    scores, norms = torch.zeros(2, group.width, dtype=torch.float64, device="cpu")
    for m in group.members:
        module = model.get_submodule(m.module)
        if m.role == "norm" and isinstance(module, BATCH_NORM) and module.affine:
            gamma = in_float64(module.weight).abs().cpu()
            scores[torch.from_numpy(m.channels)] += gamma[torch.from_numpy(m.positions)].sum(1)
            norms[torch.from_numpy(m.channels)] += m.positions.shape[1]
    if not norms.all():
        whom = "all of them" if norms.any() else "it"
        raise SlimlibError(f"{asks} cannot rank the filters of {group.name}: no BatchNorm with a scale follows {whom}; {remedy}")
    return scores, norms


def random(model: nn.Module, group: Group, generator: np.random.Generator | None = None) -> torch.Tensor:
    """Control: scores drawn anew at each call, from ``generator`` where there is one. Shape (width,), float64."""
    return torch.from_numpy((generator or np.random.default_rng()).random(group.width))


CRITERIA = {"l1": l1, "l2": l2, "gm": gm, "bn": bn, "random": random}

Criterion = Callable[[nn.Module, Group], torch.Tensor]
"""A criterion of one's own: given the model and a :class:`~slimlib.layout.Group`, a finite score for each of its channels, shape
(width,); the highest stay. :func:`slimlib.filters.filter_rows` gives the filters as matrices."""


def choose_filters(
    model: nn.Module, layout: Layout, widths: Mapping[str, int], criterion: str | Criterion = "l1", seed: int = 0
) -> dict[str, np.ndarray]:
    """Group -> its ``widths[group]`` best channels, ascending; equally many from each block. Ties go to the lower index."""
    if not callable(criterion) and not (isinstance(criterion, str) and criterion in CRITERIA):
        raise SlimlibError(f"criterion={criterion!r} is not known; use one of {', '.join(CRITERIA)}, or give a function")
    seed = arguments.seed("seed", seed)
    score = criterion if callable(criterion) else CRITERIA[criterion]
    if score is random:
        score = partial(random, generator=np.random.default_rng(seed))
    keep = {}
    for group in layout.groups:
        if group.name in widths and not group.reason:
            keep[group.name] = best(_scores(score, model, group), group, widths[group.name])
    return keep


def _scores(score: Criterion, model: nn.Module, group: Group) -> np.ndarray:
    """A criterion's scores, if they are what scores must be."""
    given = score(model, group)
    kind(f"what criterion {name_of(score)!r} gave for {group.name}", given, (torch.Tensor, np.ndarray, list, tuple),
         f"{group.width} scores, one a channel")
    found = torch.as_tensor(given, device=getattr(given, "device", "cpu")).detach().cpu().double()  # whatever the default device
    if found.shape != (group.width,) or not found.isfinite().all():
        raise SlimlibError(f"criterion {name_of(score)!r} gave scores of shape {tuple(found.shape)} for {group.name}; it must "
                           f"give {group.width} finite ones, one a channel")
    return found.numpy()


def best(scores: np.ndarray, group: Group, width: int) -> np.ndarray:
    """The ``width`` channels with the highest scores, ascending; equally many from each block."""
    if width % group.blocks:
        raise SlimlibError(f"widths[{group.name!r}]={width} is no multiple of {group.blocks}, its number of channel blocks")
    order = np.argsort(-scores, kind="stable")
    best = [order[group.block_of[order] == b][: width // group.blocks] for b in range(group.blocks)]
    return np.sort(np.concatenate(best))
