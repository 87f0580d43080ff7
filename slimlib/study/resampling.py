"""Rank correlations of layers drawn again, for intervals, and put in other orders, for permutation tests."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from scipy import stats


@lru_cache(maxsize=8)
def _draws(n: int, resamples: int, seed: int) -> np.ndarray:
    """n layers drawn again with replacement, one draw a row; the same for all pairs of quantities that are looked at."""
    return np.random.default_rng(seed).integers(0, n, (resamples, n))


@lru_cache(maxsize=64)
def _centred_ranks_of_draws(values: tuple[float, ...], resamples: int, seed: int) -> np.ndarray:
    """Kept, as the same drops and the same order by depth stand beside every rule."""
    return _centred_ranks(np.array(values)[_draws(len(values), resamples, seed)])


def spearman_of_draws(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Spearman's coefficient of x with y, one value a layer, in each draw: shape (resamples,); nan where a draw is constant."""
    return _correlated(*(_centred_ranks_of_draws(tuple(v.tolist()), resamples, seed) for v in (x, y)))


@lru_cache(maxsize=8)
def _orders(n: int, permutations: int, seed: int) -> np.ndarray:
    """Random orders of n layers, one a row; the same for all pairs of quantities that are looked at."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)


@lru_cache(maxsize=4)
def _every_order(n: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(n))), np.int8)


def shuffled(x: np.ndarray, y: np.ndarray, permutations: int | None, seed: int) -> np.ndarray:
    """Spearman's coefficients of x with y in so many random orders; None: in every order there is, each once."""
    a, b = (ranks - ranks.mean() for ranks in map(stats.rankdata, (x, y)))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    orders = _every_order(len(x)) if permutations is None else _orders(len(x), permutations, seed)
    return b[orders] @ a / scale if scale > 0 else np.full(len(orders), np.nan)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's coefficient, ties with mean ranks; nan where x or y is constant."""
    return float(_correlated(_centred_ranks(x[None]), _centred_ranks(y[None]))[0])


def _centred_ranks(rows: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(rows, axis=1)
    return ranks - ranks.mean(1, keepdims=True)


def _correlated(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The correlation of each row of a with that row of b, both centred; nan for a constant row."""
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 0)


@lru_cache(maxsize=16)
def _pairs_of_draws(values: tuple[float, ...], resamples: int, seed: int) -> np.ndarray:
    """Which layer of each pair is higher, -1, 0 or 1, draw by draw."""
    drawn, v = _draws(len(values), resamples, seed), np.array(values)
    return np.sign(v[:, None] - v).astype(np.int8)[drawn[:, :, None], drawn[:, None, :]]


def kendall_of_draws(x: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Kendall's tau-b of each draw, by all pairs; nan where a draw is constant."""
    a, b = (_pairs_of_draws(tuple(v.tolist()), resamples, seed) for v in (x, y))
    scale = np.sqrt(np.count_nonzero(a, axis=(1, 2)) * np.count_nonzero(b, axis=(1, 2)).astype(float))
    agreeing = (a * b).sum(axis=(1, 2), dtype=np.int64)
    return np.divide(agreeing, scale, out=np.full(len(a), np.nan), where=scale > 0)


def permutation_p(found: float, null: np.ndarray, every: bool = False) -> float:
    """Two-sided: how much of the null is as far from zero. ``every`` order is in it, or the found one counts as one more."""
    if not np.isfinite(found):
        return float("nan")
    extreme = int((np.abs(null) >= abs(found) - 1e-12).sum())
    return extreme / len(null) if every else (1 + extreme) / (1 + len(null))


def quantiles(values: np.ndarray, at: list[float]) -> tuple[float, float]:
    """Two quantiles of those values that are finite; nan where none is."""
    values = values[np.isfinite(values)]
    return tuple(np.quantile(values, at).tolist()) if len(values) else (float("nan"), float("nan"))
