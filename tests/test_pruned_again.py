"""A pruned network is a plain network: what it says of itself are the sizes of its tensors, and it is pruned again like any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib.criteria import choose_filters
from slimlib.layout import CONV, LAYERS, PER_CHANNEL_NORMS, output_first
from tests.conftest import MODELS, lively_norms, masking_error
from tests.test_user_networks import conv


def every_kind() -> nn.Sequential:
    """A chain of all that surgery cuts: plain, depthwise, transposed and grouped convolutions, Linear layers, norms, slopes."""
    return nn.Sequential(
        conv(3, 8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8),
        nn.InstanceNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 12, 3), nn.BatchNorm2d(12), nn.PReLU(),
        nn.Conv2d(12, 8, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(8 * 49), nn.Linear(8 * 49, 10),
        nn.BatchNorm1d(10), nn.PReLU(10), nn.Linear(10, 5))


def lively(model: nn.Module) -> nn.Module:
    """No norm or slope is the same for all channels."""
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.instancenorm._InstanceNorm | nn.PReLU):
                for tensor in (*m.parameters(), *(b for b in m.buffers() if b.dim())):
                    tensor.uniform_(0.5, 1.5)
    return lively_norms(model)


def sizes_agree(model: nn.Module, x: torch.Tensor) -> int:
    """Assert, of each layer, norm and PReLU, that attributes, tensors and what passes through are of one size; how many."""
    met = []

    def look(m, inputs, output):
        read, written = inputs[0].shape[1], output.shape[1]
        met.append(m)
        if isinstance(m, LAYERS):
            is_conv = isinstance(m, CONV)
            told = (m.in_channels, m.out_channels) if is_conv else (m.in_features, m.out_features)
            weight = output_first(m)
            assert told == (read, written) == (weight.shape[1] * (m.groups if is_conv else 1), len(weight)), m
            assert m.bias is None or len(m.bias) == written, m
        else:
            told = m.num_parameters if isinstance(m, nn.PReLU) else m.num_features
            assert told == read or (told == 1 and isinstance(m, nn.PReLU)), m
            assert {len(t) for t in m.state_dict().values() if t.dim()} <= {told}, m

    known = [m for m in model.modules() if isinstance(m, (*LAYERS, *PER_CHANNEL_NORMS, nn.PReLU))]
    hooks = [m.register_forward_hook(look) for m in known]
    model(x)
    for hook in hooks:
        hook.remove()
    assert met and set(met) == set(known)
    return len(known)


@pytest.mark.parametrize(("name", "first"), [
    ("chain", {"0", "4", "9"}), ("residual", {"stem", "inner", "squeeze"}), ("grouped", {"a", "grouped", "b", "left", "right"}),
    ("every kind", {"0", "6", "9", "13"})])
def test_a_pruned_network_is_pruned_like_any_other(name, first):
    torch.manual_seed(0)
    model, x = lively((MODELS | {"every kind": every_kind})[name]()), torch.randn(2, 3, 16, 16)
    known, before = sizes_agree(model, x), None
    for turn in range(2):
        layout = slimlib.trace(model, x)
        path = slimlib.width_path(model, x, rule="uniform", coupling="joint", layout=layout)
        narrow, whole = (path.costs.params(path.widths(step)) for step in (0, len(path) - 1))
        plan = path.plan(keep_params=float((narrow + whole) / 2 / whole))
        if before is not None:
            assert plan.full_widths == before.widths and (plan.full_params, plan.full_macs) == (before.params, before.macs)
        assert set(plan.widths) == first and np.mean([*plan.kept.values()]) < 0.9
        assert masking_error(model, layout, choose_filters(model, layout, plan.widths, "random", turn), x) < 1e-4
        model, before = slimlib.prune(model, plan, "random", turn).eval(), plan
        assert sizes_agree(model, x) == known
        with FlopCounterMode(display=False) as counter:
            model(x)
        assert counter.get_total_flops() == 2 * len(x) * plan.macs
        assert sum(p.numel() for p in model.parameters()) == plan.params
