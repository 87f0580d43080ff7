"""Cutting a network to a plan: ``prune`` keeps trained filters, ``thin`` starts afresh.

The widths and parameters that were planned are asserted before the network is returned.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from slimlib.conformance import checked, first_channels, layout_for
from slimlib.criteria import Criterion, choose_filters
from slimlib.cutting import cut
from slimlib.fresh import fresh_copy
from slimlib.layout import Layout
from slimlib.plans import WidthPlan


def prune(model: nn.Module, plan: WidthPlan, criterion: str | Criterion = "l1", seed: int = 0) -> nn.Module:
    """A new network of the planned widths that keeps, in each group, the filters ranked best by ``criterion``.

    ``criterion``: ``l1`` (Li et al. 2017), ``l2``, ``gm`` (geometric median, He et al. 2019), ``bn`` (``|gamma|``, Liu et al.
    2017), ``random`` (by ``seed``) or a function of one's own, :data:`~slimlib.criteria.Criterion`. ``model`` is left as it was.
    Raises SlimlibError when the plan was made for other widths, or when the criterion cannot rank a group (``bn`` without
    BatchNorm). Where nothing is trained afterwards, :func:`slimlib.calibrate_batchnorm` gives the statistics of what now arrives.
    """
    layout = layout_for(model, plan)
    keep = choose_filters(model, layout, plan.widths, criterion, seed)
    _warn_of_idle(layout)
    with torch.inference_mode(False):  # what is made in that mode could not be trained
        return checked(cut(model, layout, keep), plan)


def thin(model: nn.Module, plan: WidthPlan, seed: int = 0, reset: Callable[[nn.Module], None] | None = None) -> nn.Module:
    """The planned architecture with fresh weights: a student, or the scratch-trained control of Liu et al. (2019).

    How the weights are drawn, under ``seed``: :func:`slimlib.fresh.fresh_copy`; for networks of :mod:`slimlib.models` that is
    torch's default for each layer, not the He initialisation that they were built with. ``model`` is left as it was. Raises
    SlimlibError when the plan was made for other widths.
    """
    layout = layout_for(model, plan)
    with torch.inference_mode(False):
        student = fresh_copy(cut(model, layout, first_channels(layout, plan)), seed, reset)
    _warn_of_idle(layout)
    return checked(student, plan)


def _warn_of_idle(layout: Layout) -> None:
    """A branch that runs in training alone (the auxiliary heads of GoogLeNet and Inception) was not seen by the trace."""
    if layout.idle:
        named = ", ".join(layout.idle[:3]) + (f" and {len(layout.idle) - 3} more" if len(layout.idle) > 3 else "")
        warnings.warn(f"model: left as they were, because the forward pass of evaluation does not use them: {named}; if they run "
                      "in training, what they read may have gone, so remove them first (aux_logits=False in torchvision)",
                      stacklevel=3)
