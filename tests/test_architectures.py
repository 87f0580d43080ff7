"""Real architectures: exact widths, budgets met, and outputs equal to zero-masking, or a refusal with its reason."""

import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib._torchvision import import_torchvision
from slimlib.criteria import choose_filters
from slimlib.surgery import masking_error
from tests.conftest import lively_norms

NAMES = ["resnet18", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
         "regnet_y_400mf", "squeezenet1_1", "mnasnet0_5", "convnext_tiny"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_half_the_macs_of_a_torchvision_network(name):
    torch.manual_seed(0)
    model, x = lively_norms(getattr(import_torchvision().models, name)(weights=None)), torch.randn(1, 3, 96, 96)
    layout = slimlib.trace(model, x)
    path = slimlib.width_path(model, x, coupling="joint", layout=layout)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rank of the filters.*")
        plan = path.plan(keep_macs=0.5)
    slim = slimlib.prune(model, plan).eval()
    with FlopCounterMode(display=False) as counter:
        answer = slim(x)
    assert counter.get_total_flops() == 2 * plan.macs and plan.keep_macs <= 0.5
    assert plan.wider["macs"] > 0.5 * plan.full_macs if plan.wider else plan.rank_bound
    assert answer.shape == (1, 1000)
    assert masking_error(model, layout, choose_filters(model, layout, plan.widths), x) < 1e-3
    assert all(reason for reason in plan.whole.values())
