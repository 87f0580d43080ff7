"""What the architecture alone says of a network's layers: the same one with fresh weights, beside what training made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from slimlib.errors import SlimlibError
from slimlib.randomness import seeded
from slimlib.study.names import architecture

if TYPE_CHECKING:
    import pandas as pd
    import torch


def untrained_network(dataset: str, model: str, seed: int = 0) -> tuple[torch.nn.Module, torch.Tensor]:
    """The architecture of a run with fresh weights, and an empty image of its data set: no data and no training needed.

    Raises SlimlibError for a data set that is not known.
    """
    import torch

    from slimlib import models
    from slimlib.imagesets import KNOWN, NAMES

    if dataset not in NAMES:
        raise SlimlibError(f"dataset={dataset!r} is unknown; choose one of {', '.join(NAMES)}")
    known = KNOWN.get(dataset)
    classes, channels, side = (known.num_classes, len(known.mean), known.side) if known else (1000, 3, 224)
    with seeded(seed):
        network = models.build(architecture(model), classes, channels)
    return network.eval(), torch.zeros(1, channels, side, side)


def trained_and_untrained(record: dict[str, Any], seeds: int = 3, at_most: int = 10) -> pd.DataFrame:
    """Cumulative contributions of a scanned network's layers, and of the same architecture with fresh weights.

    Columns layer, weights ("trained" or "untrained"), seed, component (as a share of the width) and share. Of many
    layers, `at_most` are taken, evenly spread from the first to the last.
    """
    import pandas as pd

    import slimlib

    run, rows = record["run"], []
    names = list(record["spectra"])
    chosen = [names[i] for i in sorted({round(at) for at in np.linspace(0, len(names) - 1, min(at_most, len(names)))})]
    sides = [("trained", run["seed"], record["spectra"])]
    for seed in range(seeds):
        network, example = untrained_network(run["dataset"], run["model"], seed)
        sides.append(("untrained", seed, slimlib.spectra(network, example, center=run["center"], coupling=run["coupling"])))
    for weights, seed, spectra in sides:
        for layer in chosen:
            share = slimlib.cumulative(np.asarray(spectra[layer], float))
            component = np.arange(1, len(share) + 1) / len(share)
            part = {"layer": layer, "weights": weights, "seed": seed, "component": component, "share": share}
            rows.append(pd.DataFrame(part))
    return pd.concat(rows, ignore_index=True)


def rank_bound(dataset: str, model: str, below: float = 0.9) -> dict[str, int]:
    """Groups of which PCA can never keep more than `below` of the width, whatever they have learnt: {group: the most}."""
    import slimlib

    plan = slimlib.plan_widths(*untrained_network(dataset, model), threshold=1.0)
    return {group: most for group, most in plan.rank_bound.items() if most < below * plan.full_widths[group]}
