"""PCA of a layer's filters: the method of 3AS (Wang et al. 2022, arXiv 2202.10461).

A layer's n filters, each flattened to a row of p weights, form a matrix W of shape (n, p). Its columns are p points in a space
with one axis a filter; their covariance is n x n, and its eigenvalues say how much of the filters' variance each orthogonal
direction carries. The width of the layer is the number of directions needed for a given share of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from slimlib.arguments import by_name, flag, share
from slimlib.errors import SlimlibError
from slimlib.filters import filter_rows, in_float64
from slimlib.layout import Layout
from slimlib.tracing import trace

TOLERANCE = 1e-12  # of the threshold: r_i and t are both rounded, so "equal" must not depend on the last bit
GRAM_ROWS = 256  # of a Gram matrix that one product makes: with larger blocks, less of the upper half is left out


def spectra(
    model: nn.Module, example_input: torch.Tensor, center: bool = True, coupling: str = "inner", folded: bool = False
) -> dict[str, np.ndarray]:
    """Group -> eigenvalues of its filters' covariance, float64, descending, as many as the group is wide.

    ``center``: each filter is centred by its own mean (the covariance of its weights over positions); False is the
    uncentred reading. ``coupling``: see :meth:`Layout.slimmable`. ``folded``: each filter is first multiplied by gamma/sigma
    of the BatchNorm that follows, so that rescaling a filter changes nothing where its BatchNorm compensates.

    Raises SlimlibError for a network whose layout cannot be read, see :func:`slimlib.trace`, and where there is nothing to fold.
    """
    center, folded = flag("center", center), flag("folded", folded)
    return layout_spectra(model, trace(model, example_input), center, coupling, folded)


def layout_spectra(
    model: nn.Module, layout: Layout, center: bool = True, coupling: str = "inner", folded: bool = False
) -> dict[str, np.ndarray]:
    """:func:`spectra` for a layout that is already traced."""
    groups = layout.slimmable(coupling)
    if folded and groups and not any(m.module in layout.norm_after for g in groups for m in g.writers()):
        raise SlimlibError("a folded spectrum needs a BatchNorm with running statistics after at least one of the layers to be "
                           "slimmed, and this model has none there; use the plain one (without folded=True, or rule='pca')")
    fold = layout if folded else None
    where = next((p.device for p in model.parameters() if p.device.type == "cuda"), torch.device("cpu"))
    layers = (filter_rows(model, g, fold, where) for g in groups)
    if where.type == "cuda":
        found = _solved_by_size(scatter(rows, center) for rows in layers)
    else:
        found = [eigenvalues(rows, center) for rows in layers]
    return {g.name: values for g, values in zip(groups, found, strict=True)}


def eigenvalues(rows: list[torch.Tensor], center: bool = True) -> np.ndarray:
    """Eigenvalues of the filters' covariance, descending, length n; ``rows``: matrices (n, p_m), one a layer, taken
    in float64.

    The matrices are put side by side, so their scatters add. Centring takes each filter's mean within each layer. The divisor
    is the number of positions, less one for each centred layer (as ``numpy.cov``). Centred, at most min(n, sum of (p_m - 1)) of
    them are not 0, else min(n, sum of p_m).
    """
    one = scatter(rows, center)
    return _descending(torch.linalg.eigvalsh(one.matrix, UPLO="L"), one)


@dataclass(frozen=True, eq=False)
class Scatter:
    """A symmetric matrix with the eigenvalues of a covariance of n variables, its lower half filled; ``rank`` bounds them."""

    matrix: torch.Tensor
    n: int
    rank: int


def scatter(rows: list[torch.Tensor], center: bool = True) -> Scatter:
    """The smaller of the two Gram matrices of the filters: its non-zero eigenvalues are those of the other, the rest are 0."""
    rows = [in_float64(r) for r in rows]
    centred = [r - r.mean(1, keepdim=True) if center else r for r in rows]
    x = torch.cat(centred, dim=1) if len(centred) > 1 else centred[0]
    n, p = x.shape
    degrees = p - len(rows) * center
    return Scatter(_lower_gram(x if n <= p else x.T).div_(max(1, degrees)), n, min(n, degrees))


def _solved_by_size(scatters: Iterable[Scatter]) -> list[np.ndarray]:
    """The eigenvalues of each, all matrices of one size in one call: on a GPU many small calls would wait for each other."""
    every = list(scatters)
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, one in enumerate(every):
        by_size[len(one.matrix)].append(i)
    found: dict[int, np.ndarray] = {}
    for same in by_size.values():
        values = torch.linalg.eigvalsh(torch.stack([every[i].matrix for i in same]), UPLO="L")
        found |= {i: _descending(own, every[i]) for i, own in zip(same, values, strict=True)}
    return [found[i] for i in range(len(every))]


def _descending(ascending: torch.Tensor, of: Scatter) -> np.ndarray:
    values = ascending.flip(0).clamp_min(0).cpu().numpy()
    return np.concatenate([values[:of.rank], np.zeros(of.n - of.rank)])  # beyond the rank bound there is rounding, not variance


def _lower_gram(x: torch.Tensor) -> torch.Tensor:
    """x x^T, blocks above the diagonal left zero: the eigenvalue routine reads the lower half, and the upper costs as much."""
    gram = x.new_zeros(len(x), len(x))
    for start in range(0, len(x), GRAM_ROWS):
        stop = min(start + GRAM_ROWS, len(x))
        gram[start:stop, :stop] = x[start:stop] @ x[:stop].T
    return gram


def must_descend(values: np.ndarray, group: str = "") -> np.ndarray:
    """The values as float64, if they are what a spectrum is: those of ``numpy.linalg.eigvalsh`` ascend, and may be below 0."""
    values = np.asarray(values, float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or values[-1] < 0 or (np.diff(values) > 0).any():
        raise SlimlibError(f"spectra: the eigenvalues of {group or 'a layer'} must be finite, not below 0 and in descending "
                           "order, as slimlib.spectra returns them")
    return values


def cumulative(values: np.ndarray, group: str = "") -> np.ndarray:
    """Cumulative contribution r_1 <= ... <= r_n = 1: the share of variance in the first i directions.

    ``values``: eigenvalues in descending order, (n,); ``group``: the name to give in the error where they are none, or have no
    variance to share.
    """
    values = must_descend(values, group)
    total = values.sum()
    if not total > 0:
        alone = f"leave the layer whole with skip=[{group!r}], or, " if group else ""
        raise SlimlibError(f"spectra: there is no variance at all in {group or 'a layer'} (all weights of each filter are equal, "
                           f"as where it has only one); {alone}where its weights are not 0, give center=False")
    r = np.minimum(np.cumsum(values) / total, 1.0)  # two ways to add up differ in the last digit
    r[-1] = 1.0
    return r


def width_at(values: np.ndarray, threshold: float, group: str = "") -> int:
    """The least i with r_i >= threshold (up to one part in 10^12), at least 1; the rest as in :func:`cumulative`."""
    return int(np.searchsorted(cumulative(values, group), threshold * (1 - TOLERANCE))) + 1


def widths_at(values: Mapping[str, np.ndarray], threshold: float) -> dict[str, int]:
    """Every group's width at one threshold in (0, 1]: how we read Wang et al. (2022), who may have had one for each layer.

    ``values``: group -> its eigenvalues in descending order, as :func:`slimlib.spectra` returns them. Raises SlimlibError for a
    threshold out of range, and for values that have no names, are no spectrum or hold no variance.
    """
    threshold = share("threshold", threshold, "it is the share of each layer's variance to keep")
    by_name("values", values, "what slimlib.spectra returns: the eigenvalues of each group by name")
    return {name: width_at(v, threshold, name) for name, v in values.items()}
