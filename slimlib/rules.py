"""The rules that choose widths: 3AS, its variants, its rivals, and the controls that read no weights.

A rule returns the steps of a path (:class:`~slimlib.steps.Curves` or :class:`~slimlib.steps.Removals`), so that each of them
answers every budget: the widest plan that fits is found by one search for all rules. What a rule may look at is what
:class:`~slimlib.request.Request` holds; what else it must be told are the parameters after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real

import numpy as np
import torch
from torch import nn

from slimlib import criteria, spectrum
from slimlib.arguments import by_name, flag, number
from slimlib.cost import CostModel
from slimlib.errors import SlimlibError
from slimlib.filters import filter_rows
from slimlib.fresh import fresh_copy
from slimlib.layout import Group
from slimlib.published import published_fractions
from slimlib.request import Request
from slimlib.responses import response_spectra
from slimlib.sampling import variances
from slimlib.steps import Curves, Removals


def pca(r: Request) -> Curves:
    """3AS (Wang et al. 2022), as we read it: one threshold on every layer's cumulative contribution."""
    return contributions(r, r.spectra())


def pca_folded(r: Request) -> Curves:
    """3AS on filters with the BatchNorm that follows folded in: unchanged when filters are rescaled and it compensates."""
    return contributions(r, r.spectra(folded=True))


def pca_at_init(r: Request, reset: Callable[[nn.Module], None] | None = None) -> Curves:
    """Control: the spectra of the same architecture before any training, its weights drawn by :func:`slimlib.fresh_copy`."""
    untrained = fresh_copy(r.model, r.seed, reset)
    return contributions(r, r.spectra(untrained))


def activation_pca(r: Request, calibration: torch.Tensor) -> Curves:
    """One threshold on the spectra of the layers' responses to ``calibration`` images (Garg et al. 2020; PFA, Suau 2020)."""
    found = response_spectra(r.model, r.groups, calibration)
    if dead := [name for name, values in found.items() if not values.sum() > 0]:
        raise SlimlibError(f"rule='activation_pca': {dead[0]} answers all calibration images alike, so no share of variance says "
                           f"how wide it must be; give other images, or leave it whole with skip=[{dead[0]!r}]")
    return contributions(r, [found[g.name] for g in r.groups])


def pca_budgeted(r: Request, folded: bool = False) -> Removals:
    """Pool all groups' eigenvalues, unnormalised, and drop the component with the least variance per unit of cost saved.

    ``folded`` takes the spectra with BatchNorm folded in.
    """
    values = r.spectra(folded=flag("folded", folded))
    return Removals(r.full, cheapest_first(r.costs, r.unit, r.full, lambda g, w: values[g][w - 1]))


def uniform(r: Request) -> Curves:
    """Every layer keeps the same fraction: the threshold rule on a flat spectrum."""
    return Curves(tuple(np.arange(1, n + 1) / n for n in r.full))


def tilt(r: Request, power: float) -> Curves:
    """Weight-free control: kept fraction min(1, level x (full width) ** ``power``); power 0 is ``uniform``."""
    scale = (r.full / r.full.max()) ** number("power", power)
    return proportional(r.full, scale)


def sensitivity(r: Request, drops: Mapping[str, float]) -> Curves:
    """Expensive reference of this book: kept fraction min(1, level x drop ** (1/4)) of the measured accuracy drops.

    ``drops``: group -> accuracy lost when that group alone is cut, from :func:`slimlib.sensitivity` at one ratio; the book
    takes 0.75. A drop counts as 1e-4 at least. Ratio, power and least drop are choices of this book.
    """
    by_name("drops", drops, "a mapping of groups to the accuracy that each one loses, such as {'conv1': 0.02}")
    missing = [g.name for g in r.groups if g.name not in drops]
    if missing:
        raise SlimlibError(f"drops: no measured sensitivity for {', '.join(missing[:3])}")
    if odd := [g.name for g in r.groups if not isinstance(drops[g.name], Real) or not np.isfinite(drops[g.name])]:
        raise SlimlibError(f"drops: that of {odd[0]} is {drops[odd[0]]!r}; give finite numbers, as of slimlib.sensitivity")
    found = np.array([max(float(drops[g.name]), 1e-4) for g in r.groups])  # a layer that costs nothing still needs a filter
    return proportional(r.full, (found / found.max()) ** 0.25)


def random(r: Request) -> Curves:
    """Control: kept fractions level ** e with one exponent a group, log-uniform in [1/3, 3], drawn by ``seed``."""
    exponents = np.exp(np.random.default_rng(r.seed).uniform(-np.log(3), np.log(3), len(r.full)))
    breaks = tuple((np.arange(1, n + 1) / n) ** (1 / e) for n, e in zip(r.full, exponents, strict=True))
    return Curves(breaks, level_is_share=False)


def permuted(r: Request) -> Curves:
    """Control: the curves of ``pca``, dealt out among the layers, not in their own order, by a permutation drawn by ``seed``.

    A curve is read by fraction: width w of n takes the value of component ceil(w m / n) of the m of its source.
    """
    curves, generator = pca(r).breaks, np.random.default_rng(r.seed)
    order = np.arange(len(curves))
    while len(order) > 1 and (order == np.arange(len(curves))).all():
        order = generator.permutation(len(curves))
    dealt = []
    for n, source in zip(r.full, order, strict=True):
        widths = np.arange(1, n + 1)
        dealt.append(curves[source][np.ceil(widths * len(curves[source]) / n).astype(int) - 1])
    return Curves(tuple(dealt))


def global_l1(r: Request) -> Removals:
    """Rank all filters of the network by their mean absolute weight; the smallest go first."""
    def scores(group: Group) -> np.ndarray:
        weights = sum(rows.shape[1] for rows in filter_rows(r.model, group))
        return criteria.l1(r.model, group).numpy() / weights
    return ranked(r, scores)


def global_bn(r: Request) -> Removals:
    """Rank all channels of the network by ``|gamma|``, as Liu et al. (2017) do after training with a penalty on it; of a channel
    that several BatchNorms read, by their mean."""
    def scores(group: Group) -> np.ndarray:
        remedy = f"use another rule, or leave it whole with skip=[{group.name!r}]"
        total, norms = criteria.batchnorm_scales(r.model, group, "rule='global_bn'", remedy)
        return (total / norms.clamp_min(1)).numpy()
    return ranked(r, scores)


def hand(r: Request, published: str) -> Curves:
    """Li et al.'s published widths (2017, Table 2 and section 4.2) at level -1, their fractions to the power -level elsewhere.

    ``published``: "vgg16-A", "resnet56-A" or "resnet56-B".
    """
    fractions = published_fractions(published, r.groups)
    breaks = []
    for n, f in zip(r.full, fractions, strict=True):
        widths = np.arange(1, n + 1)
        # width k suffices while f ** s <= k / n, at level -s; a layer with f = 1 is always whole
        breaks.append(np.r_[np.full(n - 1, -np.inf), 0.0] if f == 1 else -np.log(widths / n) / np.log(f))
    return Curves(tuple(breaks), level_is_share=False)


def neyman(r: Request, calibration: torch.Tensor | None = None) -> Removals:
    """Widths as optimal sampling (Neyman 1934): drop the channel whose loss per unit of cost saved is least.

    Loss of a plan: sum of (V / T) (n / w - 1) over groups, see :mod:`slimlib.sampling`; with ``calibration`` images V and T
    are measured on them, else they follow from the weights and the BatchNorm statistics.
    """
    v, t = variances(r.model, r.layout, r.groups, calibration)
    scale = v / t * r.full
    return Removals(r.full, cheapest_first(r.costs, r.unit, r.full, lambda g, w: scale[g] * (1 / (w - 1) - 1 / w)))


RULES: dict[str, Callable[..., Curves | Removals]] = {
    f.__name__: f for f in (pca, pca_folded, pca_budgeted, pca_at_init, activation_pca, uniform, global_l1, global_bn,
                            random, permuted, hand, tilt, sensitivity, neyman)
}


def cheapest_first(costs: CostModel, unit: str, full: np.ndarray, loss: Callable[[int, int], float]) -> np.ndarray:
    """The order in which channels go when each step drops the one with the least loss per unit of cost saved.

    ``loss(g, w)`` is lost when group g goes from w to w - 1 channels. Costs depend on neighbouring layers, so they are taken
    at the widths reached. Every group keeps one channel. Returns group indices, first drop first.
    """
    widths = full.astype(float)
    losses = np.array([loss(g, int(w)) if w > 1 else np.inf for g, w in enumerate(full)])
    order = np.empty(int((full - 1).sum()), int)
    for step in range(len(order)):
        g = int(np.argmin(losses / costs.saved_by_one(unit, widths)))
        widths[g] -= 1
        losses[g] = loss(g, int(widths[g])) if widths[g] > 1 else np.inf
        order[step] = g
    return order


def contributions(r: Request, spectra: Iterable[np.ndarray]) -> Curves:
    """One threshold on the cumulative contributions of all groups' ``spectra``, in the order of ``r.groups``."""
    return Curves(tuple(spectrum.cumulative(v, g.name) for g, v in zip(r.groups, spectra, strict=True)))


def proportional(full: np.ndarray, scale: np.ndarray) -> Curves:
    """Kept fractions min(1, level x scale): ``scale`` has one positive number a group, as a rule of one's own may compute."""
    breaks = tuple(np.arange(1, n + 1) / n / s for n, s in zip(full, scale, strict=True))
    return Curves(breaks, level_is_share=False)


def ranked(r: Request, scores: Callable[[Group], np.ndarray]) -> Removals:
    """Lowest score first over the whole network, ``scores(group)`` of shape (width,); the best filter of each group stays."""
    per_group = [np.sort(scores(g))[:-1] for g in r.groups]
    owner = np.repeat(np.arange(len(per_group)), [len(s) for s in per_group])
    return Removals(r.full, owner[np.argsort(np.concatenate(per_group), kind="stable")])
