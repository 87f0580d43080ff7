"""Statistics of the book: differences over seeds, and what to conclude from them.

Two arms of one comparison share data, recipe and seed, so what is analysed is their difference, seed by seed (`pairing`): what
noise is common to both cancels. Orders of layers: `ranks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from slimlib.errors import SlimlibError

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
RESAMPLES = 4999
SEEDS_FOR_INTERVAL = 3  # of two, a 95 % t interval reaches 9 standard deviations to each side: tables and figures show none


def verdict(low: float, high: float, margin: float = 0.0) -> str:
    """What an interval of an effect says of the claim that the effect is positive.

    supported      the whole interval lies above 0
    not supported  it does not, and the whole interval lies below `margin`, the least effect that would matter
    inconclusive   anything else, a missing interval (nan) included
    """
    if low > 0:
        return SUPPORTED
    return NOT_SUPPORTED if high < margin else INCONCLUSIVE


ACCURACY_DIGITS = 12
"""Decimal places to which differences are taken: finer than any count of images, coarser than the rounding of floats, whose
noise would else pass for a spread."""


@dataclass(frozen=True)
class Paired:
    """A paired comparison: mean difference, its t interval and its bootstrap interval, and both verdicts.

    n differences, one a seed; sd their standard deviation; p of the two-sided t test; nan where n < 2. `agree` tells
    whether t and bootstrap intervals lead to the same verdict; `verdict` is the t interval's.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    boot_low: float
    boot_high: float
    p: float
    verdict: str
    agree: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def paired(differences: Sequence[float], level: float = 0.95, margin: float = 0.0) -> Paired:
    """Compare two arms from their differences, one a seed.

    The t interval assumes roughly normal differences; the bootstrap (BCa, Efron 1987) does not, but is too narrow for a
    handful of seeds. Where they disagree about the verdict, the t interval decides.
    """
    d = np.asarray(differences, float).round(ACCURACY_DIGITS)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise SlimlibError(f"differences={differences!r} must be a non-empty list of finite numbers")
    n, mean = len(d), float(d.mean())
    if n < 2:
        nan = float("nan")
        return Paired(n, mean, nan, nan, nan, nan, nan, nan, INCONCLUSIVE, True)
    sd = float(d.std(ddof=1)) if np.ptp(d) else 0.0  # numbers that are equal may differ from their rounded mean
    low, high, p = t_test(mean, sd, n, level)
    boot_low, boot_high = _bootstrap_mean(d, level) if sd else (mean, mean)
    found = verdict(low, high, margin)
    return Paired(n, mean, sd, low, high, boot_low, boot_high, p, found, found == verdict(boot_low, boot_high, margin))


def t_half_width(sd: float, n: int, level: float = 0.95) -> float:
    """Half the width of the t interval of the mean of n values with standard deviation `sd`."""
    return float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / n**0.5


def t_test(mean: float, sd: float, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """(low, high, p) of the mean of n >= 2 differences: its t interval, and p of the two-sided test that it is zero.

    Where all differences are equal, as for arms of the same widths, there is no spread for a t test: the interval is that
    one number, and p the sign test's, 2^(1 - n), which five seeds do not bring below 0.05.
    """
    if not sd:
        return mean, mean, 1.0 if mean == 0 else 2.0 ** (1 - n)
    half = t_half_width(sd, n, level)
    return mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / (sd / n**0.5), n - 1))


def _bootstrap_mean(d: np.ndarray, level: float) -> tuple[float, float]:
    for method in ("BCa", "percentile"):  # BCa is undefined for some tiny samples
        found = stats.bootstrap(
            (d,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(0)
        ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float], tests: int | None = None) -> np.ndarray:
    """Holm's (1979) adjusted p-values, in the order given: reject those at or below the level, family-wise.

    nan stays nan. ``tests`` is the size of the family: those without a p count as 1. None: as many as have a p.
    """
    p = np.asarray(p_values, float)
    adjusted, real = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = real[np.argsort(p[real], kind="stable")]
    factors = max(tests or 0, len(order)) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted
