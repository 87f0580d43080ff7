"""Findings in words that a reader can repeat: one comparison, an order of layers, what stands beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slimlib.study import budgets
from slimlib.study.claims import Claim
from slimlib.study.names import (
    UNITS,
    budget_name,
    counted,
    interval,
    is_pretrained,
    joined,
    network_name,
    plain_name,
    points,
    signed,
)
from slimlib.study.statistics import SEEDS_FOR_INTERVAL

if TYPE_CHECKING:
    import pandas as pd

LAYERS_FOR_INTERVAL = 6
"""Layers on each side of a published list from which on an AUC has an interval."""
LAYERS_FOR_A_SENTENCE = 8
"""Layers of a network from which on its order of layers is told in a sentence of its own."""
CLOSE = 1.5
"""Times the least score up to which the largest is hardly above it."""

STAGE_NAMES = {"prune": "pruned and fine-tuned", "distill": "distilled", "scratch": "trained from scratch"}


def comparison(claim: Claim, row: Mapping[str, Any]) -> str:
    """ "against uniform on LeNet-5 on MNIST, MACs": what a deciding comparison compares."""
    network = network_name(row["dataset"], row["model"])
    if claim.kind == "paired":
        return f"against {plain_name(row['rival'])}, {network}, {UNITS[row['unit']]}"
    kept = "" if row["budget"] == "any" else f", {budget_name(row['budget'])} kept"
    return f"{network}{kept}, {_percent(row['ratio'])} of a layer removed"


def sentence(claim: Claim, row: Mapping[str, Any]) -> str:
    """One comparison, deciding (`unit`, several budgets) or single (`budget`): effect, interval, n."""
    if claim.kind == "rank":
        return _rank_sentence(claim, row)
    network = network_name(row["dataset"], row["model"])
    if row.get("budget"):
        where = f"at {budget_name(row['budget'])}"
    else:
        shares = [f"{100 * budgets.parse(budget).value:g}" for budget in row["budgets"].split(", ")]
        where = f"averaged over budgets of {joined(shares)} % of {UNITS[row['unit']]}"
    where = f"{network}, {STAGE_NAMES[claim.stage]}, {where}"
    ours, rival = plain_name(claim.ours), plain_name(row["rival"])
    if row["mean"] == 0 and row.get("sd") == 0:
        return f"{where}: widths by {ours} and by {rival} are equally accurate in every seed (n = {row['n']})"
    compared = _compared(row["mean"])
    told = f"{where}: widths by {ours} are {compared} those by {rival}"
    if row["n"] < SEEDS_FOR_INTERVAL:
        return f"{told} ({counted(row['n'], 'seed')}, so no interval)"
    # seeds of published weights repeat what is made of them only
    of_one = {"prune": "fine-tunings of one network", "distill": "students of one network"} if is_pretrained(row["model"]) else {}
    repeats = of_one.get(claim.stage, "seeds")
    found = f"{_percent(claim.level)} interval {interval(row['low'], row['high'])} points, n = {row['n']} {repeats}"
    return f"{told} ({found}{_chance(claim, row)})"


def effect(row: Mapping[str, Any]) -> str:
    """ "+0.31 [−0.10, +0.72]" in points; without the interval where there are too few seeds for one to say anything."""
    ends = interval(row["low"], row["high"]) if row["n"] >= SEEDS_FOR_INTERVAL else ""
    return f"{points(row['mean'])} {ends}".rstrip()


def _rank_sentence(claim: Claim, row: Mapping[str, Any]) -> str:
    network = network_name(row["dataset"], row["model"])
    at = "" if row["budget"] == "any" else f" at {budget_name(row['budget'])}"
    what = "V / T" if row["rule"] == "neyman_score" else f"what {plain_name(row['rule'])} keeps{at}"
    if row["rule"] == "depth":
        what = "depth alone"
    orders = f"{network}: the order of layers by {what} {degree(row['spearman'])} their order by accuracy lost"
    told = f"{orders} when {_percent(row['ratio'])} of a layer is removed"
    found = f"Spearman {signed(row['spearman'])}, {_percent(claim.level)} interval {interval(row['low'], row['high'], 1)}"
    within = "" if row["within"] != row["within"] else f"; within stages {signed(row['within'])}, p = {row['p_within']:.2g}"
    more = f"; less that of depth alone: {signed(row['over_depth'])} {interval(row['over_depth_low'], row['over_depth_high'], 1)}"
    more = "" if row["rule"] == "depth" else more
    return f"{told} ({found}, n = {row['n']} layers{tied(row, row['n'])}{_chance(claim, row)}{more}{within})"


def tied(row: Mapping[str, Any], layers: int) -> str:
    """ "; 22 of 27 layers tied at 0.50" where more than half of an order's scores are one and the same, so that it rests on the
    others. ``row`` with the columns of `ranks.most_tied`; without them nothing is told."""
    return f"; {row['tied']:.0f} of {layers} layers tied at {row['tied_at']:.2f}" if row.get("tied", 0) > layers / 2 else ""


def orders(claim: Claim, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """`sentence` of each rule and network; those of fewer layers than `LAYERS_FOR_A_SENTENCE` share one, as
    hardly any order of so few is told from chance, and what is has its coefficient beside it."""
    rows = list(rows)
    said = [f"{sentence(claim, row)}." for row in rows if row["n"] >= LAYERS_FOR_A_SENTENCE]
    few = [row for row in rows if row["n"] < LAYERS_FOR_A_SENTENCE]
    if few:
        networks = [network_name(row["dataset"], row["model"]) for row in few]
        names = dict.fromkeys(f"{network} ({row['n']} layers)" for network, row in zip(networks, few, strict=True))
        clear = [f"{plain_name(row['rule'])} on {network}, {_percent(row['ratio'])} removed (Spearman {signed(row['spearman'])}, "
                 f"p = {row['p']:.2g}, corrected for all comparisons {row['p_holm']:.2g})"
                 for network, row in zip(networks, few, strict=True) if not row["low"] <= 0 <= row["high"]]
        rules = joined(dict.fromkeys(plain_name(row["rule"]) for row in few))
        only = f"these alone leave out zero: {'; '.join(clear)}" if clear else "none leaves out zero"
        said.append(f"{joined(names)}: of so few layers only a nearly perfect order can be told from chance. "
                    f"The table has the coefficients; of the intervals of {rules} {only}.")
    return said


def listed_layers(network: str, source: str, table: pd.DataFrame) -> str:
    """How high the layers of a published list stand by each order. ``table`` of `layers.published_table`."""
    told = [f"{_place(round(row['auc'], 2))} by {_order_name(rule)} (AUC {' '.join(filter(None, auc_told(row)))}, "
            f"p = {row['p']:.2g}, corrected {row['p_holm']:.2g}{tied(row, round(row['positives'] + row['negatives']))})"
            for rule, row in table.iterrows()]
    return f"{network}, layers {source}. They stand {'; '.join(told)}."


def auc_told(row: Mapping[str, Any]) -> tuple[str, str]:
    """ "0.83" and "[0.55, 1.00]"; no interval where fewer than six layers are on one side: drawn again, so few say nothing."""
    wide = min(row["positives"], row["negatives"]) >= LAYERS_FOR_INTERVAL
    return f"{row['auc']:.2f}", f"[{row['low']:.2f}, {row['high']:.2f}]" if wide else ""


def _order_name(rule: str) -> str:
    names = {"drop": "the measured drop", "depth": "depth alone", "neyman_score": "V / T"}
    return names.get(rule) or f"what {plain_name(rule)} keeps"


def _place(auc: float) -> str:
    for least, told in ((0.9, "above almost all others"), (0.65, "above most others"), (0.35, "among the others"),
                        (0.1, "below most others")):
        if auc >= least:
            return told
    return "below almost all others"


def nearly_equal(scores: Sequence[float]) -> list[str]:
    """What V/T of a network's layers says of its widths where the largest is hardly above the least; else nothing."""
    least, most = min(scores), max(scores)
    if not most <= CLOSE * least:
        return []
    return [f"V/T lies between {least:.2f} and {most:.2f} in all {counted(len(scores), 'layer')}. A width goes with the square "
            f"root of V/T, which makes widths differ by at most {100 * ((most / least) ** 0.5 - 1):.0f} %. An order of values so "
            "close says little, and what filters cost decides the widths here."]


def ends_of_the_grid(tilts: pd.DataFrame) -> list[str]:
    """What it means where the best tilt is the first or last of those tried. ``tilts`` of `tables.tilts`."""
    tilts = tilts[tilts["seeds"] >= SEEDS_FOR_INTERVAL]  # one seed chooses by luck
    at_the_end = int((tilts["end of the grid"] == "yes").sum())
    if not at_the_end:
        return []
    return [f"In {at_the_end} of {counted(len(tilts), 'case')} with three seeds or more the chosen power is the first or last of "
            "the grid. A wider grid might hold a better one, so there the control is a lower bound on what a tilt can do."]


def _chance(claim: Claim, row: Mapping[str, Any]) -> str:
    if row["low"] <= 0 <= row["high"]:
        return "; chance is not ruled out"
    # an interval of its own knows nothing of how many comparisons were made
    return f"; corrected for all comparisons, p = {row['p_holm']:.2g}" if row.get("p_holm", 0) > 1 - claim.level else ""


def degree(rho: float) -> str:
    """How well an order agrees with another one, in words, by Spearman's coefficient."""
    if rho != rho:
        return "cannot be compared with"
    degrees = ((0.8, "agrees closely with"), (0.5, "agrees in the main with"), (0.2, "agrees weakly with"))
    for least, told in (*degrees, (-0.2, "shows no clear relation to")):
        if rho >= least:
            return told
    return "tends to run against"


def _compared(mean: float) -> str:
    if round(100 * mean, 2) == 0:
        return "as accurate, to the hundredth of a point, as"
    return f"{100 * abs(mean):.2f} points {'more' if mean > 0 else 'less'} accurate than"


def _percent(value: float) -> str:
    return f"{100 * value:g} %"
