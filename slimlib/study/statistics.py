"""Statistics of the book: paired differences over seeds, rank correlations over layers, and what to conclude from them.

Two arms of one comparison share data, recipe and seed, so what is analysed is their difference, seed by seed: most of
the noise is common to both and cancels. Layers are few, so correlations come with intervals and permutation tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from slimlib.errors import SlimlibError

if TYPE_CHECKING:
    import pandas as pd

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
RESAMPLES = 4999


def verdict(low: float, high: float, margin: float = 0.0) -> str:
    """What an interval of an effect says of the claim that the effect is positive.

    supported      the whole interval lies above 0
    not supported  it does not, and the whole interval lies below `margin`, the least effect that would matter
    inconclusive   anything else, a missing interval (nan) included
    """
    if low > 0:
        return SUPPORTED
    return NOT_SUPPORTED if high < margin else INCONCLUSIVE


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
    d = np.asarray(differences, float)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise SlimlibError(f"differences={differences!r} must be a non-empty list of finite numbers")
    n, mean = len(d), float(d.mean())
    if n < 2:
        nan = float("nan")
        return Paired(n, mean, nan, nan, nan, nan, nan, nan, INCONCLUSIVE, True)
    sd = float(d.std(ddof=1))
    if (
        np.ptp(d) == 0
    ):  # no spread to estimate from: n times the same difference, as when both arms have the same widths
        p = 1.0 if mean == 0 else 0.0
        low = high = boot_low = boot_high = mean
    else:
        half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / n**0.5
        low, high = mean - half, mean + half
        p = float(stats.ttest_1samp(d, 0).pvalue)
        boot_low, boot_high = _bootstrap_mean(d, level, seed)
    found = verdict(low, high, margin)
    return Paired(n, mean, sd, low, high, boot_low, boot_high, p, found, found == verdict(boot_low, boot_high, margin))


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


def with_best_tilt(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an arm "best_tilt" added: in each cell the tilt with the best mean validation accuracy over seeds.

    `uniform` is the tilt of power 0 and competes. Test images have no say in the choice.
    """
    import pandas as pd

    tilts = frame[frame["arm"].notna() & ((frame["rule"] == "tilt") | (frame["arm"] == "uniform"))]
    if tilts.empty or not (tilts["rule"] == "tilt").any():
        return frame
    added = []
    for _, cell in tilts.groupby(list(CELL), dropna=False):
        if (cell["rule"] == "tilt").any():
            # only seeds that every tilt has: else a tilt with a lucky part of the seeds would win
            seeds = set.intersection(*(set(one["seed"]) for _, one in cell.groupby("arm")))
            common = cell[cell["seed"].isin(seeds)]
            if not common.empty:
                best = common.groupby("arm")["val_accuracy"].mean().idxmax()
                added.append(common[common["arm"] == best].assign(arm="best_tilt", chosen=best))
    return pd.concat([frame, *added], ignore_index=True)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's (1979) adjusted p-values, in the order given: reject those at or below the level, family-wise.

    nan stays nan and does not count as a test.
    """
    p = np.asarray(p_values, float)
    adjusted, real = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = real[np.argsort(p[real], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
    return adjusted


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
    resamples: int = 1999,
    seed: int = 0,
) -> RankAgreement:
    """Rank correlation of x and y, one value a layer, pooled and within `stages` (one label a layer).

    Two-sided permutation p-values, (1 + as extreme) / (1 + permutations).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise SlimlibError(f"x and y must be lists of equal length, three layers or more; not {x.shape} and {y.shape}")
    if not np.isfinite([x, y]).all():
        raise SlimlibError("x or y holds a value that is not finite; leave such layers out by name")
    generator, n = np.random.default_rng(seed), len(x)
    rho, tau = _spearman(x, y), float(stats.kendalltau(x, y).statistic)
    drawn = generator.integers(0, n, (resamples, n))
    rhos = _spearman_rows(x[drawn], y[drawn])
    taus = np.array([_kendall(x[i], y[i]) for i in drawn])
    shuffled = generator.permuted(np.broadcast_to(y, (resamples, n)), axis=1)
    p = _permutation_p(rho, _spearman_rows(np.broadcast_to(x, shuffled.shape), shuffled))
    within = p_within = float("nan")
    if stages is not None:
        parts = [
            part for label in dict.fromkeys(stages) if len(part := np.flatnonzero([s == label for s in stages])) >= 3
        ]
        parts = [part for part in parts if np.ptp(x[part]) > 0 and np.ptp(y[part]) > 0]
        if parts:
            within = float(np.mean([_spearman(x[part], y[part]) for part in parts]))
            null = [
                _spearman_rows(
                    np.broadcast_to(x[part], (resamples, len(part))),
                    generator.permuted(np.broadcast_to(y[part], (resamples, len(part))), axis=1),
                )
                for part in parts
            ]
            p_within = _permutation_p(within, np.mean(null, axis=0))
    tails = [(1 - level) / 2, (1 + level) / 2]
    return RankAgreement(n, rho, *_quantiles(rhos, tails), tau, *_quantiles(taus, tails), p, within, p_within)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(_spearman_rows(x[None], y[None])[0])


def _spearman_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's coefficient of each row of x with that row of y; nan for a constant row."""
    a, b = (stats.rankdata(v, axis=1) for v in (x, y))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def _kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b by all pairs: faster than scipy for a few dozen layers."""
    a, b = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


def _permutation_p(found: float, null: np.ndarray) -> float:
    if not np.isfinite(found):
        return float("nan")
    return float((1 + (np.abs(null) >= abs(found) - 1e-12).sum()) / (1 + len(null)))


def _quantiles(values: np.ndarray, at: list[float]) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    return tuple(np.quantile(values, at).tolist()) if len(values) else (float("nan"), float("nan"))


def auc(scores: Sequence[float], positive: Sequence[bool], level: float = 0.95, seed: int = 0) -> dict[str, float]:
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
    generator = np.random.default_rng(seed)
    drawn = [area(generator.choice(yes, len(yes)), generator.choice(no, len(no))) for _ in range(1999)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    p = float(stats.mannwhitneyu(yes, no).pvalue) if np.ptp(scores) > 0 else 1.0
    return {
        "auc": area(yes, no),
        "low": float(low),
        "high": float(high),
        "p": p,
        "positives": len(yes),
        "negatives": len(no),
    }
