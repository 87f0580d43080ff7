"""Cutting a network to a plan: ``prune`` keeps trained filters, ``thin`` starts afresh.

All groups are cut at once from the dense tensors: for every module the kept rows and the kept inputs are worked out first,
then each tensor is indexed a single time. The result is a plain module of the same class, with its attributes brought up to
date, and the widths and costs that were asked for are asserted before it is returned.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from slimlib.criteria import choose_filters
from slimlib.errors import SlimlibError
from slimlib.fresh import fresh_copy
from slimlib.layout import CONV, Layout, is_depthwise, trace
from slimlib.widths import WidthPlan

Keep = Mapping[str, np.ndarray]  # group -> its kept channels, ascending


def prune(model: nn.Module, plan: WidthPlan, criterion: str = "l1", seed: int = 0) -> nn.Module:
    """A new network of the planned widths that keeps, in each group, the filters ranked best by ``criterion``.

    ``criterion``: ``l1`` (Li et al. 2017), ``l2``, ``gm`` (geometric median, He et al. 2019), ``bn`` (|gamma|, Liu et al.
    2017) or ``random`` (by ``seed``). ``model`` is left as it was. Raises SlimlibError when the plan was made for other
    widths, or when the criterion cannot rank a group (``bn`` without BatchNorm).
    """
    layout = layout_for(model, plan)
    keep = choose_filters(model, layout, plan.widths, criterion, seed)
    return checked(cut(model, layout, keep), plan)


def thin(model: nn.Module, plan: WidthPlan, seed: int = 0, reset: Callable[[nn.Module], None] | None = None) -> nn.Module:
    """The planned architecture with fresh weights: a student, or the scratch-trained control of Liu et al. (2019).

    How the weights are drawn, under ``seed``: :func:`slimlib.fresh.fresh_copy`. ``model`` is left as it was.
    """
    layout = layout_for(model, plan)
    first = {g.name: first_channels(g, plan.widths[g.name]) for g in layout.groups if g.name in plan.widths}
    student = fresh_copy(cut(model, layout, first), seed, reset)
    return checked(student, plan)


def cut(model: nn.Module, layout: Layout, keep: Keep) -> nn.Module:
    """A copy of ``model`` with only the kept channels of the groups named in ``keep``; the others stay whole."""
    dropped = _dropped(layout, keep)
    slim = copy.deepcopy(model)
    for name, sides in dropped.items():
        module = slim.get_submodule(name)
        if isinstance(module, CONV):
            _cut_convolution(module, sides)
        elif isinstance(module, nn.Linear):
            kept = {side: _kept(module.weight.shape[axis], sides.get(side)) for side, axis in (("out", 0), ("in", 1))}
            _set(module, "weight", module.weight[kept["out"]][:, kept["in"]])
            _set(module, "bias", module.bias if module.bias is None else module.bias[kept["out"]])
            module.out_features, module.in_features = module.weight.shape
        else:
            _cut_norm(module, sides["norm"])
    return slim


def masked(model: nn.Module, layout: Layout, keep: Keep) -> nn.Module:
    """A copy of ``model`` at full width in which every dropped channel is zero wherever it is written.

    This is what slimming means: on it, and on the network that :func:`cut` returns, every input gives the same output.
    """
    copy_ = copy.deepcopy(model)
    with torch.no_grad():
        for name, sides in _dropped(layout, keep).items():
            module = copy_.get_submodule(name)
            index = torch.as_tensor(sides.get("out", sides.get("norm", np.zeros(0, int))), dtype=torch.long)
            weight = getattr(module, "weight", None)
            if weight is not None and len(index) and not isinstance(module, nn.PReLU):
                weight.index_fill_(1 if getattr(module, "transposed", False) else 0, index.to(weight.device), 0)
                if module.bias is not None:
                    module.bias.index_fill_(0, index.to(weight.device), 0)
    return copy_


@torch.no_grad()
def masking_error(model: nn.Module, layout: Layout, keep: Keep, example_input: torch.Tensor) -> float:
    """Largest absolute difference between the cut and the masked network, over the scale of the masked one's outputs."""
    slim, reference = cut(model, layout, keep).eval(), masked(model, layout, keep).eval()
    got, want = slim(example_input), reference(example_input)
    if got.shape != want.shape:
        raise SlimlibError(f"the thin network answers with shape {tuple(got.shape)}, not {tuple(want.shape)}")
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-12))


def _dropped(layout: Layout, keep: Keep) -> dict[str, dict[str, np.ndarray]]:
    """module -> side ("out", "in", "norm") -> the indices that go."""
    gone: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for g in layout.groups:
        if g.name in keep:
            stays = np.zeros(g.width, bool)
            stays[np.asarray(keep[g.name])] = True
            for m in g.members:
                gone[m.module][m.role].append(m.positions[~stays[m.channels]].reshape(-1))
    return {n: {s: np.unique(np.concatenate(parts)) for s, parts in sides.items()} for n, sides in gone.items()}


def _kept(size: int, gone: np.ndarray | None) -> torch.Tensor:
    stays = np.ones(size, bool)
    stays[gone if gone is not None else []] = False
    return torch.as_tensor(np.flatnonzero(stays))


def _set(module: nn.Module, name: str, value: torch.Tensor | None) -> None:
    """Replace a parameter or buffer by ``value``, contiguous, with the trainability of the old one."""
    if value is None:
        return
    old = getattr(module, name)
    value = value.detach().clone(memory_format=torch.contiguous_format)
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _cut_convolution(conv: nn.Module, sides: dict[str, np.ndarray]) -> None:
    weight = conv.weight.transpose(0, 1) if conv.transposed else conv.weight  # (out, in / groups, k...)
    out = _kept(conv.out_channels, sides.get("out"))
    if is_depthwise(conv):
        weight, inputs, conv.groups = weight[out], len(out), len(out)
    elif conv.groups == 1:
        kept_in = _kept(conv.in_channels, sides.get("in"))
        weight, inputs = weight[out][:, kept_in], len(kept_in)
    else:  # each group of filters reads its own run of inputs, of which equally many stay
        kept_in = _kept(conv.in_channels, sides.get("in"))
        own = kept_in.reshape(conv.groups, -1) % (conv.in_channels // conv.groups)
        weight = weight[out[:, None], own[out // (conv.out_channels // conv.groups)]]
        inputs = len(kept_in)
    _set(conv, "weight", weight.transpose(0, 1) if conv.transposed else weight)
    _set(conv, "bias", conv.bias if conv.bias is None else conv.bias[out])
    conv.out_channels, conv.in_channels = len(out), inputs


def _cut_norm(norm: nn.Module, gone: np.ndarray) -> None:
    """BatchNorm, InstanceNorm or PReLU: every tensor with one entry a channel."""
    size = norm.num_features if hasattr(norm, "num_features") else norm.num_parameters
    if size == 1:
        return  # a PReLU with one slope for all channels
    kept = _kept(size, gone)
    for name, tensor in [*norm.named_parameters(recurse=False), *norm.named_buffers(recurse=False)]:
        if tensor.dim() == 1:
            _set(norm, name, tensor[kept])
    setattr(norm, "num_features" if hasattr(norm, "num_features") else "num_parameters", len(kept))


def first_channels(group, width: int) -> np.ndarray:
    """The first ``width`` channels, equally many of each block: which they are does not matter to the shape."""
    per_block = width // group.blocks
    return np.sort(np.concatenate([np.flatnonzero(group.block_of == b)[:per_block] for b in range(group.blocks)]))


def layout_for(model: nn.Module, plan: WidthPlan) -> Layout:
    """The plan's own layout where it is at hand, else traced anew from an input of the recorded shape."""
    layout = plan.layout
    if layout is None:
        parameter = next(model.parameters())
        layout = trace(model, torch.zeros(plan.input_shape, device=parameter.device, dtype=parameter.dtype))
    for name, full in plan.full_widths.items():
        width = _width(model, name)
        if width is None:
            raise SlimlibError(f"plan: the model has no layer {name!r}; the plan was made for another network")
        if width != full:
            raise SlimlibError(f"plan: layer {name} has {width} filters, but the plan was made for {full}; "
                               "give the dense network that the plan was made from")
    return layout


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
        return layer.weight.shape[1 if getattr(layer, "transposed", False) else 0]
    except AttributeError:
        return None
