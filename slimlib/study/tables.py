"""Tables as readers see them: one line an arm or a rule, budgets side by side, effects with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from slimlib.study import budgets
from slimlib.study.findings import effect
from slimlib.study.names import UNITS, budget_name, in_order, network_name, plain_name, points, signed, slug, weight_free_power
from slimlib.study.pairing import against, on_shared_seeds
from slimlib.study.runs import Run
from slimlib.study.statistics import SEEDS_FOR_INTERVAL

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

ARMS_FOR_ORDER = 5
"""Arms whose order is worth a coefficient: three are in the same order by chance once in six."""


def titled(table: pd.DataFrame, title: str) -> Styler:
    """The table under its title. What a cell prints is shown before its tables, so a printed title would part from its table."""
    # a name instead of a random one, so that the same table is the same page
    return table.style.set_caption(title).set_uuid(slug(title)).set_table_attributes('class="dataframe"')


def budgets_met(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a network and budget: what its arms cost in the budget's own unit, as shares of the dense network.

    `gap in cost` is how much more the dearest arm costs than the cheapest. Thresholds, which make no cost equal, have no row.
    """
    import pandas as pd

    rows = []
    groups = frame.groupby(["dataset", "model", "budget"], sort=False) if len(frame) else ()
    for (dataset, model, budget), part in sorted(groups, key=lambda item: (*item[0][:2], budgets.parse(item[0][2]))):
        if (unit := budgets.parse(budget).kind) not in UNITS:
            continue
        kept = part[f"kept_{unit}"]
        row = {"network": network_name(dataset, model), "budget": budget_name(budget), "runs": len(part)}
        row |= {"arms": part["arm"].nunique(), "seeds": part["seed"].nunique()}
        row |= {"least kept": f"{100 * kept.min():.2f} %", "most kept": f"{100 * kept.max():.2f} %"}
        rows.append(row | {"gap in cost": f"{100 * (kept.max() / kept.min() - 1):.2f} %"})
    columns = ["network", "budget", "runs", "arms", "seeds", "least kept", "most kept", "gap in cost"]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "budget"])


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Arms by budgets: mean over seeds ± standard deviation, in percent, and the number of seeds."""
    told = {}
    for (arm, budget), part in frame.groupby(["arm", "budget"]) if len(frame) else ():
        values = 100 * part["test_accuracy"].dropna()
        spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        told[arm, budget] = f"{values.mean():.2f}{spread} ({len(values)})"
    return _arms_by_budgets(told)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Arms by budgets: mean difference from the reference in points, t interval from three seeds on, and the number of seeds.

    table   of `pairing.against`, of one network
    """
    return _arms_by_budgets({(row["arm"], row["budget"]): _difference(row) for row in table.to_dict("records")})


def before_and_after(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a network and budget: the arms' mean accuracies after the cut alone and after fine-tuning, least to most.

    The rank correlation says how well the first order of the arms predicts the second, where there are arms and seeds enough.
    Arms and means are those of `on_shared_seeds`; where there is no such seed, there is no row.
    """
    import pandas as pd

    rows = []
    for (dataset, model, budget), cell in frame.groupby(["dataset", "model", "budget"], sort=False) if len(frame) else ():
        shared = on_shared_seeds(cell)
        if shared.empty:
            continue
        arms = shared.groupby("arm")[["test_accuracy_before_finetuning", "test_accuracy"]].mean()
        row = {"network": network_name(dataset, model), "budget": budget_name(budget), "arms": len(arms)}
        row["seeds of all"] = shared["seed"].nunique()
        for told, column in zip(("before (%)", "after (%)"), arms, strict=True):
            row[told] = f"{100 * arms[column].min():.1f} to {100 * arms[column].max():.1f}"
        enough = len(arms) >= ARMS_FOR_ORDER and row["seeds of all"] >= SEEDS_FOR_INTERVAL
        order = arms.corr("spearman").iloc[0, 1] if enough else float("nan")
        rows.append(row | {"rank correlation": signed(order)})
    networks = list(dict.fromkeys(row["network"] for row in rows))
    rows.sort(key=lambda row: networks.index(row["network"]))  # a frame is in the order of budgets: keep networks together
    columns = ["network", "budget", "arms", "seeds of all", "before (%)", "after (%)", "rank correlation"]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "budget"])


def by_criterion(frame: pd.DataFrame, arm: str, reference: str) -> pd.DataFrame:
    """Networks and budgets by criterion: difference of two arms in points, t interval from three seeds on, number of seeds."""
    table = against(frame[frame["arm"].isin([arm, reference])], reference) if len(frame) else frame
    if not len(table):
        return table
    table = table.assign(
        network=[network_name(d, m) for d, m in zip(table["dataset"], table["model"], strict=True)],
        told=[_difference(row) for row in table.to_dict("records")],
    )
    return table.pivot_table(index=["network", "budget"], columns="criterion", values="told", aggfunc="first")


def tilts(frame: pd.DataFrame, planned: Iterable[Run]) -> pd.DataFrame:
    """Networks and budgets: which tilt was chosen on validation images, by how much (± one standard error), over how many seeds,
    and whether it is the first or last of those tried.

    frame   of `pairing.with_best_tilt`;  planned   the runs among which it chose
    """
    import pandas as pd

    tried: dict[tuple[str, str, str], set[float]] = {}
    for run in planned:
        if (power := weight_free_power(run.arm)) is not None:
            tried.setdefault((run.dataset, run.model, run.budget), set()).add(power)
    best = frame[frame["arm"] == "best_tilt"] if "chosen" in frame else frame.iloc[:0]
    rows = []
    where = ["dataset", "model", "criterion", "budget"]
    for _, cell in best.groupby(where, sort=False, dropna=False) if len(best) else ():  # students have no criterion
        row = cell.iloc[0]
        powers, chosen = tried[row["dataset"], row["model"], row["budget"]], weight_free_power(row["chosen"])
        told = {"network": network_name(row["dataset"], row["model"]), "budget": budget_name(row["budget"])}
        told["tilt chosen on validation images"] = plain_name(row["chosen"])
        told |= {"seeds": len(cell), "second": plain_name(row["second"])}
        spread = "" if row["lead_error"] != row["lead_error"] else f" ± {100 * row['lead_error']:.2f}"
        told |= {"ahead (points ± standard error)": f"{points(row['lead'])}{spread}"}
        rows.append(told | {"end of the grid": "yes" if chosen in (min(powers), max(powers)) else "no"})
    columns = ["network", "budget", "tilt chosen on validation images", "seeds", "second", "ahead (points ± standard error)",
               "end of the grid"]
    return pd.DataFrame(rows, columns=columns).set_index(["network", "budget"])


LATENCIES = "milliseconds [quartiles], share of the dense network's time"
"""What a cell of `latencies` holds."""


def latencies(table: pd.DataFrame) -> pd.DataFrame:
    """Networks by device and batch size: the median milliseconds of a batch with quartiles, and the time as a share of the dense
    network's (the median over rounds, in which both were timed), beside the kept MACs. `LATENCIES` says so above the table.

    table   of `slimlib.latency.measure`, with kept_macs
    """
    told = table.assign(
        where=[f"{device}, batch {batch}" for device, batch in zip(table["device"], table["batch_size"], strict=True)],
        ms=[f"{r.ms:.2f} [{r.ms_low:.2f}, {r.ms_high:.2f}], {r.relative:.0%}".replace("%", " %") for r in table.itertuples()],
        kept=[f"{100 * value:.1f} %" for value in table["kept_macs"]],
    )
    wide = told.pivot_table(index=["model", "kept"], columns="where", values="ms", aggfunc="first", sort=False)
    return wide.rename_axis(index={"model": "network", "kept": f"{UNITS['macs']} kept"}, columns=None)


def _difference(row: Mapping[str, Any]) -> str:
    """ "+0.31 [−0.10, +0.72] (5)", of two seeds "+0.31 (2)"."""
    return f"{effect(row)} ({row['n']})"


def _arms_by_budgets(told: dict[tuple[str, str], str]) -> pd.DataFrame:
    import pandas as pd

    arms: Iterable[str] = in_order(arm for arm, _ in told)
    columns = sorted({budget for _, budget in told}, key=budgets.parse)
    rows = [[told.get((arm, budget), "–") for budget in columns] for arm in arms]
    return pd.DataFrame(rows, [plain_name(a) for a in arms], [budget_name(b) for b in columns]).rename_axis("arm")
