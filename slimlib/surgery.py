"""Cutting a network to a plan: ``prune`` keeps trained filters, ``thin`` starts afresh.

All groups are cut at once from the dense tensors: for every module the kept rows and the kept inputs are worked out first,
then each tensor is indexed a single time. The result is a plain module of the same class, with its attributes brought up to
date, and the widths and costs that were asked for are asserted before it is returned.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn

from slimlib.criteria import choose_filters
from slimlib.errors import SlimlibError
from slimlib.fresh import fresh_copy
from slimlib.layout import CONV, Layout, is_depthwise, trace
from slimlib.widths import WidthPlan

Keep = Mapping[str, np.ndarray]  # group -> its kept channels, ascending
_CUT = ("weight", "bias", "running_mean", "running_var")  # what surgery replaces in a layer or norm


def prune(model: nn.Module, plan: WidthPlan, criterion: str = "l1", seed: int = 0) -> nn.Module:
    """A new network of the planned widths that keeps, in each group, the filters ranked best by ``criterion``.

    ``criterion``: ``l1`` (Li et al. 2017), ``l2``, ``gm`` (geometric median, He et al. 2019), ``bn`` (``|gamma|``, Liu et al.
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
    gone = dropped(layout, keep)
    slim = copy.deepcopy(model, _left_out(model, set(gone)))
    for name, sides in gone.items():
        dense, module = model.get_submodule(name), slim.get_submodule(name)
        if isinstance(module, CONV):
            _cut_convolution(dense, module, sides)
        elif isinstance(module, nn.Linear):
            _cut_linear(dense, module, sides)
        else:
            _cut_norm(dense, module, sides["norm"])
    return slim


def _left_out(model: nn.Module, cut_modules: Iterable[str]) -> dict[int, torch.Tensor]:
    """For ``copy.deepcopy``: the tensors that are about to be cut need no copy, as what stays of them is read off the dense
    ones. A tensor that stands in a second place (shared weights) is copied."""
    places = Counter(id(t) for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values()) if t is not None)
    cut_ones = [getattr(model.get_submodule(name), key, None) for name in cut_modules for key in _CUT]
    return {id(t): nn.Parameter(t.new_empty(0), t.requires_grad) if isinstance(t, nn.Parameter) else t.new_empty(0)
            for t in cut_ones if t is not None and t.dim() and places[id(t)] == 1}


def dropped(layout: Layout, keep: Keep) -> dict[str, dict[str, np.ndarray]]:
    """module -> side ("out", "in", "norm") -> the indices that go."""
    gone: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for g in layout.groups:
        if g.name in keep:
            stays = np.zeros(g.width, bool)
            stays[np.asarray(keep[g.name])] = True
            for m in g.members:
                gone[m.module][m.role].append(m.positions[~stays[m.channels]].reshape(-1))
    return {n: {s: np.unique(np.concatenate(parts)) for s, parts in sides.items()} for n, sides in gone.items()}


def _kept(size: int, gone: np.ndarray | None) -> torch.Tensor | slice:
    """What stays of ``size`` indices: all of them as a slice, which copies nothing, else a list."""
    if gone is None or not len(gone):
        return slice(None)
    stays = np.ones(size, bool)
    stays[gone] = False
    return torch.as_tensor(np.flatnonzero(stays))


def _set(dense: nn.Module, module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Give ``module`` a parameter or buffer of its own, contiguous, as trainable as the dense one."""
    old = getattr(dense, name)
    value = value.detach().contiguous()
    if value.untyped_storage().data_ptr() == old.untyped_storage().data_ptr():  # nothing was cut from it
        value = value.clone()
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _cut_linear(dense: nn.Linear, module: nn.Linear, sides: dict[str, np.ndarray]) -> None:
    out, inputs = _kept(dense.out_features, sides.get("out")), _kept(dense.in_features, sides.get("in"))
    _set(dense, module, "weight", dense.weight[out][:, inputs])
    if dense.bias is not None:
        _set(dense, module, "bias", dense.bias[out])
    module.out_features, module.in_features = module.weight.shape


def _cut_convolution(dense: nn.Module, conv: nn.Module, sides: dict[str, np.ndarray]) -> None:
    weight = dense.weight.transpose(0, 1) if dense.transposed else dense.weight  # (out, in / groups, k...)
    out, inputs = _kept(dense.out_channels, sides.get("out")), _kept(dense.in_channels, sides.get("in"))
    if is_depthwise(dense):
        weight = weight[out]
        conv.groups = conv.in_channels = len(weight)
    elif dense.groups == 1:
        weight = weight[out][:, inputs]
        conv.in_channels = weight.shape[1]
    else:  # each group of filters reads its own run of inputs, of which equally many stay
        rows, columns = torch.arange(dense.out_channels)[out], torch.arange(dense.in_channels)[inputs]
        own = columns.reshape(dense.groups, -1) % (dense.in_channels // dense.groups)
        weight = weight[rows[:, None], own[rows // (dense.out_channels // dense.groups)]]
        conv.in_channels = len(columns)
    conv.out_channels = len(weight)
    _set(dense, conv, "weight", weight.transpose(0, 1) if dense.transposed else weight)
    if dense.bias is not None:
        _set(dense, conv, "bias", dense.bias[out])


def _cut_norm(dense: nn.Module, norm: nn.Module, gone: np.ndarray) -> None:
    """BatchNorm, InstanceNorm or PReLU: every tensor with one entry a channel."""
    size = "num_features" if hasattr(dense, "num_features") else "num_parameters"
    count = getattr(dense, size)
    kept = slice(None) if count == 1 else _kept(count, gone)  # a PReLU may have one slope for all channels
    for name, tensor in [*dense.named_parameters(recurse=False), *dense.named_buffers(recurse=False)]:
        if tensor.dim() == 1:
            _set(dense, norm, name, tensor[kept])
    setattr(norm, size, len(torch.arange(count)[kept]))


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
