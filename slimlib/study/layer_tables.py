"""Tables of layers as readers see them: one line a network and rule, coefficients with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study.findings import auc_told
from slimlib.study.names import interval, network_name, plain_name, signed

if TYPE_CHECKING:
    import pandas as pd


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Networks and rules by coefficients: Spearman and Kendall with intervals, beyond depth, within stages, p-values.

    table   of `layers.correlations`, one row a network and rule, with p_holm
    """
    import pandas as pd

    rows = []
    for row in table.to_dict("records"):
        told = {"network": network_name(row["dataset"], row["model"]), "rule": plain_name(row["rule"]), "layers": row["n"]}
        told |= {"Spearman": f"{signed(row['spearman'])} {interval(row['low'], row['high'], 1)}"}
        told |= {"Kendall": f"{signed(row['kendall'])} {interval(row['kendall_low'], row['kendall_high'], 1)}"}
        told |= {"against depth alone": beyond_depth(row), "within stages (p)": within_stages(row)}
        told |= {"p": f"{row['p']:.2g}", "p (Holm)": f"{row['p_holm']:.2g}"}
        rows.append(told)
    columns = ["network", "rule", "layers", "Spearman", "Kendall", "against depth alone", "within stages (p)", "p", "p (Holm)"]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "rule"])


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
        told.setdefault(network_name(row["dataset"], row["model"]), {})[f"{row['ratio']:.0%} removed"] = drop
    return pd.DataFrame(told).T.rename_axis("network")


def known_and_unseen(table: pd.DataFrame) -> pd.DataFrame:
    """Networks and ratios by Spearman's coefficients of two scans; see `layers.known_and_unseen`."""
    import pandas as pd

    rows = []
    for row in table.to_dict("records"):
        told = {"network": network_name(row.pop("dataset"), row.pop("model")), "removed": f"{row.pop('ratio'):.0%}"}
        told |= {"order of both scans": signed(row.pop("drops"))}
        pairs = {name.rpartition(", ")[::2]: value for name, value in row.items()}
        rows.append(told | {f"{plain_name(rule)}, {images}": signed(value) for (rule, images), value in pairs.items()})
    return pd.DataFrame(rows).set_index(["network", "removed"]) if rows else pd.DataFrame()


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
