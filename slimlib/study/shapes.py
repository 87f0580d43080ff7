"""The widths that arms were given, as an explanation of their accuracies: where a layer is starved, where two arms agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from slimlib.study import budgets
from slimlib.study.names import budget_name, in_order, joined, network_name, plain_name
from slimlib.study.runs import Run
from slimlib.study.store import network_of

if TYPE_CHECKING:
    import pandas as pd

    from slimlib.study.judgement import Judgement

NEARLY_ALWAYS = 0.9
"""Share of the cases in which two arms have the same widths from which on their comparison is said to test hardly anything."""
DRAWN = ("random", "permuted")
"""Arms whose widths are drawn by the seed."""
STARVED = 0.05
"""Share of a layer's filters below which, or at which, the layer is called starved."""


def narrowest(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row an arm and cell: the layer with the least share of its filters, over all seeds. Of runs that chose widths.

    Columns dataset, model, stage, budget, arm, layer, width, full_width, kept; budgets in order.
    """
    import pandas as pd

    rows = []
    for record in (record for record in records if "widths" in record):
        run = Run.from_dict(record["run"])
        kept = {layer: width / record["full_widths"][layer] for layer, width in record["widths"].items()}
        layer = min(kept, key=kept.__getitem__)
        row = {"dataset": run.dataset, "model": run.model, "stage": run.stage, "budget": run.budget, "arm": run.arm}
        row |= {"layer": layer, "width": record["widths"][layer], "full_width": record["full_widths"][layer]}
        rows.append(row | {"kept": kept[layer]})
    cell = ["dataset", "model", "stage", "budget", "arm"]
    table = pd.DataFrame(rows, columns=[*cell, "layer", "width", "full_width", "kept"])
    least = table.loc[table.groupby(cell, sort=False)["kept"].idxmin()] if len(table) else table
    return least.sort_values("budget", key=lambda b: b.map(budgets.parse), kind="stable").reset_index(drop=True)


def kept_by_layer(frame: pd.DataFrame, records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The share of its filters that each arm leaves each layer, on average over the seeds; layers in forward order.

    frame   of `to_frame`, of one data set, model and stage; an arm that another one stands for (`best_tilt`) may be in it

    Columns budget, arm, layer, kept, n: the seeds.
    """
    import pandas as pd

    of_key = {record["key"]: record for record in records}
    rows = [{"budget": row["budget"], "arm": row["arm"], "layer": layer, "kept": of_key[row["key"]]["widths"][layer] / full}
            for row in frame.to_dict("records") for layer, full in of_key[row["key"]]["full_widths"].items()]
    cells = pd.DataFrame(rows, columns=["budget", "arm", "layer", "kept"]).groupby(["budget", "arm", "layer"], sort=False)["kept"]
    return cells.agg(kept="mean", n="size").reset_index()


def starved(table: pd.DataFrame, arms: Iterable[str] | None = None, at_most: float = STARVED) -> list[str]:
    """Sentences, one an arm and network: where it leaves a layer next to nothing. ``table`` of `narrowest`."""
    table = table[table["kept"] <= at_most]
    if arms is not None:
        table = table[table["arm"].isin(list(arms))]
    said = []
    for (dataset, model, arm), part in table.groupby(["dataset", "model", "arm"], sort=False):
        worst = part.loc[part.groupby("budget", sort=False)["kept"].idxmin()]  # of all stages
        places = "; ".join(f"{row.width} of {row.full_width} filters of {row.layer} at {budget_name(row.budget)}"
                           for row in worst.itertuples())
        said.append(f"{network_name(dataset, model)}: {plain_name(arm)} keeps {places}.")
    return said


def alike(judged: Judgement, rival: str, network: tuple[str, str] | None = None) -> dict[str, Any]:
    """How far the arms of a paired claim differ in widths, on one network or on all: pairs (one cell and seed each), those with
    equal widths, and by how much.

    {"pairs", "equal", "difference", "repeats"}. The difference is of kept shares, absolute, the mean over layers and pairs; nan
    without any. Repeats are the differences in accuracy, absolute, of the pairs with equal widths: both runs are one and the same
    experiment, so each is what repeating a run does to its accuracy.
    """
    records = judged.by_key
    pairs = judged.pairs[judged.pairs["rival"] == rival] if len(judged.pairs) else judged.pairs
    if network and len(pairs):
        pairs = pairs[(pairs["dataset"] == network[0]) & (pairs["model"] == network[1])]
    sides = [(records[pair["key_ours"]], records[pair["key_rival"]], pair["difference"]) for pair in pairs.to_dict("records")]
    sides = [side for side in sides if all("widths" in record for record in side[:2])]
    gaps = [abs(width - theirs["widths"][layer]) / ours["full_widths"][layer]
            for ours, theirs, _ in sides for layer, width in ours["widths"].items()]
    repeats = [abs(difference) for ours, theirs, difference in sides if ours["widths"] == theirs["widths"]]
    return {"pairs": len(sides), "equal": len(repeats), "difference": sum(gaps) / len(gaps) if gaps else float("nan"),
            "repeats": repeats}


def same_widths(judged: Judgement) -> str:
    """On which networks two arms were nearly always given the same widths, so that comparing them tests hardly anything."""
    said = []
    for rival in judged.claim.rivals if judged.claim.kind == "paired" else ():
        for network in dict.fromkeys(map(network_of, judged.records)):
            if hardly_differ(judged, rival, network):
                found, ours = alike(judged, rival, network), plain_name(judged.claim.ours)
                said.append(f"On {network_name(*network)}, the widths of {ours} and {plain_name(rival)} are the same in "
                            f"{found['equal']} of {found['pairs']} cases, so hardly anything was tested.")
    return " ".join(said)


def hardly_differ(judged: Judgement, rival: str, network: tuple[str, str] | None = None) -> bool:
    """Whether a claim's arm and its rival have the same widths `NEARLY_ALWAYS`, on one network or on all."""
    found = alike(judged, rival, network)
    return bool(found["pairs"]) and found["equal"] >= NEARLY_ALWAYS * found["pairs"]


def drawn(judged: Judgement) -> list[str]:
    """Sentences, one an arm and network: how many different widths the seeds of an arm drew that chooses them by chance."""
    sets: dict[tuple[str, ...], dict[str, list[tuple[int, ...]]]] = {}
    for record in (record for record in judged.records if "widths" in record):
        run = Run.from_dict(record["run"])
        if run.arm in DRAWN and run.arm in (judged.claim.ours, *judged.claim.rivals):
            of_arm = sets.setdefault((run.arm, run.dataset, run.model), {})
            of_arm.setdefault(run.budget, []).append(tuple(record["widths"].values()))
    said = []
    for (arm, dataset, model), by_budget in sets.items():
        most = max(map(len, by_budget.values()))
        different = sorted({len(set(widths)) for widths in by_budget.values() if len(widths) == most})
        if most > 1 and different[0] < most:
            numbers = f"{different[0]} to {different[-1]}" if len(different) > 1 else f"{different[0]}"
            said.append(f"On {network_name(dataset, model)}, the {most} seeds of {plain_name(arm)} drew {numbers} different sets "
                        "of widths at a budget.")
    return said


def of_comparison(table: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """The part of `Judgement.cells` or `.pairs` that a deciding comparison, a row of `Judgement.deciding`, is made of."""
    for name in ("rival", "dataset", "model", "unit"):
        table = table[table[name] == row[name]]
    return table


def other_cost(judged: Judgement, row: Mapping[str, Any]) -> tuple[str, float]:
    """What was not made equal in a deciding comparison: the other unit of cost, and how many times as much of it ours has as the
    rival (geometric mean over its pairs). Equal MACs are seldom equal parameters."""
    records = judged.by_key
    unit = "params" if row["unit"] == "macs" else "macs"
    pairs = of_comparison(judged.pairs, row)
    ratios = [records[pair["key_ours"]]["cost"][unit] / records[pair["key_rival"]]["cost"][unit]
              for pair in pairs.to_dict("records")]
    return unit, geometric_mean(ratios)


def _repeated(gaps: list[float]) -> str:
    """What the pairs with equal widths tell of repeating a run; nothing where all of them came out the same to the last image."""
    if not any(gaps):
        return ""
    most, mean = 100 * max(gaps), 100 * sum(gaps) / len(gaps)
    return (f" Two runs with equal widths are one experiment made twice. Their accuracies still differ by {most:.2f} points at "
            f"most, {mean:.2f} on average: that is how much a repetition changes here.")


def twins(records: Iterable[dict[str, Any]]) -> list[str]:
    """Sentences, one a network and pair of arms: the budgets at which both have the same widths in every seed they share.

    Their runs there are one experiment under two names: what it shows counts once. Of runs of one criterion.
    """
    of_seed: dict[tuple[str, ...], dict[str, dict[int, dict[str, int]]]] = {}
    for record in (record for record in records if "widths" in record):
        run = Run.from_dict(record["run"])
        arms = of_seed.setdefault((run.dataset, run.model, run.stage, run.criterion, run.budget), {})
        arms.setdefault(run.arm, {})[run.seed] = record["widths"]
    budgets_of: dict[tuple[str, ...], set[str]] = {}
    for (dataset, model, stage, criterion, budget), arms in of_seed.items():
        for first, second in combinations(in_order(arms), 2):
            if equal_where_shared(arms[first], arms[second]):
                budgets_of.setdefault((dataset, model, stage, criterion, first, second), set()).add(budget)
    return [f"{network_name(dataset, model)}: {plain_name(first)} and {plain_name(second)} at "
            f"{joined(budget_name(budget) for budget in sorted(found, key=budgets.parse))}."
            for (dataset, model, _, _, first, second), found in budgets_of.items()]


def equal_where_shared(one: Mapping[int, Any], other: Mapping[int, Any]) -> bool:
    """Whether two arms, seed -> widths, have the same ones in every seed they share, of which there must be one."""
    shared = one.keys() & other.keys()
    return bool(shared) and all(one[seed] == other[seed] for seed in shared)


def alike_in(judged: Judgement | None) -> list[str]:
    """`alike` for the arms of a paired claim, in words: one sentence a rival."""
    said = []
    for rival in judged.claim.rivals if judged else ():
        found = alike(judged, rival)
        if found["pairs"]:
            share = 100 * found["difference"]
            said.append(f"{plain_name(judged.claim.ours)} and {plain_name(rival)} chose the same widths in {found['equal']} of "
                        f"{found['pairs']} cases (a budget and a seed each). On average, a layer's widths differ by {share:.1f} "
                        f"% of its filters.{_repeated(found['repeats'])}")
    return said or ["No pair is recorded yet."]
