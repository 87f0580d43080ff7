"""Groups whose channels pass through operations that are not known: thinned on trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import torch
from torch import nn

from slimlib._counting import operation_counter
from slimlib._trust import DOUBTFUL
from slimlib.copying import copied
from slimlib.cost import cost_model
from slimlib.cutting import cut
from slimlib.layout import PER_CHANNEL_NORMS, Group, Layout
from slimlib.masking import Heard, OtherShapes, difference, masked, tells_nothing
from slimlib.modes import unmarked
from slimlib.outputs import tensors_in
from slimlib.passing import MACHINE_FAULTS
from slimlib.randomness import seeded

NEEDED = "its channels pass through {}, which needs them all: "


class Fault(Enum):
    """What goes wrong when groups are thinned."""

    NO_RUN = NEEDED + "without some, the network does not run"
    OTHER_SHAPES = NEEDED + "without some, the network answers with other shapes"
    OTHER_ANSWERS = NEEDED + "removing channels is not the same as zeroing them there"
    NO_NUMBER = "its channels pass through {}, and the network answers the example with NaN, so no trial tells what it needs"
    OTHER_COST = ("it is the width of a product outside Conv and Linear layers (attention), whose multiply-adds plans count as "
                  "constant")

    def told(self, operation: str) -> str:
        """As the reason of a group that is in doubt because of this operation."""
        return self.value.format(operation)


@dataclass(frozen=True)
class _Trial:
    """Groups that are thinned together."""

    groups: list[int]  # their places in the layout
    from_end: bool = False  # whether the last channels stay, not the first ones
    left: int | None = None  # how many in each block; None for about half

    def halves(self) -> list[_Trial]:
        middle = len(self.groups) // 2
        return [replace(self, groups=self.groups[:middle]), replace(self, groups=self.groups[middle:])]


def probed(
    layout: Layout, doubtful: dict[int, str], model: nn.Module, example_input: torch.Tensor, unread: bool = False
) -> Layout:
    """Thin the doubtful groups; refuse those at which the network fails or differs from zero-masking the same channels, or has
    not the multiply-adds that plans would promise.

    All are tried at once, with about half of their channels, the first ones and then the last, and halves of them where that goes
    wrong, so a network without fault costs two probes; or three, with two channels left where an operation may be of all of them
    (a maximum, the five largest), and with one where something is computed that no output depends on (``unread``), where a fault
    shows only when too few are left.
    """
    groups = list(layout.groups)
    asked = [i for i in doubtful if not groups[i].reason and groups[i].width > groups[i].blocks]
    if not asked:
        return layout
    if example_input.is_floating_point() and bool((example_input == example_input.flatten()[0]).all()):
        # an image of one colour would let a fault pass; what takes it may take no negative numbers (a logarithm)
        noise = torch.rand(example_input.shape, generator=torch.Generator().manual_seed(0), device="cpu")
        example_input = noise.to(example_input)
    lively, other = _lively(model), _shuffled(example_input)
    of_all = [i for i in asked if doubtful[i] not in DOUBTFUL.values()]
    pending = [_Trial(asked, from_end=True), _Trial(asked)]
    if of_all:
        pending.append(_Trial(of_all, left=2))
    if unread:
        pending.append(_Trial(asked, left=1))
    while pending:
        trial = pending.pop()
        trial = replace(trial, groups=[i for i in trial.groups if not groups[i].reason])  # without those refused meanwhile
        thinned = [groups[i] for i in trial.groups]
        with unmarked(model):  # by hooks that know the model and not its copies
            fault = _fault(lively, layout, thinned, trial, example_input, other) if thinned else None
        if fault and len(thinned) > 1:
            pending += trial.halves()
        elif fault:
            (i,) = trial.groups
            groups[i] = replace(groups[i], reason=fault.told(doubtful[i]))
    return replace(layout, groups=tuple(groups))


def _lively(model: nn.Module) -> nn.Module:
    """The model, or a copy in which parameters and statistics that are the same for all channels, as at the start of training,
    are drawn at random: behind a head of zeros or a scale of 1e-6 no fault would be seen."""
    if not list(_constant(model)):
        return model
    model, generator = copied(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in _constant(model):
            drawn = torch.rand(tensor.shape, generator=generator, device="cpu")
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
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0), device="cpu").to(x.device)
    other = x.flatten()[order].view(x.shape)
    return None if torch.equal(other, x) else other


def _fault(
    model: nn.Module, layout: Layout, groups: list[Group], trial: _Trial, example_input: torch.Tensor,
    other: torch.Tensor | None,
) -> Fault | None:  # fmt: skip
    """What goes wrong when the groups are thinned, if anything does."""
    turn: dict[tuple[int, int], int] = defaultdict(int)
    keep = {}
    for g in groups:  # groups of one width get other numbers of channels: else one that binds two of them would not be seen
        keep[g.name] = _some(g, turn[g.width, g.blocks], trial)
        turn[g.width, g.blocks] += 1
    whole, thin = masked(model, layout, keep).eval(), cut(model, layout, keep).eval()
    try:  # the network's own code alone: a fault of slimlib must not pass for one of the network
        heard = Heard(whole, groups, keep)
        with torch.no_grad():
            want, told = _answers(whole, example_input), heard.taken()
            beside, told_beside = (None, None) if other is None else (_answers(whole, other), heard.taken())
            inert = tells_nothing(told, told_beside)
        got, counted = _counted(thin, example_input)
    except MACHINE_FAULTS:
        raise
    except Exception:  # whatever a model may raise
        return Fault.NO_RUN
    try:
        error = difference(got, want, beside)
    except OtherShapes:
        return Fault.OTHER_SHAPES
    if any(tensor.is_floating_point() and tensor.isnan().any() for tensor in want):
        return Fault.NO_NUMBER
    if not (error <= 1e-3 and inert):
        return Fault.OTHER_ANSWERS
    planned = cost_model(model, layout, tuple(groups)).macs(np.array([len(keep[g.name]) for g in groups]))
    return None if abs(counted - planned) < 1 else Fault.OTHER_COST


def _answers(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What it returns, to an input that it may write over; one that draws numbers in evaluation draws the same each time."""
    with seeded(0):
        return tensors_in(network(x.clone()))


def _counted(network: nn.Module, example_input: torch.Tensor) -> tuple[list[torch.Tensor], float]:
    """Outputs, and multiply-adds of one example: with gradients on, see forward_facts."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    with torch.enable_grad(), operation_counter() as counter:
        outputs = _answers(network, example_input)
    return [tensor.detach() for tensor in outputs], counter.get_total_flops() / 2 / len(example_input)


def _some(g: Group, turn: int, trial: _Trial) -> np.ndarray:
    """About half of the channels, or as many as are to be left: a run at one end of each block, at the other in every second
    one, so that a wrong index is seen.

    Spread evenly, they would stand as the whole does: what an operation does by halves, by thirds or from the middle on it would
    do to the same channels. How many is no multiple of 2 or 3 where that can be, so that a reshape into parts is seen, and those
    at the end begin at an odd place, so that steps of two are; another number each ``turn``.
    """
    size = g.width // g.blocks

    def drawbacks(count: int) -> tuple:
        """What speaks against keeping so many, the worst first."""
        return count % 2 == 0 and g.blocks == 1, count % 3 == 0, abs(count - size / 2)

    counts = sorted(range(min(2, size - 1), size), key=drawbacks)
    count = min(trial.left, size - 1) if trial.left else counts[turn % len(counts)]
    if trial.from_end and (size - count) % 2 == 0:
        count += 1 if count + 1 < size else -1
    kept = []
    for b in range(g.blocks):
        start = size - count if trial.from_end != bool(b % 2) else 0
        kept.append(np.flatnonzero(g.block_of == b)[start : start + count])
    return np.sort(np.concatenate(kept))
