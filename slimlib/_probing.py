"""Groups whose channels pass through operations that are not known: thinned on trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimlib._trust import DOUBTFUL
from slimlib.copying import copied
from slimlib.cost import cost_model
from slimlib.cutting import Keep, cut
from slimlib.layout import PER_CHANNEL_NORMS, Group, Layout
from slimlib.masking import OtherShapes, difference, masked
from slimlib.modes import unmarked
from slimlib.outputs import tensors_in
from slimlib.passing import MACHINE_FAULTS
from slimlib.randomness import seeded

NEEDED, NO_RUN = "its channels pass through {}, which needs them all: ", "without some, the network does not run"
PRODUCT = "it is the width of a product outside Conv and Linear layers (attention), whose multiply-adds plans count as constant"


def probed(
    layout: Layout, doubtful: dict[int, str], model: nn.Module, example_input: torch.Tensor, unread: bool = False
) -> Layout:
    """Thin the doubtful groups; refuse those at which the network fails or differs from zero-masking the same channels, or has
    not the multiply-adds that plans would promise.

    All are tried at once, with about half of their channels, and halves of them where that goes wrong, so a network without fault
    costs one probe; or two, with two channels left where an operation may be of all of them (a maximum, the five largest), and
    with one where something is computed that no output depends on (``unread``), where a fault shows only when too few are left.
    """
    groups = list(layout.groups)
    asked = [i for i in doubtful if not groups[i].reason and groups[i].width > groups[i].blocks]
    if not asked:
        return layout
    if example_input.is_floating_point() and bool((example_input == example_input.flatten()[0]).all()):
        # an image of one colour, as plans are traced with again, would let a fault pass
        noise = torch.randn(example_input.shape, generator=torch.Generator().manual_seed(0))
        example_input = noise.to(example_input)
    lively, other = _lively(model), _shuffled(example_input)
    of_all = [i for i in asked if doubtful[i] not in DOUBTFUL.values()]
    pending = [(asked, None), *([(of_all, 2)] if of_all else []), *([(asked, 1)] if unread else [])]
    while pending:
        batch, left = pending.pop()
        batch = [i for i in batch if not groups[i].reason]
        with unmarked(model):  # by hooks that know the model and not its copies
            fault = _fault(lively, layout, [groups[i] for i in batch], example_input, other, left) if batch else ""
        if fault and len(batch) > 1:
            pending += [(batch[: len(batch) // 2], left), (batch[len(batch) // 2 :], left)]
        elif fault:
            (i,) = batch
            groups[i] = replace(groups[i], reason=fault.format(doubtful[i]))
    return replace(layout, groups=tuple(groups))


def _lively(model: nn.Module) -> nn.Module:
    """The model, or a copy in which parameters and statistics that are the same for all channels, as at the start of training,
    are drawn at random: behind a head of zeros or a scale of 1e-6 no fault would be seen."""
    if not list(_constant(model)):
        return model
    model, generator = copied(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in _constant(model):
            drawn = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(drawn + 0.5 if tensor.max() else drawn / 5)  # a variance must not be negative
    return model


def _constant(model: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, and statistics of norms, of one value; of parameters with one entry those that are zero (a gate that is shut
    when training starts)."""
    statistics = (b for m in model.modules() if isinstance(m, PER_CHANNEL_NORMS) for b in m.buffers(recurse=False))
    for tensor in (*model.parameters(), *statistics):
        if tensor.is_floating_point() and (tensor.numel() > 1 or (tensor.numel() and not tensor.detach().any())):
            first, last = tensor.detach()[(0,) * tensor.dim()], tensor.detach()[(-1,) * tensor.dim()]
            if first == last and tensor.min() == tensor.max():  # the ends tell it faster
                yield tensor


def _shuffled(x: torch.Tensor) -> torch.Tensor | None:
    """Another input of the same numbers, or None where there is none."""
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0)).to(x.device)
    other = x.flatten()[order].view(x.shape)
    return None if torch.equal(other, x) else other


def _fault(
    model: nn.Module, layout: Layout, groups: list[Group], example_input: torch.Tensor, other: torch.Tensor | None,
    left: int | None,
) -> str:  # fmt: skip
    """What goes wrong when the groups are thinned, with a place for the doubtful operation, or "".

    ``left``: channels that stay in each block; None for about half.
    """
    turn: dict[tuple[int, int], int] = defaultdict(int)
    keep = {}
    for g in groups:  # groups of one width get other numbers of channels: else one that binds two of them would not be seen
        keep[g.name] = _some(g, turn[g.width, g.blocks], left)
        turn[g.width, g.blocks] += 1
    whole, thin = masked(model, layout, keep).eval(), cut(model, layout, keep).eval()
    try:  # the network's own code alone: a fault of slimlib must not pass for one of the network
        want, beside, inert = _masked_answers(whole, groups, keep, example_input, other)
        got, counted = _counted(thin, example_input)
    except MACHINE_FAULTS:
        raise
    except Exception:  # whatever a model may raise
        return NEEDED + NO_RUN
    try:
        error = difference(got, want, beside)
    except OtherShapes:
        return NEEDED + "without some, the network answers with other shapes"
    if not (error <= 1e-3 and inert):
        return NEEDED + "removing channels is not the same as zeroing them there"
    planned = cost_model(model, layout, tuple(groups)).macs(np.array([len(keep[g.name]) for g in groups]))
    return "" if abs(counted - planned) < 1 else PRODUCT


@torch.no_grad()
def _masked_answers(
    network: nn.Module, groups: list[Group], keep: Keep, x: torch.Tensor, other: torch.Tensor | None
) -> tuple[list[torch.Tensor], list[torch.Tensor] | None, bool]:
    """Outputs of the masked network, those for another input, and whether no layer is told anything where the channels were: what
    is the same there for another input (a sigmoid of zero) tells nothing, but a sum over other channels does. Without another
    input, what is the same everywhere tells nothing.
    """
    told: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(positions):
        def look(module, inputs, named):
            read = next(value for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor))
            axis = read.dim() + 1 - module.weight.dim()  # the last for a Linear layer, else before those of the kernel
            there = read.movedim(axis, 0)[torch.as_tensor(positions.reshape(-1), device=read.device)]
            told.append((there.reshape(len(positions), -1), read.abs().max().clamp_min(1e-12)))  # of each channel all there is
        return look

    for g in groups:
        for m in g.members:
            gone = m.positions[~np.isin(m.channels, keep[g.name])]
            if m.role == "in" and gone.size:
                network.get_submodule(m.module).register_forward_pre_hook(hook(gone), with_kwargs=True)
    answers, beside = _answers(network, x), None
    if other is None:
        apart = [(there - there[:, :1] if there.shape[1] > 1 else there, scale) for there, scale in told]
    else:
        first, told = told, []
        beside = _answers(network, other)
        apart = [(one - two, scale) for (one, scale), (two, _) in zip(first, told, strict=True)]
    return answers, beside, all(bool(there.abs().max() / scale <= 1e-3) for there, scale in apart)


def _answers(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What it returns, to an input that it may write over; one that draws numbers in evaluation draws the same each time."""
    with seeded(0):
        return tensors_in(network(x.clone()))


def _counted(network: nn.Module, example_input: torch.Tensor) -> tuple[list[torch.Tensor], float]:
    """Outputs, and multiply-adds of one example: with gradients on, see forward_facts."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        outputs = _answers(network, example_input)
    return [tensor.detach() for tensor in outputs], counter.get_total_flops() / 2 / len(example_input)


def _some(g: Group, turn: int, left: int | None = None) -> np.ndarray:
    """About half of the channels, others in each block, so that a wrong index is seen; or as many as are to be ``left``.

    Neither the first nor the last is among them where that can be, as they would stand in for themselves in a slice. How many is
    no multiple of 2 or 3 where that can be, so that a reshape into parts is seen; another number each ``turn``.
    """
    size = g.width // g.blocks
    inner = size - 2 if size > 2 else size
    able = range(1, inner + (size > 2))
    counts = sorted(able, key=lambda c: (c == 1, c % 2 == 0 and g.blocks == 1, c % 3 == 0, abs(c - size / 2))) or [1]
    count = min(left, len(able)) if left else counts[turn % len(counts)]
    runs = [np.flatnonzero(g.block_of == b) for b in range(g.blocks)]
    chosen = [((np.arange(count) * inner // count + b % 2) % inner + 1) % size for b in range(g.blocks)]
    return np.sort(np.concatenate([run[places] for run, places in zip(runs, chosen, strict=True)]))
