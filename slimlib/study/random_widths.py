"""What the shape of a layer alone says of its width: the widths of random filters, beside those of trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slimlib.arguments import share
from slimlib.errors import SlimlibError
from slimlib.study.findings import LAYERS_FOR_A_SENTENCE
from slimlib.study.layers import layer_table
from slimlib.study.names import counted, joined, network_name, plain_name, signed
from slimlib.study.store import network_of
from slimlib.study.untrained import untrained_network

if TYPE_CHECKING:
    import pandas as pd
    import torch

STEPS = 2000
"""Intervals of the numerical integration; with ten times as many, kept fractions move by less than a millionth."""


def kept_by_chance(aspect: float | np.ndarray, threshold: float) -> np.ndarray:
    """The kept fraction of a large layer of independent random weights, by the law of Marchenko & Pastur (1967).

    aspect      n / d: filters over dimensions of their space, which are the p positions uncentred and p - 1 centred; above 0, any
                shape
    threshold   share of the variance to keep, in (0, 1]

    Returns k / n, shaped as ``aspect``: the largest k of n eigenvalues hold this share of their sum. Where n exceeds d, only d of
    them are not 0, and d / n bounds the fraction.
    """
    threshold = share("threshold", threshold, "it is the share of each layer's variance to keep")
    aspect = np.asarray(aspect, float)
    if not (aspect > 0).all():
        raise SlimlibError(f"aspect={aspect.min():g} must be above 0: it is the number of filters over that of dimensions")
    # With y = n / d the eigenvalues are x = 1 + y + 2 sqrt(y) cos(a), 0 < a < pi; their density in a is (2 / pi) sin(a)^2 / x.
    # Times x it is that of the variance: of this the largest, up to the angle a, hold (a - sin(a) cos(a)) / pi, whatever y is.
    low, high = 0.0, np.pi
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - np.sin(middle) * np.cos(middle) < np.pi * threshold else (low, middle)
    angle = high * (np.arange(STEPS) + 0.5) / STEPS
    eigenvalue = 1 + aspect[..., None] + 2 * np.sqrt(aspect)[..., None] * np.cos(angle)
    return np.minimum((2 / np.pi * np.sin(angle) ** 2 / eigenvalue).sum(-1) * high / STEPS, 1.0)


def dimensions(
    network: torch.nn.Module, example_input: torch.Tensor, center: bool = True, coupling: str = "inner"
) -> dict[str, int]:
    """Group -> dimensions of the space that its filters span at most: the positions, less one for each centred layer."""
    import slimlib
    from slimlib.filters import filter_rows

    groups = slimlib.trace(network, example_input).slimmable(coupling)
    return {group.name: sum(rows.shape[1] - center for rows in filter_rows(network, group)) for group in groups}


def by_shape(
    sides: Mapping[str, Sequence[Mapping[str, Sequence[float]]]], dimensions: Mapping[str, int], threshold: float
) -> pd.DataFrame:
    """Widths at a threshold beside the shapes of the layers.

    sides        spectra by weights: {"trained": [{layer: eigenvalues}, ...], "untrained": [...]}, one a draw, equally many
    dimensions   {layer: d}, of `dimensions`

    One row a layer, draw and kind of weights: layer, draw, weights, filters (n), dimensions (d), aspect (n / d), width, kept, and
    chance, of `kept_by_chance`.
    """
    import pandas as pd

    import slimlib

    rows = [(layer, draw, weights, len(spectra[layer]), dimensions[layer], width)
            for weights, draws in sides.items() for draw, spectra in enumerate(draws)
            for layer, width in slimlib.widths_at({name: np.asarray(v, float) for name, v in spectra.items()}, threshold).items()]
    table = pd.DataFrame(rows, columns=["layer", "draw", "weights", "filters", "dimensions", "width"])
    aspect = table["filters"] / table["dimensions"]
    chance = kept_by_chance(aspect.to_numpy(), threshold)
    return table.assign(aspect=aspect, kept=table["width"] / table["filters"], chance=chance)


def by_shape_of_records(records: Sequence[dict[str, Any]], threshold: float) -> pd.DataFrame:
    """`by_shape` of one network's scans, each beside the same architecture with fresh weights of the scan's seed."""
    import slimlib

    dataset, model = network_of(records[0])
    how = {name: records[0]["run"][name] for name in ("center", "coupling")}
    drawn = [untrained_network(dataset, model, record["run"]["seed"]) for record in records]
    sides = {"trained": [record["spectra"] for record in records],
             "untrained": [slimlib.spectra(*one, **how) for one in drawn]}
    return by_shape(sides, dimensions(*drawn[0], **how), threshold)


def moved(table: pd.DataFrame) -> str:
    """In how many layers the trained width differs from the untrained one, and by how many filters. ``table`` of `by_shape`.

    Of several draws each layer counts once a draw, as a case.
    """
    pairs = table.pivot(index=["layer", "draw"], columns="weights", values="width")
    gap = pairs["trained"] - pairs["untrained"]
    by, what = gap.abs(), "layer" if table["draw"].nunique() == 1 else "case"
    equal, one, more = (int(where.sum()) for where in (by == 0, by == 1, by > 1))
    said = f"Of {counted(len(gap), what)}, the trained width equals the untrained one in {equal}, differs by 1 filter in {one} " \
           f"and by more in {more}."
    if (most := int(by.max())) <= 1:
        how, within = ("of no layer by more than 1 filter", ", to within one filter,") if most else ("of no layer", "")
        return f"{said} Training changes the width {how}: the width read off the trained weights is{within} that of random " \
               "weights of this shape."
    at = by.idxmax()
    full = table.drop_duplicates("layer").set_index("layer")["filters"][at[0]]
    return (f"{said} By more than one filter it is narrower in {int((gap < -1).sum())} and wider in {int((gap > 1).sum())}. They "
            f"differ most in {at[0]}: {pairs['trained'][at]} of {full} filters trained, {pairs['untrained'][at]} untrained.")


def of_fewer_positions(records: Sequence[dict[str, Any]], budget: str, ratio: float) -> list[str]:
    """What PCA keeps of layers that read fewer channels than all others of their width, and what the network loses with them.

    One sentence a layer of one network's scans: where a stage begins, in a ResNet. What is kept is at ``budget``, beside the mean
    of the others of that width; the loss is without ``ratio`` of the layer's filters.
    """
    dataset, model = network_of(records[0])
    how = {name: records[0]["run"][name] for name in ("center", "coupling")}
    trained, untrained = (layer_table(records, rule, budget, ratio) for rule in ("pca", "pca_at_init"))
    p = trained.index.map(dimensions(*untrained_network(dataset, model), **how | {"center": False})).to_series(trained.index)
    aspect, place, said = trained["stage"] / p, trained["drop"].rank(ascending=False, method="min").astype(int), []
    for layer, row in trained.iterrows():
        others = trained.index[(trained["stage"] == row["stage"]) & (trained.index != layer)]
        if len(others) and aspect[layer] > 1.5 * aspect[others].max():
            kept = [f"{100 * one['score'][layer]:.0f} % of it and {100 * one['score'][others].mean():.0f} % of them"
                    for one in (trained, untrained)]
            said.append(f"{network_name(dataset, model)}, {layer}: n/p is {aspect[layer]:.2f}, in the others of its width at "
                        f"most {aspect[others].max():.2f}. PCA keeps {kept[0]}; untrained, {kept[1]}. By the loss without "
                        f"{100 * ratio:g} % of its filters, {100 * row['drop']:.1f} points, it is number {place[layer]} of "
                        f"{len(trained)} layers.")
    return said


def without_bounded(before: pd.DataFrame, after: pd.DataFrame, bounded: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    """How much a rule's coefficient changes when the layers that are bounded by their rank are left out: a sentence a row.

    before, after   of `layers.correlations` at one budget and ratio; a network that has no row in ``before`` is told as it is
    bounded         {(data set, model): its bounded layers}
    """
    keys, said = ["dataset", "model", "rule"], []
    earlier = {tuple(row[key] for key in keys): row for row in before.to_dict("records")}
    for row in after.to_dict("records"):
        network, was = network_name(row["dataset"], row["model"]), earlier.get(tuple(row[key] for key in keys))
        told = f"{network}, {plain_name(row['rule'])}: without {joined(bounded[row['dataset'], row['model']])} Spearman's " \
               f"coefficient is {signed(row['spearman'])} (p = {row['p']:.2g}, n = {row['n']} layers)"
        if was:
            told += f"; with all it is {signed(was['spearman'])} (p = {was['p']:.2g}, n = {was['n']}), a change of " \
                    f"{signed(row['spearman'] - was['spearman'])}"
        weak = f". Of {row['n']} layers that is weak evidence either way" if row["n"] < LAYERS_FOR_A_SENTENCE else ""
        said.append(f"{told}{weak}.")
    return said
