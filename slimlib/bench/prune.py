"""Cutting a ResNet-50 to given widths: slimlib beside Torch-Pruning's own pruner, on the same widths."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from functools import cache

import torch_pruning as tp
from torch import nn

import slimlib
from slimlib.bench.measure import Comparison, Race
from slimlib.bench.widths import resnet50
from slimlib.errors import SlimlibError
from slimlib.plans import WidthPlan


def races() -> Iterator[Race]:
    ours, theirs = "slimlib.prune, trace included", "Torch-Pruning, graph included"
    cut, step = "slimlib.prune, network traced before", "Torch-Pruning, graph built before"
    yield Race(
        "prune resnet50", "ResNet-50, every layer to the widths of one plan at half the MACs, coupling='joint'",
        {ours: lambda: lambda: slimlib.prune(resnet50()[0], _plan(with_layout=False)),
         theirs: lambda: lambda: _pruned(resnet50()[0]),
         cut: lambda: lambda: slimlib.prune(resnet50()[0], _plan()), step: lambda: _step_only},
        (Comparison(ours, theirs, "time", 1.0), Comparison(cut, step, "time", 1.0)), agree=_check)


@cache
def _plan(with_layout: bool = True) -> WidthPlan:
    plan = slimlib.plan_widths(*resnet50(), keep_macs=0.5, coupling="joint")
    return plan if with_layout else WidthPlan.from_dict(plan.to_dict())  # as read from a file


def _pruner(model: nn.Module) -> tp.pruner.MagnitudePruner:
    """Torch-Pruning's pruner, told the ratio of each layer that gives exactly the plan's width.

    It keeps int(C (1 - r)) of C filters; the half in r keeps rounding away from the width below.
    """
    plan = _plan()
    ratios = {model.get_submodule(name): 1 - (width + 0.5) / plan.full_widths[name]
              for name, width in plan.widths.items() if width < plan.full_widths[name]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tp.pruner.MagnitudePruner(
            model, resnet50()[1], importance=tp.importance.MagnitudeImportance(1, group_reduction="first", normalizer=None),
            pruning_ratio=0.0, pruning_ratio_dict=ratios, ignored_layers=[model.fc], in_channel_groups={},
            out_channel_groups={}, num_heads={})


def _pruned(dense: nn.Module) -> nn.Module:
    """As slimlib does, the dense network is left as it was: Torch-Pruning prunes a copy."""
    model = copy.deepcopy(dense)
    _pruner(model).step()
    return model


def _step_only() -> float:
    pruner = _pruner(copy.deepcopy(resnet50()[0]))
    start = time.perf_counter()
    pruner.step()
    return time.perf_counter() - start


def _check() -> None:
    theirs, ours = _pruned(resnet50()[0]), slimlib.prune(resnet50()[0], _plan())
    want = {name: tuple(p.shape) for name, p in ours.named_parameters()}
    if (got := {name: tuple(p.shape) for name, p in theirs.named_parameters()}) != want:
        wrong = next(name for name in want if got[name] != want[name])
        raise SlimlibError(f"bench: Torch-Pruning made {wrong} {got[wrong]}, slimlib {want[wrong]}; the two cannot be compared")
