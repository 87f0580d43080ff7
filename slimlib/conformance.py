"""Does a network fit a plan: the dense one that the plan was made from, and the slim one that came of it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from slimlib._checks import check_layers
from slimlib.arguments import kind
from slimlib.cost import cost_model
from slimlib.criteria import best
from slimlib.cutting import Keep
from slimlib.errors import SlimlibError
from slimlib.layout import LAYERS, Layout, filters_and_inputs, must_be_of
from slimlib.plans import WidthPlan
from slimlib.tracing import retraced


def first_channels(layout: Layout, plan: WidthPlan) -> Keep:
    """Of every group as many channels as planned, the first of each block: which they are does not matter to the shape."""
    return {g.name: best(np.zeros(g.width), g, plan.widths[g.name])  # ties go to the lower index
            for g in layout.groups if g.name in plan.widths and not g.reason}


def layout_for(model: nn.Module, plan: WidthPlan) -> Layout:
    """The plan's own layout where it is at hand, else traced anew from an input of the recorded shape."""
    kind("model", model, nn.Module, "a torch.nn.Module, and the plan after it")
    kind("plan", plan, WidthPlan, "what plan_widths returns; WidthPlan.load reads one from a file, and plan_from_widths makes "
                                  "one of widths by name")
    check_layers(model)
    layout = plan.layout or retraced(model, _input_like(plan, _first_weight(model)))
    for name, full in plan.full_widths.items():
        width = _width(model, name)
        if width is None:
            raise SlimlibError(f"plan: the model has no layer {name!r}; the plan was made for another network")
        if width != full:
            raise SlimlibError(f"plan: layer {name} has {width} filters, but the plan was made for {full}; "
                               "give the dense network that the plan was made from")
    own = sum(p.numel() for p in model.parameters())
    if own != plan.full_params:
        raise SlimlibError(f"plan: the model has {own} parameters, but the plan was made for {plan.full_params}; give the dense "
                           "network that the plan was made from, with its classes and input channels")
    if plan.layout is not None:
        must_be_of(layout, model, "plan", "give the dense network that the plan was made from")
    else:  # read from a file, which may have been edited
        reasons = {g.name: g.reason for g in sorted(layout.groups, key=lambda g: not g.reason)}  # one without is told last
        for name in plan.widths:
            if why := reasons.get(name, "it has no width of its own"):
                raise SlimlibError(f"plan: layer {name} cannot be slimmed in this network: {why}; make the plan anew with "
                                   "plan_widths")
        groups = tuple(g for g in layout.groups if g.name in plan.widths)
        params = int(cost_model(model, layout, groups).params(np.array([plan.widths[g.name] for g in groups])))
        if params != plan.params:
            raise SlimlibError(f"plan: params={plan.params} do not belong to its widths, which make {params}; plan_from_widths "
                               "makes a plan of widths that you name")
    return layout


def _first_weight(model: nn.Module) -> torch.Tensor:
    """Of a layer, which has the type that the images need; other parameters may have another."""
    return next(m.weight for m in model.modules() if isinstance(m, LAYERS))


def _input_like(plan: WidthPlan, parameter: torch.Tensor) -> torch.Tensor:
    """Numbers in [0, 1) of the recorded shape, of the parameter's type where the plan was made with numbers that have one like
    it: what takes images, a logarithm too, takes these. Of whole numbers every second is 1: some tokens should not be the
    padding, whichever of the two that is."""
    dtype = getattr(torch, plan.input_dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise SlimlibError(f"plan: input_dtype={plan.input_dtype!r} is no type of torch, such as float32 or int64")
    if dtype.is_floating_point:
        drawn = torch.rand(plan.input_shape, generator=torch.Generator().manual_seed(0), device="cpu")
        return drawn.to(parameter)
    given = torch.zeros(plan.input_shape, device=parameter.device, dtype=dtype)
    given.view(-1)[1::2] = 1
    return given


def checked(slim: nn.Module, plan: WidthPlan) -> nn.Module:
    """Assert that what was planned is what was built, widths and parameters."""
    if fault := deviation(slim, plan):
        raise AssertionError(f"{fault}: a fault of slimlib, please report it")
    return slim


def deviation(slim: nn.Module, plan: WidthPlan) -> str:
    """Where a network is not what the plan says: the first such layer, or the parameters. Empty where it is."""
    for name, width in plan.widths.items():
        got = _width(slim, name)
        if got != width:
            return f"there is no layer {name}" if got is None else f"layer {name} is {got} wide instead of {width}"
    params = sum(p.numel() for p in slim.parameters())
    return "" if params == plan.params else f"there are {params} parameters instead of {plan.params}"


def _width(model: nn.Module, name: str) -> int | None:
    """Filters of a layer, or None where there is no such layer."""
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        return None
    return filters_and_inputs(layer)[0] if isinstance(layer, LAYERS) else None
