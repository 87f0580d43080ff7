"""Reading which widths of a network may change, and which tensors must change with them.

Torch-Pruning's dependency graph (Fang et al. 2023, DepGraph) is traced once on the dense network. What is read off it is a
plain table (:mod:`slimlib.layout`): for every group of coupled channels, the positions that channel ``i`` occupies in every
weight that writes or reads it.

The graph takes any operation that it does not know for element-wise. So the paths it takes are sorted here: operations known
to act on each channel by itself are trusted, those that mix channels are refused by name, and anything else is *probed*: the
group is thinned alone, and the thin network must answer as the dense one does with the same channels set to zero, and take the
multiply-adds that plans count.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from slimlib._checks import check
from slimlib.arguments import A_MODEL, kind
from slimlib.errors import SlimlibError
from slimlib.layout import CONV, Group, Layout, Member, is_depthwise, must_be_of, size_by_role, sizes_of
from slimlib.modes import buffers_kept, evaluation_mode, unmarked


def trace(model: nn.Module, example_input: torch.Tensor) -> Layout:
    """Read the layout of ``model``, an eval-mode trace with ``example_input`` (batch first). The model is left as it was.

    Raises SlimlibError when the forward pass fails on ``example_input`` or gives nothing that has a gradient, when the example
    holds NaN or infinite values, within ``torch.inference_mode``, and when the model holds no Conv or Linear layer, or one that
    is not plain: without a shape yet, complex, quantised, computed from other tensors, or with NaN; or a norm whose variance is
    negative.
    """
    check(model, example_input)
    return _traced(model, example_input)


def retraced(model: nn.Module, example_input: torch.Tensor) -> Layout:
    """:func:`trace` without trials, for a plan that was made after them: a group that they refuse counts as one that may be cut.
    What is in the example does not matter, as long as the network takes it."""
    check(model, example_input)
    return _traced(model, example_input, on_trial=False)


def given_or_traced(layout: Layout | None, model: nn.Module, example_input: torch.Tensor | None) -> Layout:
    """The layout that a caller has, else read anew. Raises SlimlibError where it is another network's, such as that of this one
    before it was pruned, with the layer that tells them apart, and where it was read at another size, at which multiply-adds
    would be counted, or off numbers of another kind. With a layout at hand the example may be None."""
    if layout is None:
        return trace(model, example_input)
    kind("model", model, nn.Module, A_MODEL)
    kind("layout", layout, Layout, "what slimlib.trace returns for this network")
    must_be_of(layout, model, "layout", "give what slimlib.trace returns for this network")
    if example_input is None:  # all that is read of it is in the layout
        return layout
    kind("example_input", example_input, torch.Tensor, "a tensor, batch first")
    here, there = tuple(example_input.shape[1:]), layout.example_shape[1:]
    if here != there:
        raise SlimlibError(f"layout: it was traced with an example of shape {there} beside the batch, this one has {here}; give "
                           "what slimlib.trace returns for this one")
    if example_input.is_floating_point() != getattr(torch, layout.example_dtype).is_floating_point:
        raise SlimlibError(f"layout: it was traced with an example of {layout.example_dtype}, this one is of "
                           f"{example_input.dtype}; give what slimlib.trace returns for this one")
    return layout


def _traced(model: nn.Module, example_input: torch.Tensor, on_trial: bool = True) -> Layout:
    # what knows Torch-Pruning takes a moment to load: when it is first needed
    from slimlib._probing import probed

    example_input = example_input.detach()  # what requires a gradient would pass for something that a layer made
    with buffers_kept(model):
        layout, doubtful, unread = _read(model, example_input)
        return probed(layout, doubtful, model, example_input, unread) if on_trial else layout


def _read(model: nn.Module, example_input: torch.Tensor) -> tuple[Layout, dict[int, str], bool]:
    """The layout as the graph shows it, which of its groups are in doubt, and whether something is computed and not read."""
    from slimlib._tracing import read

    required = {p: p.requires_grad for p in model.parameters() if p.is_floating_point() or p.is_complex()}
    try:
        for parameter in required:
            parameter.requires_grad_(True)
        with evaluation_mode(model), unmarked(model), torch.enable_grad(), warnings.catch_warnings():  # the graph is autograd's
            warnings.simplefilter("ignore")  # Torch-Pruning warns of bare parameters; the reasons below say it by name
            facts, raw = read(model, example_input)
    finally:
        for parameter, flag in required.items():
            parameter.requires_grad_(flag)
    tied = _tied(model)
    groups = tuple(_group(g, model, facts.order, tied) for g in raw.groups)
    layout = Layout(groups, facts.positions, raw.norm_after, tuple(raw.ops), facts.fixed_macs, tuple(example_input.shape),
                    str(example_input.dtype).removeprefix("torch."),
                    sizes_of(model, {m.module for g in groups for m in g.members}), facts.idle)
    return layout, raw.doubtful, facts.unread


def _tied(model: nn.Module) -> dict[str, str]:
    """Module -> another one whose parameter lies in the same memory, as the one or as its transpose (tied weights)."""
    places: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():  # one that is registered under two names is met once, and is no tie
        for parameter in module._parameters.values():
            if parameter is not None and parameter.data_ptr():
                places[parameter.data_ptr()].append(name)
    return {name: next(n for n in names if n != name) for names in places.values() if len(set(names)) > 1 for name in names}


def _group(raw, model: nn.Module, order: dict[str, int], tied: dict[str, str]) -> Group:
    """A raw group with its channel blocks worked out, or refused where they are uneven or bound to another weight."""
    members = tuple(sorted(raw.members, key=lambda m: (m.role != "out", order.get(m.module, 10**9))))
    reason, block_of = raw.reason, np.zeros(raw.width, int)
    read = [np.isin(np.arange(raw.width), m.channels) for m in members if len(m.channels) < raw.width]  # a part, by slices
    by_convolution = list(_grouped_convolutions(members, model, raw.width))
    for constraint in [*raw.splits, *read, *(run for _, run in by_convolution)]:
        block_of = np.unique(np.stack([block_of, constraint]), axis=1, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(block_of)
    if not reason and len(set(sizes.tolist())) > 1:
        reason = f"grouped convolutions, splits or slices cut its {raw.width} channels into unequal runs"
    for name, run in by_convolution:
        if not reason and len(set(run[run >= 0].tolist())) < model.get_submodule(name).groups:
            reason = f"the grouped convolution {name} has it in some of its groups only, and all must stay of one size"
    if not reason and len(sizes) == raw.width > 1:
        reason = "a grouped convolution holds one of its channels in each group, so none can go"
    if not reason and (bound := [m.module for m in members if m.module in tied]):
        other = tied[bound[0]] or "the model itself"
        reason = f"{bound[0]} shares its weight with {other}, and one cannot be cut without the other"
    writers = [m.module for m in members if m.role == "out"]
    return Group(writers[0], raw.width, members, len(sizes), block_of, reason)


def _grouped_convolutions(members: tuple[Member, ...], model: nn.Module, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every grouped (not depthwise) convolution among the members, with the convolution group of each channel, or -1."""
    for m in members:
        module = model.get_submodule(m.module)
        if m.role != "norm" and isinstance(module, CONV) and module.groups > 1 and not is_depthwise(module):
            per_group = size_by_role(module)[m.role] // module.groups
            run = np.full(width, -1)
            run[m.channels] = m.positions[:, 0] // per_group
            yield m.module, run
