"""Widths that Li et al. (2017, Table 2 and section 4.2) chose by hand: the networks that later work compares with."""

from __future__ import annotations

from slimlib.errors import SlimlibError
from slimlib.layout import Group


def published_fractions(name: str, groups: tuple[Group, ...]) -> list[float]:
    """Kept fraction of every group in Li et al.'s published networks; layers they leave alone keep 1."""
    if name == "vgg16-A":
        dense, kept = [64, 64, 128, 128, 256, 256, 256] + [512] * 6, [32, 64, 128, 128] + [256] * 9
        expected = f"the 13 convolutions of VGG-16, {dense}"
    elif name in ("resnet56-A", "resnet56-B"):
        dense = [16] * 9 + [32] * 9 + [64] * 9
        drop, whole = ((0.1, 0.1, 0.1), {16, 20, 38, 54}) if name == "resnet56-A" else (
            (0.6, 0.3, 0.1), {16, 18, 20, 34, 38, 54})
        # block j's first convolution is their layer 2j
        kept = [n if 2 * j in whole else int(n * (1 - drop[(j - 1) // 9])) for j, n in enumerate(dense, 1)]
        expected = "the 27 first convolutions of ResNet-56's blocks"
    else:
        raise SlimlibError(f"published={name!r} is not known; use 'vgg16-A', 'resnet56-A' or 'resnet56-B'")
    if [g.width for g in groups[: len(dense)]] != dense:
        raise SlimlibError(f"published={name!r} is for {expected}; this model has {[g.width for g in groups]}")
    return [k / n for k, n in zip(kept, dense, strict=True)] + [1.0] * (len(groups) - len(dense))
