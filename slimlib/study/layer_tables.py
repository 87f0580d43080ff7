"""Tables of layers as readers see them: one line a network and rule, coefficients with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slimlib.study.claims import published_layers
from slimlib.study.findings import auc_told, degree
from slimlib.study.layers import BESIDE_LISTS, published_table
from slimlib.study.names import architecture, interval, joined, network_name, plain_name, signed
from slimlib.study.store import network_of

if TYPE_CHECKING:
    import pandas as pd


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Networks and rules by coefficients: Spearman and Kendall with intervals, the reach with one layer left out, beyond
    depth, within stages, p-values.

    table   of `layers.correlations`, one row a network and rule, with p_holm
    """
    import pandas as pd

    rows = []
    for row in table.to_dict("records"):
        told = {"network": network_name(row["dataset"], row["model"]), "rule": plain_name(row["rule"]), "layers": row["n"]}
        told |= {"Spearman": f"{signed(row['spearman'])} {interval(row['low'], row['high'], 1)}"}
        told |= {"without one layer": f"{signed(row['without_low'])} to {signed(row['without_high'])}"}
        told |= {"Kendall": f"{signed(row['kendall'])} {interval(row['kendall_low'], row['kendall_high'], 1)}"}
        told |= {"Spearman less depth's": beyond_depth(row), "within stages (p)": within_stages(row)}
        rows.append(told | {"p (Holm's)": f"{row['p']:.2g} ({row['p_holm']:.2g})"})
    columns = ["network", "rule", "layers", "Spearman", "without one layer", "Kendall", "Spearman less depth's",
               "within stages (p)", "p (Holm's)"]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "rule"])


def on_published_lists(
    records: Sequence[dict[str, Any]], budget: str, ratio: float
) -> Iterator[tuple[str, str, dict[str, Any], pd.DataFrame]]:
    """(data set, model, the list of `claims.published_layers`, `layers.published_table`) of each list of a scanned network."""
    for dataset, model in dict.fromkeys(map(network_of, records)):
        mine = [record for record in records if network_of(record) == (dataset, model)]
        for listed in published_layers().get(architecture(model), ()):
            yield dataset, model, listed, published_table(mine, BESIDE_LISTS, budget, listed, ratio)


def beyond_depth(row: Mapping[str, Any]) -> str:
    """ "+0.04 [−0.20, +0.30]": by how much the coefficient exceeds that of depth alone."""
    return f"{signed(row['over_depth'])} {interval(row['over_depth_low'], row['over_depth_high'], 1)}"


def within_stages(row: Mapping[str, Any]) -> str:
    """ "+0.31 (.04)": the mean of the stages' coefficients, and the p from permuting inside them."""
    return "–" if row["within"] != row["within"] else f"{signed(row['within'])} ({row['p_within']:.2g})"


def drops(table: pd.DataFrame) -> pd.DataFrame:
    """Networks by ratio: the median and the largest drop of the layers' accuracy, in points.

    table   of `layers.correlations`
    """
    import pandas as pd

    told: dict[str, dict[str, str]] = {}
    for row in table.drop_duplicates(["dataset", "model", "ratio"]).to_dict("records") if len(table) else ():
        drop = f"{100 * row['median_drop']:.2f}, {100 * row['largest_drop']:.2f}"
        told.setdefault(network_name(row["dataset"], row["model"]), {})[f"{100 * row['ratio']:g} % removed"] = drop
    return pd.DataFrame(told).T.rename_axis("network")


def known_and_unseen(table: pd.DataFrame) -> pd.DataFrame:
    """Networks and ratios by Spearman's coefficients: of the drops of two scans with each other, and of what rules choose with
    the drops of either; see `layers.known_and_unseen`."""
    import pandas as pd

    rows = []
    for row in table.to_dict("records"):
        told = {"network": network_name(row.pop("dataset"), row.pop("model")), "removed": f"{100 * row.pop('ratio'):g} %"}
        told |= {"drops, known and unseen": signed(row.pop("drops"))}
        pairs = {name.rpartition(", ")[::2]: value for name, value in row.items()}
        rows.append(told | {f"{plain_name(rule)}, {images}": signed(value) for (rule, images), value in pairs.items()})
    return pd.DataFrame(rows).set_index(["network", "removed"]) if rows else pd.DataFrame()


def same_order(table: pd.DataFrame) -> list[str]:
    """Whether the layers come in the same order in both scans, one sentence a network. ``table`` of `layers.known_and_unseen`."""
    said = []
    for (dataset, model), part in table.groupby(["dataset", "model"], sort=False) if len(table) else ():
        by_degree: dict[str, list[str]] = {}
        for ratio, rho in zip(part["ratio"], part["drops"], strict=True):
            by_degree.setdefault(degree(rho), []).append(f"{ratio:.0%} ({signed(rho)})".replace("%", " %"))
        told = "; ".join(f"{how} that on known ones with {joined(where)} of a layer removed" for how, where in by_degree.items())
        rules = [name.removesuffix(", known") for name in part if name.endswith(", known")]
        moved = max((part[f"{rule}, known"] - part[f"{rule}, unseen"]).abs().max() for rule in rules)
        said.append(f"{network_name(dataset, model)}: the order of layers on unseen images {told}. From one scan to the other no "
                    f"rule's coefficient changes by more than {moved:.2f}.")
    return said


def auc(table: pd.DataFrame) -> pd.DataFrame:
    """Rules by AUC against the published layers, with interval and p-values; see `layers.published_table`."""
    import pandas as pd

    rows = []
    for rule, row in table.iterrows():
        told = {"ordered by": "measured drop" if rule == "drop" else plain_name(rule)}
        told |= dict(zip(("AUC", "95 % interval"), (one or "–" for one in auc_told(row)), strict=True))
        told |= {"p": f"{row['p']:.2g}", "p (Holm)": f"{row['p_holm']:.2g}"}
        rows.append(told | {"layers on the list": f"{row['positives']:.0f} of {row['positives'] + row['negatives']:.0f}"})
    return pd.DataFrame(rows).set_index("ordered by")
