"""Which widths of a network may change, and which tensors must change with them: a plain table.

For every group of coupled channels it holds the positions that channel ``i`` occupies in every weight that writes or reads it.
Surgery then cuts all groups at once from the dense tensors, so no index is ever shifted by an earlier cut. How the table is
read off a network: :mod:`slimlib.tracing`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from slimlib.errors import SlimlibError, counted

CONV = nn.modules.conv._ConvNd
LAYERS = (CONV, nn.Linear)
COUPLINGS = ("inner", "joint")
BATCH_NORM = nn.modules.batchnorm._BatchNorm
PER_CHANNEL_NORMS = (BATCH_NORM, nn.modules.instancenorm._InstanceNorm)


@dataclass(frozen=True, eq=False)
class Member:
    """The place of a group in one module: ``positions[i]`` are the indices that channel ``channels[i]`` has there.

    ``role`` is ``"out"`` (the module writes the channels: rows of a weight), ``"in"`` (it reads them) or ``"norm"`` (a
    per-channel normalisation or PReLU). ``channels`` is all of the group but behind a split. ``positions`` has shape
    (len(channels), k): k is 1 but where a flattened image feeds a Linear.
    """

    module: str
    role: str
    channels: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that share one width. ``name`` is the first layer, in forward order, that writes them.

    ``blocks`` is the number of equal runs of channels that must keep equally many (the groups of a grouped convolution, the
    halves of a ``chunk``); ``block_of`` gives each channel's run. ``reason`` says why the group stays whole, or is empty.
    """

    name: str
    width: int
    members: tuple[Member, ...] = field(repr=False)
    blocks: int
    block_of: np.ndarray = field(repr=False)
    reason: str = ""

    def writers(self) -> list[Member]:
        """The layers whose rows are the group's filters, in forward order."""
        return [m for m in self.members if m.role == "out"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Every width group of a model, the slimmable ones and those that stay whole, and what costs depend on."""

    groups: tuple[Group, ...]
    positions: dict[str, float]  # layer -> multiply-adds per weight element and example
    norm_after: dict[str, str]  # layer -> the BatchNorm that normalises its output directly
    ops: tuple  # the traced operations, inputs before users (slimlib._operations.Op)
    fixed_macs: int  # counted multiply-adds that belong to no Conv or Linear module (attention products)
    example_shape: tuple[int, ...]
    example_dtype: str  # "float32", say
    sizes: dict[str, str]  # of each Conv and Linear layer, and of what else is in a group: its size, as of sizes_of
    idle: tuple[str, ...] = ()  # layers that took no part in the traced pass: they may read what no table can know

    def __repr__(self) -> str:
        slimmed = ", ".join(f"{len(self.slimmable(coupling))} slimmed with coupling={coupling!r}" for coupling in COUPLINGS)
        return f"Layout({counted(len(self.groups), 'group')}: {slimmed}; traced with an example of shape {self.example_shape})"

    def slimmable(self, coupling: str = "inner") -> tuple[Group, ...]:
        """The groups that may be slimmed. ``inner``: those of a single layer, as Li et al. (2017) do; ``joint``: all.
        Raises SlimlibError for another word."""
        if not isinstance(coupling, str) or coupling not in COUPLINGS:
            raise SlimlibError(f"coupling={coupling!r} is not known; use 'inner' or 'joint'")
        return tuple(g for g in self.groups if not g.reason and (coupling == "joint" or len(g.writers()) == 1))

    def whole(self, coupling: str = "inner") -> dict[str, str]:
        """Layer -> why it keeps its width."""
        taken = {m.module for g in self.slimmable(coupling) for m in g.writers()}
        reasons = {}
        for g in self.groups:
            others = counted(len(g.writers()) - 1, "other layer")
            shared = f"shares its width with {others}, which coupling='inner' leaves whole"
            for m in g.writers():
                if m.module not in taken:
                    reasons[m.module] = g.reason or shared
        return reasons


def sizes_of(model: nn.Module, beside: Container[str] = ()) -> dict[str, str]:
    """Module -> its size in words: of all Conv and Linear layers, and of the modules ``beside``."""
    return {name: _size(module) for name, module in model.named_modules() if isinstance(module, LAYERS) or name in beside}


def _size(module: nn.Module) -> str:
    if isinstance(module, LAYERS):
        (filters, inputs), groups = filters_and_inputs(module), getattr(module, "groups", 1)
        what = "channel" if isinstance(module, CONV) else "input"
        return f"{counted(filters, 'filter')} on {counted(inputs, what)}" + (f" in {groups} groups" if groups > 1 else "")
    channels = getattr(module, count_of(module), None)  # of a norm, of a PReLU
    return "no channels" if channels is None else counted(channels, "channel")


def filters_and_inputs(layer: nn.Module) -> tuple[int, int]:
    """As its weight has them, which somebody may have cut by hand; as the layer says where that is computed at each pass
    (weight_norm) or has no shape yet."""
    weight = layer._parameters.get("weight")
    if weight is not None and not is_lazy(weight):
        first, second = weight.shape[0], weight.shape[1] * getattr(layer, "groups", 1)
        return (second, first) if getattr(layer, "transposed", False) else (first, second)
    return declared(layer)


def declared(layer: nn.Module) -> tuple[int, int]:
    """Filters and inputs as the layer's attributes say."""
    return (layer.out_channels, layer.in_channels) if isinstance(layer, CONV) else (layer.out_features, layer.in_features)


def size_by_role(module: nn.Module) -> dict[str, int]:
    """How many channels, or features, a module says it has in each role that a `Member` may give it."""
    if isinstance(module, LAYERS):
        filters, inputs = declared(module)
        return {"out": filters, "in": inputs}
    return {"norm": getattr(module, count_of(module))}


def count_of(norm: nn.Module) -> str:
    """The attribute that says how many channels a BatchNorm, InstanceNorm or PReLU has."""
    return "num_features" if hasattr(norm, "num_features") else "num_parameters"


def must_be_of(layout: Layout, model: nn.Module, what: str, remedy: str) -> None:
    """Refuse a layout that was read off another network: its layers must be those of ``model``, each of the same size. ``what``
    (a layout, or a plan that holds one) and ``remedy`` are told."""
    here = sizes_of(model, layout.sizes)
    for name in {**layout.sizes, **here}:
        own, made_for = here.get(name), layout.sizes.get(name)
        if own is None:
            raise SlimlibError(f"{what}: the model has no layer {name!r}; {remedy}")
        if own != made_for:
            who, made = f"layer {name!r}" if name else "the model itself", f"for {made_for}" if made_for else "without it"
            raise SlimlibError(f"{what}: {who} has {own}, but the {what} was made {made}; {remedy}")


def output_first(module: nn.Module) -> Tensor:
    """A view of a layer's weight as (out, in / groups, ...): a transposed convolution keeps its inputs first."""
    return module.weight.transpose(0, 1) if getattr(module, "transposed", False) else module.weight


def is_depthwise(module: nn.Module) -> bool:
    """One filter per input channel: the width is read and written at once."""
    return isinstance(module, CONV) and module.groups == module.in_channels == module.out_channels > 1
