"""From a network to its widths: the two functions that users call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from inspect import signature

import numpy as np
import torch
from torch import nn

from slimlib.cost import UNITS, cost_model
from slimlib.errors import SlimlibError
from slimlib.layout import Layout, trace
from slimlib.request import Request
from slimlib.rules import RULES
from slimlib.widths import WidthPath, WidthPlan


def width_path(
    model: nn.Module, example_input: torch.Tensor, *, rule: str = "pca", coupling: str = "inner", unit: str = "macs",
    min_width: int = 1, round_to: int = 1, center: bool = True, seed: int = 0, skip: Iterable[str] = (),
    spectra: Mapping[str, np.ndarray] | None = None, layout: Layout | None = None, **options,
) -> WidthPath:
    """All the plans of a rule for a network: PCA once, widths for every budget after it.

    ``unit`` ("macs" or "params") is what the cost-aware rules save; ``skip`` names layers to leave whole; ``options`` are the
    rule's own, the parameters of its function in :mod:`slimlib.rules`. The model is not changed.
    """
    _check_rule(rule, options)
    if unit not in UNITS:
        raise SlimlibError(f"unit={unit!r} is not known; use 'macs' or 'params'")
    for name, value in (("min_width", min_width), ("round_to", round_to)):
        if not isinstance(value, int) or value < 1:
            raise SlimlibError(f"{name}={value!r} must be a whole number of filters, at least 1")
    layout = layout or trace(model, example_input)
    skip = set(skip)
    groups = tuple(g for g in layout.slimmable(coupling) if not skip & {m.module for m in g.writers()})
    unknown = skip - {n for n, _ in model.named_modules()}
    if unknown:
        raise SlimlibError(f"skip: the model has no layer {', '.join(sorted(unknown))}")
    if not groups:
        reasons = "; ".join(f"{n}: {why}" for n, why in list(layout.whole(coupling).items())[:3])
        raise SlimlibError(f"model: no layer can be slimmed with coupling={coupling!r} ({reasons})")
    costs = cost_model(model, layout, groups)
    request = Request(model, layout, groups, costs, unit, coupling, center, seed, spectra)
    return WidthPath(rule, coupling, groups, RULES[rule](request, **options), costs, layout, min_width, round_to)


def _check_rule(rule: str, options: Mapping[str, object]) -> None:
    """A rule that there is, all that it must be told, and nothing that it would not read: a misspelt name is an error."""
    if rule not in RULES:
        raise SlimlibError(f"rule={rule!r} is not known; use one of {', '.join(RULES)}")
    own = list(signature(RULES[rule]).parameters.values())[1:]  # the first is what all rules read
    if unknown := sorted(set(options) - {option.name for option in own}):
        takes = " and ".join(option.name for option in own) or "none"
        close = get_close_matches(unknown[0], [*signature(width_path).parameters, *signature(plan_widths).parameters], 1)
        raise SlimlibError(f"{unknown[0]} is no option of rule={rule!r} (its own: {takes})"
                           + (f"; did you mean {close[0]}?" if close else "; leave it out, or see slimlib.rules"))
    if missing := [option.name for option in own if option.default is option.empty and options.get(option.name) is None]:
        raise SlimlibError(f"{missing[0]} must be given for rule={rule!r}; see slimlib.rules for what it means")


def plan_widths(
    model: nn.Module, example_input: torch.Tensor, *, keep_macs: float | None = None, keep_params: float | None = None,
    threshold: float | None = None, rule: str = "pca", fill: bool = False, **how,
) -> WidthPlan:
    """The widest plan of ``rule`` that keeps at most a share of the dense MACs or parameters, or the plan at a threshold.

    ``model`` is any feed-forward network and ``example_input`` one batch for it; give exactly one of ``keep_macs``,
    ``keep_params`` and ``threshold``. ``fill`` spends what is left of the budget, see :meth:`WidthPath.plan
    <slimlib.widths.WidthPath.plan>`. ``how`` is passed to :func:`width_path`. Raises SlimlibError naming the parameter and
    the remedy; the model is not changed.
    """
    unit = "params" if keep_params is not None else "macs"
    path = width_path(model, example_input, rule=rule, unit=unit, **how)
    return path.plan(keep_macs=keep_macs, keep_params=keep_params, threshold=threshold, fill=fill)
