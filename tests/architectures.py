"""Architectures of torchvision and timm, and what becomes of each at half its multiply-adds."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import slimlib
from slimlib import models
from slimlib.criteria import choose_filters
from slimlib.plans import WidthPlan
from slimlib.spectrum import filter_rows
from tests.conftest import lively_norms, masking_error

SIZES = {
    "torchvision:vgg11_bn": 32, "torchvision:alexnet": 64, "torchvision:resnet18": 64, "torchvision:resnet50": 64,
    "torchvision:resnext50_32x4d": 64, "torchvision:wide_resnet50_2": 64, "torchvision:densenet121": 64,
    "torchvision:mobilenet_v2": 64, "torchvision:mobilenet_v3_small": 64, "torchvision:efficientnet_b0": 64,
    "torchvision:shufflenet_v2_x0_5": 64, "torchvision:regnet_x_400mf": 64, "torchvision:regnet_y_400mf": 64,
    "torchvision:convnext_tiny": 64, "torchvision:googlenet": 64, "torchvision:inception_v3": 96,
    "torchvision:squeezenet1_1": 64, "torchvision:mnasnet0_5": 64, "torchvision:vit_b_16": 224, "torchvision:swin_t": 64,
    "timm:resnet26d": 64, "timm:repvgg_a0": 64, "timm:ghostnet_050": 64, "timm:dla34": 64, "timm:res2net50_26w_4s": 64,
    "timm:hrnet_w18_small": 64, "timm:mixer_s32_224": 224, "timm:mobilenetv4_conv_small": 64, "timm:lcnet_050": 64,
    "timm:seresnet50": 64, "timm:poolformer_s12": 64, "timm:convnextv2_atto": 64,
}
"""Name -> side of the square input: small, as the layout of a network does not depend on it."""

KEEP, WIDEST_PCA = 0.5, 512


def examine(name: str) -> dict:
    """What slimlib makes of an architecture at half the MACs under joint coupling: a row of the table.

    ``outcome`` is "exact" (the widths planned, budget met and the next plan of the path beyond it, costs as counted on the built
    network, outputs equal to those of the dense network with the same channels set to zero), "refused" (an error that names
    the reason, in ``told``) or "wrong" (``told`` says what). ``rank_bound`` and ``pca_macs`` follow from the shapes, whatever
    rule chose the widths: how many groups PCA cannot keep whole, and the most of the MACs that it can keep.
    """
    model, size = build(name), SIZES[name]
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    row = {"architecture": name, "input": f"3 x {size} x {size}", "layers": 0, "groups": 0, "whole": 0, "keep_macs": None}
    try:
        layout = slimlib.trace(model, x)
        path = slimlib.width_path(model, x, coupling="joint", layout=layout, rule=_rule(model, layout))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*rank of the filters.*")
            plan = path.plan(keep_macs=KEEP)
        slim = slimlib.prune(model, plan).eval()
    except slimlib.SlimlibError as refusal:
        return row | {"outcome": "refused", "told": str(refusal)}
    widest = widest_by_rank(model, x, layout)
    faults = list(_faults(model, layout, plan, slim, x))
    if plan.rule == "pca" and plan.rank_bound != widest.rank_bound:
        faults.append(f"PCA is bounded by {plan.rank_bound}, by the shapes it should be {widest.rank_bound}")
    reasons = sorted(set(plan.whole.values()))
    return row | {
        "rule": plan.rule, "outcome": "wrong" if faults else "exact",
        "layers": sum(len(g.writers()) for g in layout.groups), "groups": len(plan.widths), "whole": len(plan.whole),
        "keep_macs": round(plan.keep_macs, 4), "keep_params": round(plan.keep_params, 4),
        "rank_bound": len(widest.rank_bound), "pca_macs": round(widest.keep_macs, 4), "told": "; ".join(faults or reasons),
    }


def build(name: str) -> nn.Module:
    """Weights drawn under one seed; no parameter constant as at the start of training (layer scales of 1e-6, heads of zeros),
    and BatchNorm statistics as after it, so that a fault in any channel shows in the output."""
    torch.manual_seed(0)
    model = models.build(name, num_classes=1000, in_channels=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                lively = torch.randn_like(parameter) / 10 if parameter.max() == 0 else torch.rand_like(parameter) + 0.5
                parameter.copy_(lively)
    return lively_norms(model)


def widest_by_rank(model: nn.Module, x: torch.Tensor, layout) -> WidthPlan:
    """The widest plan that PCA can have for weights of these shapes, joint coupling: its path for spectra of full rank.

    A layer of p weights a filter has at most p - 1 centred components, and those of a group's layers add, up to its width.
    """
    spectra = {}
    for group in layout.slimmable("joint"):
        rank = min(group.width, sum(rows.shape[1] - 1 for rows in filter_rows(model, group)))
        spectra[group.name] = np.repeat([1.0, 0.0], [rank, group.width - rank])
    return slimlib.width_path(model, x, coupling="joint", layout=layout, spectra=spectra).plan(threshold=1.0)


def _rule(model: nn.Module, layout) -> str:
    """PCA, but for networks with a layer so wide that its eigenvalues alone would take most of the test's time."""
    widest = max((rows.shape[0] for g in layout.slimmable("joint") for rows in filter_rows(model, g)), default=0)
    return "pca" if widest <= WIDEST_PCA else "random"


def _faults(model, layout, plan, slim, x):
    with FlopCounterMode(display=False) as counter:
        answer = slim(x)
    if counter.get_total_flops() != 2 * plan.macs:
        yield f"counted {counter.get_total_flops() // 2} MACs, planned {plan.macs}"
    if sum(p.numel() for p in slim.parameters()) != plan.params:
        yield "the number of parameters is not the planned one"
    if plan.keep_macs > KEEP or (plan.wider["macs"] <= KEEP * plan.full_macs if plan.wider else not plan.rank_bound):
        yield f"keeps {plan.keep_macs:.4f} of the MACs"
    for layer, width in plan.widths.items():
        module = slim.get_submodule(layer)
        if (module.out_channels if hasattr(module, "out_channels") else module.out_features) != width:
            yield f"{layer} is not {width} wide"
    with torch.no_grad():
        if answer.shape != model(x).shape:
            yield f"output of shape {tuple(answer.shape)}"
    error = masking_error(model, layout, choose_filters(model, layout, plan.widths), x)
    if not error < 1e-3:
        yield f"differs from zero-masking by {error:.1e}"
