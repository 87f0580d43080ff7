"""From a network to its widths: the functions that users call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from inspect import Parameter, signature
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from slimlib import arguments
from slimlib.arguments import by_name, count, kind, name_of
from slimlib.cost import cost_model, must_be_unit
from slimlib.errors import SlimlibError
from slimlib.layout import Group, Layout
from slimlib.plans import WidthPlan
from slimlib.request import Request
from slimlib.rules import RULES
from slimlib.steps import Curves, Removals
from slimlib.tracing import given_or_traced
from slimlib.widths import WidthPath

Rule = Callable[..., Curves | Removals]
"""A rule of one's own: called with a :class:`~slimlib.request.Request` and the options it names, it returns a path's steps."""


def width_path(
    model: nn.Module, example_input: torch.Tensor | None, *, rule: str | Rule = "pca", coupling: str = "inner",
    unit: str = "macs", min_width: int = 1, round_to: int = 1, center: bool = True, seed: int = 0, skip: str | Iterable[str] = (),
    spectra: Mapping[str, np.ndarray] | None = None, layout: Layout | None = None, **options,
) -> WidthPath:
    """All the plans of a rule for a network: PCA once, widths for every budget after it.

    The model is not changed.

    Args:
        model: any feed-forward network.
        example_input: one batch for it; it tells the shapes, and for most rules nothing else. None where ``layout`` is given.
        rule: a name of :data:`slimlib.rules.RULES` or a function of one's own, :data:`Rule`.
        coupling: "inner" slims the layers whose width is theirs alone, "joint" also those that share one (shortcuts).
        unit: "macs" or "params", what the cost-aware rules save.
        min_width: filters that every layer keeps at least, or all it has.
        round_to: widths are multiples of it, rounded up, or whole.
        center: centre each filter by its own mean before PCA.
        seed: of the rules that draw.
        skip: names of layers to leave whole; of a module, all the layers in it.
        spectra: eigenvalues as :func:`slimlib.spectra` returns them, so that PCA is not done again.
        layout: as :func:`slimlib.trace` returns it, so that the network is not traced again.
        options: the rule's own, the parameters of its function.

    Raises:
        SlimlibError: an argument is wrong, no layer can be slimmed, or the rule cannot read this network.
    """
    rule, choose = _named(rule)
    _check_options(rule, choose, options)
    must_be_unit(unit)
    min_width, round_to = (count(name, value, "filters") for name, value in (("min_width", min_width), ("round_to", round_to)))
    seed, center = arguments.seed("seed", seed), arguments.flag("center", center)
    kind("skip", skip, Iterable, "names of layers, such as skip=['conv1'], or leave it out")
    if spectra is not None:
        by_name("spectra", spectra, "what slimlib.spectra returns: the eigenvalues of each group by name")
    layout = _without(skip, model, given_or_traced(layout, model, example_input))
    groups = layout.slimmable(coupling)
    _must_have_any(groups, layout, coupling)
    costs = cost_model(model, layout, groups)
    request = Request(model=model, layout=layout, groups=groups, costs=costs, unit=unit, coupling=coupling, given_center=center,
                      given_seed=seed, given_spectra=spectra)
    steps = choose(request, **options)
    if unread := request.unread():
        raise SlimlibError(f"{unread} is given, but rule {rule!r} reads no such thing: leave it out")
    fault = steps.fault(request.full) if isinstance(steps, Curves | Removals) else f"a {type(steps).__name__}"
    if fault:
        raise SlimlibError(f"rule {rule!r} returned {fault}; it must return Curves or Removals, see slimlib.steps")
    return WidthPath(rule, coupling, groups, steps, costs, layout, min_width, round_to,
                     drawn="seed" in request.asked)


def _must_have_any(groups: tuple[Group, ...], layout: Layout, coupling: str) -> None:
    """Refuse a network in which there is no width to choose, and say why of its layers."""
    if not groups:
        reasons = "; ".join(f"{n}: {why}" for n, why in list(layout.whole(coupling).items())[:3])
        raise SlimlibError(f"model: no layer can be slimmed with coupling={coupling!r} ({reasons})")


def _without(skip: str | Iterable[str], model: nn.Module, layout: Layout) -> Layout:
    """The layout in which the groups of all layers at or below the names in ``skip`` stay whole, with that as the reason."""
    named = dict(model.named_modules(remove_duplicate=False))
    traced_as = {module: name for name, module in model.named_modules()}  # of a module's several names the first
    writers = {m.module for g in layout.groups for m in g.writers()}
    skipped: dict[str, str] = {}
    for name in [skip] if isinstance(skip, str) else skip:
        if not isinstance(name, str) or name not in named:
            near = get_close_matches(str(name), named, 1)
            raise SlimlibError(f"skip: the model has no layer {name!r}"
                               + (f"; did you mean {near[0]!r}?" if near else "; model.named_modules() tells their names"))
        layers = writers & {traced_as[module] for module in named[name].modules()}
        if not layers:
            raise SlimlibError(f"skip: {name!r} ({type(named[name]).__name__}) holds no layer that has a width of its own; "
                               "name the Conv or Linear layer before it")
        skipped |= dict.fromkeys(layers, f"left out with skip=[{name!r}]")
    if not skipped:
        return layout
    reasons = [g.reason or next((skipped[m.module] for m in g.writers() if m.module in skipped), "") for g in layout.groups]
    return replace(layout, groups=tuple(replace(g, reason=why) for g, why in zip(layout.groups, reasons, strict=True)))


def _named(rule: str | Rule) -> tuple[str, Rule]:
    if callable(rule):
        return name_of(rule), rule
    if not isinstance(rule, str) or rule not in RULES:
        raise SlimlibError(f"rule={rule!r} is not known; use one of {', '.join(RULES)}, or give a function")
    return rule, RULES[rule]


def _check_options(rule: str, choose: Rule, options: Mapping[str, object]) -> None:
    """All that a rule must be told, and nothing that it would not read: a misspelt name is an error."""
    own = list(signature(choose).parameters.values())[1:]  # the first is what all rules read
    takes_any = any(option.kind is Parameter.VAR_KEYWORD for option in own)
    own = [option for option in own if option.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)]
    known = {name for function in (width_path, plan_widths) for name in signature(function).parameters}
    if taken := [option.name for option in own if option.name in known]:
        raise SlimlibError(f"rule {rule!r} calls an option {taken[0]}, which plan_widths takes itself and would never pass on: "
                           "call it otherwise, or read it off the request")
    if not takes_any and (unknown := sorted(set(options) - {option.name for option in own})):
        takes = " and ".join(option.name for option in own) or "none"
        close = get_close_matches(unknown[0], sorted(known), 1)
        raise SlimlibError(f"{unknown[0]} is no option of rule={rule!r} (its own: {takes})"
                           + (f"; did you mean {close[0]}?" if close else "; leave it out, or see slimlib.rules"))
    if missing := [option.name for option in own if option.default is option.empty and options.get(option.name) is None]:
        raise SlimlibError(f"{missing[0]} must be given for rule={rule!r}; see slimlib.rules for what it means")


def plan_widths(
    model: nn.Module, example_input: torch.Tensor | None, *, keep_macs: float | None = None, keep_params: float | None = None,
    threshold: float | None = None, rule: str | Rule = "pca", fill: bool = False, **how,
) -> WidthPlan:
    """The widest plan of ``rule`` that keeps at most a share of the dense MACs or parameters, or the plan at a threshold.

    ``model`` is any feed-forward network and ``example_input`` one batch for it; give exactly one of ``keep_macs``,
    ``keep_params`` and ``threshold``, in (0, 1]. ``fill`` spends what is left of the budget, see :meth:`WidthPath.plan
    <slimlib.widths.WidthPath.plan>`. ``how`` takes what else :func:`width_path` takes, but for ``unit``: ``coupling``,
    ``min_width``, ``round_to``, ``center``, ``seed``, ``skip``, ``spectra``, ``layout`` and the options of the rule. Raises
    SlimlibError naming the parameter and the remedy; warns where the rank of the filters ends the rule's path below the budget.
    The model is not changed.
    """
    if "unit" in how:
        raise SlimlibError(f"unit={how['unit']!r}: plan_widths saves what its budget counts; give keep_macs or keep_params, or "
                           "call width_path, which takes a unit")
    unit = "params" if keep_params is not None else "macs"
    path = width_path(model, example_input, rule=rule, unit=unit, **how)
    return path._planned(keep_macs, keep_params, threshold, fill)


def plan_from_widths(
    model: nn.Module, example_input: torch.Tensor | None, widths: Mapping[str, int], *, coupling: str = "inner",
    layout: Layout | None = None,
) -> WidthPlan:
    """The plan with widths that you name, all others full: a published architecture, or what another tool has chosen.

    ``widths`` maps layers to numbers of filters; layers that share a width share what one of them is given. Raises
    SlimlibError naming the layer that is not there, stays whole, or cannot have that width, and where no layer can be slimmed;
    the model is not changed.
    """
    kind("widths", widths, Mapping, "a mapping of layers to numbers of filters, such as {'conv1': 12}")
    layout = given_or_traced(layout, model, example_input)
    groups = layout.slimmable(coupling)
    group_of = {member.module: at for at, group in enumerate(groups) for member in group.writers()}
    chosen: dict[int, int] = {}
    for layer, width in widths.items():
        if layer not in group_of:
            why = layout.whole(coupling).get(layer, "the network has no such layer that could be slimmed")
            raise SlimlibError(f"widths: {layer!r} keeps its width with coupling={coupling!r} ({why})")
        group = groups[group_of[layer]]
        _check_width(layer, width, group)
        if chosen.setdefault(group_of[layer], width) != width:
            raise SlimlibError(f"widths: {layer!r} cannot have {width} filters and {group.name!r}, whose width it shares, "
                               f"{chosen[group_of[layer]]}")
    _must_have_any(groups, layout, coupling)  # only now, as what was said of a layer above says more of it
    full = np.array([group.width for group in groups])
    wanted = np.array([chosen.get(at, group.width) for at, group in enumerate(groups)])
    path = WidthPath("given", coupling, groups, Removals(full, np.zeros(0, int)), cost_model(model, layout, groups), layout)
    return path.plan_of(wanted)


def _check_width(layer: str, width: Any, group: Group) -> None:
    if not isinstance(width, Integral) or isinstance(width, bool) or not 1 <= width <= group.width or width % group.blocks:
        granule = f"a multiple of {group.blocks}, as its channels come in {group.blocks} blocks, " if group.blocks > 1 else ""
        raise SlimlibError(f"widths: {width!r} filters for {layer!r} must be {granule}a whole number from 1 to {group.width}")
