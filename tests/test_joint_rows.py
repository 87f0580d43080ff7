"""Joint groups whose layers hold its channels in part, in another order or in several rows: filters stacked by hand in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import slimlib
from slimlib.criteria import CRITERIA, choose_filters
from tests.conftest import lively_norms, masking_error
from tests.test_user_networks import Net, conv, pooled


def behind_two_parts() -> Net:
    """One layer on what two others have written side by side."""
    return Net(lambda m, x: m.head(pooled((torch.cat([m.a(x), m.b(x)], 1) + m.nc(m.c(x))).relu())), a=conv(3, 4), b=conv(3, 4),
               c=conv(3, 8), nc=nn.BatchNorm2d(8), head=nn.Linear(8, 5))


def in_another_order() -> Net:
    """Two parts join one stream in their order and another one in the other."""
    def forward(m, x):
        c, a, b = m.nc(m.c(x)), m.a(x), m.nb(m.b(x))
        streams = c + torch.cat([a, b], 1), m.nd(m.d(x)) + torch.cat([b, a], 1)
        return m.head(pooled(torch.cat(streams, 1).relu()))

    return Net(forward, a=conv(3, 4), b=conv(3, 4), nb=nn.BatchNorm2d(4), c=conv(3, 8), nc=nn.BatchNorm2d(8), d=conv(3, 8),
               nd=nn.BatchNorm2d(8), head=nn.Linear(16, 5))


def in_several_rows() -> Net:
    """A Linear layer writes each of the four positions of an image."""
    return Net(lambda m, x: m.head((m.a(x).flatten(1) + m.nl(m.l(pooled(x)))).relu()), a=nn.Conv2d(3, 8, 3, stride=8),
               l=nn.Linear(3, 32), nl=nn.BatchNorm1d(32), head=nn.Linear(32, 5))


FIRST, LAST, SWAPPED = [*range(4)], [*range(4, 8)], [4, 5, 6, 7, 0, 1, 2, 3]
NETWORKS = {
    # network: group -> (layer, the norm behind it or None, the rows of the layer for each channel of the group, None where none)
    behind_two_parts: {"a": [("a", None, FIRST), ("c", "nc", FIRST)], "b": [("b", None, FIRST), ("c", "nc", LAST)]},
    in_another_order: {"c": [("c", "nc", [*range(8)]), ("a", None, [*FIRST, *[None] * 4]), ("b", "nb", [*[None] * 4, *FIRST]),
                             ("d", "nd", SWAPPED)]},
    in_several_rows: {"a": [("a", None, [*range(8)]), ("l", "nl", [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] for i in range(8)])]},
}


def stacked(model: nn.Module, placed: list, folded: bool = False) -> list[np.ndarray]:
    """For each layer a matrix with a row a channel, zeros where the layer does not hold the channel."""
    found = []
    for layer, norm, places in placed:
        weight = model.get_submodule(layer).weight.detach().double().flatten(1).numpy()
        if folded and norm:
            m = model.get_submodule(norm)
            weight = weight * (m.weight.detach().double() / (m.running_var.double() + m.eps).sqrt()).numpy()[:, None]
        width = max(np.size(weight[place]) for place in places if place is not None)
        found.append(np.array([np.zeros(width) if place is None else weight[place].ravel() for place in places]))
    return found


@pytest.fixture(params=NETWORKS, ids=lambda build: build.__name__)
def awkward(request):
    """(model, example input, its joint groups by name, how their layers hold them)."""
    torch.manual_seed(0)
    model, x = lively_norms(request.param()), torch.randn(2, 3, 12, 12)
    layout = slimlib.trace(model, x)
    groups = {g.name: g for g in layout.slimmable("joint")}
    assert set(groups) == set(NETWORKS[request.param])
    return model, x, layout, groups, NETWORKS[request.param]


def test_scores_are_of_the_filters_that_write_a_channel(awkward):
    model, x, layout, groups, placed = awkward
    for name, group in groups.items():
        rows = np.concatenate(stacked(model, placed[name]), axis=1)
        np.testing.assert_allclose(CRITERIA["l1"](model, group), np.abs(rows).sum(1))
        np.testing.assert_allclose(CRITERIA["l2"](model, group), np.linalg.norm(rows, axis=1))
        np.testing.assert_allclose(CRITERIA["gm"](model, group), [np.linalg.norm(rows - row, axis=1).sum() for row in rows])
        scales = np.zeros(group.width)
        for _, norm, places in placed[name]:
            if norm:
                gamma = model.get_submodule(norm).weight.detach().abs().double().numpy()
                scales += [0 if place is None else gamma[place].sum() for place in places]
        if scales.any():
            np.testing.assert_allclose(CRITERIA["bn"](model, group), scales)
    keep = choose_filters(model, layout, {name: group.width // 2 for name, group in groups.items()})
    assert masking_error(model, layout, keep, x) < 1e-5


@pytest.mark.parametrize("folded", [False, True])
def test_spectra_are_of_the_filters_side_by_side(awkward, folded):
    """Each layer's filters centred by themselves; the divisor is the number of positions, less one a layer."""
    model, x, _, groups, placed = awkward
    found = slimlib.spectra(model, x, coupling="joint", folded=folded)
    for name in groups:
        rows = stacked(model, placed[name], folded)
        side_by_side = np.concatenate([r - r.mean(1, keepdims=True) for r in rows], axis=1)
        covariance = side_by_side @ side_by_side.T / (side_by_side.shape[1] - len(rows))
        np.testing.assert_allclose(found[name], np.linalg.eigvalsh(covariance)[::-1], rtol=1e-8, atol=1e-12)
