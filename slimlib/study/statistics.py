"""Statistics of the book: paired differences over seeds, and what to conclude from them (orders of layers: `ranks`).

Two arms of one comparison share data, recipe and seed, so what is analysed is their difference, seed by seed: what noise is
common to both cancels. Layers are few, so correlations come with intervals and permutation tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from slimlib.errors import SlimlibError
from slimlib.study.names import tilt_power

if TYPE_CHECKING:
    import pandas as pd

    from slimlib.study.runs import Run

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


def paired(differences: Sequence[float], level: float = 0.95, margin: float = 0.0, seed: int = 0) -> Paired:
    """Compare two arms from their differences, one a seed.

    The t interval assumes roughly normal differences; the bootstrap (BCa, Efron 1987) does not, but is too narrow for a
    handful of seeds. Where they disagree about the verdict, neither should be leaned on.
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
    boot_low, boot_high = _bootstrap_mean(d, level, seed) if sd else (mean, mean)
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


def _bootstrap_mean(d: np.ndarray, level: float, seed: int) -> tuple[float, float]:
    for method in ("BCa", "percentile"):  # BCa is undefined for some tiny samples
        found = stats.bootstrap(
            (d,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(seed)
        ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return float(found.low), float(found.high)


CELL = ("dataset", "model", "stage", "criterion", "budget")
"""What two runs must share, besides the seed, to be paired."""


def differences(frame: pd.DataFrame, ours: str, rival: str, metric: str = "test_accuracy") -> pd.DataFrame:
    """One row a cell and seed for which both arms are recorded: `difference` = ours - rival, and both keys.

    frame   of `slimlib.study.to_frame`; `ours` and `rival` are values of its column `arm`
    """
    columns = [*CELL, "budget_kind", "seed", metric, "key"]
    sides = []
    for arm in (ours, rival):
        side = frame.loc[frame["arm"] == arm, columns]
        twice = side.duplicated([*CELL, "seed"])
        if twice.any():
            keys = ", ".join(side.loc[twice, "key"])
            raise SlimlibError(f"arm {arm!r} has more than one record of one cell and seed ({keys}): choose one recipe")
        # A missing criterion (students have none) must still find its partner, and nan equals nothing.
        sides.append(side.fillna({"criterion": "none"}))
    both = sides[0].merge(sides[1], on=[*CELL, "budget_kind", "seed"], suffixes=("_ours", "_rival"))
    both["difference"] = both[f"{metric}_ours"] - both[f"{metric}_rival"]
    return both


def averaged_over_budgets(paired_rows: pd.DataFrame, budgets: Sequence[str] | None = None) -> np.ndarray:
    """One difference a seed: the mean over budgets, of those seeds that have every budget.

    budgets   those that count; None means all that occur
    """
    wide = paired_rows.pivot_table(index="seed", columns="budget", values="difference")
    if budgets is not None:
        wide = wide.reindex(columns=list(budgets))
    return wide.dropna().mean(axis=1).to_numpy()


def with_best_tilt(frame: pd.DataFrame, planned: Iterable[Run]) -> pd.DataFrame:
    """The frame with an arm "best_tilt" added: in each cell the tilt with the best mean validation accuracy over seeds.

    `uniform` is the tilt of power 0 and competes. Of equal ones the power nearest 0 is taken, of two such the lower one. Test
    images have no say in the choice.

    planned  the runs that there should be: where a tilt of theirs has no record yet, the best of the others is not the best,
             and would be too easy to beat, so such a cell has none; and only seeds that every tilt has count
    """
    import pandas as pd

    competing = defaultdict(set)
    for run in planned:
        if run.arm == "uniform" or tilt_power(run.arm or "") is not None:
            competing[tuple(getattr(run, axis) for axis in CELL)].add(run.arm)
    added = []
    for cell, tilts in competing.items():
        # a criterion may be None, which equals nothing in a frame
        here = np.logical_and.reduce([frame[axis].isna() if value is None else frame[axis] == value
                                      for axis, value in zip(CELL, cell, strict=True)])
        rows = frame[here & frame["arm"].isin(tilts)]
        if len(tilts) > 1 and set(rows["arm"]) == tilts:
            seeds = set.intersection(*(set(one["seed"]) for _, one in rows.groupby("arm")))
            common = rows[rows["seed"].isin(seeds)]
            if not common.empty:
                means = common.groupby("arm")["val_accuracy"].mean().round(ACCURACY_DIGITS)
                powers = {arm: tilt_power(arm) or 0.0 for arm in means.index}
                best = min(means.index, key=lambda arm: (-means[arm], abs(powers[arm]), powers[arm]))
                added.append(common[common["arm"] == best].assign(arm="best_tilt", chosen=best))
    return pd.concat([frame, *added], ignore_index=True) if added else frame


def against(frame: pd.DataFrame, reference: str = "uniform", metric: str = "test_accuracy", level: float = 0.95):
    """Every arm of a frame against one reference, budget by budget: `Paired` as columns, one row a cell and arm.

    frame   of `slimlib.study.to_frame`; columns of CELL, arm, n, mean, low, high, ... come back, keys of the runs last
    """
    import pandas as pd

    rows = []
    for arm in dict.fromkeys(frame["arm"]) if len(frame) else ():
        if arm == reference:
            continue
        pairs = differences(frame, arm, reference, metric)
        for cell, part in pairs.groupby(list(CELL), sort=False, dropna=False):
            found = paired(part["difference"], level).to_dict()
            keys = ", ".join([*part["key_ours"], *part["key_rival"]])
            rows.append({**dict(zip(CELL, cell, strict=True)), "arm": arm, "reference": reference, **found, "keys": keys})
    columns = [*CELL, "arm", "reference", "n", "mean", "sd", "low", "high", "boot_low", "boot_high", "p", "agree", "keys"]
    return pd.DataFrame(rows, columns=columns)


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
