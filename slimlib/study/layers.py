"""Layers as the unit of comparison: what rules keep of each beside what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slimlib.errors import SlimlibError
from slimlib.study.claims import sensitive_layers
from slimlib.study.ranks import auc

if TYPE_CHECKING:
    import pandas as pd


def layer_table(records: Sequence[dict[str, Any]], rule: str, budget: str | None, ratio: float) -> pd.DataFrame:
    """One row a group: measured accuracy `drop` at a ratio, the rule's `score`, and `stage`, the group's full width.

    Means over the records' seeds and, for controls drawn at random, over the control's. The score is the kept
    fraction at the budget, or its mean over budgets where that is "any"; for "depth" the layer's number from the
    input, for "neyman_score" V / T, whatever the budget.
    """
    import pandas as pd

    drops, scores = [], []
    for record in records:
        curve = pd.DataFrame(record["sensitivity"])
        drops.append(curve[np.isclose(curve["ratio"], ratio)].set_index("group"))
        if rule == "depth":
            scores.append(pd.Series(range(len(drops[-1])), index=drops[-1].index, dtype=float))
            continue
        kept = pd.DataFrame(record["kept"])
        kept = kept[kept["rule"] == rule]
        if budget != "any" and rule != "neyman_score":
            kept = kept[kept["budget"] == budget]
        scores.append(kept.groupby("group")["value"].mean())
    table = pd.DataFrame(
        {
            "drop": pd.concat([d["drop"] for d in drops]).groupby(level=0).mean(),
            "score": pd.concat(scores).groupby(level=0).mean(),
            "stage": pd.concat([d["full_width"] for d in drops]).groupby(level=0).first(),
        }
    )
    if table["score"].isna().any() or table["drop"].isna().any():
        raise SlimlibError(
            f"rule={rule!r}, budget={budget!r}, ratio={ratio}: the sensitivity records do not hold all groups"
        )
    return table.loc[list(dict.fromkeys(drops[0].index))]


def published_agreement(
    records: Sequence[dict[str, Any]], rule: str, budget: str | None, ratio: float = 0.75
) -> dict[str, float]:
    """AUC of a rule's score (rule "drop": of the measured drop) against the layers that Li et al. call sensitive."""
    architecture = records[0]["run"]["model"].removesuffix(":pretrained")
    known = sensitive_layers()
    if architecture not in known:
        raise SlimlibError(
            f"model={architecture!r}: no published list of sensitive layers; there are {', '.join(known)}"
        )
    layers = layer_table(records, "depth" if rule == "drop" else rule, budget, ratio)
    layers = layers[~layers.index.isin(known[architecture].get("exclude", ()))]
    return auc(layers["drop" if rule == "drop" else "score"], layers.index.isin(known[architecture]["sensitive"]))
