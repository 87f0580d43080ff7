"""Evaluating many networks that begin alike: what they have in common is computed once.

A sensitivity scan changes one layer at a time, from the first to the last. Everything before the changed layer answers as in
the dense network, so its answers to all images are kept and each thin network is run from there on: half of the work of a deep
network, and the same numbers, as the same operations meet the same batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, fx, nn

from slimlib.copying import copied
from slimlib.errors import SlimlibError
from slimlib.evaluation import caster, evaluate
from slimlib.modes import evaluation_mode
from slimlib.passing import MACHINE_FAULTS

MOST_BYTES = 2**31
"""Memory that the kept answers may take; a place whose answers need more is passed over."""


class SharedPrefix:
    """Runs copies of ``model`` that differ from it in some layers only, on the images of one split.

    Changed layers are named to :meth:`accuracy`; they should come in forward order, as the kept answers move on with them and
    never back. A model whose forward pass `torch.fx` cannot follow is run whole each time.
    """

    def __init__(self, model: nn.Module, split, batch_size: int = 1000):
        self.model, self.split, self.batch_size = model.to(split.device), split, batch_size
        self.graph = _traced(model, split)
        self.nodes = [] if self.graph is None else list(self.graph.nodes)
        self.places = _bottlenecks(self.nodes)
        self.reached, self.answers = 0, split  # the place, and the answers there: at first the images themselves

    def accuracy(self, other: nn.Module, changed: Iterable[str]) -> float:
        """Top-1 accuracy of ``other``, which equals the model but for the layers ``changed`` and what lies behind them."""
        if self.graph is None:
            return evaluate(other, self.split, self.batch_size)
        self._move_on(self._first(set(changed)))
        try:
            return evaluate(_Quiet(self._part(other, self.reached, None)), self.answers, self.batch_size)
        except MACHINE_FAULTS:
            raise
        except (RuntimeError, SlimlibError):
            # the pass reads a width off a layer, as in `view(-1, self.conv.out_channels)`, which was the dense one's
            return evaluate(other, self.split, self.batch_size)

    def _first(self, changed: set[str]) -> int:
        """The first node that calls a changed layer or a module that holds one; 0 if none is seen to."""
        for i, node in enumerate(self.nodes):
            if node.op == "call_module" and any(f"{name}.".startswith(f"{node.target}.") for name in changed):
                return i
        return 0

    def _move_on(self, before: int) -> None:
        """Keep the answers at the last place before a node through which everything passes, if they fit."""
        for place in (place for place in reversed(self.places) if self.reached < place < before):
            part = self._part(self.model, self.reached, place)
            answers = _Answers.of(part, self.answers, self.batch_size)
            if answers is not None:
                self.reached, self.answers = place, answers
                return

    def _part(self, model: nn.Module, start: int, stop: int | None) -> fx.GraphModule:
        """The operations after ``start`` up to ``stop`` (None: to the end), with the layers of ``model``."""
        part = fx.Graph()
        known: dict[fx.Node, fx.Node] = {}
        for i, node in enumerate(self.nodes[: None if stop is None else stop + 1]):
            if i == start:
                known[node] = part.placeholder("value")
            elif i > start or node.op == "get_attr":
                known[node] = part.node_copy(node, known.__getitem__)
        if stop is not None:
            part.output(known[self.nodes[stop]])
        return fx.GraphModule(model, part)


class _Quiet(nn.Module):
    """A traced part, called so that torch.fx does not print an error that is caught: its ``__call__`` does before it raises."""

    def __init__(self, part: fx.GraphModule):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> object:
        return self.part.forward(x)


def _bottlenecks(nodes: list[fx.Node]) -> list[int]:
    """Places whose value is all that the rest of the network reads of what was computed up to there."""
    index = {node: i for i, node in enumerate(nodes)}
    free = {i for i, node in enumerate(nodes) if node.op == "get_attr"}  # a weight is not computed: it is at hand everywhere
    places, reach = [], 0  # how far the values so far are read
    for i, node in enumerate(nodes[:-1]):
        read = max((index[user] for user in node.users), default=i)
        if i not in free:
            if reach <= i < read:
                places.append(i)
            reach = max(reach, read)
    return places


class _Answers:
    """Kept values with the labels of their images: what :func:`~slimlib.evaluation.evaluate` reads of a split."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]):
        self.batches, self.device = batches, batches[0][0].device

    @classmethod
    @torch.no_grad()
    def of(cls, part: nn.Module, source, batch_size: int) -> _Answers | None:
        """None where they would take more than MOST_BYTES, which the first batch tells, or are no single tensor."""
        batches = []
        as_parameters = caster(part)
        with evaluation_mode(part):
            for values, labels in source.in_order(batch_size):
                value = part(as_parameters(values))
                if not isinstance(value, Tensor) or value.element_size() * value.numel() * len(source) > MOST_BYTES * len(labels):
                    return None
                batches.append((value, labels))
        return cls(batches)

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.batches)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches as they were made, those of the split at the same ``batch_size``: copies, as what is run on them may
        write over them (an activation in place)."""
        return ((value.clone(), labels) for value, labels in self.batches)


def _traced(model: nn.Module, split) -> fx.Graph | None:
    """The model's operations in order, or None where they depend on the values, or are not all seen."""
    images = caster(model)(next(iter(split.in_order(2)))[0])
    with evaluation_mode(model), torch.no_grad():
        want = model(images)
        try:
            graph = fx.symbolic_trace(copied(model)).graph  # a copy, as a pass may keep what it computes as attributes
            same = torch.equal(fx.GraphModule(model, graph)(images), want)
        except MACHINE_FAULTS:
            raise
        except Exception:  # whatever code a forward pass may hold: such a model is run whole, for the same numbers
            return None
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return graph if same and len(inputs) == 1 and inputs[0] is next(iter(graph.nodes)) else None
