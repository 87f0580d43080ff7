"""How well two quantities order the same layers: rank correlations with intervals, and the area under a ROC curve.

Layers are few, so correlations come with intervals (bootstrap over layers) and permutation tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from slimlib.errors import SlimlibError
from slimlib.study.resampling import kendall_of_draws, permutation_p, quantiles, shuffled, spearman, spearman_of_draws

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1999
COUNTED = 10_000
"""Arrangements of layers that are counted one by one."""
EVERY_ORDER = 9
"""Layers up to which all their orders are counted: 9! are 362,880."""
PERMUTATIONS = 49_999
"""So many that the least p there can be, 1 in 50,000, stays below .05 when it is corrected for all that a page looks at."""


@dataclass(frozen=True)
class RankAgreement:
    """How well two quantities order the same layers; nan where it cannot be computed.

    spearman and kendall over all layers, each with a percentile bootstrap interval over layers; p from permuting all.
    within: the mean of Spearman's coefficients inside the stages (of three layers or more); p_within from permuting
    inside stages, so that a mere trend from stage to stage counts for nothing there.
    """

    n: int
    spearman: float
    spearman_low: float
    spearman_high: float
    kendall: float
    kendall_low: float
    kendall_high: float
    p: float
    within: float
    p_within: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rank_agreement(
    x: Sequence[float],
    y: Sequence[float],
    stages: Sequence[Any] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> RankAgreement:
    """Rank correlation of x and y, one value a layer, pooled and within `stages` (one label a layer).

    Two-sided permutation p-values: of up to `EVERY_ORDER` layers p counts all their orders, and is exact; else, and within
    stages, (1 + as extreme) / (1 + permutations), which is never below 1 / (1 + permutations).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise SlimlibError(f"x and y must be lists of equal length, three layers or more; not {x.shape} and {y.shape}")
    if not np.isfinite([x, y]).all():
        raise SlimlibError("x or y holds a value that is not finite; leave such layers out by name")
    of = None if stages is None else tuple(stages)
    return _rank_agreement(tuple(x.tolist()), tuple(y.tolist()), of, level, resamples, permutations, seed)


@lru_cache(maxsize=1024)  # pages and claims ask for the same pairs
def _rank_agreement(x: tuple[float, ...], y: tuple[float, ...], stages: tuple[Any, ...] | None, level: float,
                    resamples: int, permutations: int, seed: int) -> RankAgreement:
    x, y = np.array(x), np.array(y)
    rho, tau = spearman(x, y), float(stats.kendalltau(x, y).statistic)
    rhos = spearman_of_draws(x, y, resamples, seed)
    taus = kendall_of_draws(x, y, resamples, seed)
    every = len(x) <= EVERY_ORDER
    p = permutation_p(rho, shuffled(x, y, None if every else permutations, seed), every)
    within = p_within = float("nan")
    if stages is not None:
        parts = [
            part for label in dict.fromkeys(stages) if len(part := np.flatnonzero([s == label for s in stages])) >= 3
        ]
        parts = [part for part in parts if np.ptp(x[part]) > 0 and np.ptp(y[part]) > 0]
        if parts:
            within = float(np.mean([spearman(x[part], y[part]) for part in parts]))
            null = [shuffled(x[part], y[part], permutations, seed + 1 + i) for i, part in enumerate(parts)]
            p_within = permutation_p(within, np.mean(null, axis=0))
    tails = [(1 - level) / 2, (1 + level) / 2]
    return RankAgreement(len(x), rho, *quantiles(rhos, tails), tau, *quantiles(taus, tails), p, within, p_within)


def gain(x: Sequence[float], control: Sequence[float], y: Sequence[float],
         level: float = 0.95) -> tuple[float, float, float]:
    """How much better x orders the layers by y than `control` does: the difference of the two Spearman coefficients, and its
    percentile bootstrap interval over layers, the same layers for both."""
    x, control, y = (np.asarray(values, float) for values in (x, control, y))
    gains = spearman_of_draws(x, y, RESAMPLES, 0) - spearman_of_draws(control, y, RESAMPLES, 0)
    return (spearman(x, y) - spearman(control, y), *quantiles(gains, [(1 - level) / 2, (1 + level) / 2]))


def without_one(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's coefficient with each layer left out in turn, the least and the greatest: does it hang on one layer?"""
    x, y = np.asarray(x, float), np.asarray(y, float)
    found = [spearman(np.delete(x, at), np.delete(y, at)) for at in range(len(x))]
    return quantiles(np.array(found), [0.0, 1.0])


def most_tied(scores: pd.Series) -> dict[str, float]:
    """`tied`, how many layers share the score that most of them have, and `tied_at`, that score."""
    counts = scores.round(12).value_counts()
    return {"tied": int(counts.iloc[0]), "tied_at": float(counts.index[0])}


def auc(scores: Sequence[float], positive: Sequence[bool], level: float = 0.95) -> dict[str, float]:
    """Area under the ROC curve: the chance that a positive layer scores above a negative one, ties counting half.

    {"auc", "low", "high", "p", "positives", "negatives"}: interval by bootstrap within both classes, p of the two-sided
    Mann-Whitney test.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    yes, no = scores[positive], scores[~positive]
    if not len(yes) or not len(no):
        raise SlimlibError(
            f"positive: both kinds of layers are needed, but {len(yes)} are positive and {len(no)} are not"
        )
    area = lambda a, b: float((np.sign(a[:, None] - b).mean() + 1) / 2)  # noqa: E731
    generator = np.random.default_rng(0)
    drawn = [area(generator.choice(yes, len(yes)), generator.choice(no, len(no))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # of ties scipy would take a normal approximation, which is poor for a few layers: all their arrangements can be counted
    if min(len(yes), len(no)) == 1:
        p = _p_of_one(scores, (yes if len(yes) == 1 else no).item())
    else:
        few = comb(len(scores), len(yes)) <= COUNTED
        method = stats.PermutationMethod(n_resamples=COUNTED) if few else "auto"
        p = float(stats.mannwhitneyu(yes, no, method=method).pvalue) if np.ptp(scores) > 0 else 1.0
    return {
        "auc": area(yes, no),
        "low": float(low),
        "high": float(high),
        "p": p,
        "positives": len(yes),
        "negatives": len(no),
    }


def _p_of_one(scores: np.ndarray, one: float) -> float:
    """Two-sided p of a class with a single layer: the share of layers that would stand as far out in its place, doubled."""
    return min(1.0, 2 * min(float((scores <= one).mean()), float((scores >= one).mean())))


def least_told_apart(n: int, p: float) -> float:
    """The least Spearman coefficient of ``n`` items, none tied, whose two-sided p is at most ``p``; nan where none is. Of up to
    `EVERY_ORDER` items p counts all orders, as in `rank_agreement`; of more it is Student's t's."""
    if n <= EVERY_ORDER:
        found, counts = np.unique(np.abs(shuffled(np.arange(n), np.arange(n), None, 0)).round(12), return_counts=True)
        enough = found[counts[::-1].cumsum()[::-1] <= p * counts.sum()]
        return float(enough[0]) if len(enough) else float("nan")
    t = float(stats.t.isf(p / 2, n - 2))
    return t / (n - 2 + t**2) ** 0.5
