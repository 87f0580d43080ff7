"""Layers as the unit of comparison: what rules keep of each beside what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slimlib.errors import SlimlibError
from slimlib.study.evidence import Evidence
from slimlib.study.names import architecture
from slimlib.study.ranks import auc, gain, most_tied, rank_agreement, without_one
from slimlib.study.statistics import holm
from slimlib.study.store import network_of

if TYPE_CHECKING:
    import pandas as pd

WHATEVER_THE_BUDGET = ("depth", "neyman_score")
"""Orders of layers that no budget changes."""


def layer_table(records: Sequence[dict[str, Any]], rule: str, budget: str | None, ratio: float) -> pd.DataFrame:
    """One row a group: measured accuracy `drop` at a ratio, the rule's `score`, and `stage`, the group's full width.

    Means over the records' seeds and, for controls drawn at random, over the control's. The score is the kept
    fraction at the budget, or its mean over budgets where that is "any"; for "depth" the layer's number from the
    input, for "neyman_score" V / T, whatever the budget.
    """
    import pandas as pd

    drops, scores = [], []
    for record in records:
        _must_hold(record, rule, budget, ratio)
        curve = pd.DataFrame(record["sensitivity"])
        drops.append(curve[np.isclose(curve["ratio"], ratio)].set_index("group"))
        if rule == "depth":
            scores.append(pd.Series(range(len(drops[-1])), index=drops[-1].index, dtype=float))
            continue
        kept = pd.DataFrame(record["kept"])
        kept = kept[kept["rule"] == rule]
        if budget != "any" and rule not in WHATEVER_THE_BUDGET:
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
        raise SlimlibError(f"rule={rule!r}, budget={budget!r}, ratio={ratio}: the sensitivity records do not hold all groups")
    return table.loc[list(dict.fromkeys(drops[0].index))]


def _must_hold(record: Mapping[str, Any], rule: str, budget: str | None, ratio: float) -> None:
    """Refuse a ratio, rule or budget that a scan has not, with those it has."""
    ratios = sorted(set(record["sensitivity"]["ratio"]) - {0.0})
    asked = {"ratio": (next((known for known in ratios if np.isclose(known, ratio)), ratio), ratios)}
    if rule != "depth":
        asked["rule"] = (rule, list(dict.fromkeys(record["kept"]["rule"])))
    if rule not in WHATEVER_THE_BUDGET and budget != "any":
        asked["budget"] = (budget, [b for b in dict.fromkeys(record["kept"]["budget"]) if b is not None])
    for name, (value, there) in asked.items():
        if value not in there:
            raise SlimlibError(f"{name}={value!r} is not in the sensitivity records, which hold {', '.join(map(str, there))}")


def mean_scan(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The scan of one network, averaged over its records' seeds: columns of `slimlib.sensitivity`, rows in its order."""
    import pandas as pd

    scans = [pd.DataFrame(record["sensitivity"]) for record in records]
    means = pd.concat(scans).groupby(["group", "ratio"], sort=False).mean().reset_index()
    return means.astype({"width": int, "full_width": int})


def rules_scanned(records: Sequence[dict[str, Any]], budget: str) -> list[str]:
    """The rules whose kept fractions at a budget every record holds."""
    held = [{r for r, b in zip(rec["kept"]["rule"], rec["kept"]["budget"], strict=True) if b == budget} for rec in records]
    return [rule for rule in dict.fromkeys(records[0]["kept"]["rule"]) if all(rule in rules for rules in held)]


def with_layers(scans: Evidence, least: int = 6) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """`Evidence.networks` of those networks that have enough layers for an order of them to say something."""
    few = too_few_layers(scans.records, None, least)
    yield from ((which, part) for which, part in scans.networks() if which not in few)


def too_few_layers(
    records: Iterable[Mapping[str, Any]], exclude: Mapping[str, Sequence[str]] | None, least: int
) -> set[tuple[str, str]]:
    """The networks, (data set, model), of whose layers an order says nothing: fewer than `least` besides those left out."""
    few, left_out = set(), exclude or {}
    for record in records:
        dataset, model = network_of(record)
        if len(set(record["sensitivity"]["group"]) - set(left_out.get(architecture(model), ()))) < least:
            few.add((dataset, model))
    return few


def correlations(
    records: Sequence[dict[str, Any]],
    rules: Iterable[str] | None,
    budgets: Iterable[str],
    ratios: Iterable[float],
    exclude: Mapping[str, Sequence[str]] | None = None,
    level: float = 0.95,
    min_groups: int = 3,
) -> pd.DataFrame:
    """Rank agreement of each rule's choice with the measured drop: `RankAgreement` as columns.

    One row a network, rule, budget and ratio; `low` and `high` are Spearman's interval. `over_depth` is how much higher the
    coefficient is than that of depth alone, with its interval; `without_low` and `without_high` are its reach when each layer in
    turn is left out; `median_drop` and `largest_drop` are of the layers' accuracy, as an order of drops that are next to nothing
    is next to chance. Networks with fewer layers than `min_groups` are left out. `exclude` holds groups to leave out by
    architecture. `rules` None means every rule that the network's records hold at all budgets, the control "depth" behind the
    first of them and "neyman_score" last.
    """
    import pandas as pd

    given, budgets, ratios, rows = None if rules is None else list(rules), list(budgets), list(ratios), []
    few = too_few_layers(records, exclude, min_groups)
    for dataset, model in dict.fromkeys(map(network_of, records)):
        if (dataset, model) in few:
            continue
        mine = [record for record in records if network_of(record) == (dataset, model)]
        left_out = (exclude or {}).get(architecture(model), ())
        held = [rule for rule in rules_scanned(mine, budgets[0]) if all(rule in rules_scanned(mine, b) for b in budgets)]
        for rule in [*held[:1], "depth", *held[1:], "neyman_score"] if given is None else given:
            for budget in budgets:
                for ratio in ratios:
                    table = layer_table(mine, rule, budget, ratio)
                    row = {"dataset": dataset, "model": model, "rule": rule, "budget": budget, "ratio": ratio}
                    rows.append(row | _agreement(table[~table.index.isin(left_out)], level))
    return pd.DataFrame(rows)


def _agreement(table: pd.DataFrame, level: float) -> dict[str, float]:
    """What `correlations` tells of one `layer_table`."""
    found = rank_agreement(table["score"], table["drop"], table["stage"].tolist(), level).to_dict()
    found |= {"low": found["spearman_low"], "high": found["spearman_high"]}
    over = gain(table["score"], np.arange(len(table)), table["drop"], level)
    found |= dict(zip(("over_depth", "over_depth_low", "over_depth_high"), over, strict=True))
    found |= dict(zip(("without_low", "without_high"), without_one(table["score"], table["drop"]), strict=True))
    return found | most_tied(table["score"]) | {"median_drop": table["drop"].median(), "largest_drop": table["drop"].max()}


def known_and_unseen(
    known: Sequence[dict[str, Any]], unseen: Sequence[dict[str, Any]], rules: Iterable[str], budget: str, ratios: Iterable[float]
) -> pd.DataFrame:
    """Two scans of the same networks, on images of their training and on new ones: do the layers come in the same order?

    One row a network and ratio: `drops`, Spearman's coefficient of the drops of the two scans, and for each rule that of its
    choice with the drops of either, "<rule>, known" and "<rule>, unseen". Networks without both scans are left out.
    """
    import pandas as pd

    rules, rows = list(rules), []
    for which in dict.fromkeys(map(network_of, unseen)):
        sides = {name: [r for r in side if network_of(r) == which] for name, side in (("known", known), ("unseen", unseen))}
        for ratio in ratios if sides["known"] else ():
            row: dict[str, Any] = {"dataset": which[0], "model": which[1], "ratio": ratio}
            drops = [layer_table(side, "depth", None, ratio)["drop"] for side in sides.values()]
            row["drops"] = drops[0].corr(drops[1], method="spearman")
            for rule in rules:
                for name, side in sides.items():
                    table = layer_table(side, rule, budget, ratio)
                    row[f"{rule}, {name}"] = table["score"].corr(table["drop"], method="spearman")
            rows.append(row)
    return pd.DataFrame(rows)


def published_agreement(
    records: Sequence[dict[str, Any]], rule: str, budget: str | None, listed: Mapping[str, Any], ratio: float = 0.75
) -> dict[str, float]:
    """AUC of a rule's score (rule "drop": of the measured drop) against a list of `claims.published_layers`."""
    layers = layer_table(records, "depth" if rule == "drop" else rule, budget, ratio)
    if unknown := {*listed["layers"], *listed.get("exclude", ())} - {*layers.index}:
        raise SlimlibError(f"{min(unknown)!r} is no layer of the scanned network; it has {', '.join(layers.index)}")
    layers = layers[~layers.index.isin(listed.get("exclude", ()))]
    scores = layers["drop" if rule == "drop" else "score"]
    return auc(scores, layers.index.isin(listed["layers"])) | most_tied(scores)


BESIDE_LISTS = ("pca", "pca_at_init", "depth", "neyman_score")
"""The orders that stand beside the measured drop where layers on published lists are looked for; Holm's p corrects for all."""


def published_table(
    records: Sequence[dict[str, Any]], rules: Iterable[str], budget: str, listed: Mapping[str, Any], ratio: float = 0.75
) -> pd.DataFrame:
    """`published_agreement` of the measured drop and of several rules, one row each, with Holm's p over the rows."""
    import pandas as pd

    table = pd.DataFrame({rule: published_agreement(records, rule, budget, listed, ratio) for rule in ("drop", *rules)}).T
    return table.assign(p_holm=holm(table["p"])).astype({"positives": int, "negatives": int})
