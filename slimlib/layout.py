"""Which widths of a network may change, and which tensors must change with them.

Torch-Pruning's dependency graph (Fang et al. 2023, DepGraph) is traced once on the dense network. What is read off it is a
plain table: for every group of coupled channels, the positions that channel ``i`` occupies in every weight that writes or
reads it. Surgery then cuts all groups at once from the dense tensors, so no index is ever shifted by an earlier cut.

The graph takes any operation that it does not know for element-wise. So the paths it takes are sorted here: operations known
to act on each channel by itself are trusted, those that mix channels are refused by name, and anything else is *probed*: the
group is thinned alone, and the thin network must answer as the dense one does with the same channels set to zero, and take the
multiply-adds that plans count.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from slimlib.errors import SlimlibError
from slimlib.modes import evaluation_mode, unmarked

CONV = nn.modules.conv._ConvNd
LAYERS = (CONV, nn.Linear)
PER_CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True)
class Member:
    """The place of a group in one module: ``positions[i]`` are the indices that channel ``channels[i]`` has there.

    ``role`` is ``"out"`` (the module writes the channels: rows of a weight), ``"in"`` (it reads them) or ``"norm"`` (a
    per-channel normalisation or PReLU). ``channels`` is all of the group but behind a split. ``positions`` has shape
    (len(channels), k): k is 1 but where a flattened image feeds a Linear.
    """

    module: str
    role: str
    channels: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class Group:
    """Channels that share one width. ``name`` is the first layer, in forward order, that writes them.

    ``blocks`` is the number of equal runs of channels that must keep equally many (the groups of a grouped convolution, the
    halves of a ``chunk``); ``block_of`` gives each channel's run. ``reason`` says why the group stays whole, or is empty.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    blocks: int = 1
    block_of: np.ndarray = field(default=None, repr=False)  # type: ignore[assignment]
    reason: str = ""

    def writers(self) -> list[Member]:
        """The layers whose rows are the group's filters, in forward order."""
        return [m for m in self.members if m.role == "out"]


@dataclass(frozen=True)
class Layout:
    """Every width group of a model, the slimmable ones and those that stay whole, and what costs depend on."""

    groups: tuple[Group, ...]
    positions: dict[str, float]  # layer -> multiply-adds per weight element and example
    norm_after: dict[str, str]  # layer -> the BatchNorm that normalises its output directly
    ops: tuple  # the traced operations, inputs before users (slimlib._tracing.Op)
    fixed_macs: int  # counted multiply-adds that belong to no Conv or Linear module (attention products)
    example_shape: tuple[int, ...]

    def slimmable(self, coupling: str = "inner") -> tuple[Group, ...]:
        """The groups that may be slimmed. ``inner``: those of a single layer, as Li et al. (2017) do; ``joint``: all."""
        if coupling not in ("inner", "joint"):
            raise SlimlibError(f"coupling={coupling!r} is not known; use 'inner' or 'joint'")
        return tuple(g for g in self.groups if not g.reason and (coupling == "joint" or len(g.writers()) == 1))

    def whole(self, coupling: str = "inner") -> dict[str, str]:
        """Layer -> why it keeps its width."""
        taken = {m.module for g in self.slimmable(coupling) for m in g.writers()}
        reasons = {}
        for g in self.groups:
            shared = f"shares its width with {len(g.writers()) - 1} other layers, which coupling='inner' leaves whole"
            for m in g.writers():
                if m.module not in taken:
                    reasons[m.module] = g.reason or shared
        return reasons


def trace(model: nn.Module, example_input: torch.Tensor) -> Layout:
    """Read the layout of ``model``, an eval-mode trace with ``example_input`` (batch first). The model is left as it was.

    Raises SlimlibError when the forward pass fails on ``example_input`` or the model holds no Conv or Linear layer.
    """
    from slimlib._checks import check
    from slimlib._probing import probed
    from slimlib._tracing import read  # the only user of Torch-Pruning: loaded when first needed

    check(model, example_input)
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
    layout = Layout(tuple(_group(g, model, facts.order, tied) for g in raw.groups), facts.positions, raw.norm_after,
                    tuple(raw.ops), facts.fixed_macs, tuple(example_input.shape))
    return probed(layout, raw.doubtful, model, example_input, facts.unread)


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
        reason = f"{bound[0]} shares its weight with {tied[bound[0]]}, and one cannot be cut without the other"
    writers = [m.module for m in members if m.role == "out"]
    return Group(writers[0], raw.width, members, len(sizes), block_of, reason)


def _grouped_convolutions(members: tuple[Member, ...], model: nn.Module, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every grouped (not depthwise) convolution among the members, with the convolution group of each channel, or -1."""
    for m in members:
        module = model.get_submodule(m.module)
        if m.role != "norm" and isinstance(module, CONV) and module.groups > 1 and not is_depthwise(module):
            per_group = (module.out_channels if m.role == "out" else module.in_channels) // module.groups
            run = np.full(width, -1)
            run[m.channels] = m.positions[:, 0] // per_group
            yield m.module, run


def is_depthwise(module: nn.Module) -> bool:
    """One filter per input channel: the width is read and written at once."""
    return isinstance(module, CONV) and module.groups == module.in_channels == module.out_channels > 1
